"""Every choice that changes a feature's value, and the fingerprint made of them."""

import dataclasses
import hashlib
import json
from typing import Any, Self

SCHEMA_VERSION = 3


@dataclasses.dataclass(frozen=True)
class ExtractionSpec:
    """What determines the values in a feature cache, and nothing else.

    Two extractions with equal specifications give the same features (up to the last bits that an
    engine leaves open); paths, batch sizes and the number of threads are therefore not part of it.

    Attributes:
        dataset_digest: SHA-256 over the pixels (or the image files' content), labels, ids and class names.
        backbone: name in `keras.applications`, the stem of a `.keras` file, or `pixels`.
        weights_digest: SHA-256 over the weights that take part; empty for `pixels`.
        layers: names of the tapped layers, in column order.
        pool: `avg`, `max`, `grid2`, `grid4` or `flatten`.
        image_size: images are resized to this many pixels squared.
        resize: `bicubic`, `lanczos`, `bilinear` or `nearest` (Pillow's kernels).
        aspect: what is done with images that are not square: `crop`, `stretch` or `pad`.
        flip: whether vectors are averaged over an image and its mirror image.
        preprocess: `caffe`, `tf`, `torch` or `none`.
        dtype: stored type, `float32` or `float16`.
        engine: what ran the network; empty for `pixels`.
        engine_version: its version; empty for `pixels`.
        schema_version: version of the cache's layout.
    """

    dataset_digest: str
    backbone: str
    weights_digest: str
    layers: tuple[str, ...]
    pool: str
    image_size: int
    resize: str
    aspect: str
    flip: bool
    preprocess: str
    dtype: str
    engine: str
    engine_version: str
    schema_version: int = SCHEMA_VERSION

    @property
    def fingerprint(self) -> str:
        """SHA-256 (64 hexadecimal digits) over the canonical JSON of all fields."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`.

        Raises:
            ValueError: the text is not JSON or does not hold exactly this class's fields.
        """
        values: Any = json.loads(text)
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names or not isinstance(values["layers"], list):
            raise ValueError(f"expected a JSON object with the fields {', '.join(sorted(names))}")
        return cls(**{**values, "layers": tuple(values["layers"])})

    def differences(self, other: Self) -> list[tuple[str, Any, Any]]:
        """The fields whose values differ: (name, value here, value in `other`)."""
        pairs = [
            (field.name, getattr(self, field.name), getattr(other, field.name)) for field in dataclasses.fields(self)
        ]
        return [(name, mine, theirs) for name, mine, theirs in pairs if mine != theirs]
