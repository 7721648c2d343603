"""Every choice that changes a feature's value, and the fingerprint of these choices."""

import dataclasses
import hashlib
import json
from typing import Any, ClassVar, Self

from featurize.core.records import Count, record

SCHEMA_VERSION = 3
LATER = {"precision": "float32", "calibration": ""}
"""The fields that the first caches of this layout lack, with their values there."""
IMPORTED = "imported"
"""The engine, and the weights, of vectors that were made elsewhere."""


@dataclasses.dataclass(frozen=True)
class ExtractionSpec:
    """What determines the values in a feature cache, and nothing else.

    Two extractions with equal specifications give the same features, except for the last bits in some
    engines. Paths, batch sizes and the number of threads are therefore not part of it.

    Attributes:
        dataset_digest: SHA-256 over the pixels (or the image files' content), labels, ids and class names.
        backbone: name in `keras.applications`, the stem of a `.keras` file, or `pixels`; for imported vectors the name
            that the user gave.
        weights_digest: SHA-256 over the weights that take part; empty for `pixels`; of the vectors if they were
            imported.
        layers: names of the tapped layers, in column order.
        pool: `avg`, `max`, `grid2`, `grid4` or `flatten`.
        image_size: images are resized to this many pixels squared; 0 for imported vectors.
        resize: `bicubic`, `lanczos`, `bilinear` or `nearest` (Pillow's kernels).
        aspect: how images become square: `crop`, `stretch` or `pad`.
        flip: whether a vector is the mean over an image and its mirror image.
        preprocess: `caffe`, `tf`, `torch` or `none`.
        dtype: stored type, `float32` or `float16`.
        engine: the engine that ran the network; empty for `pixels`, `IMPORTED` for imported vectors.
        engine_version: of the engine; empty for `pixels`.
        schema_version: of the cache's layout.
        precision: of the engine's products: `float32`, `bfloat16` or `int8`.
        calibration: SHA-256 over the images from which int8 takes its scales; else empty.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # a choice that this version does not know changes values too

    dataset_digest: str
    backbone: str
    weights_digest: str
    layers: tuple[str, ...]
    pool: str
    image_size: Count
    resize: str
    aspect: str
    flip: bool
    preprocess: str
    dtype: str
    engine: str
    engine_version: str
    schema_version: Count = SCHEMA_VERSION
    precision: str = "float32"
    calibration: str = ""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (64 hexadecimal digits) over the canonical JSON of all fields."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces.

        A field of `LATER` is left out at its default, so that fingerprints from before there was such a field hold.
        """
        values = dataclasses.asdict(self)
        for name, default in LATER.items():
            if values[name] == default:
                del values[name]
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`.

        Raises:
            ValueError: the text is not JSON, or not a specification.
        """
        return record(cls, json.loads(text))

    def is_same_network(self, other: Self) -> bool:
        """Whether an image has the same vector in both: everything but the data set is the same."""
        return dataclasses.replace(other, dataset_digest=self.dataset_digest) == self

    def differences(self, other: Self) -> list[tuple[str, Any, Any]]:
        """The fields whose values differ: (name, value here, value in `other`)."""
        found = []
        for field in dataclasses.fields(self):
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            if ours != theirs:
                found.append((field.name, ours, theirs))
        return found


def explain_difference(
    what: str,
    recorded: ExtractionSpec,
    asked: ExtractionSpec,
    remedy: str = "keep it and write elsewhere with --out PATH, or replace it with --overwrite",
) -> str:
    """The error message for `what`, which was made with another specification than the one asked for."""
    (name, old, new), *others = recorded.differences(asked)
    more = ""
    if others:
        more = f" (and {len(others)} more: {', '.join(field for field, _, _ in others)})"
    return f"{what} was made with {name} {_shown(old)}, asked for {_shown(new)}{more}; {remedy}"


def _shown(value: Any) -> str:
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    if len(text) == 64:  # a digest
        return text[:12] + "..."
    return text or "(none)"
