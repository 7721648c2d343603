"""The feature cache: bottleneck features, labels and ids of every split in one HDF5 file.

Layout (plain HDF5, readable without this package):

    /<split>/features   (n, d) float32 or float16, chunked by rows
    /<split>/labels     (n,)   int64, 0..K-1
    /<split>/ids        (n,)   int64, the image's index in its source
    /<split>            attribute `digest`: SHA-256 over ids, labels and pixels
    /                   attributes `schema_version`, `fingerprint`, `spec` (JSON), `class_names`
                        (JSON), `layers` (JSON: name, start and stop column of each), `dataset`,
                        `weights`, `seconds`, `images_per_second`, `versions` (JSON), `device`
"""

import io
import json
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featurize.datasets import ImageDataset
from featurize.errors import CacheError, CacheMismatchError, UsageError, suggestion
from featurize.files import data_root, written_whole
from featurize.spec import SCHEMA_VERSION, ExtractionSpec

CHUNK_BYTES = 1 << 20
VERSIONS_OF = ("frozenbench", "tensorflow", "keras", "numpy", "h5py", "pillow")


@dataclass(frozen=True)
class Columns:
    """The columns `start` to `stop` (exclusive) hold the vector of the layer `name`."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class CacheInfo:
    """What a cache says of itself, without its features."""

    path: Path
    spec: ExtractionSpec
    dataset: str
    weights: str
    class_names: tuple[str, ...]
    layers: tuple[Columns, ...]
    rows: dict[str, int]
    digests: dict[str, str]
    seconds: float
    images_per_second: float
    versions: dict[str, str]
    device: str

    @property
    def dim(self) -> int:
        """Length of a vector, all layers together."""
        return self.layers[-1].stop

    def as_json(self) -> dict[str, Any]:
        """The facts that `--json` prints."""
        return {
            "path": str(self.path),
            "fingerprint": self.spec.fingerprint,
            "engine": self.spec.engine,
            "backbone": self.spec.backbone,
            "weights": self.weights,
            "dataset": self.dataset,
            "image_size": self.spec.image_size,
            "layers": [asdict(columns) for columns in self.layers],
            "dim": self.dim,
            "splits": {name: {"rows": rows} for name, rows in self.rows.items()},
            "class_names": list(self.class_names),
            "spec": asdict(self.spec),
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "versions": self.versions,
            "device": self.device,
        }


@dataclass(frozen=True)
class Features:
    """The features of one split.

    Attributes:
        x: float32 (n, d).
        y: int64 (n,), 0..K-1.
        ids: int64 (n,).
        class_names: K names.
        fingerprint: of the cache that they come from.
        layers: which columns belong to which layer.
    """

    x: np.ndarray
    y: np.ndarray
    ids: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str
    layers: tuple[Columns, ...]


def features_folder() -> Path:
    """Where feature caches are written and looked for unless a path is given."""
    return data_root() / "features"


@contextmanager
def new_cache(
    path: Path,
    spec: ExtractionSpec,
    dataset: ImageDataset,
    weights: str,
    layers: Sequence[Columns],
) -> Iterator[tuple[Callable[[str, np.ndarray], None], dict[str, Any]]]:
    """Write a cache whole or not at all.

    Yields a function that appends a block of vectors (m, d) to a split, in dataset order, and a
    dict for the root attributes that are known only at the end (`seconds`, ...). The file takes its
    name when the block ends and every row has been written.

    Raises:
        CacheError: the disk is full or the folder cannot be written to; no file is left.
    """
    dim = layers[-1].stop
    item = np.dtype(spec.dtype).itemsize
    count = sum(len(split) for split in dataset.splits.values())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free, needed = shutil.disk_usage(path.parent).free, count * (dim * item + 16) + (1 << 20)
        if free < needed:
            raise CacheError(
                f"{path} needs {needed / 1e6:,.0f} MB, its disk has {free / 1e6:,.0f} MB free; free some space, or "
                "choose another place (--out), a shorter vector (--pool avg) or --dtype float16"
            )
        with (
            written_whole(path) as temporary,
            _PatientFile(temporary, "r+") as raw,
            h5py.File(raw, "w", libver="v110") as file,
        ):
            file.attrs.update(
                schema_version=SCHEMA_VERSION,
                fingerprint=spec.fingerprint,
                spec=spec.to_json(),
                dataset=dataset.name,
                weights=weights,
                class_names=json.dumps(dataset.class_names),
                layers=json.dumps([asdict(columns) for columns in layers]),
                versions=json.dumps(library_versions(VERSIONS_OF)),
            )
            written = dict.fromkeys(dataset.splits, 0)
            for name, split in dataset.splits.items():
                group = file.create_group(name)
                group.attrs["digest"] = split.digest
                group["labels"] = split.labels
                group["ids"] = split.ids
                rows = max(1, min(len(split), CHUNK_BYTES // (dim * item)))
                group.create_dataset("features", (len(split), dim), spec.dtype, chunks=(rows, dim))

            def append(name: str, vectors: np.ndarray) -> None:
                start = written[name]
                file[name]["features"][start : start + len(vectors)] = vectors
                raw.raise_error()
                written[name] = start + len(vectors)

            closing: dict[str, Any] = {}
            yield append, closing
            if written != {name: len(split) for name, split in dataset.splits.items()}:
                raise CacheError(f"{path}: rows are missing: {written}; this is an error in the program")
            file.attrs.update(closing)
            file.close()
            raw.raise_error()
    except OSError as error:
        raise CacheError(f"{path} could not be written: {error}; nothing was kept") from error


def read_info(path: Path) -> CacheInfo:
    """What a cache says of itself.

    Raises:
        CacheError: no such file, or not a feature cache of this version.
    """
    with _open(path) as file:
        try:
            if file.attrs["schema_version"] != SCHEMA_VERSION:
                raise CacheError(
                    f"{path} has the layout version {file.attrs['schema_version']}, expected {SCHEMA_VERSION}; "
                    "make it again with python -m featurize ... --overwrite"
                )
            info = CacheInfo(
                path=path,
                spec=ExtractionSpec.from_json(file.attrs["spec"]),
                dataset=file.attrs["dataset"],
                weights=file.attrs["weights"],
                class_names=tuple(json.loads(file.attrs["class_names"])),
                layers=tuple(Columns(**columns) for columns in json.loads(file.attrs["layers"])),
                rows={name: group["labels"].shape[0] for name, group in file.items()},
                digests={name: group.attrs["digest"] for name, group in file.items()},
                seconds=float(file.attrs["seconds"]),
                images_per_second=float(file.attrs["images_per_second"]),
                versions=json.loads(file.attrs["versions"]),
                device=file.attrs["device"],
            )
            if info.spec.fingerprint != file.attrs["fingerprint"]:
                raise ValueError("its fingerprint does not belong to its specification")
            for name, group in file.items():
                rows = info.rows[name]
                found = [group[part].shape for part in ("features", "labels", "ids")]
                if found != [(rows, info.dim), (rows,), (rows,)]:
                    raise ValueError(f"the shapes in /{name} do not belong together: {found}")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError, RuntimeError) as error:
            raise CacheError(
                f"{path} is not a feature cache of frozenbench ({error}); make one with python -m featurize"
            ) from error
    return info


def load_features(path: Path, split: str, layers: Sequence[str] = ()) -> Features:
    """The features of one split as float32, all columns or those of some layers.

    Raises:
        CacheError: the file is not a feature cache, or holds values that are not finite.
        UsageError: it has no such split or layer.
    """
    info = read_info(path)
    if split not in info.rows:
        raise UsageError(f"{path} has no split {split}; it has {', '.join(info.rows)}")
    known = [columns.name for columns in info.layers]
    for layer in layers:
        if layer not in known:
            raise UsageError(f"--layers {layer}: not in {path}; {suggestion(layer, known)}")
    chosen = [columns for columns in info.layers if not layers or columns.name in layers]
    with _open(path) as file:
        group = file[split]
        x = np.concatenate(
            [group["features"][:, columns.start : columns.stop].astype(np.float32, copy=False) for columns in chosen],
            axis=1,
        )
        labels, ids = group["labels"][:], group["ids"][:]
    if not np.isfinite(x).all():
        row = int(np.argmin(np.isfinite(x).all(axis=1)))
        raise CacheError(
            f"{path}: the {split} vector of image {ids[row]} holds a value that is not finite; "
            "make the cache again with python -m featurize ... --overwrite"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(info.class_names):
        raise CacheError(
            f"{path}: /{split}/labels run from {labels.min()} to {labels.max()}, expected 0 to "
            f"{len(info.class_names) - 1}; make the cache again with python -m featurize ... --overwrite"
        )
    return Features(x, labels, ids, info.class_names, info.spec.fingerprint, _shifted(chosen))


def check_same(path: Path, spec: ExtractionSpec) -> CacheInfo:
    """The cache at `path`, if `spec` is what made it.

    Raises:
        CacheMismatchError: it was made by other choices; the message names the first that differs.
        CacheError: it is not a feature cache.
    """
    info = read_info(path)
    differing = info.spec.differences(spec)
    if differing:
        field, there, asked = differing[0]
        more = f" (and {len(differing) - 1} more: {', '.join(d[0] for d in differing[1:])})" if differing[1:] else ""
        raise CacheMismatchError(
            f"{path} was made with {field} {_shown(there)}, asked for {_shown(asked)}{more}; "
            "keep it and write elsewhere with --out PATH, or replace it with --overwrite"
        )
    return info


def library_versions(packages: Sequence[str]) -> dict[str, str]:
    """The installed version of each package that is installed."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


class _PatientFile(io.FileIO):
    """A file that keeps the first failed write to itself until it is asked.

    libhdf5 crashes the interpreter when a write fails under it (measured: a full disk, h5py 3.14),
    so it is told that all went well, and the file is then thrown away.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.error is None:
                super().truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def raise_error(self) -> None:
        """Raise the OSError of the first write that failed, if any did."""
        if self.error is not None:
            raise self.error


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise CacheError(f"{path}: no such feature cache; make one with python -m featurize --out {path}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise CacheError(
            f"{path} is not a readable HDF5 file ({error}); make it again with python -m featurize ... --overwrite"
        ) from error


def _shifted(chosen: Sequence[Columns]) -> tuple[Columns, ...]:
    """The same blocks, side by side from column 0."""
    result, start = [], 0
    for columns in chosen:
        stop = start + columns.stop - columns.start
        result.append(Columns(columns.name, start, stop))
        start = stop
    return tuple(result)


def _shown(value: Any) -> str:
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return text[:12] + "..." if len(text) == 64 else text or "(none)"
