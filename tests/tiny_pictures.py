"""What several tests make: tiny pictures."""

from pathlib import Path

import numpy as np
from PIL import Image


def written(folder: Path, *images: np.ndarray, suffix: str = "png") -> list[Path]:
    paths = [folder / f"{number}.{suffix}" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def write_picture(path: Path, seed: int = 0, height: int = 9, width: int = 6) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def picture_folder(root: Path, per_class: int = 12) -> Path:
    """Class folders of pictures of differing shapes, two of them damaged; the split is given."""
    for number in range(4 * per_class):
        split, name = ("train", "test")[number % 2], ("cats", "d\u00f6gs")[number // 2 % 2]
        write_picture(root / split / name / f"{number:03}.png", number, 10 + number % 5, 14)
    for path in (root / "train/cats/004.png", root / "test/d\u00f6gs/003.png"):
        path.write_bytes(path.read_bytes()[:70])
    return root
