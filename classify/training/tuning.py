"""Search for a head's settings inside the training split; the test split never comes in here.

Tree-structured Parzen estimator (Bergstra et al., Algorithms for hyper-parameter optimization, 2011)
with median pruning (Golovin et al., Google Vizier, 2017), both Optuna's (Akiba et al., 2019).
"""

import copy
import dataclasses
import fcntl
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
from featurize.core.errors import DataError, HeadError, UsageError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

logger = logging.getLogger("frozenbench")
FOLDS = 3
# Random trials before the search learns from them, and full trials before it stops bad ones early.
RANDOM_TRIALS = 5

Settings = dict[str, Any]


@dataclass(frozen=True)
class Around:
    """From the head's default / factor to default * factor, on a log scale."""

    factor: float


@dataclass(frozen=True)
class Between:
    """From low to high, both included."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[Any, ...]


# What is searched: parameters of a pipeline's last step, or of the one estimator in it that has a parameter of this
# name. Each range is widened to hold the head's default.
SPACES: dict[str, dict[str, Around | Between | OneOf]] = {
    "logreg": {"C": Around(30)},
    "svm": {"C": Around(10), "width": Around(8)},
    "linear-svm": {"C": Around(30)},
    "xgboost": {
        "n_estimators": Around(2),
        "learning_rate": Around(3),
        "max_depth": Between(2, 8),
        "subsample": Between(0.5, 1),
        "colsample_bynode": Between(0.03, 1, log=True),
        "reg_lambda": Between(0.1, 30, log=True),
    },
    "mlp": {
        "hidden": OneOf((512, 1024, 2048)),
        "input_dropout": Between(0, 0.5),
        "dropout": Between(0.2, 0.7),
        "label_smoothing": Between(0, 0.2),
        "learning_rate": Around(4),
        "weight_decay": Around(10),
        "epochs": Around(2),
    },
    "knn": {"n_neighbors": Around(5)},
}


@dataclass(frozen=True)
class TuningResult:
    """What a search found.

    Attributes:
        settings: for `head.set_params`; empty for a head with nothing to tune.
        score: their accuracy over the held-out folds, 0..1. It is the best of many, so it flatters
            them: only the test split says how good they are.
        log_loss: theirs over the same rows.
        default_score: the accuracy of the head's own defaults; None where they failed.
        trials_done: trials looked at, those of earlier runs included.
        pruned: how many of them were given up after a fold.
        failed: how many of them could not be fitted.
        seconds: spent in those trials, whenever they ran.
        study: the file that keeps them.
    """

    settings: Settings
    score: float | None = None
    log_loss: float | None = None
    default_score: float | None = None
    trials_done: int = 0
    pruned: int = 0
    failed: int = 0
    seconds: float = 0.0
    study: Path | None = None


Measure = Callable[[list["Trial"]], Iterable["FrozenTrial"]]
"""Runs trials, each on a copy of its study, and returns them in their order; see `run_trial`."""


def tune(
    name: str,
    train: Features,
    trials: int,
    task: Task,
    folder: Path,
    folds: int = FOLDS,
    *,
    wave: int = 1,
    measure: Measure | None = None,
) -> TuningResult:
    """Search the settings of the head `name` with the best accuracy in stratified folds of `train`.

    The whole pipeline, scaler and PCA included, is fitted anew in each fold. The first trial is the
    head's defaults, so the result is never worse than them in these folds. Of equally many rows
    right, the lower log loss counts, then the earlier trial. After each fold but the last, a trial
    below the median of the full ones so far is given up.

    Trials that are looked at side by side, a wave, know those of earlier waves only, and what settings
    the others of their own wave have: they keep away from them, and are given up by the medians of
    earlier waves.

    Every finished trial is one line of an Optuna journal in `folder`, named after everything that
    the trials depend on. A process that is killed loses its current trial only, or of the current wave
    those from the first unfinished one on. The next call goes on from there to what it would have found
    without the interruption, since a trial depends only on the seed and the trials before it; of a
    longer study it looks at the first `trials`.

    Args:
        name: a key of `HEADS`.
        train: the training split (n, d), or a subset of it.
        trials: how many, finished ones of earlier calls included.
        task: as for `make_head`; its seed also draws the folds and the trials. The number of jobs
            is no part of the study: other sums of floats may move a score in its last digit.
        folder: where the journal is kept.
        folds: how many, at least 2.
        wave: trials in a wave; other waves make another study, and other settings.
        measure: runs the trials of a wave; None to run them here, one after another.

    Raises:
        UsageError: no such head, fewer than one trial or two folds, or Optuna is not installed.
        HeadError: a class has fewer rows than there are folds, or no trial could be fitted.
        DataError: the journal is damaged.
        OSError: the journal cannot be written to.
    """
    # One job: how many there are must not show in the settings that name the study.
    head = make_head(name, dataclasses.replace(task, jobs=1))
    if name not in SPACES:
        logger.info("%s: nothing to tune", name)
        return TuningResult({})
    if trials < 1 or folds < 2:
        raise UsageError(f"--tune {trials} in {folds} folds: expected at least 1 trial and 2 folds")
    _check_rows(name, train, folds)
    try:
        import optuna
    except ImportError as error:
        raise UsageError("--tune needs Optuna, which is not installed; pip install 'frozenbench[tune]'") from error

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, defaults = _search_space(name, head)
    identity = _identity(name, head, train, task, folds, space, wave)
    path = folder / f"{name}-{identity[:8]}.study"
    if measure is None:

        def measure(wave: list["Trial"]) -> Iterator["FrozenTrial"]:
            return (run_trial(copy.deepcopy(trial), name, train, task, folds) for trial in wave)

    with _opened(path, identity) as journal:
        done = len(journal.trials)
        if done:
            logger.info("%s: %d of %d trials are in %s", name, min(done, trials), trials, path)
        for first in range(done - done % wave, trials, wave):
            # Drawn whole and in a study of their own: a trial does not depend on where a search was interrupted, and
            # the file only ever holds finished ones.
            asked = _asked(journal.trials[:first], min(first + wave, trials), space, defaults, task.seed, wave > 1)
            for finished in measure(asked[len(journal.trials) - first :]):
                journal.add_trial(finished)
                _log_trial(name, finished, journal.trials, trials, folds)
        return _best(name, journal.trials[:trials], path)


def run_trial(trial: "Trial", name: str, train: Features, task: Task, folds: int = FOLDS) -> "FrozenTrial":
    """Measure one trial's settings and tell its study.

    Args:
        trial: of the study, with its settings.
        name: as for `tune`.
        train: as for `tune`.
        task: as for `tune`.
        folds: as for `tune`.

    Returns:
        The trial, done: given up and failed ones too.
    """
    from optuna.trial import TrialState
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    splitter = StratifiedKFold(folds, shuffle=True, random_state=task.seed)
    parts = list(splitter.split(np.zeros(len(train.y)), train.y))
    try:
        with threadpool_limits(task.jobs):
            for step, (accuracy, loss) in enumerate(fold_scores(name, trial.params, train, parts, task), start=1):
                trial.report(accuracy, step)
                trial.set_user_attr("log_loss", loss)
                if step < folds and trial.should_prune():
                    return trial.study.tell(trial, state=TrialState.PRUNED)
    except (ValueError, FloatingPointError, HeadError) as error:
        trial.set_user_attr("error", str(error))
        return trial.study.tell(trial, state=TrialState.FAIL)
    return trial.study.tell(trial, accuracy)


def _asked(
    before: list["FrozenTrial"],
    stop: int,
    space: dict[str, "BaseDistribution"],
    defaults: Settings,
    seed: int,
    side_by_side: bool,
) -> list["Trial"]:
    """The trials that come after others, up to number `stop`, not run yet."""
    import optuna

    study = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=RANDOM_TRIALS)
    )
    study.add_trials(before)
    if not before:
        study.enqueue_trial(defaults)
    asked = []
    for number in range(len(before), stop):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of constant_liar, in Optuna 4
            study.sampler = optuna.samplers.TPESampler(
                seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]),
                n_startup_trials=RANDOM_TRIALS,
                multivariate=False,
                constant_liar=side_by_side,
            )
        asked.append(study.ask(space))
    return asked


def fold_scores(
    name: str, settings: Settings, train: Features, parts: list[tuple[np.ndarray, np.ndarray]], task: Task
) -> Iterator[tuple[float, float]]:
    """Fit and measure a head fold by fold.

    Args:
        name: a key of `HEADS`.
        settings: for `set_params` of the head.
        train: features (n, d).
        parts: of each fold, the rows to fit on and the rows to measure on.
        task: as for `make_head`; the rows are those of the fold.

    Yields:
        Accuracy, 0..1, and log loss over all rows measured so far.

    Raises:
        ValueError: the head cannot be fitted on a fold.
        FloatingPointError: it gives probabilities that are no numbers.
    """
    right, loss, rows = 0, 0.0, 0
    for fitted, held in parts:
        head = make_head(name, dataclasses.replace(task, rows=len(fitted))).set_params(**settings)
        with warnings.catch_warnings():
            # What settings off the mark bring up, such as a solver that needs more steps, is not the
            # user's concern; the fit with the chosen ones tells its own.
            warnings.simplefilter("ignore")
            head.fit(train.x[fitted], train.y[fitted])
            probabilities = np.asarray(head.predict_proba(train.x[held]), np.float64)  # (held rows, K)
        if not np.isfinite(probabilities).all():
            raise FloatingPointError("its probabilities are not finite")
        columns = np.searchsorted(head.classes_, train.y[held])
        right += int((probabilities.argmax(axis=1) == columns).sum())
        likelihood = probabilities[np.arange(len(held)), columns]
        loss -= float(np.log(np.maximum(likelihood, np.finfo(np.float64).eps)).sum())
        rows += len(held)
        yield right / rows, loss / rows


def _check_rows(name: str, train: Features, folds: int) -> None:
    counts = np.bincount(train.y, minlength=len(train.class_names))
    fewest = int(counts.argmin())
    if counts[fewest] < folds:
        raise HeadError(
            f"{name} cannot be tuned: class {train.class_names[fewest]} has {counts[fewest]} training rows, "
            f"expected at least one for each of the {folds} folds; use more images (a larger --train-size, or "
            "python -m featurize with a larger --train), or leave out --tune"
        )


def _search_space(name: str, head: Any) -> tuple[dict[str, "BaseDistribution"], Settings]:
    """The distribution and the default of each parameter searched, by its name in the pipeline."""
    last = head.steps[-1][0]
    parameters = head[-1].get_params()
    space, defaults = {}, {}
    for parameter, values in SPACES[name].items():
        (place,) = (key for key in parameters if key.rpartition("__")[2] == parameter)
        defaults[f"{last}__{place}"] = parameters[place]
        space[f"{last}__{place}"] = _distribution(values, parameters[place])
    return space, defaults


def _distribution(values: Around | Between | OneOf, default: Any) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, OneOf):
        return CategoricalDistribution(tuple(dict.fromkeys([*values.values, default])))
    if isinstance(values, Around):
        values = Between(default / values.factor, default * values.factor, log=True)
    low, high = min(values.low, default), max(values.high, default)
    if isinstance(default, int):
        return IntDistribution(round(low), round(high), log=values.log)
    return FloatDistribution(low, high, log=values.log)


def _identity(
    name: str, head: Any, train: Features, task: Task, folds: int, space: dict[str, "BaseDistribution"], wave: int
) -> str:
    """64 hexadecimal digits that stand for all that a trial's score depends on, but for libraries and threads.

    The mirror's columns and the images' shape are the features' own.
    """
    from optuna.distributions import distribution_to_json

    content = {
        "head": name,
        "settings": {key: value for key, value in head.get_params().items() if np.isscalar(value) or value is None},
        "features": train.fingerprint,
        "layers": [columns.name for columns in train.layers],
        "rows": hashlib.sha256(train.ids.tobytes() + train.y.tobytes()).hexdigest(),
        "task": [task.rows, task.dim, task.seed, task.class_weight],
        "folds": folds,
        "space": {key: distribution_to_json(distribution) for key, distribution in space.items()},
        **({"wave": wave} if wave > 1 else {}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def _opened(path: Path, identity: str) -> Iterator["Study"]:
    """The study of this name in a journal, for this process alone; wait while another process has it."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is at work on %s; waiting for it to end", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        # Left by a process that died while it wrote: Optuna's own lock, and the beginning of a line.
        Path(f"{path}.lock").unlink(missing_ok=True)
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        try:
            storage = JournalStorage(JournalFileBackend(str(path)))
            if identity in optuna.get_all_study_names(storage):
                journal = optuna.load_study(study_name=identity, storage=storage)
            else:
                journal = optuna.create_study(study_name=identity, storage=storage, direction="maximize")
        except OSError:
            raise
        except Exception as error:  # whatever a parser may raise on damaged lines
            raise DataError(f"{path} is no readable study: {error!r}; delete it and search anew") from error
        yield journal


def _log_trial(name: str, trial: "FrozenTrial", done: list["FrozenTrial"], trials: int, folds: int) -> None:
    from optuna.trial import TrialState

    if trial.state == TrialState.FAIL:
        outcome = f"failed ({trial.user_attrs['error']})"
    elif trial.state == TrialState.PRUNED:
        outcome = f"{_percent(trial)} after {len(trial.intermediate_values)} of {folds} folds, given up"
    else:
        outcome = _percent(trial)
    complete = [other for other in done if other.state == TrialState.COMPLETE]
    settings = ", ".join(
        f"{key.rpartition('__')[2]}={value:.3g}" if isinstance(value, float) else f"{key.rpartition('__')[2]}={value}"
        for key, value in trial.params.items()
    )
    logger.info(
        "%s: trial %d of %d: %s, best %s, %.1f s: %s",
        name,
        trial.number + 1,
        trials,
        outcome,
        _percent(min(complete, key=_rank)) if complete else "none",
        _seconds(trial),
        settings,
    )


def _best(name: str, trials: list["FrozenTrial"], path: Path) -> TuningResult:
    from optuna.trial import TrialState

    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    if not complete:
        raise HeadError(
            f"{name} cannot be tuned: all {len(trials)} trials failed, "
            f"the last with: {failed[-1].user_attrs['error']}; delete {path} to search anew, or leave out --tune"
        )
    best = min(complete, key=_rank)
    return TuningResult(
        settings=best.params,
        score=best.value,
        log_loss=best.user_attrs["log_loss"],
        default_score=complete[0].value if complete[0].number == 0 else None,
        trials_done=len(trials),
        pruned=len(trials) - len(complete) - len(failed),
        failed=len(failed),
        seconds=sum(map(_seconds, trials)),
        study=path,
    )


def _rank(trial: "FrozenTrial") -> tuple[float, float, int]:
    """Smaller is better: accuracy, then log loss, then the earlier trial."""
    assert trial.value is not None
    return -trial.value, trial.user_attrs["log_loss"], trial.number


def _percent(trial: "FrozenTrial") -> str:
    assert trial.value is not None
    return f"{100 * trial.value:.2f}%"


def _seconds(trial: "FrozenTrial") -> float:
    assert trial.duration is not None
    return trial.duration.total_seconds()
