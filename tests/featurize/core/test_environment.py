"""What is asked of the installed libraries."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from threadpoolctl import threadpool_info

from featurize.core.environment import blas_threads


def threads() -> dict[str, int]:
    """The threads of each BLAS in this process, by the folder of its library."""
    return {
        Path(pool["filepath"]).parent.name: pool["num_threads"] for pool in threadpool_info() if "blas" in str(pool)
    }


@pytest.mark.skipif("scipy.libs" not in threads(), reason="SciPy has no BLAS of its own here")
def test_scipys_blas_has_one_thread() -> None:
    scipy.linalg.cholesky(np.eye(2))
    before = threads()
    with blas_threads(3):
        assert threads() == {"scipy.libs": 1, "numpy.libs": 3}
        with blas_threads(1):
            assert threads() == {"scipy.libs": 1, "numpy.libs": 1}
        assert threads() == {"scipy.libs": 1, "numpy.libs": 3}
    assert threads() == before


def test_a_shared_blas_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in conda, where NumPy and SciPy use the same one."""
    monkeypatch.setattr("featurize.core.environment._is_scipys", lambda library: False)
    with blas_threads(3):
        assert set(threads().values()) == {3}
