"""The trials in a tuning journal."""

from pathlib import Path

import optuna


def trials_in(path: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials of the one study in a journal file."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    (study,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=study, storage=storage).trials


def states_in(path: Path) -> list[str]:
    """The states of the trials in a journal file."""
    return [trial.state.name for trial in trials_in(path)]


def comparable_trials(path: Path) -> list[tuple]:
    """The trials without their times: two searches with the same seed have equal ones."""
    return [
        (trial.number, trial.state, trial.value, trial.params, trial.intermediate_values, trial.user_attrs)
        for trial in trials_in(path)
    ]
