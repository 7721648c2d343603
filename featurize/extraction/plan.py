"""What an extraction will do, settled before it starts: options, engine, fingerprint and path."""

import glob
import hashlib
import re
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np

from featurize.cache import (
    CacheInfo,
    ExtractionSpec,
    TakenRows,
    explain_difference,
    features_folder,
    lost_rows,
    matching_cache,
    recorded_names,
    recorded_spec,
    taken_rows,
)
from featurize.core.errors import CacheMismatchError, UsageError
from featurize.engines import ENGINES, check_precision, choose_engine, default_batch_size
from featurize.extraction.certificate import calibration_images
from featurize.extraction.extractor import Extractor
from featurize.images import MAX_PIXELS, ImageDataset, check_aspect, check_kernel
from featurize.networks import Backbone, check_pool, request
from featurize.winograd.calibration import calibration_digest

LONGEST_LAYERS = 80  # letters of a file name


@dataclass(frozen=True)
class ExtractionOptions:
    """How images become vectors.

    Attributes:
        pool: one of `pooling.POOLS`; `pixels` is always flattened.
        resize: one of `resize.KERNELS`.
        aspect: one of `resize.ASPECTS`, for images that are not square.
        flip: average the vectors of each image and its mirror image.
        engine: one of `choice.ENGINES`, or `auto` for the fastest that gives the same numbers on this machine.
        dtype: stored type, `float32` or `float16`.
        precision: of the network's products: `float32`, `bfloat16` or `int8`.
        batch_size: images per forward pass; None to choose it by the image size.

    Raises:
        UsageError: an unknown value.
    """

    pool: str = "avg"
    resize: str = "bicubic"
    aspect: str = "crop"
    flip: bool = False
    engine: str = "auto"
    dtype: str = "float32"
    batch_size: int | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        check_pool(self.pool)
        check_kernel(self.resize)
        check_aspect(self.aspect)
        if self.dtype not in ("float32", "float16"):
            raise UsageError(f"--dtype {self.dtype}: expected float32 or float16")
        check_precision(self.precision)

    def spec(self, backbone: Backbone, dataset_digest: str = "") -> ExtractionSpec:
        """The specification of vectors of this backbone, with the engine still open."""
        return ExtractionSpec(
            dataset_digest=dataset_digest,
            backbone=backbone.name,
            weights_digest=backbone.weights_digest,
            layers=backbone.layers,
            pool=self.pool if backbone.weights_digest else "flatten",
            image_size=backbone.image_size,
            resize=self.resize,
            aspect=self.aspect,
            flip=self.flip,
            preprocess=backbone.preprocess,
            dtype=self.dtype,
            engine="",
            engine_version="",
            precision=self.precision,
        )


@dataclass(frozen=True)
class Plan(Extractor):
    """An extraction, settled in every respect and not started."""

    dataset: ImageDataset
    path: Path
    batch_size: int


@dataclass(frozen=True)
class Estimate:
    """The cost of an extraction, measured on one batch: vector length, bytes and seconds."""

    dim: int
    file_bytes: int
    memory_bytes: int
    seconds: float


def plan_extraction(
    dataset: ImageDataset,
    backbone: Backbone,
    options: ExtractionOptions | None = None,
    *,
    out: Path | None = None,
    dry: bool = False,
) -> Plan:
    """Settle an extraction without starting it.

    For the engine `auto`, an extraction that exists at the path, finished or not, keeps its engine.

    Args:
        dataset: images and labels.
        backbone: from `load_backbone`.
        options: the defaults if None.
        out: path of the cache; by default a name in the data folder that says what is inside.
        dry: write nothing, not even which engine is the fastest.

    Raises:
        UsageError: an unknown engine, or one that is not installed.
    """
    options = options or ExtractionOptions()
    spec = options.spec(backbone, dataset.digest)
    path = out or features_folder() / default_name(dataset.name, backbone.weights, spec)
    batch_size = options.batch_size or default_batch_size(backbone.image_size)
    engine = options.engine
    why = "as asked for"
    if engine == "auto" and (recorded := _recorded_engine(path, spec)):
        engine = recorded
        why = "the engine that it began with"
    # Engines are compared side by side, so half a batch takes the memory of a whole one.
    images = next(iter(dataset.splits.values())).images[: -(-batch_size // 2)]
    pixels, _ = images.read(spec.image_size, spec.resize, spec.aspect)
    calibration = None
    if spec.precision == "int8":
        calibration = calibration_images(dataset, spec)
        spec = replace(spec, calibration=calibration_digest(calibration))
    choice = choose_engine(
        backbone, engine, pixels, why, remember=not dry, precision=spec.precision, calibration=calibration
    )
    spec = replace(spec, engine=choice.name, engine_version=choice.version)
    return Plan(backbone, choice, spec, dataset, path, batch_size)


def estimate(plan: Plan, to_compute: int | None = None) -> Estimate:
    """Time one batch of the data set's own images, for `to_compute` images or all; nothing is written.

    The memory is the process's peak so far: it does not grow with the number of images.
    """
    images, _ = plan.read(next(iter(plan.dataset.splits.values())).images[: plan.batch_size])
    plan.vectors(images)  # the first call traces the graph
    began = time.perf_counter()
    parts = plan.vectors(images)
    seconds = time.perf_counter() - began
    count = sum(len(split) for split in plan.dataset.splits.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Estimate(
        dim=sum(part.shape[1] for part in parts),
        file_bytes=count * (sum(part[0].nbytes for part in parts) + 16),  # 16: label and id
        memory_bytes=peak if sys.platform == "darwin" else peak * 1024,
        seconds=seconds * (count if to_compute is None else to_compute) / len(images),
    )


def finished_before(
    dataset: ImageDataset,
    backbone: Mapping[str, Any],
    options: ExtractionOptions | None = None,
    *,
    out: Path | None = None,
    folder: Path | None = None,
) -> CacheInfo | None:
    """The cache of the same extraction, if it is finished; found without loading the network, which takes seconds.

    Args:
        dataset: images and labels.
        backbone: the arguments of `load_backbone`.
        options: the defaults if None.
        out: path of the cache; by default its usual name.
        folder: where caches with the usual name are; the data folder by default.
    """
    options = options or ExtractionOptions()
    paths = [out] if out else sorted((folder or features_folder()).glob(f"{glob.escape(dataset.name)}-*.h5"))
    found = _recorded_like(paths, backbone, options, dataset_digest=dataset.digest)
    if found and (out or found.path.name == default_name(dataset.name, found.weights, found.spec)):
        return found if has_names(found, dataset) else None
    return None


def has_names(info: CacheInfo, dataset: ImageDataset) -> bool:
    """Whether a cache of these images has the names that their files have now; a large one keeps its old names."""
    if info.shards or all(split.images.paths is None for split in dataset.splits.values()):
        return True
    for name, (ids, paths) in recorded_names(info).items():
        split = dataset.splits[name]
        now = split.images.paths
        if now is not None and (paths is None or not np.array_equal(paths, now[np.isin(split.ids, ids)])):
            return False
    return True


def same_network_before(
    dataset: ImageDataset,
    backbone: Mapping[str, Any],
    options: ExtractionOptions,
    *,
    out: Path | None = None,
    folder: Path | None = None,
    files: Iterable[Path] = (),
) -> tuple[Path, CacheInfo] | None:
    """The path of a new cache, and a cache in which the same network's vectors of other images are.

    Args:
        dataset: the images of the new cache.
        backbone: the arguments of `load_backbone`.
        options: of the new cache.
        out: path of the new cache; by default its usual name.
        folder: where caches with the usual name are; the data folder by default.
        files: caches to look at first.
    """
    folder = out.parent if out else folder or features_folder()
    of_this_name = f"{dataset.name}-"
    others = sorted(folder.glob("*.h5"), key=lambda path: (path != out, not path.name.startswith(of_this_name), path))
    found = _recorded_like([*files, *others], backbone, options)
    if found is None:
        return None
    return out or folder / default_name(dataset.name, found.weights, found.spec), found


def _recorded_like(
    paths: Iterable[Path], backbone: Mapping[str, Any], options: ExtractionOptions, **spec: Any
) -> CacheInfo | None:
    """The first cache that was asked for with this backbone and these options, and has these fields in its `spec`."""
    arguments = dict(backbone)
    spec |= {
        "image_size": arguments.pop("image_size"),
        "pool": options.pool,
        "resize": options.resize,
        "aspect": options.aspect,
        "flip": options.flip,
        "dtype": options.dtype,
        "precision": options.precision,
    }
    if options.engine != "auto":
        spec["engine"] = options.engine
    return matching_cache(paths, spec, request(**arguments), ("frozenbench", "keras", "tensorflow"))


@contextmanager
def rows_of_other_caches(
    path: Path, spec: ExtractionSpec, dataset: ImageDataset, reuse: Sequence[Path | str] | None, *, overwrite: bool
) -> Iterator[TakenRows]:
    """Find the vectors of a data set that exist already, for a cache at `path`.

    Raises:
        CacheMismatchError: the cache at `path` would be replaced, and vectors be lost.
    """
    if reuse is None:
        yield TakenRows.none({name: len(split) for name, split in dataset.splits.items()})
        return
    limit = dataset.split_options.get("max_pixels") or MAX_PIXELS

    def is_usable(info: CacheInfo) -> bool:  # otherwise it may have vectors of images that are to be skipped
        return (info.source.get("max_pixels") or MAX_PIXELS) <= limit

    digests = {name: split.images.digests for name, split in dataset.splits.items()}
    with taken_rows(path, spec, digests, map(Path, reuse), is_usable) as taken:
        if path.exists() and not overwrite:
            _check_replaced(path, spec, dataset, taken)
        yield taken


def _check_replaced(path: Path, spec: ExtractionSpec, dataset: ImageDataset, taken: TakenRows) -> None:
    """Raise CacheMismatchError if replacing the cache at `path` loses vectors, unless their images are gone.

    They may be gone if the data have the same source, and all of it is asked for.
    """
    old, lost = lost_rows(path, taken)
    if lost is None:
        raise CacheMismatchError(explain_difference(str(path), old.spec, spec))
    same_source = dataset.source and dataset.source == old.source.get("data")
    if lost and not (same_source and dataset.whole and lost < sum(old.rows.values())):
        raise CacheMismatchError(
            f"{path} holds vectors of {lost:,} images that are not among these; keep it and write elsewhere with --out "
            "PATH, or replace it with --overwrite"
        )


def default_name(dataset: str, weights: str, spec: ExtractionSpec) -> str:
    """A file name that says what is inside: data, backbone, weights, size, layers and pooling."""
    parts = [dataset, spec.backbone]
    if spec.weights_digest:
        parts.append(weights)
    parts.append(f"{spec.image_size}px")
    if spec.weights_digest:
        parts += [_file_name("+".join(spec.layers)), spec.pool]
    if spec.resize != "bicubic":
        parts.append(spec.resize)
    if spec.aspect != "crop":
        parts.append(spec.aspect)
    if spec.flip:
        parts.append("flip")
    if spec.precision != "float32":
        parts.append(spec.precision)
    if spec.dtype != "float32":
        parts.append(f"stored-{spec.dtype}" if spec.precision != "float32" else spec.dtype)
    return "-".join(parts) + ".h5"


def _file_name(layers: str) -> str:
    """Names of layers as part of a file name: those inside an ONNX file may be long, and hold slashes."""
    name = re.sub(r"[^\w.+-]", "_", layers)
    if len(name) <= LONGEST_LAYERS:
        return name
    return f"{name[:LONGEST_LAYERS]}-{hashlib.sha256(layers.encode()).hexdigest()[:8]}"


def _recorded_engine(path: Path, spec: ExtractionSpec) -> str:
    """The engine of this extraction at `path`, finished or not, perhaps of other images; empty if there is none."""
    recorded = recorded_spec(path)
    if recorded is None or recorded.engine not in ENGINES:
        return ""
    same = replace(recorded, engine=spec.engine, engine_version=spec.engine_version, calibration=spec.calibration)
    if spec == same:
        return recorded.engine
    if spec.is_same_network(same):  # the data have changed: the old vectors are taken if the engine is the same
        _, version_of = ENGINES[recorded.engine]
        with suppress(PackageNotFoundError):
            return recorded.engine if version_of() == recorded.engine_version else ""
    return ""
