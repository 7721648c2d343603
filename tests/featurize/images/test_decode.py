import logging
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Transpose
from tiny_pictures import save_pictures, write_picture

from featurize.core.errors import DataError
from featurize.images import decode, load_dataset
from featurize.images import folder as folder_module
from featurize.images.decode import MAX_PIXELS, read_image
from featurize.images.resize import ASPECTS, fitted
from featurize.images.sources import recorded_dataset

RANDOM = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_an_image_of_the_right_size_is_left_as_it_is(tmp_path: Path) -> None:
    (path,) = save_pictures(tmp_path, RANDOM)
    np.testing.assert_array_equal(read_image(path, 40, 60), RANDOM)


def test_the_middle_is_taken(tmp_path: Path) -> None:
    (path,) = save_pictures(tmp_path, RANDOM)
    np.testing.assert_array_equal(read_image(path, 40, 40), RANDOM[:, 10:50])
    np.testing.assert_array_equal(read_image(path, 10, 60).shape, (10, 60, 3))


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "ppm", "tiff", "webp"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    (path,) = save_pictures(tmp_path, flat, suffix=suffix)
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


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "jpg"])
def test_every_orientation_shows_the_same_picture(tmp_path: Path, suffix: str) -> None:
    """What a camera writes: the pixels as the sensor had them, and how to turn them."""
    back = {
        1: None,
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_90,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_270,
    }
    slope = np.add.outer(4 * np.arange(40), np.arange(60)).astype(np.uint8)  # different from every side
    picture = Image.fromarray(np.stack([slope, 255 - slope, slope // 2], axis=2))
    for orientation, operation in back.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = picture if operation is None else picture.transpose(operation)
        stored.save(tmp_path / f"turned.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {}))
        for aspect in ASPECTS:
            found = read_image(tmp_path / f"turned.{suffix}", 16, 16, aspect=aspect)
            expected = np.asarray(fitted(picture, 16, 16, "bicubic", aspect))
            np.testing.assert_allclose(found.astype(int), expected, atol=6 if suffix == "jpg" else 0)


def test_grey_and_black_and_white(tmp_path: Path) -> None:
    grey = RANDOM[:, :, 0]
    (path,) = save_pictures(tmp_path, grey)
    np.testing.assert_array_equal(read_image(path, 40, 60), np.stack([grey] * 3, axis=2))
    Image.fromarray(grey > 99).save(tmp_path / "two.png")
    np.testing.assert_array_equal(read_image(tmp_path / "two.png", 40, 60)[:, :, 1], 255 * (grey > 99))


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    grey = RANDOM[:, :, 0].astype(np.uint16)
    Image.fromarray(grey << 8 | 77).save(tmp_path / f"deep.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"deep.{suffix}", 40, 60)[:, :, 2], grey)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_every_kind_of_png(tmp_path: Path, kind: int, channels: int, depth: int) -> None:
    """Written by hand, as Pillow writes none with 16 bits and several channels."""
    pixels = np.random.default_rng(kind).integers(0, 256, (7, 5, channels), np.uint8)
    if channels in (2, 4):
        pixels[:, :, -1] = 255  # opaque
    rows = pixels if depth == 8 else pixels.astype(">u2") * 257
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 5, 7, depth, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw)),
        (b"IEND", b""),
    ]
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    expected = pixels[:, :, :3] if channels > 2 else pixels[:, :, :1].repeat(3, axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png", 7, 5), expected)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("CMYK", "jpg"), ("CMYK", "tiff"), ("L", "jpg"), ("P", "gif"), ("P", "bmp"), ("P", "png"), ("LA", "png"),
     ("LA", "tiff"), ("RGBA", "webp"), ("RGBA", "tiff"), ("YCbCr", "tiff"), ("1", "bmp"), ("1", "tiff"), ("L", "pgm")],
)  # fmt: skip
def test_every_mode(tmp_path: Path, mode: str, suffix: str) -> None:
    grey = Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).convert(mode)
    grey.save(tmp_path / f"image.{suffix}")
    with Image.open(tmp_path / f"image.{suffix}") as opened:
        assert opened.mode == mode or suffix in ("webp", "tiff")
    np.testing.assert_allclose(read_image(tmp_path / f"image.{suffix}", 8, 8), 255, atol=2)


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


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("bmp", {}), ("gif", {}), ("gif", {"interlace": 0}), ("jpg", {}), ("jpg", {"progressive": True}), ("png", {}),
     ("ppm", {}), ("tiff", {}), ("tiff", {"compression": "tiff_lzw"}), ("tiff", {"compression": "tiff_deflate"}),
     ("tiff", {"compression": "jpeg"}), ("webp", {}), ("webp", {"lossless": True})],
)  # fmt: skip
def test_a_truncated_file_is_refused_or_the_same(tmp_path: Path, suffix: str, options: dict) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(RANDOM[:20, :20]).save(path, **options)
    content, whole = path.read_bytes(), read_image(path, 20, 20)
    refused = 0
    for size in range(0, len(content), 10):
        path.write_bytes(content[:size])
        try:
            found = read_image(path, 20, 20)
        except DataError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, whole)  # all but the end mark was there
    assert refused >= len(range(0, len(content), 10)) - 2


def test_warnings_of_odd_files_are_not_the_users(tmp_path: Path) -> None:
    """Pillow warns of a picture this large, and only then refuses one of twice its size."""
    (tmp_path / "large.pgm").write_bytes(f"P5 {MAX_PIXELS + 1} 1 255\n0".encode())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(DataError, match="89,478,486 x 1 pixels exceed the limit of 89,478,485"):
            read_image(tmp_path / "large.pgm", 8, 8)
    assert caught == []


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path, 8, 8)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("unpacked"))
    for pixels, name in ((MAX_PIXELS, "warned of"), (3 * MAX_PIXELS, "refused")):
        header = f"P5 {pixels + 1} 1 255\n".encode()
        (tmp_path / f"{name}.pgm").write_bytes(header + b"0")
        with pytest.raises(DataError, match="exceed.* limit of"):
            read_image(tmp_path / f"{name}.pgm", 8, 8)


HEIC = b"\x00\x00\x00\x18ftypheic" + bytes(200)


def test_heic_pictures_without_their_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for module in (decode, folder_module):
        monkeypatch.setattr(module, "reads_heif", lambda: False)
    (tmp_path / "phone.heic").write_bytes(HEIC)
    with pytest.raises(DataError, match=r"a HEIC picture; pip install 'frozenbench\[heic\]' to read them, or convert"):
        read_image(tmp_path / "phone.heic", 8, 8)
    for name in ("cats", "dogs"):
        for number in range(3):
            write_picture(tmp_path / "photos" / name / f"{number}.png", number + 10 * len(name) + ord(name[0]))
        (tmp_path / "photos" / name / "phone.HEIC").write_bytes(HEIC)
    dataset = load_dataset(tmp_path / "photos")
    assert sum(map(len, dataset.splits.values())) == 6
    line = "ignored: HEIC pictures: pip install 'frozenbench[heic]' to read them, or convert them to JPEG: 2"
    assert line in caplog.text


def test_heic_pictures(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    assert decode.reads_heif()
    pixels = np.full((16, 16, 3), (200, 30, 30), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.heic", format="HEIF")
    np.testing.assert_allclose(read_image(tmp_path / "0.heic", 16, 16).astype(int), pixels, atol=12)


def test_very_large_pictures_are_skipped_or_read_as_asked(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        for number in range(5):
            write_picture(tmp_path / name / f"{number}.png", number + ord(name[0]), height=10, width=10 + number)
    whole, small = load_dataset(tmp_path), load_dataset(tmp_path, max_pixels=120)
    assert whole.digest != small.digest  # other vectors, because other pictures are skipped
    for dataset, skipped in ((whole, 0), (small, 4)):
        found = [split.images.read(8, "bicubic", "crop")[1] for split in dataset.splits.values()]
        reasons = [reason for split in found for reason in split.values()]
        assert len(reasons) == skipped
        assert all("pixels exceed the limit of 120; max_pixels changes it" in reason for reason in reasons)
    assert recorded_dataset({"data": small.source, **small.split_options}).digest == small.digest
