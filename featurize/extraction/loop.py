"""The loop of stage 1: plan -> missing rows -> vectors -> shards -> cache."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from featurize.cache import (
    CacheContent,
    CacheInfo,
    CacheWriter,
    Certificate,
    Columns,
    ExtractionSpec,
    SplitRecords,
    TakenRows,
    discard_leftovers,
    finished_cache,
    open_writer,
)
from featurize.core.errors import BackboneError, DataError
from featurize.extraction.certificate import certified, kept_certificate
from featurize.extraction.extractor import device_of, vector_blocks
from featurize.extraction.plan import (
    ExtractionOptions,
    Plan,
    has_names,
    plan_extraction,
    rows_of_other_caches,
)
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
    """A finished cache, and where its rows come from.

    Attributes:
        info: the description of the cache.
        reused: whether it existed before; the following numbers are 0 then.
        resumed_rows: rows that an interrupted run had computed.
        taken_rows: rows from other caches.
        computed_rows: rows that this run computed.
    """

    info: CacheInfo
    reused: bool
    resumed_rows: int = 0
    taken_rows: int = 0
    computed_rows: int = 0


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
    reuse: Sequence[Path | str] | None = (),
    **options: Any,
) -> Extraction:
    """Run a frozen backbone over every image once and cache the vectors.

    An interrupted run resumes. A finished cache of the same specification is reused. If the data have changed, vectors
    of the same images are taken from the old cache and from others in its folder, and only new images are computed.

    Args:
        dataset: images and labels.
        backbone: from `load_backbone`.
        out: path of the cache; by default a name in the data folder that says what is inside.
        overwrite: replace a cache that has another specification or cannot be read.
        progress: called after each batch.
        compute: where to compute: `distributed.on_cluster("tcp://HOST:PORT")` for a cluster; this process by default.
        shards_at: the folder for shards, which may be remote; beside the cache by default.
        accept_loss: go on where a lower precision costs accuracy on the training images.
        reuse: caches of other folders from which vectors are taken as well; None to compute everything.
        options: fields of `ExtractionOptions`: `pool`, `resize`, `aspect`, `flip`, `engine`, `dtype`, `batch_size`,
            `precision`.

    Raises:
        UsageError: an unknown option, or an activation too small for the pooling.
        CacheMismatchError: `out` holds a cache of another specification, or vectors of images that these are without.
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
        reuse=reuse,
    )


def carry_out(
    plan: Plan,
    *,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
    compute: Compute | None = None,
    shards_at: Path | None = None,
    accept_loss: bool = False,
    reuse: Sequence[Path | str] | None = (),
) -> Extraction:
    """Carry out a plan; arguments and errors are those of `extract_features`."""
    path, spec, dataset = plan.path, plan.spec, plan.dataset
    if info := kept_cache(path, spec, dataset, overwrite=overwrite, grow=reuse is not None):
        discard_leftovers(path, spec)
        return Extraction(info, reused=True)
    with rows_of_other_caches(path, spec, dataset, reuse, overwrite=overwrite) as known:
        certificate = None
        if spec.precision != "float32":
            certificate = certified(plan, dataset, accept_loss=accept_loss, known=kept_certificate(known))
        result = write_cache(
            plan,
            known,
            certificate,
            overwrite=overwrite,
            grow=reuse is not None,
            progress=progress,
            compute=compute or compute_here,
            shards_at=shards_at,
        )
    if result.computed_rows:
        save_extractor(plan)  # for `predict`, and for new images
    return result


def write_cache(
    plan: Plan,
    known: TakenRows,
    certificate: Certificate | None,
    *,
    overwrite: bool,
    grow: bool,
    progress: Progress,
    compute: Compute,
    shards_at: Path | None = None,
) -> Extraction:
    """Write the cache of a plan: rows that other caches hold are copied, the others computed.

    Args:
        plan: what is to be done.
        known: the rows that other caches hold.
        certificate: of a lower precision; None for float32.
        overwrite: as for `extract_features`, like `progress`, `shards_at` and the errors.
        grow: whether a cache at the plan's path may be replaced by one of more images.
        progress: called after each batch.
        compute: where to compute.
        shards_at: the folder for shards.
    """
    path, spec, dataset = plan.path, plan.spec, plan.dataset
    columns = known.main.info.layers if known.main else _columns(plan)
    content = _content(dataset, plan.backbone.weights, columns)
    with (
        open_writer(path, spec, content, overwrite=overwrite, shards_at=shards_at, taken=known) as writer,
        _interrupts_held_back() as stop_if_asked,
    ):
        if info := kept_cache(path, spec, dataset, overwrite=overwrite, grow=grow):  # by the process we waited for
            writer.discard()
            return Extraction(info, reused=True)
        taken = writer.taken
        if taken.main:
            logger.info(taken.in_words)
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
        device = taken.main.info.device if taken.main else ""
        if total:
            device = compute(replace(plan, dataset=_to_compute(dataset, taken)), writer, note)
        try:
            plan.backbone.check_frozen()
        except BackboneError:
            writer.discard()
            raise
        facts = {
            "seconds": time.perf_counter() - began,
            "device": device,
            "engine_choice": plan.engine.why,
            **({"certificate": asdict(certificate)} if certificate else {}),
        }
        info = _commit(writer, dataset, facts, plan.backbone.source, resumed)
        return Extraction(
            info,
            reused=False,
            resumed_rows=resumed,
            taken_rows=taken.total - taken.to_compute,
            computed_rows=taken.to_compute - resumed,
        )


def kept_cache(
    path: Path, spec: ExtractionSpec, dataset: ImageDataset, *, overwrite: bool, grow: bool
) -> CacheInfo | None:
    """The cache at `path` if it is to be kept: see `finished_cache`; its files must still have their names."""
    info = finished_cache(path, spec, overwrite=overwrite, grow=grow)
    return None if info and grow and not has_names(info, dataset) else info


def _to_compute(dataset: ImageDataset, taken: TakenRows) -> ImageDataset:
    """The images that no other cache knows."""
    if taken.main is None:
        return dataset
    return replace(dataset, splits={name: split[taken.missing(name)] for name, split in dataset.splits.items()})


def _commit(
    writer: CacheWriter, dataset: ImageDataset, facts: Mapping[str, Any], network: Mapping[str, Any], resumed: int
) -> CacheInfo:
    """Finish a cache.

    Args:
        writer: without missing rows.
        dataset: images and labels.
        facts: for the header.
        network: the record of where the network comes from.
        resumed: number of rows that an interrupted run had computed.

    Raises:
        DataError: no image of a split could be read.
    """
    spec = writer.spec
    try:
        skipped = {name: _skipped(writer, name, split, spec) for name, split in dataset.splits.items()}
    except DataError:  # nothing to resume from
        writer.discard()
        raise
    taken = writer.taken
    rate = (writer.total_rows - resumed) / facts["seconds"]
    if taken.main:  # what all vectors have cost, whenever they were computed
        seconds = taken.seconds + (writer.total_rows / rate if rate else 0)
        rate = taken.total / seconds if seconds else 0.0
    source = {"data": dataset.source, **_image_facts(dataset), **network}
    return writer.commit(skipped=skipped, images_per_second=rate, source=source, **facts)


def compute_here(plan: Plan, writer: CacheWriter, note: Note) -> str:
    """Compute the missing rows in this process; the arguments are those of `Compute`."""
    for name, split in plan.dataset.splits.items():
        for start, stop in writer.missing(name):
            with writer.append(name, start) as rows:
                for block in vector_blocks(plan, name, split[start:stop], plan.batch_size):
                    rows.add(block)
                    note(len(block))
    return device_of(plan.spec.engine)


def _content(dataset: ImageDataset, weights: str, columns: Sequence[Columns]) -> CacheContent:
    """Everything in the cache but the features."""
    splits = {
        name: SplitRecords(
            split.labels,
            split.ids,
            split.digest,
            split.images.paths,
            split.groups,
            split.folds,
            split.images.digests,
        )
        for name, split in dataset.splits.items()
    }
    return CacheContent(dataset.name, dataset.class_names, weights, columns, splits)


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


def _skipped(writer: CacheWriter, name: str, split: Split, spec: ExtractionSpec) -> dict[int, str]:
    """The skipped rows of a split with the reasons, for which their files are read once more.

    Raises:
        DataError: every image of the split was skipped.
    """
    rows = writer.skipped(name)
    reasons: dict[int, str] = {}
    for start in range(0, len(rows), REREAD_ROWS):
        some = rows[start : start + REREAD_ROWS]
        _, problems = split.images[some].read(spec.image_size, spec.resize, spec.aspect)
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
