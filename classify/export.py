"""A run as one ONNX file, from pixels or vectors to class probabilities, checked before it is written."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.guarantee import Guarantee
from classify.predict import Classifier
from classify.runs import AGAIN, GUARANTEE, HEAD, SET_COVERAGE, RunResult, load_guarantee, load_head, model_card
from featurize.cache import IMPORTED, read_labels, read_rows
from featurize.core.console import say
from featurize.core.errors import DataError, FrozenbenchError, UsageError, first_line
from featurize.core.files import written_whole
from featurize.engines import default_batch_size
from featurize.extraction import recorded_backbone
from featurize.images import recorded_dataset
from featurize.networks.onnx_file import serialized

if TYPE_CHECKING:
    import onnx

CHECKED = 200
BATCH = 8
TOLERANCE = 1e-4  # largest difference of a probability
TOLERANCE_OF_TREES = 1e-3  # a value that rounding moves across a threshold goes down another branch
WITH_TREES = ("xgboost", "stack")
IMAGES, VECTORS, PROBABILITIES = "images", "vectors", "probabilities"  # inputs and output of the file


@dataclass(frozen=True)
class Check:
    """A file against its run, on test images.

    Attributes:
        images: their number.
        same: of how many of them both name the same class.
        largest_difference: of a probability, 0..1.
    """

    images: int
    same: int
    largest_difference: float


def export_run(run_dir: Path, to: Path, *, head_only: bool = False, overwrite: bool = False) -> Check:
    """Write a run as an ONNX file, if ONNX Runtime finds in it what the run itself says of test images.

    The file takes `images`, uint8 RGB (n, size, size, 3), or with `head_only` `vectors`, float32 (n, d), and gives
    `probabilities`, float32 (n, K). Its metadata are those of `_facts`.

    Args:
        run_dir: the directory of a finished run.
        to: path of the file.
        head_only: leave the network out.
        overwrite: replace an existing file.

    Raises:
        UsageError: the head or the network cannot be exported, `to` exists, or a package is missing.
        DataError: the run is damaged, or its test images or cache cannot be read.
        BackboneError: the network cannot be loaded or converted.
        FrozenbenchError: the file differs from the run.
        OSError: the folder cannot be written to, or the disk is full.
    """
    if to.suffix != ".onnx":
        raise UsageError(f"--to {to}: expected a file with the suffix .onnx")
    if to.is_dir() or (to.exists() and not overwrite):
        raise UsageError(f"--to {to}: it exists; choose another name, or replace it with --overwrite")
    _check_packages(head_only=head_only)
    result = RunResult.read(run_dir)
    _check_exportable(run_dir, result, head_only=head_only)
    make = _head_alone if head_only else _whole
    model, given, expected = make(run_dir, result)
    content = serialized(to, model)
    check = _compared(content, given, expected)
    tolerance = TOLERANCE_OF_TREES if result.model in WITH_TREES else TOLERANCE
    if check.same < check.images or not check.largest_difference <= tolerance:
        raise FrozenbenchError(
            f"{to} is not written, because it differs from {run_dir.name}: of {check.images} test images, "
            f"{check.images - check.same} have another class, and probabilities differ by up to "
            f"{check.largest_difference:.1e}, expected at most {tolerance:.0e}; export another head, or --head-only"
        )
    with written_whole(to) as temporary:
        temporary.write_bytes(content)
    return check


def _check_packages(*, head_only: bool) -> None:
    """Raise UsageError unless the packages of the extra `onnx` are there."""
    # Without an import, as tf2onnx loads TensorFlow with all that this says.
    for package in ("onnx", "onnxruntime", *(() if head_only else ("tf2onnx",))):
        if find_spec(package) is None:
            raise UsageError(f"export needs {package}, which is not installed; pip install 'frozenbench[onnx]'")


def _check_exportable(run_dir: Path, result: RunResult, *, head_only: bool) -> None:
    """Raise UsageError if the run has a head, or vectors, of which no graph can be made."""
    from classify.graphs import HEADS

    if result.own_head or result.model not in HEADS:
        raise UsageError(
            f"{run_dir.name}: the head {result.own_head or result.model} cannot be exported; expected a run of "
            f"{', '.join(HEADS)}"
        )
    if head_only:
        return
    if result.spec["engine"] == IMPORTED:
        raise UsageError(
            f"{run_dir.name}: its vectors were imported from {result.source.get(IMPORTED)}, so there is no network to "
            "export; use --head-only"
        )
    if (precision := result.spec.get("precision", "float32")) != "float32":
        raise UsageError(
            f"{run_dir.name}: its features are in {precision}, and the file would compute in float32; use --head-only, "
            "or make the features with --precision float32"
        )


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Report a head that does not hold what its type should, or does not fit its vectors, as DataError."""
    try:
        yield
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} cannot be exported ({type(error).__name__}: {first_line(error)}); {AGAIN}") from error


def _whole(run_dir: Path, result: RunResult) -> tuple["onnx.ModelProto", np.ndarray, np.ndarray]:
    """The file from pixels on; test images, uint8 (n, size, size, 3); and the probabilities that the run gives them."""
    from classify.graphs import Graph, add_head, add_network, batch_of

    classifier = Classifier(run_dir)
    spec = classifier.spec
    split = recorded_dataset(result.source).splits["test"]
    pixels, skipped = split.images[_some(len(split))].read(spec.image_size, spec.resize, spec.aspect)
    pixels = np.delete(pixels, list(skipped), axis=0)
    if not len(pixels):
        raise DataError(f"{result.source['data']}: no test image can be read, to check the file on")
    step = default_batch_size(spec.image_size)
    blocks = [classifier.vectors(pixels[start : start + step]) for start in range(0, len(pixels), step)]
    expected = classifier.probabilities(np.concatenate(blocks))

    backbone = recorded_backbone(spec, result.source)
    graph = Graph()
    vectors = add_network(graph, backbone, spec, result.layers, IMAGES)
    with _damage(classifier.head_path):
        last = add_head(graph, classifier.head, vectors)
    steps = [{"height": classifier.height, "width": classifier.width, "kernel": classifier.kernel}]
    if (classifier.height, classifier.width) != (spec.image_size, spec.image_size):
        steps.append({"height": spec.image_size, "width": spec.image_size, "kernel": spec.resize})
    facts = {
        "name": IMAGES,
        "values": "uint8, RGB",
        "resize": [{**step, "aspect": spec.aspect} for step in steps],
    }
    shape = [batch_of(backbone) or "n", spec.image_size, spec.image_size, 3]
    model = graph.model(
        (IMAGES, "uint8", shape), last, (PROBABILITIES, "float32", [shape[0], len(classifier.class_names)])
    )
    _describe(model, result, classifier.class_names, facts, classifier.guarantee)
    return model, pixels, expected


def _head_alone(run_dir: Path, result: RunResult) -> tuple["onnx.ModelProto", np.ndarray, np.ndarray]:
    """The file from vectors on; vectors of test images, float32 (n, d); and the head's probabilities for them."""
    from classify.graphs import Graph, add_head

    head = load_head(run_dir / HEAD, result.head_sha256)
    cache = Path(result.cache)
    rows = _some(len(read_labels(cache, "test")[0]))
    parts = [read_rows(cache, "test", row, row + 1, result.layers) for row in rows]
    if parts[0].fingerprint != result.fingerprint:
        raise DataError(f"{cache} is no longer the cache of {run_dir.name}; {AGAIN}")
    vectors = np.concatenate([part.x for part in parts])
    graph = Graph()
    with _damage(run_dir / HEAD):
        expected = np.asarray(head.predict_proba(vectors))
        last = add_head(graph, head, VECTORS)
        class_names = [result.class_names[label] for label in head.classes_]
    facts = {"name": VECTORS, "values": "float32", "layers": result.layers, "pool": result.spec["pool"]}
    model = graph.model(
        (VECTORS, "float32", ["n", result.dim]), last, (PROBABILITIES, "float32", ["n", len(class_names)])
    )
    guarantee = Guarantee()
    if result.guarantee_sha256:
        guarantee = load_guarantee(run_dir / GUARANTEE, result.guarantee_sha256, Guarantee)
    _describe(model, result, class_names, facts, guarantee)
    return model, vectors, expected


def _some(count: int) -> np.ndarray:
    """At most `CHECKED` of so many rows, spread over all of them, as neighbours may be of one class."""
    return np.unique(np.linspace(0, count - 1, CHECKED).round().astype(np.int64))


def _describe(
    model: "onnx.ModelProto", result: RunResult, class_names: list[str], given: dict[str, Any], guarantee: Guarantee
) -> None:
    """Set a file's metadata: text, or JSON where it is not a single fact.

    Args:
        model: gets them.
        result: of the run.
        class_names: in the order of the probabilities.
        given: what the file takes.
        guarantee: of the run.
    """
    from onnx import helper

    facts = {
        "class_names": json.dumps(class_names),
        "fingerprint": result.fingerprint,
        "input": json.dumps(given),
        "model_card": model_card(result),
    }
    if guarantee.sets is not None:
        thresholds = guarantee.sets.thresholds(SET_COVERAGE)
        # Every class joins a set if there is no threshold; JSON has no infinity.
        finite = [float(threshold) if np.isfinite(threshold) else None for threshold in thresholds]
        facts["conformal"] = json.dumps({"coverage": SET_COVERAGE, "thresholds": finite})
    model.producer_name, model.producer_version = "frozenbench", version("frozenbench")
    helper.set_model_props(model, facts)


def _compared(content: bytes, given: np.ndarray, expected: np.ndarray) -> Check:
    """Run a file in ONNX Runtime.

    Args:
        content: of the file.
        given: its input, (n, ...).
        expected: probabilities (n, K).

    Raises:
        FrozenbenchError: ONNX Runtime cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        [taken] = session.get_inputs()
        step = taken.shape[0] if isinstance(taken.shape[0], int) else BATCH
        parts = []
        for start in range(0, len(given), step):
            some = given[start : start + step]
            filled = np.concatenate([some, some[-1:].repeat(step - len(some), axis=0)])  # as the file may fix it
            parts.append(session.run(None, {taken.name: filled})[0][: len(some)])
    except Exception as error:  # it raises anything
        raise FrozenbenchError(f"ONNX Runtime cannot run the exported file: {first_line(error)}") from error
    found = np.concatenate(parts)
    same = int((found.argmax(axis=1) == expected.argmax(axis=1)).sum())
    return Check(len(found), same, float(np.abs(found - expected).max()))


def show(check: Check, to: Path, *, as_json: bool = False) -> None:
    """Print what was written and how it was checked, as lines or as one JSON object."""
    if as_json:
        print(json.dumps({"written": [str(to)], "checked": asdict(check)}))
        return
    say(f"wrote {to}")
    say(
        f"checked on {check.images:,} test images: same class on all, probabilities differ by at most "
        f"{check.largest_difference:.0e}"
    )
