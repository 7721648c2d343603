"""The loop of stage 1: plan -> missing rows -> vectors -> shards -> cache."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featurize.cache import (
    CacheContent,
    CacheInfo,
    CacheWriter,
    Columns,
    SplitRecords,
    discard_leftovers,
    finished_cache,
    open_writer,
)
from featurize.core.errors import BackboneError, DataError
from featurize.extraction.certificate import certified
from featurize.extraction.extractor import device_of, vector_blocks
from featurize.extraction.plan import ExtractionOptions, Plan, plan_extraction
from featurize.extraction.saved_networks import save_extractor
from featurize.images import ImageDataset, Split
from featurize.networks import Backbone

logger = logging.getLogger("frozenbench")
REREAD_ROWS = 64
Progress = Callable[[int, int], None]
"""Called with the number of finished images and of all images."""
Note = Callable[[int], None]
"""Called with the number of newly finished rows; it may raise KeyboardInterrupt."""
Compute = Callable[[Plan, CacheWriter, Note], str]
"""Computes the rows that the writer lacks, and returns the name of the device."""


@dataclass(frozen=True)
class Extraction:
    """A finished cache, whether it existed before, and how many rows of an interrupted run were reused."""

    info: CacheInfo
    reused: bool
    resumed_rows: int = 0


def extract_features(
    dataset: ImageDataset,
    backbone: Backbone,
    *,
    out: Path | str | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
    compute: Compute | None = None,
    shards_at: Path | None = None,
    accept_loss: bool = False,
    **options: Any,
) -> Extraction:
    """Run a frozen backbone over every image once and cache the vectors.

    An interrupted run resumes. A finished cache of the same specification is reused.

    Args:
        dataset: images and labels.
        backbone: from `load_backbone`.
        out: path of the cache; by default a name in the data folder that says what is inside.
        overwrite: replace a cache that has another specification or cannot be read.
        progress: called after each batch.
        compute: where to compute: `distributed.on_cluster("tcp://HOST:PORT")` for a cluster; this process by default.
        shards_at: the folder for shards, which may be remote; beside the cache by default.
        accept_loss: go on where a lower precision costs accuracy on the training images.
        options: fields of `ExtractionOptions`: `pool`, `resize`, `aspect`, `flip`, `engine`, `dtype`, `batch_size`,
            `precision`.

    Raises:
        UsageError: an unknown option, or an activation too small for the pooling.
        CacheMismatchError: `out` holds a cache of another specification.
        CacheError: the cache cannot be written.
        ClusterError: the cluster cannot do the work.
        BackboneError: a vector is not finite, or the chosen engine does not give TensorFlow's numbers.
        DataError: all images of a split were skipped.
    """
    path = None if out is None else Path(out)
    plan = plan_extraction(dataset, backbone, ExtractionOptions(**options), out=path)
    return carry_out(
        plan,
        overwrite=overwrite,
        progress=progress,
        compute=compute,
        shards_at=shards_at,
        accept_loss=accept_loss,
    )


def carry_out(
    plan: Plan,
    *,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
    compute: Compute | None = None,
    shards_at: Path | None = None,
    accept_loss: bool = False,
) -> Extraction:
    """Carry out a plan; arguments and errors are those of `extract_features`."""
    if info := finished_cache(plan.path, plan.spec, overwrite=overwrite):
        discard_leftovers(plan.path, plan.spec)
        return Extraction(info, reused=True)
    certificate = None
    if plan.spec.precision != "float32":
        certificate = certified(plan, plan.dataset, accept_loss=accept_loss)
    content = _content(plan)
    with (
        open_writer(plan.path, plan.spec, content, overwrite=overwrite, shards_at=shards_at) as writer,
        _interrupts_held_back() as stop_if_asked,
    ):
        if info := finished_cache(plan.path, plan.spec, overwrite=overwrite):  # by the process that we waited for
            writer.discard()
            return Extraction(info, reused=True)
        total = writer.total_rows
        resumed = writer.finished_rows
        if resumed:
            logger.info("resuming: %s of %s rows are finished", f"{resumed:,}", f"{total:,}")
        done = resumed

        def note(rows: int) -> None:
            nonlocal done
            done += rows
            if rows:
                progress(done, total)
            stop_if_asked()

        began = time.perf_counter()
        device = (compute or compute_here)(plan, writer, note)
        try:
            plan.backbone.check_frozen()
        except BackboneError:
            writer.discard()
            raise
        seconds = time.perf_counter() - began
        try:
            skipped = {name: _skipped(writer, name, split, plan) for name, split in plan.dataset.splits.items()}
        except DataError:  # no image could be read: nothing to resume from
            writer.discard()
            raise
        info = writer.commit(
            skipped=skipped,
            seconds=seconds,
            images_per_second=(total - resumed) / seconds,
            device=device,
            engine_choice=plan.engine.why,
            **({"certificate": asdict(certificate)} if certificate else {}),
            source={"data": plan.dataset.source, **_image_facts(plan.dataset), **plan.backbone.source},
        )
    if plan.spec.calibration:  # `predict` has no training images to take the scales from
        save_extractor(plan)
    return Extraction(info, reused=False, resumed_rows=resumed)


def compute_here(plan: Plan, writer: CacheWriter, note: Note) -> str:
    """Compute the missing rows in this process; the arguments are those of `Compute`."""
    for name, split in plan.dataset.splits.items():
        for start, stop in writer.missing(name):
            with writer.append(name, start) as rows:
                for block in vector_blocks(plan, name, split[start:stop], plan.batch_size):
                    rows.add(block)
                    note(len(block))
    return device_of(plan.spec.engine)


def _content(plan: Plan) -> CacheContent:
    """Everything in the cache but the features."""
    splits = {
        name: SplitRecords(split.labels, split.ids, split.digest, split.images.paths, split.groups, split.folds)
        for name, split in plan.dataset.splits.items()
    }
    return CacheContent(plan.dataset.name, plan.dataset.class_names, plan.backbone.weights, _columns(plan), splits)


def _columns(plan: Plan) -> list[Columns]:
    """The columns of each layer, from the activations of the first image."""
    first_split = next(iter(plan.dataset.splits.values()))
    image, _ = plan.read(first_split.images[:1])
    columns = []
    start = 0
    for layer, activation in zip(plan.spec.layers, plan.activations(image), strict=True):
        columns.append(Columns(layer, start, activation.shape[1:]))
        start = columns[-1].stop
    return columns


def _image_facts(dataset: ImageDataset) -> dict[str, Any]:
    """What is needed to load the same images again, and their height and width if they are all the same."""
    facts: dict[str, Any] = {"images": {name: len(split) for name, split in dataset.splits.items()}}
    facts |= dataset.split_options
    shape = next(iter(dataset.splits.values())).images.shape
    return facts if shape is None else {**facts, "image_shape": shape}


def _skipped(writer: CacheWriter, name: str, split: Split, plan: Plan) -> dict[int, str]:
    """The skipped rows of a split with the reasons, for which their files are read once more.

    Raises:
        DataError: every image of the split was skipped.
    """
    rows = writer.skipped(name)
    reasons: dict[int, str] = {}
    for start in range(0, len(rows), REREAD_ROWS):
        some = rows[start : start + REREAD_ROWS]
        _, problems = plan.read(split.images[some])
        for index, row in enumerate(some.tolist()):
            reasons[row] = problems.get(index, "could not be read at first")
    if reasons and len(reasons) == len(split):
        raise DataError(f"none of the {len(split):,} {name} images could be read; the first one: {reasons[0]}")
    return reasons


@contextmanager
def _interrupts_held_back() -> Iterator[Callable[[], None]]:
    """Delay Ctrl-C until the yielded function is called, or to the end, so that no file is left half-written.

    A second Ctrl-C acts at once. Nothing changes outside the main thread, or if Python's own handler is not
    in charge (a host application, `nohup`).
    """
    asked = False

    def remember(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    in_charge = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not in_charge or threading.current_thread() is not threading.main_thread():
        yield stop_if_asked
        return
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield stop_if_asked
        stop_if_asked()
    finally:
        signal.signal(signal.SIGINT, before)
