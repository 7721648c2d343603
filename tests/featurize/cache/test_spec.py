import dataclasses
import json

import pytest
from cache_bytes import CHANGES
from tiny_data import make_dataset, make_spec

from featurize.cache.spec import ExtractionSpec

SPEC = make_spec(make_dataset(6, 3))


def test_every_field_has_a_change_here() -> None:
    assert set(CHANGES) == {field.name for field in dataclasses.fields(ExtractionSpec)}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_changes_the_fingerprint_and_is_named(field: str) -> None:
    other = dataclasses.replace(SPEC, **{field: CHANGES[field]})
    assert other.fingerprint != SPEC.fingerprint
    assert SPEC.differences(other) == [(field, getattr(SPEC, field), CHANGES[field])]


def test_json_round_trip() -> None:
    again = ExtractionSpec.from_json(SPEC.to_json())
    assert again == SPEC
    assert again.fingerprint == SPEC.fingerprint
    assert SPEC.differences(again) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pool": "avg"}', SPEC.to_json().replace('["early","late"]', '"e"')])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"field|expected an object|Expecting"):
        ExtractionSpec.from_json(text)


def test_the_fingerprint_is_that_of_the_first_release() -> None:
    """A fingerprint that changes without a change of SCHEMA_VERSION would orphan every cache."""
    spec = ExtractionSpec(
        "d", "vgg16", "w", ("a", "b"), "avg", 32, "bicubic", "crop", False, "caffe", "float32", "e", "1"
    )
    assert json.loads(spec.to_json())["schema_version"] == 3
    assert spec.fingerprint == "c663ea3a2ce397f65fd51dcfded66c964f6ec2faae965eccf99e9ba44aaa87f1"
