"""Records in JSON files, read with the types and ranges that their dataclasses declare; pydantic checks them.

Whoever can write a file can also seal it, so a record may hold anything. A dataclass that `record` has made holds
what its annotations say: no field too few, no value of another type, no number that is not finite. Fields that it does
not have are ignored, unless its `__pydantic_config__` forbids them.
"""

import functools
import json
import re
from typing import Annotated, Any, TypeVar, cast

from annotated_types import Interval, Len, MinLen

Kind = TypeVar("Kind")
EXACT = 2**53  # a float holds every whole number up to here
Count = Annotated[int, Interval(ge=0, le=EXACT)]
Positive = Annotated[int, Interval(ge=1, le=EXACT)]
Share = Annotated[float, Interval(ge=0, le=1)]
Amount = Annotated[float, Interval(ge=0, le=1e100)]
"""Seconds, losses, and what else has no upper limit."""
Name = Annotated[str, MinLen(1)]
Digest = Annotated[str, Len(64, 64)]
"""SHA-256, hexadecimal."""
SHOWN = 60  # characters of a value in a message


def record(kind: type[Kind], value: Any) -> Kind:
    """A dataclass from what `json.loads` made of a file.

    Args:
        kind: the dataclass; the ranges of its fields stand in their annotations.
        value: the JSON value. Lone surrogates in its texts, which no file can hold in UTF-8, become `?`.

    Raises:
        ValueError: the value is no such record; the message names the field, what was expected and what was found.
    """
    from pydantic import ValidationError

    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    try:
        found: Kind = _adapter(cast("Any", kind)).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(_in_words(error)) from None
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:  # in a field that may hold anything
        raise ValueError("a number in it is not finite") from None
    return found


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _in_words(error: Any) -> str:
    """The first problem of a record, in a few words."""
    first = error.errors(include_url=False)[0]
    where = _short(".".join(map(str, first["loc"])))
    if first["type"].startswith("missing"):
        return f"it has no field {where}"
    if first["type"].startswith("unexpected"):
        return f"it has an unknown field {where}"
    found = _short(json.dumps(first["input"]))
    expected = re.sub(r"^\w+ should (be|have) ", "", first["msg"])
    return f"its field {where} is {found}, expected {expected}" if where else f"it is {found}, expected {expected}"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
