"""Search for a head's settings inside the training split; the test split is never used here.

The search is Optuna's (Akiba et al., 2019): a tree-structured Parzen estimator (Bergstra et al.,
Algorithms for hyper-parameter optimization, 2011) with median pruning (Golovin et al., Google Vizier, 2017).
"""

import copy
import dataclasses
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.heads import Task, make_head
from featurize.cache import Features
from featurize.core.environment import blas_threads
from featurize.core.errors import DataError, HeadError, UsageError
from featurize.core.files import locked

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

logger = logging.getLogger("frozenbench")
FOLDS = 3
RANDOM_TRIALS = 5  # before the search learns from earlier trials, and prunes by their median

Settings = dict[str, Any]
Range = Callable[[Any], "BaseDistribution"]
"""A parameter's distribution, from the head's default; it always contains the default."""
Measure = Callable[[list["Trial"]], Iterable["FrozenTrial"]]
"""Runs the trials of a wave, each on a copy of its study, and returns them in order; see `run_trial`."""


def by_factor(factor: float) -> Range:
    """From default / factor to default * factor, on a log scale."""
    return lambda default: _numeric(default, default / factor, default * factor, log=True)


def between(low: float, high: float, log: bool = False) -> Range:
    """From low to high, both included."""
    return lambda default: _numeric(default, low, high, log)


def one_of(*values: Any) -> Range:
    """One of a few values."""

    def choices(default: Any) -> "BaseDistribution":
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(tuple(dict.fromkeys([*values, default])))

    return choices


def _numeric(default: float, low: float, high: float, log: bool) -> "BaseDistribution":
    from optuna.distributions import FloatDistribution, IntDistribution

    low, high = min(low, default), max(high, default)
    if isinstance(default, int):
        return IntDistribution(round(low), round(high), log=log)
    return FloatDistribution(low, high, log=log)


# The parameters that are searched: of a pipeline's last step, or of an estimator inside it.
SPACES: dict[str, dict[str, Range]] = {
    "logreg": {"C": by_factor(30)},
    "svm": {"C": by_factor(10), "width": by_factor(8)},
    "linear-svm": {"C": by_factor(30)},
    "xgboost": {
        "n_estimators": by_factor(2),
        "learning_rate": by_factor(3),
        "max_depth": between(2, 8),
        "subsample": between(0.5, 1),
        "colsample_bynode": between(0.03, 1, log=True),
        "reg_lambda": between(0.1, 30, log=True),
    },
    "mlp": {
        "hidden": one_of(512, 1024, 2048),
        "input_dropout": between(0, 0.5),
        "dropout": between(0.2, 0.7),
        "label_smoothing": between(0, 0.2),
        "learning_rate": by_factor(4),
        "weight_decay": by_factor(10),
        "epochs": by_factor(2),
    },
    "knn": {"n_neighbors": by_factor(5)},
}


@dataclass(frozen=True)
class TuningResult:
    """The best settings, for `head.set_params`; none for a head with nothing to tune.

    Attributes:
        settings: by their names in the pipeline.
        score: accuracy on the held-out folds, 0..1; as the best of many, it is too high.
        log_loss: on the same rows.
        study: the journal of the search.
    """

    settings: Settings
    score: float | None = None
    log_loss: float | None = None
    study: Path | None = None


def tune(
    name: str,
    train: Features,
    trials: int,
    task: Task,
    folder: Path,
    *,
    wave: int = 1,
    measure: Measure | None = None,
) -> TuningResult:
    """Search the settings of the head `name` with the best accuracy in stratified folds of `train`.

    The whole pipeline, scaler and PCA included, is fitted anew in each fold. The first trial is the head's
    defaults, so the result is never worse than them in these folds. Ties are broken by the lower log loss,
    then by the earlier trial. The trials of a wave run side by side: they know the scores of earlier waves
    only, and keep away from each other's settings.

    Every finished trial is stored in an Optuna journal in `folder`, whose name stands for everything that
    the trials depend on. An interrupted search resumes and finds what it would have found otherwise, because
    a trial depends only on the seed and the waves before it. If the journal holds more trials, only the
    first `trials` count.

    Args:
        name: a key of `HEADS`.
        train: the training split (n, d), or a subset of it.
        trials: their number, finished ones of earlier calls included.
        task: as for `make_head`; its seed also draws the folds and the trials. Its number of jobs is no
            part of the study, although it may change the last digit of a score.
        folder: of the journal.
        wave: number of trials in a wave; another number makes another study, with other settings.
        measure: runs the trials of a wave; None to run them here, one after another.

    Raises:
        UsageError: there is no such head, fewer than one trial, or Optuna is not installed.
        HeadError: a class has fewer rows than there are folds, or no trial could be fitted.
        DataError: the journal is damaged.
        OSError: the journal cannot be written.
    """
    # With one job, so that their number is not among the settings that name the study.
    head = make_head(name, dataclasses.replace(task, jobs=1))
    if name not in SPACES:
        logger.info("%s: nothing to tune", name)
        return TuningResult({})
    if trials < 1:
        raise UsageError(f"--tune {trials}: expected at least 1 trial")
    _check_rows(name, train)
    try:
        import optuna
    except ImportError as error:
        raise UsageError("--tune needs Optuna, which is not installed; pip install 'frozenbench[tune]'") from error

    def measure_here(asked: list["Trial"]) -> Iterator["FrozenTrial"]:
        for trial in asked:
            yield run_trial(copy.deepcopy(trial), name, train, task)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, defaults = _search_space(name, head)
    identity = _identity(name, head, train, task, space, wave)
    path = folder / f"{name}-{identity[:8]}.study"
    with _journal(path, identity) as journal:
        done = len(journal.trials)
        if done:
            logger.info("%s: %d of %d trials are in %s", name, min(done, trials), trials, path)
        for first in range(done - done % wave, trials, wave):
            last = min(first + wave, trials)
            # The journal holds finished trials only. A wave that was cut short is drawn again as a whole, by the same
            # seeds from the same earlier waves, and the trials of it that are in the journal are skipped.
            asked = _ask(journal.trials[:first], last, space, defaults, task.seed, side_by_side=wave > 1)
            for trial in (measure or measure_here)(asked[len(journal.trials) - first :]):
                journal.add_trial(trial)
                _log_trial(name, trial, journal.trials, trials)
        return _best(name, journal.trials[:trials], path)


def run_trial(trial: "Trial", name: str, train: Features, task: Task) -> "FrozenTrial":
    """Measure the settings of a trial, and tell its study; the other arguments are those of `tune`.

    Returns:
        The finished trial, whose state may be pruned or failed.
    """
    from optuna.trial import TrialState
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=task.seed)
    parts = list(splitter.split(np.zeros(len(train.y)), train.y))
    try:
        with blas_threads(task.jobs):
            for step, (accuracy, loss) in enumerate(fold_scores(name, trial.params, train, parts, task), start=1):
                trial.report(accuracy, step)
                trial.set_user_attr("log_loss", loss)
                if step < FOLDS and trial.should_prune():
                    return trial.study.tell(trial, state=TrialState.PRUNED)
    except (ValueError, FloatingPointError, HeadError) as error:
        trial.set_user_attr("error", str(error))
        return trial.study.tell(trial, state=TrialState.FAIL)
    return trial.study.tell(trial, accuracy)


def fold_scores(
    name: str, settings: Settings, train: Features, parts: list[tuple[np.ndarray, np.ndarray]], task: Task
) -> Iterator[tuple[float, float]]:
    """Fit and measure a head fold by fold.

    Args:
        name: a key of `HEADS`.
        settings: for `set_params` of the head.
        train: features (n, d).
        parts: the rows to fit on and the rows to measure on, for each fold.
        task: as for `make_head`; its number of rows becomes that of the fold.

    Yields:
        Accuracy, 0..1, and log loss over all rows measured so far.

    Raises:
        ValueError: the head cannot be fitted on a fold.
        FloatingPointError: its probabilities are not finite.
    """
    correct, loss, rows = 0, 0.0, 0
    for fitted, held_out in parts:
        head = make_head(name, dataclasses.replace(task, rows=len(fitted))).set_params(**settings)
        with warnings.catch_warnings():
            # Poor settings cause warnings, such as of a solver that needs more steps, which do not concern the user;
            # those of the chosen settings appear in the final fit.
            warnings.simplefilter("ignore")
            head.fit(train.x[fitted], train.y[fitted])
            probabilities = np.asarray(head.predict_proba(train.x[held_out]), np.float64)  # (rows, K)
        if not np.isfinite(probabilities).all():
            raise FloatingPointError("its probabilities are not finite")
        columns = np.searchsorted(head.classes_, train.y[held_out])
        likelihood = probabilities[np.arange(len(held_out)), columns]
        correct += int((probabilities.argmax(axis=1) == columns).sum())
        loss -= float(np.log(np.maximum(likelihood, np.finfo(np.float64).eps)).sum())
        rows += len(held_out)
        yield correct / rows, loss / rows


def _ask(
    finished: list["FrozenTrial"],
    stop: int,
    space: dict[str, "BaseDistribution"],
    defaults: Settings,
    seed: int,
    *,
    side_by_side: bool,
) -> list["Trial"]:
    """The trials that follow the finished ones, up to number `stop`, in a study in memory."""
    import optuna

    pruner = optuna.pruners.MedianPruner(n_startup_trials=RANDOM_TRIALS)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.add_trials(finished)
    if not finished:
        study.enqueue_trial(defaults)
    asked = []
    for number in range(len(finished), stop):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of constant_liar, in Optuna 4
            # A seed of its own makes each trial independent of where the search was interrupted.
            study.sampler = optuna.samplers.TPESampler(
                seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]),
                n_startup_trials=RANDOM_TRIALS,
                multivariate=False,
                constant_liar=side_by_side,
            )
        asked.append(study.ask(space))
    return asked


def _check_rows(name: str, train: Features) -> None:
    counts = np.bincount(train.y, minlength=len(train.class_names))
    fewest = int(counts.argmin())
    if counts[fewest] < FOLDS:
        raise HeadError(
            f"{name} cannot be tuned: class {train.class_names[fewest]} has {counts[fewest]} training rows, "
            f"expected at least one for each of the {FOLDS} folds; use more images (a larger --train-size, or "
            "frozenbench featurize with a larger --train), or leave out --tune"
        )


def _search_space(name: str, head: Any) -> tuple[dict[str, "BaseDistribution"], Settings]:
    """The distribution and the default of each parameter that is searched, by its name in the pipeline."""
    last = head.steps[-1][0]
    parameters = head[-1].get_params()
    space, defaults = {}, {}
    for parameter, distribution in SPACES[name].items():
        (key,) = (key for key in parameters if key.rpartition("__")[2] == parameter)
        defaults[f"{last}__{key}"] = parameters[key]
        space[f"{last}__{key}"] = distribution(parameters[key])
    return space, defaults


def _identity(
    name: str, head: Any, train: Features, task: Task, space: dict[str, "BaseDistribution"], wave: int
) -> str:
    """64 hexadecimal digits that stand for everything that a score depends on, except libraries and threads."""
    from optuna.distributions import distribution_to_json

    content = {
        "head": name,
        "settings": {key: value for key, value in head.get_params().items() if np.isscalar(value) or value is None},
        "features": train.fingerprint,  # with it, the mirror's columns and the images' shape
        "layers": [columns.name for columns in train.layers],
        "rows": hashlib.sha256(train.ids.tobytes() + train.y.tobytes()).hexdigest(),
        "task": [task.rows, task.dim, task.seed, task.class_weight],
        "folds": FOLDS,
        "space": {key: distribution_to_json(distribution) for key, distribution in space.items()},
        "wave": wave,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def _journal(path: Path, identity: str) -> Iterator["Study"]:
    """The study of this name in a journal, for this process alone."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    with locked(path) as file:
        # A process that died while it wrote leaves Optuna's own lock and an unfinished line.
        Path(f"{path}.lock").unlink(missing_ok=True)
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        try:
            storage = JournalStorage(JournalFileBackend(str(path)))
            if identity in optuna.get_all_study_names(storage):
                study = optuna.load_study(study_name=identity, storage=storage)
            else:
                study = optuna.create_study(study_name=identity, storage=storage, direction="maximize")
        except OSError:
            raise
        except Exception as error:  # a parser may raise anything on damaged lines
            raise DataError(f"{path} is no readable study: {error!r}; delete it and search anew") from error
        yield study


def _log_trial(name: str, trial: "FrozenTrial", finished: list["FrozenTrial"], trials: int) -> None:
    from optuna.trial import TrialState

    if trial.state == TrialState.FAIL:
        outcome = f"failed ({trial.user_attrs['error']})"
    elif trial.state == TrialState.PRUNED:
        outcome = f"{trial.value:.2%} after {len(trial.intermediate_values)} of {FOLDS} folds, pruned"
    else:
        outcome = f"{trial.value:.2%}"
    complete = [other for other in finished if other.state == TrialState.COMPLETE]
    best = f"{min(complete, key=_rank).value:.2%}" if complete else "none"
    settings = []
    for key, value in trial.params.items():
        parameter = key.rpartition("__")[2]
        settings.append(f"{parameter}={value:.3g}" if isinstance(value, float) else f"{parameter}={value}")
    assert trial.duration is not None
    logger.info(
        "%s: trial %d of %d: %s, best %s, %.1f s: %s",
        name, trial.number + 1, trials, outcome, best, trial.duration.total_seconds(), ", ".join(settings),
    )  # fmt: skip


def _best(name: str, trials: list["FrozenTrial"], path: Path) -> TuningResult:
    from optuna.trial import TrialState

    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        failed = [trial for trial in trials if trial.state == TrialState.FAIL]
        raise HeadError(
            f"{name} cannot be tuned: all {len(trials)} trials failed, "
            f"the last with: {failed[-1].user_attrs['error']}; delete {path} to search anew, or leave out --tune"
        )
    best = min(complete, key=_rank)
    return TuningResult(best.params, best.value, best.user_attrs["log_loss"], path)


def _rank(trial: "FrozenTrial") -> tuple[float, float, int]:
    """Smaller is better: accuracy, then log loss, then the earlier trial."""
    assert trial.value is not None
    return -trial.value, trial.user_attrs["log_loss"], trial.number
