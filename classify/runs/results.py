"""A run: one head's result on one feature cache, and the directory that holds it.

data/runs/<features>/test-openings.jsonl    a line for every evaluation on the test split
data/runs/<features>/<head>-<hash>/
    result.json            a RunResult: what was run, the metrics, the cost
    predictions.parquet    id, path (of image files), label, predicted, fold, group (where there are), p_<class>
    head.skops             the fitted head
    guarantee.skops        what sets of classes are made from, and what strange images are compared with
    README.md              the model card
"""

import difflib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Self

from annotated_types import Len, MinLen

from classify.runs.persist import AGAIN
from featurize.cache import Certificate, ExtractionSpec, Source
from featurize.core.errors import DataError, UsageError, suggestion
from featurize.core.files import data_root, temporary_folder
from featurize.core.records import Amount, Count, Digest, Name, Positive, Share, record
from featurize.core.tables import ShownAsTable, html_table

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("frozenbench")
SCHEMA_VERSION = 6  # of the layout; saved heads contain module paths, so moving a head's module raises it
SET_COVERAGE = 0.9  # of the sets of classes that are measured on the test images
RESULT = "result.json"
BIN = {"rows", "confidence", "accuracy"}
Bounded = Annotated[list[Share], Len(3, 3)]
"""A share with the bounds of its interval."""
PREDICTIONS = "predictions.parquet"
IN_FRAME = (
    "dataset", "features", "model", "seed", "class_weight", "tuned", "train_rows", "test_rows", "accuracy",
    "accuracy_low", "accuracy_high", "macro_f1", "log_loss", "ece", "fit_seconds", "converged",
)  # fmt: skip


@dataclass(frozen=True)
class RunResult(ShownAsTable):
    """One row of the comparison.

    `model` to `tuned` say what was run. `classify.statistics.Metrics` documents the metrics, and
    `classify.training.evaluate.FittedHead` the cost and course of the fit.

    Attributes:
        train_size: the number of training images that was asked for; None for all.
        test_digest: of the test images, see `tested_digest`.
        folds: number of folds, if every image was tested once in a cross-validation; 0 for one test split.
        groups: number of groups among the test images, if they have groups; else 0.
        source: where images and backbone were loaded from, to rebuild the extractor.
        parameters: the head's settings, tuned or not.
        tuned: number of search trials behind the settings; 0 for the head's defaults.
        test_opened: how many evaluations this cache's test split has seen, including this one.
        extraction_seconds: time to extract the features of one image.
        history: the estimator's `history_` if the head is trained in epochs.
        head_sha256: SHA-256 of head.skops; empty if the head was not saved.
        head_bytes: size of that file; 0 if the head was not saved.
        cache: path of the features as given; absolute for a run on a cluster.
        own_head: the `module:Class` of a head that is not one of ours; else empty.
        coverage: the share of test images whose set of classes, made for a coverage of 90%, holds their class, with
            the bounds of its 95% interval; None if the head has no sets.
        set_size: the mean number of classes in these sets.
        class_coverage: the same for the images of each class, [share, low, high, mean size]; None without images.
        held_out_rows: number of training images that were held out for the sets.
        unknown: the share of test images that count as images of no known class, 0..1: false alarms; None if the run
            cannot tell, and for a cross-validation.
        guarantee_sha256: SHA-256 of guarantee.skops; empty if there is none.
        draw: the seed that chose the training images, if it is not `seed`; else None.
        drawn_from: the number of training images that they were chosen from; 0 if it is not known.
        certificate: what a lower precision of the features costs, see `featurize.cache.Certificate`; None for float32.
        suspects: `dropped` or `weighted`: how the suspected labels of an audit were trained on; None if like others.
        suspects_file: the table that names them; else empty.
        suspects_rows: their number among the training images of the cache, or in folds among all.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    model: Name
    features: Name
    fingerprint: Digest
    spec: dict[str, Any]
    source: dict[str, Any]
    dataset: str
    weights: str
    class_names: Annotated[list[str], MinLen(1)]
    layers: Annotated[list[str], MinLen(1)]
    dim: Positive
    train_rows: Positive
    train_size: Positive | None
    test_rows: Positive
    test_digest: Digest
    folds: Count
    groups: Count
    seed: Count
    class_weight: str | None
    parameters: dict[str, Any]
    tuned: Count
    accuracy: Share
    accuracy_low: Share
    accuracy_high: Share
    macro_f1: Share
    macro_f1_low: Share
    macro_f1_high: Share
    balanced_accuracy: Share
    recall: dict[str, Bounded | None]
    support: dict[str, Count]
    log_loss: Amount
    brier: Amount
    ece: Share
    reliability: Annotated[list[dict[str, Amount]], MinLen(1)]
    test_opened: Count
    extraction_seconds: Amount
    fit_seconds: Amount
    predict_ms_per_image: Amount
    iterations: Count | None
    converged: bool | None
    history: dict[str, list[Amount]]
    warnings: list[str]
    head_sha256: str
    head_bytes: Count
    cache: str
    versions: dict[str, str]
    machine: str
    finished: str
    schema_version: Count = SCHEMA_VERSION
    own_head: str = ""
    coverage: Share | None = None
    coverage_low: Share | None = None
    coverage_high: Share | None = None
    set_size: Amount | None = None
    class_coverage: dict[str, Annotated[list[Amount], Len(4, 4)] | None] = field(default_factory=dict)
    held_out_rows: Count = 0
    unknown: Share | None = None
    guarantee_sha256: str = ""
    certificate: dict[str, Any] | None = None
    draw: int | None = None
    drawn_from: int = 0
    suspects: str | None = None
    suspects_file: str = ""
    suspects_rows: int = 0

    @classmethod
    def read(cls, run_dir: Path) -> Self:
        """The result in a run directory.

        Raises:
            DataError: the file is missing or damaged, or another version of frozenbench made the run.
        """
        path = run_dir / RESULT
        try:
            values = json.loads(path.read_text("utf-8"))
            version = values.get("schema_version", SCHEMA_VERSION) if isinstance(values, dict) else SCHEMA_VERSION
            if version == SCHEMA_VERSION:
                found = record(cls, values)
                _cross_check(found)
                return found
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path} cannot be used: {error}; {AGAIN}") from error
        raise DataError(
            f"{run_dir} was made by another version of frozenbench (layout {str(version)[:20]}, expected "
            f"{SCHEMA_VERSION}); {AGAIN}"
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row: what was run, and its main metrics."""
        import pandas as pd

        return pd.DataFrame([_row(self)])


class LoadedRuns(NamedTuple):
    """The runs in a folder by directory, and the directories that were skipped, each with the reason."""

    runs: dict[Path, RunResult]
    skipped: list[tuple[Path, str]]

    def to_frame(self) -> "pd.DataFrame":
        """One row per run with its name, best first on each data set."""
        import pandas as pd

        table = pd.DataFrame([{**_row(result), "run": path.name} for path, result in self.runs.items()])
        return table.sort_values(["dataset", "accuracy"], ascending=[True, False], kind="stable", ignore_index=True)

    def _repr_html_(self) -> str:
        return html_table(self.to_frame())


def _cross_check(run: RunResult) -> None:
    """Raise ValueError if the fields of a result contradict one another."""
    spec = record(ExtractionSpec, run.spec)
    record(Source, run.source)
    if run.certificate is not None:
        record(Certificate, run.certificate)
    names = set(run.class_names)
    if not len(names) == len(run.class_names) or not names == set(run.recall) == set(run.support):
        raise ValueError("its fields recall and support are not of its classes")
    if run.class_coverage and set(run.class_coverage) != names:
        raise ValueError("its field class_coverage is not of its classes")
    if sum(run.support.values()) != run.test_rows:
        raise ValueError("its field support is not of its test images")
    if not set(run.layers) <= set(spec.layers):
        raise ValueError("its field layers is not of its features")
    if None in (run.coverage_low, run.coverage_high, run.set_size) and run.coverage is not None:
        raise ValueError("its field coverage has no bounds")
    for part in run.reliability:
        if set(part) != BIN or not part["rows"] or max(part["confidence"], part["accuracy"]) > 1:
            raise ValueError("its field reliability does not hold rows with their confidence and accuracy")
    epochs = {len(run.history.get(name, ())) for name in ("loss", "accuracy")}
    validated = len(run.history.get("validation_accuracy", ()))
    if run.history and (len(epochs) > 1 or 0 in epochs or validated not in {0, *epochs}):
        raise ValueError("its field history has epochs without a number")


def _row(result: RunResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in IN_FRAME}


def tested_digest(digests: Mapping[str, str], folds: int) -> str:
    """The digest of the test images: that of the split `test`, or in folds one of all splits.

    Args:
        digests: of the splits.
        folds: number of folds of a cross-validation, or 0.
    """
    if not folds:
        return digests["test"]
    return hashlib.sha256("".join(digests[split] for split in sorted(digests)).encode()).hexdigest()


def runs_folder() -> Path:
    """The default folder of runs."""
    return data_root() / "runs"


@contextmanager
def new_run(run_dir: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes the run directory when the block succeeds, replacing an older one.

    Raises:
        OSError: the disk is full or the folder cannot be written to.
    """
    with temporary_folder(run_dir) as temporary:
        made = temporary / run_dir.name
        made.mkdir()
        yield made
        if run_dir.exists():
            run_dir.replace(temporary / "replaced")
        made.replace(run_dir)


def write_result(folder: Path, result: RunResult, predictions: Any) -> None:
    """Write what the analysis reads.

    Args:
        folder: folder of the run, see `new_run`.
        result: written to `result.json`.
        predictions: a pandas DataFrame with a row per test image, written to `predictions.parquet`.

    Raises:
        OSError: the disk is full or the folder cannot be written to.
    """
    predictions.to_parquet(folder / PREDICTIONS, index=False)
    (folder / RESULT).write_text(json.dumps(asdict(result), indent=2, allow_nan=False) + "\n", "utf-8")


def find_run(name: str, folder: Path) -> Path:
    """The directory of a run.

    Args:
        name: the directory, its name (`svm-1f3a5c7d`), or a unique beginning of the name.
        folder: of all runs.

    Raises:
        UsageError: there is no such run, or more than one.
    """
    if (Path(name) / RESULT).is_file():
        return Path(name)
    finished = [path.parent for path in sorted(folder.glob(f"*/*/{RESULT}")) if not path.parent.name.startswith(".")]
    if not finished:
        raise UsageError(f"{name}: no such run; there are no runs in {folder}, make some with frozenbench classify")
    found = [path for path in finished if path.name == name]
    if not found:
        found = [path for path in finished if path.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
        raise UsageError(f"{name}: {len(found)} runs have names that begin like this ({some}); name one of them")
    by_beginning = {path.name[: len(name)]: path.name for path in finished}  # the digits at the end say nothing
    close = difflib.get_close_matches(name, by_beginning, n=1)
    known = [by_beginning[close[0]]] if close else [path.name for path in finished]
    raise UsageError(f"{name}: no such run; {suggestion(known[0] if close else name, known)}")


def load_runs(folder: Path | str) -> LoadedRuns:
    """All runs below a folder, as a pair of `runs` and `skipped`.

    Raises:
        UsageError: no run can be used.
    """
    runs: dict[Path, RunResult] = {}
    skipped = []
    for run_dir in sorted(Path(folder).glob("*/*")):
        # A hidden directory is being written, or a killed process left it.
        hidden = run_dir.name.startswith(".") or run_dir.parent.name.startswith(".")
        if hidden or not run_dir.is_dir():
            continue
        try:
            runs[run_dir] = RunResult.read(run_dir)
        except DataError as error:
            skipped.append((run_dir, str(error)))
            logger.warning("skipped: %s", error)
    if not runs:
        raise UsageError(f"no runs in {folder}; make some with frozenbench classify")
    return LoadedRuns(runs, skipped)
