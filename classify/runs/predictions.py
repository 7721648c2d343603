"""The predictions of runs: read, and compared with what the runs record about themselves."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from classify.runs.persist import AGAIN
from classify.runs.results import PREDICTIONS, RunResult
from featurize.core.errors import DataError, first_line

logger = logging.getLogger("frozenbench")
NEEDED = ("id", "label", "predicted")


def read_predictions(run_dir: Path) -> Any:
    """A run's predictions, a pandas DataFrame with a row per test image; `classify.runs.results` lists its columns.

    Raises:
        DataError: the file is missing or damaged.
    """
    import pandas as pd

    path = run_dir / PREDICTIONS
    try:
        table = pd.read_parquet(path)
        for name in NEEDED:
            if name not in table.columns:
                raise ValueError(f"it has no column {name}")
            if table[name].dtype.kind not in "iu":
                raise ValueError(f"its column {name} holds {table[name].dtype}, expected whole numbers")
    except Exception as error:  # a damaged file can fail anywhere inside of pyarrow
        raise DataError(f"{path} cannot be used: {first_line(error)}; {AGAIN}") from error
    return table


def with_predictions(runs: Mapping[Path, RunResult]) -> tuple[dict[Path, RunResult], list[tuple[Path, str]]]:
    """The runs whose predictions can be read and agree with their result, and the others with the reason.

    Runs with the same `test_digest` were tested on the same images. Those that were not, against the majority, are
    among the others.

    Raises:
        DataError: there is no such run.
    """
    usable: dict[Path, RunResult] = {}
    images: dict[Path, tuple[str, bytes]] = {}
    reasons = {}
    for run_dir, result in runs.items():
        try:
            images[run_dir] = (result.test_digest, _checked(run_dir, result))
            usable[run_dir] = result
        except DataError as error:
            reasons[run_dir] = str(error)
    usual: dict[str, bytes] = {}
    for (digest, tested), _ in Counter(images.values()).most_common():
        usual.setdefault(digest, tested)
    for run_dir, (digest, tested) in images.items():
        if tested != usual[digest]:
            reasons[run_dir] = f"{run_dir}: its images or labels are not those of the other runs on them; {AGAIN}"
            del usable[run_dir]
    skipped = [(run_dir, reasons[run_dir]) for run_dir in runs if run_dir in reasons]
    for _, reason in skipped:
        logger.warning("skipped: %s", reason)
    if not usable:
        raise DataError(f"no run can be used; {skipped[0][1]}")
    return usable, skipped


def _checked(run_dir: Path, result: RunResult) -> bytes:
    """SHA-256 of the ids and labels of a run's test images.

    Raises:
        DataError: the predictions cannot be read, or do not agree with the result.
    """
    table = read_predictions(run_dir)
    accuracy = float((table["label"] == table["predicted"]).mean())
    if len(table) != result.test_rows or abs(accuracy - result.accuracy) > 1e-9:
        raise DataError(
            f"{run_dir}: {100 * accuracy:.2f}% of its {len(table):,} predictions are correct, expected "
            f"{100 * result.accuracy:.2f}% of {result.test_rows:,}; {AGAIN}"
        )
    if not table["label"].between(0, len(result.class_names) - 1).all():
        raise DataError(f"{run_dir}: a label is not one of its {len(result.class_names):,} classes; {AGAIN}")
    if repeated := int(table["id"].duplicated().sum()):
        raise DataError(f"{run_dir}: {repeated:,} of its {len(table):,} test rows have the id of another one; {AGAIN}")
    ordered = table.sort_values("id")[["id", "label"]]
    return hashlib.sha256(ordered.to_numpy(np.int64).tobytes()).digest()
