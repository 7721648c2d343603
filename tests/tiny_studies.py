"""What several tests make: tiny studies."""

from pathlib import Path

import optuna


def trials_in(path: Path) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    (study,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=study, storage=storage).trials


def content(path: Path) -> list[tuple]:
    """All of a study's trials but their times."""
    return [
        (trial.number, trial.state, trial.value, trial.params, trial.intermediate_values, trial.user_attrs)
        for trial in trials_in(path)
    ]
