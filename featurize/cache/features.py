"""What a cache holds: its description, and the features of a split."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import numpy as np
from annotated_types import Ge, Interval, MinLen

from featurize.cache.spec import IMPORTED, ExtractionSpec
from featurize.core.errors import UsageError, suggestion
from featurize.core.records import Amount, Count, Positive, Share
from featurize.core.tables import ShownAsTable

if TYPE_CHECKING:
    import pandas as pd

FILES_SHOWN = 3


Difference = Annotated[float, Interval(ge=-1, le=1)]


@dataclass(frozen=True)
class Columns:
    """The columns `start` to `stop` (exclusive) hold the vector of the layer `name`.

    `shape` is (rows, columns, channels) of the grid that the activation was pooled to, or (d,) for a
    vector without positions.
    """

    name: str
    start: Count
    shape: Annotated[tuple[Positive, ...], MinLen(1)]

    @property
    def stop(self) -> int:
        """The column after the last one."""
        return self.start + math.prod(self.shape)


@dataclass(frozen=True)
class Certificate:
    """How far vectors of lower precision are from those in float32.

    Attributes:
        relative_error: by layer, of the activations against TensorFlow's in float32, in the Euclidean norm.
        held_out: number of training images on which the heads are compared; 0 if there are too few images.
        changed: the share of these images whose predicted class changes, 0..1; None if there are none.
        difference: the accuracy with the lower precision less that with float32, -1..1, or None.
        low: lower bound of the paired 95% interval of the difference, or None.
        high: upper bound, or None.
    """

    relative_error: Annotated[dict[str, Amount], MinLen(1)]
    held_out: Count = 0
    changed: Share | None = None
    difference: Difference | None = None
    low: Difference | None = None
    high: Difference | None = None

    @property
    def in_words(self) -> str:
        """The certificate in one line."""
        error = max(self.relative_error.values())
        text = f"relative error {error:.1e}"
        if self.difference is None or self.low is None or self.high is None or self.changed is None:
            return f"{text}; too few training images to compare heads"
        low, high = (f"{100 * bound:+.1f}" for bound in (self.low, self.high))
        return (
            f"{text}; on {self.held_out:,} held-out training images, {100 * self.changed:.1f}% of predictions change, "
            f"accuracy {100 * self.difference:+.1f} points ({low} to {high})"
        )


@dataclass(frozen=True)
class Source:
    """The types of what a cache records about where images and network come from; everything may be missing.

    `data`, `images` and the options of a folder's splits are for `recorded_dataset`; `backbone` to `seed` for
    `recorded_backbone`. `image_shape` is the height and width of all images. `imported` and `columns` are the file
    of imported vectors and its columns. There may be more, which is compared with what is asked for and not used.
    """

    data: str = ""
    images: dict[str, Count] | None = None
    image_shape: tuple[Positive, Positive] | None = None
    test_fraction: Share | None = None
    folds: Annotated[int, Ge(2)] | None = None
    groups: str | None = None
    labels: str | None = None
    max_pixels: Positive | None = None
    backbone: str = ""
    weights: str = ""
    seed: Count = 0
    imported: str = ""
    columns: dict[str, str] | None = None


@dataclass(frozen=True)
class CacheInfo(ShownAsTable):
    """The description of a cache, without its features.

    `skipped` lists the image files that could not be read, each with the reason; `digests` are those of
    the splits before they were skipped. `shards` is the folder that holds the features of a large cache.
    `certificate` is there for a lower precision. `taken` lists the caches that computed some of the vectors, from
    which they were copied: `file`, `sha256` (its seal), `rows` of each split, `versions` and `device`.
    """

    path: Path
    spec: ExtractionSpec
    dataset: str
    weights: str
    class_names: tuple[str, ...]
    layers: tuple[Columns, ...]
    rows: dict[str, int]
    digests: dict[str, str]
    skipped: dict[str, list[tuple[str, str]]]
    shards: Path | None
    source: dict[str, Any]
    seconds: float
    images_per_second: float
    versions: dict[str, str]
    device: str
    engine_choice: str
    certificate: Certificate | None = None
    taken: tuple[dict[str, Any], ...] = ()

    @property
    def dim(self) -> int:
        """Length of a vector, all layers together."""
        return self.layers[-1].stop

    @property
    def folds(self) -> int:
        """The number of folds of a cross-validation; 0 for one test split."""
        return self.source.get("folds") or 0

    @property
    def seconds_per_image(self) -> float:
        """The time of the extraction for one image; 0 if it is unknown: the extraction found all rows already there."""
        return 1 / self.images_per_second if self.images_per_second else 0.0

    @property
    def image(self) -> tuple[int, ...] | None:
        """The shape (rows, columns, channels) of the images in a `pixels` cache; None for a network's vectors."""
        return None if self.spec.weights_digest else self.layers[0].shape

    def stored_columns(self, layers: Sequence[str] = ()) -> list[Columns]:
        """The columns of these layers, or of all, as they are stored.

        Raises:
            UsageError: the cache has no such layer.
        """
        known = [columns.name for columns in self.layers]
        for layer in layers:
            if layer not in known:
                raise UsageError(f"--layers {layer}: not in {self.path}; {suggestion(layer, known)}")
        return [columns for columns in self.layers if not layers or columns.name in layers]

    def columns(self, layers: Sequence[str] = ()) -> tuple[Columns, ...]:
        """The columns of these layers, or of all, side by side from column 0.

        Raises:
            UsageError: the cache has no such layer.
        """
        result: list[Columns] = []
        start = 0
        for stored in self.stored_columns(layers):
            result.append(Columns(stored.name, start, stored.shape))
            start = result[-1].stop
        return tuple(result)

    def mirror(self, layers: Sequence[str] = ()) -> np.ndarray | None:
        """The column order, int64 (d,), that turns an image's vector into the mirrored image's vector.

        Mirror averaging makes this possible: the vector is the mean over an image and its mirror image, so
        mirroring the image only moves the cells of the grid from left to right. None if the vectors are not
        mirror-averaged, or if the order changes nothing.
        """
        if not self.spec.flip:
            return None
        parts = self.columns(layers)
        order = np.arange(parts[-1].stop)
        mirrored = []
        for part in parts:
            cells = order[part.start : part.stop].reshape(part.shape)
            if cells.ndim == 3:
                cells = cells[:, ::-1]
            mirrored.append(cells.ravel())
        new_order = np.concatenate(mirrored)
        return new_order if (new_order != order).any() else None

    def facts(self) -> dict[str, str]:
        """The description in words: what `frozenbench featurize info` prints, without the skipped images."""
        spec = self.spec
        weights = f" ({self.weights} weights)" if spec.weights_digest else ""
        facts = {
            "cache": str(self.path),
            "images": f"{self.dataset}: " + ", ".join(f"{rows:,} {name}" for name, rows in self.rows.items()),
            "backbone": f"{spec.backbone}{weights}, {spec.image_size} x {spec.image_size} px",
            "layers": ", ".join(f"{each.name} (columns {each.start} to {each.stop - 1})" for each in self.layers),
            "vector": f"{self.dim:,} x {spec.dtype}, pool {spec.pool}" + (", mirror-averaged" if spec.flip else ""),
            "engine": f"{spec.engine} {spec.engine_version}: {self.engine_choice}",
            "time": f"{self.seconds:.1f} s, {self.images_per_second:,.0f} images/s on {self.device}",
            "fingerprint": spec.fingerprint,
        }
        if self.folds:
            facts["images"] += f" (together, in {self.folds} folds)"
        if not spec.engine:
            del facts["engine"]
        if spec.engine == IMPORTED:
            facts["backbone"] = f"{spec.backbone}, imported from {self.source.get(IMPORTED)}"
            facts["vector"] = f"{self.dim:,} x {spec.dtype}"
            del facts["engine"], facts["time"]
        if self.certificate:
            facts["precision"] = f"{spec.precision}: {self.certificate.in_words}"
        if self.taken:
            taken = sum(sum(each["rows"].values()) for each in self.taken)
            files = list(dict.fromkeys(each["file"] for each in self.taken))  # one that grew is there several times
            more = ", ..." if len(files) > FILES_SHOWN else ""
            facts["taken"] = f"{taken:,} vectors from {', '.join(files[:FILES_SHOWN])}{more}"
        if self.shards:
            facts["features in"] = str(self.shards)
        return facts

    def to_frame(self) -> "pd.DataFrame":
        """The facts and the number of skipped images, one a row, in the column `value`."""
        import pandas as pd

        facts = self.facts()
        for split, files in self.skipped.items():
            if files:
                facts[f"skipped, {split}"] = f"{len(files):,} images that could not be read"
        return pd.DataFrame({"value": facts})

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
            "folds": self.folds,
            "skipped": self.skipped,
            "shards": str(self.shards) if self.shards else None,
            "class_names": list(self.class_names),
            "spec": asdict(self.spec),
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "versions": self.versions,
            "device": self.device,
            "engine_choice": self.engine_choice,
            "precision": self.spec.precision,
            "certificate": asdict(self.certificate) if self.certificate else None,
            "taken": list(self.taken),
        }


@dataclass(frozen=True)
class Features:
    """The features of one split.

    Attributes:
        x: float32 (n, d).
        y: int64 (n,), 0..K-1.
        ids: int64 (n,).
        class_names: K names.
        fingerprint: of the cache.
        layers: which columns belong to which layer.
        mirror: int64 (d,); `x[:, mirror]` are the vectors of the mirrored images. None if they are unknown
            or equal to `x`.
        image: the shape (rows, columns, channels) of the images in a `pixels` cache; None for a network's vectors.
        groups: int64 (n,), the number of each image's group; None if every image stands for itself.
        folds: int64 (n,), the fold in which each image is tested; None without a cross-validation.
    """

    x: np.ndarray
    y: np.ndarray
    ids: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str
    layers: tuple[Columns, ...]
    mirror: np.ndarray | None = None
    image: tuple[int, ...] | None = None
    groups: np.ndarray | None = None
    folds: np.ndarray | None = None

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.x.shape[1]

    def matrices(self) -> Iterator[np.ndarray]:
        """Yield all vectors at once, float32 (n, d)."""
        yield self.x

    def select(self, rows: np.ndarray) -> "Features":
        """Some of the rows, by their numbers (m,) or a mask (n,)."""
        groups = None if self.groups is None else self.groups[rows]
        folds = None if self.folds is None else self.folds[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], ids=self.ids[rows], groups=groups, folds=folds)


class FeatureRows(Protocol):
    """Features of a split, in memory (`Features`) or read in blocks; the attributes are those of `Features`."""

    @property
    def y(self) -> np.ndarray:
        """Labels, int64 (n,)."""
        ...

    @property
    def ids(self) -> np.ndarray:
        """Ids, int64 (n,)."""
        ...

    @property
    def groups(self) -> np.ndarray | None:
        """The number of each image's group, int64 (n,)."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""
        ...

    @property
    def layers(self) -> tuple[Columns, ...]:
        """Which columns belong to which layer."""
        ...

    @property
    def mirror(self) -> np.ndarray | None:
        """The column order of mirrored images, int64 (d,)."""
        ...

    @property
    def image(self) -> tuple[int, ...] | None:
        """The shape of an image in a `pixels` cache."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def matrices(self) -> Iterator[np.ndarray]:
        """Yield the vectors in order, float32 (b, d), one block of rows at a time."""
        ...

    def select(self, rows: np.ndarray) -> "FeatureRows":
        """Some of the rows, by their ascending numbers (m,)."""
        ...
