from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurize.decode import read_image
from featurize.errors import DataError

RANDOM = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def written(folder: Path, *images: np.ndarray, suffix: str = "png") -> list[Path]:
    paths = [folder / f"{number}.{suffix}" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def test_an_image_of_the_right_size_is_left_as_it_is(tmp_path: Path) -> None:
    (path,) = written(tmp_path, RANDOM)
    np.testing.assert_array_equal(read_image(path, 40, 60), RANDOM)


def test_the_middle_is_taken(tmp_path: Path) -> None:
    (path,) = written(tmp_path, RANDOM)
    np.testing.assert_array_equal(read_image(path, 40, 40), RANDOM[:, 10:50])
    np.testing.assert_array_equal(read_image(path, 10, 60).shape, (10, 60, 3))


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "ppm", "tiff", "webp"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    (path,) = written(tmp_path, flat, suffix=suffix)
    np.testing.assert_allclose(read_image(path, 8, 8), flat, atol=4)


def test_other_formats_start_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    Image.fromarray(RANDOM).save(tmp_path / "image.eps")
    with pytest.raises(DataError, match="no image of a format that is read here"):
        read_image(tmp_path / "image.eps", 8, 8)


def test_turned_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(RANDOM).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png", 60, 40), np.rot90(RANDOM, -1))


def test_grey_and_black_and_white(tmp_path: Path) -> None:
    grey = RANDOM[:, :, 0]
    (path,) = written(tmp_path, grey)
    np.testing.assert_array_equal(read_image(path, 40, 60), np.stack([grey] * 3, axis=2))
    Image.fromarray(grey > 99).save(tmp_path / "two.png")
    np.testing.assert_array_equal(read_image(tmp_path / "two.png", 40, 60)[:, :, 1], 255 * (grey > 99))


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    grey = RANDOM[:, :, 0].astype(np.uint16)
    Image.fromarray(grey << 8 | 77).save(tmp_path / f"deep.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"deep.{suffix}", 40, 60)[:, :, 2], grey)


def test_fractions_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "real.tiff")
    with pytest.raises(DataError, match="its pixels are fractions of no known scale"):
        read_image(tmp_path / "real.tiff", 4, 4)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    expected = RANDOM.copy()
    expected[:10] = 255
    alpha = np.full((40, 60, 1), 255, np.uint8)
    alpha[:10] = 0
    Image.fromarray(np.concatenate([RANDOM, alpha], axis=2)).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png", 40, 60), expected)
    palette = Image.fromarray((np.arange(40 * 60).reshape(40, 60) // 600).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "palette.png", transparency=0)
    found = read_image(tmp_path / "palette.png", 40, 60)
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[39, 59].tolist() == [70, 80, 90]
    Image.fromarray(RANDOM[:, :, 0]).save(tmp_path / "grey.png", transparency=int(RANDOM[0, 0, 0]))
    assert read_image(tmp_path / "grey.png", 40, 60)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("suffix", ["gif", "mpo", "png", "tiff"])
def test_the_first_of_several_pictures(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (10, 200)]
    frames[0].save(tmp_path / f"two.{suffix}", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / f"two.{suffix}", 8, 8).max() == 10


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("unpacked"))
    for pixels, name in ((Image.MAX_IMAGE_PIXELS, "warned of"), (3 * Image.MAX_IMAGE_PIXELS, "refused")):
        header = f"P5 {pixels + 1} 1 255\n".encode()
        (tmp_path / f"{name}.pgm").write_bytes(header + b"0")
        with pytest.raises(DataError, match="exceed.* limit of"):
            read_image(tmp_path / f"{name}.pgm", 8, 8)
