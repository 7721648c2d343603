"""Which cases of a parametrised test are slow."""

from collections.abc import Iterable
from typing import Any

import pytest


def mark_slow(cases: Iterable[Any], *slow: Any) -> list[Any]:
    """The cases for `pytest.mark.parametrize`, with those in `slow` marked so."""
    return [pytest.param(case, marks=pytest.mark.slow) if case in slow else case for case in cases]
