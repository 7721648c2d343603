"""Records from files: types and ranges, and what is said if they are not kept."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from featurize.core.records import Count, Digest, Positive, Share, record


@dataclass(frozen=True)
class Part:
    share: Share


@dataclass(frozen=True)
class Whole:
    rows: Positive
    parts: list[Part]
    digest: Digest
    text: str = ""
    counts: tuple[Count, ...] = ()
    anything: dict[str, Any] = field(default_factory=dict)
    least: Share | None = None


GOOD = {"rows": 3, "parts": [{"share": 1}], "digest": "ab" * 32}


def test_a_record() -> None:
    found = record(Whole, {**GOOD, "counts": [0, 2**53], "anything": {"a": [None]}, "of a later version": 1})
    assert found == Whole(3, [Part(1.0)], "ab" * 32, counts=(0, 2**53), anything={"a": [None]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "its field rows is 0, expected greater than or equal to 1"),
        ({"rows": True}, "its field rows is true, expected a valid integer"),
        ({"rows": 3.0}, "its field rows is 3.0, expected a valid integer"),
        ({"rows": "3"}, 'its field rows is "3", expected a valid integer'),
        ({"rows": 10**400}, r"its field rows is 10{59}\.\.\., expected less than or equal to 9007199254740992"),
        ({"rows": None}, "its field rows is null, expected a valid integer"),
        ({"parts": [{"share": 1.5}]}, "its field parts.0.share is 1.5, expected less than or equal to 1"),
        ({"parts": [{"share": float("nan")}]}, "its field parts.0.share is NaN, expected"),
        ({"parts": [{}]}, "it has no field parts.0.share"),
        ({"parts": {}}, "its field parts is {}, expected a valid array"),
        ({"digest": "ab"}, 'its field digest is "ab", expected at least 64 characters'),
        ({"text": 3}, "its field text is 3, expected a valid string"),
        ({"counts": [1, -1]}, "its field counts.1 is -1, expected greater than or equal to 0"),
        ({"least": []}, r"its field least is \[\], expected a valid number"),
        ({"anything": {"a": [1, float("inf")]}}, "a number in it is not finite"),
        ({"anything": json.loads("1e999")}, "its field anything is Infinity, expected an object"),
    ],
)
def test_what_is_no_record(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        record(Whole, {**GOOD, **change})


@pytest.mark.parametrize("value", [None, [], 3, "x", float("nan")])
def test_what_is_no_object(value: object) -> None:
    with pytest.raises(ValueError, match="^it is .*, expected an object$"):
        record(Whole, value)


def test_lone_surrogates_are_replaced() -> None:
    assert record(Whole, {**GOOD, "text": "a\ud800b"}).text == "a?b"
