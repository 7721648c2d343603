"""A run: what one head gave on one feature cache, and the directory that keeps it.

data/runs/<features>/test-openings.jsonl    a line for every time the test split was looked at
data/runs/<features>/<head>-<hash>/
    result.json            a RunResult: what was run, the metrics, the cost
    predictions.parquet    id, label, predicted, p_<class>
    head.skops             the fitted head
    README.md              the model card
"""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from featurize.core.errors import DataError, UsageError
from featurize.core.files import data_root

logger = logging.getLogger("frozenbench")
SCHEMA_VERSION = 4
RESULT = "result.json"
PREDICTIONS = "predictions.parquet"


@dataclass(frozen=True)
class RunResult:
    """One row of the comparison.

    What was run: `model` to `tuned`; the figures: those of `classify.statistics.metrics.Metrics`; the
    cost and how the fit went: those of `classify.training.evaluate.FittedHead`.

    Attributes:
        source: where images and backbone were loaded from, to rebuild the extractor.
        parameters: the head's settings, tuned or not.
        tuned: search trials behind the settings; 0 for the head's defaults.
        test_opened: how often heads had been measured on this cache's test split, this time included.
        extraction_seconds: what the features of one image took.
        history: of a head that is trained in epochs, what its estimator's `history_` says of each.
        head_sha256: of head.skops; empty where the head was not kept.
        head_bytes: the size of that file; 0 where there is none.
        cache: the path of the features as it was given; of a run on a cluster, the absolute one.
    """

    model: str
    features: str
    fingerprint: str
    spec: dict[str, Any]
    source: dict[str, Any]
    dataset: str
    weights: str
    class_names: list[str]
    layers: list[str]
    dim: int
    train_rows: int
    test_rows: int
    test_digest: str
    seed: int
    class_weight: str | None
    parameters: dict[str, Any]
    tuned: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    macro_f1: float
    macro_f1_low: float
    macro_f1_high: float
    balanced_accuracy: float
    recall: dict[str, list[float] | None]
    support: dict[str, int]
    log_loss: float
    brier: float
    ece: float
    reliability: list[dict[str, float]]
    test_opened: int
    extraction_seconds: float
    fit_seconds: float
    predict_ms_per_image: float
    iterations: int | None
    converged: bool | None
    history: dict[str, list[float]]
    warnings: list[str]
    head_sha256: str
    head_bytes: int
    cache: str
    versions: dict[str, str]
    machine: str
    finished: str
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def read(cls, run_dir: Path) -> Self:
        """The result kept in a run directory.

        Raises:
            DataError: there is none, or it is damaged or of another version.
        """
        path = run_dir / RESULT
        try:
            values = json.loads(path.read_text("utf-8"))
            if not isinstance(values, dict) or set(values) != {field.name for field in fields(cls)}:
                raise ValueError("its fields are not those of a run")
            result = cls(**values)
            if result.schema_version != SCHEMA_VERSION:
                raise ValueError(f"it has the layout version {result.schema_version}, expected {SCHEMA_VERSION}")
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path} cannot be used: {error}") from error
        return result


def runs_folder() -> Path:
    """Where runs are kept unless a folder is given."""
    return data_root() / "runs"


@contextmanager
def new_run(run_dir: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes the run directory when the block ends well, replacing an older one.

    Raises:
        OSError: the disk is full or the folder cannot be written to.
    """
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=run_dir.parent, ignore_cleanup_errors=True) as temporary:
        made = Path(temporary) / run_dir.name
        made.mkdir()
        yield made
        if run_dir.exists():
            run_dir.replace(Path(temporary) / "replaced")
        made.replace(run_dir)


def write_result(folder: Path, result: RunResult, predictions: Any) -> None:
    """Write what the analysis reads.

    Args:
        folder: of the run, see `new_run`.
        result: goes to `result.json`.
        predictions: a pandas DataFrame, a row per test image; goes to `predictions.parquet`.

    Raises:
        OSError: the disk is full or the folder cannot be written to.
    """
    predictions.to_parquet(folder / PREDICTIONS, index=False)
    (folder / RESULT).write_text(json.dumps(asdict(result), indent=2, allow_nan=False) + "\n", "utf-8")


def read_predictions(run_dir: Path) -> Any:
    """What a run predicted, a pandas DataFrame with a row per test image: id, label, predicted, p_<class>.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    import pandas as pd

    path = run_dir / PREDICTIONS
    try:
        table = pd.read_parquet(path)
        if missing := {"id", "label", "predicted"} - set(table.columns):
            raise ValueError(f"it has no column {missing.pop()}")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be used: {error}") from error
    return table


def load_runs(folder: Path) -> tuple[dict[Path, RunResult], list[tuple[Path, str]]]:
    """All runs below `folder`, by directory, and the directories left out with the reason.

    Raises:
        UsageError: there is no run that can be used.
    """
    runs: dict[Path, RunResult] = {}
    left_out = []
    for run_dir in sorted(path for path in folder.glob("*/*") if path.is_dir() and path.parent.name[0] != "."):
        if run_dir.name.startswith("."):
            continue  # being written, or left by a process that was killed
        try:
            runs[run_dir] = RunResult.read(run_dir)
        except DataError as error:
            left_out.append((run_dir, str(error)))
            logger.warning("left out: %s", error)
    if not runs:
        raise UsageError(f"no runs in {folder}; make some with python -m classify")
    return runs, left_out
