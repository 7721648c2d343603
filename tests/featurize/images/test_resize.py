import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from featurize.core.errors import UsageError
from featurize.images.resize import ASPECTS, KERNELS, PADDING, check_aspect, check_kernel, resized

IMAGES = np.random.default_rng(3).integers(0, 256, (4, 6, 9, 3), np.uint8)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [3, 6, 17])
def test_shape_and_type(kernel: str, size: int) -> None:
    result = resized(IMAGES, size, kernel)
    assert result.shape == (4, size, size, 3)
    assert result.dtype == np.uint8


def test_an_image_of_that_size_stays_as_it_is() -> None:
    square = np.ascontiguousarray(IMAGES[:, :, :6])
    assert resized(square, 6, "bicubic") is square


def test_nearest_doubles_every_pixel() -> None:
    square = IMAGES[:, :, :6]
    np.testing.assert_array_equal(resized(square, 12, "nearest"), square.repeat(2, axis=1).repeat(2, axis=2))


def test_bilinear_in_the_middle_of_two_pixels() -> None:
    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[0, :, 1] = 200
    assert resized(image, 4, "bilinear")[0, 0, :, 0].tolist() == [0, 50, 150, 200]


def test_overshoot_is_clipped() -> None:
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[0, :, 4:] = 255
    result = resized(image, 32, "bicubic").astype(int)
    assert result.min() == 0
    assert result.max() == 255
    assert np.all(np.diff(result[0, 0, 8:24, 0]) >= 0)  # nothing wraps around at the edge


@given(st.integers(0, 255), st.sampled_from(KERNELS), st.integers(1, 40))
def test_a_plain_colour_stays_plain(value: int, kernel: str, size: int) -> None:
    assert (resized(np.full((1, 5, 7, 3), value, np.uint8), size, kernel) == value).all()


def test_unknown_kernel() -> None:
    with pytest.raises(UsageError, match="resize bicubik: did you mean bicubic"):
        check_kernel("bicubik")


def test_unknown_aspect() -> None:
    with pytest.raises(UsageError, match="aspect strech: did you mean stretch"):
        check_aspect("strech")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("aspect", ASPECTS)
def test_square_images_are_the_same_whatever_the_aspect(aspect: str, kernel: str) -> None:
    square = np.ascontiguousarray(IMAGES[:, :, :6])
    expected = [Image.fromarray(image).resize((17, 17), Image.Resampling[kernel.upper()]) for image in square]
    np.testing.assert_array_equal(resized(square, 17, kernel, aspect), [np.asarray(image) for image in expected])


def test_what_becomes_of_another_shape() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 3), np.uint8)
    np.testing.assert_array_equal(resized(wide, 4, "nearest", "crop"), wide[:, :, 2:6])
    np.testing.assert_array_equal(resized(wide, 8, "nearest", "stretch"), wide.repeat(2, axis=1))
    padded = resized(wide, 8, "nearest", "pad")
    np.testing.assert_array_equal(padded[:, 2:6], wide)
    assert (padded[:, [0, 1, 6, 7]] == PADDING).all()
    tall = wide.swapaxes(1, 2)
    np.testing.assert_array_equal(resized(tall, 8, "nearest", "pad"), padded.swapaxes(1, 2))
    np.testing.assert_array_equal(resized(tall, 4, "nearest"), wide.swapaxes(1, 2)[:, 2:6])  # the default


@given(st.integers(1, 400), st.integers(1, 4), st.integers(1, 24), st.sampled_from(ASPECTS), st.booleans())
def test_any_shape_comes_out_square(long: int, short: int, size: int, aspect: str, tall: bool) -> None:
    image = np.full((1, long, short, 3) if tall else (1, short, long, 3), 200, np.uint8)
    result = resized(image, size, "bicubic", aspect)
    assert result.shape == (1, size, size, 3)
    assert (result == 200).all(axis=3).any()
