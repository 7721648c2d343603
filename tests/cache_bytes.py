"""Change the bytes of a feature cache without breaking its seal."""

import hashlib
import json
from pathlib import Path


def reseal(path: Path, change: dict | None = None, content: bytes | None = None) -> None:
    """Change fields of the header, or replace the bytes behind it, and seal the file as its writer would."""
    old = path.read_bytes()
    first = old.split(b"\n", 1)[0]
    block = int(first.split()[-1])
    header = json.loads(old[:block].split(b"\n")[2])
    header.update(change or {})
    behind = (json.dumps(header).encode() + b"\n").ljust(block - len(first) - 66, b"\n")
    behind += old[block:] if content is None else content
    path.write_bytes(first + b"\n" + hashlib.sha256(behind).hexdigest().encode() + b"\n" + behind)


def header_of(path: Path) -> dict:
    """The header of a cache, parsed."""
    return json.loads(path.read_bytes().split(b"\n", 3)[2])


def change_value(path: Path, part: str, row: int, value: bytes) -> None:
    """Overwrite item number `row` of an array, such as "train/ids", whose items are as long as `value`."""
    header = header_of(path)
    block = int(path.read_bytes().split(b"\n", 1)[0].split()[-1])
    content = bytearray(path.read_bytes())
    split, name = part.split("/")
    offset = header["arrays"][split][name] + row * len(value)
    content[offset : offset + len(value)] = value
    reseal(path, content=bytes(content[block:]))


# Another value for each field of an ExtractionSpec (see tiny_data.make_spec).
CHANGES = {
    "dataset_digest": "0" * 64,
    "backbone": "vgg19",
    "weights_digest": "cd" * 32,
    "layers": ("late", "early"),
    "pool": "max",
    "image_size": 9,
    "resize": "nearest",
    "aspect": "pad",
    "flip": True,
    "preprocess": "tf",
    "dtype": "float16",
    "engine": "other",
    "engine_version": "1",
    "schema_version": 4,
    "precision": "bfloat16",
    "calibration": "ef" * 32,
}
