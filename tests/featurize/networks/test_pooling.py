import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurize.core.errors import UsageError
from featurize.networks.pooling import check_pool, mirrored, pooled

MAP = np.random.default_rng(4).normal(size=(3, 4, 4, 5)).astype(np.float32)


def test_avg_max_flatten() -> None:
    np.testing.assert_allclose(pooled(MAP, "avg"), MAP.reshape(3, 16, 5).mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(pooled(MAP, "max"), MAP.reshape(3, 16, 5).max(axis=1))
    np.testing.assert_array_equal(pooled(MAP, "flatten"), MAP)


def test_grid_cells_are_row_major() -> None:
    cells = pooled(MAP, "grid2")
    for row in range(2):
        for column in range(2):
            quarter = MAP[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_allclose(cells[:, row, column], quarter.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(pooled(MAP, "grid4"), MAP)


@given(st.integers(4, 13), st.integers(4, 13), st.sampled_from([2, 4]))
def test_grid_is_adaptive_average_pooling(height: int, width: int, grid: int) -> None:
    activation = np.random.default_rng(5).normal(size=(1, height, width, 1)).astype(np.float32)
    cells = pooled(activation, f"grid{grid}")[0, ..., 0]
    for i in range(grid):
        rows = slice(int(np.floor(i * height / grid)), int(np.ceil((i + 1) * height / grid)))
        for j in range(grid):
            columns = slice(int(np.floor(j * width / grid)), int(np.ceil((j + 1) * width / grid)))
            assert cells[i, j] == pytest.approx(activation[0, rows, columns].mean(), abs=1e-5)


def test_mirrored_grids_are_mirrored_back() -> None:
    flipped = MAP[:, :, ::-1]
    for pool in ("avg", "max", "grid2", "grid4", "flatten"):
        np.testing.assert_allclose(pooled(mirrored(flipped), pool), pooled(MAP, pool), rtol=1e-5)


def test_vectors_pass_through() -> None:
    vectors = MAP[:, 0, 0]
    assert pooled(vectors, "grid4") is vectors
    assert mirrored(vectors) is vectors


def test_a_map_smaller_than_the_grid() -> None:
    with pytest.raises(UsageError, match="the layer's map is 3 x 4, too small for a 4 x 4 grid"):
        pooled(MAP[:, :3], "grid4")


def test_unknown_pool() -> None:
    with pytest.raises(UsageError, match="pool grid3: did you mean"):
        check_pool("grid3")
