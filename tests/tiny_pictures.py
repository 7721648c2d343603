"""Image files and folders of them."""

from pathlib import Path

import numpy as np
from PIL import Image


def save_pictures(folder: Path, *images: np.ndarray, suffix: str = "png") -> list[Path]:
    """Save images (h, w, 3) or (h, w), uint8, as 0.png, 1.png, ...; returns their paths."""
    paths = [folder / f"{number}.{suffix}" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def write_picture(path: Path, seed: int = 0, height: int = 9, width: int = 6) -> np.ndarray:
    """Save an image of random pixels; returns them, uint8 (height, width, 3)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def picture_folder(root: Path, per_class: int = 12) -> Path:
    """Folders train and test with images of two classes, of several shapes; one image of each split is damaged."""
    for number in range(4 * per_class):
        split = ("train", "test")[number % 2]
        name = ("cats", "d\u00f6gs")[number // 2 % 2]
        write_picture(root / split / name / f"{number:03}.png", number, 10 + number % 5, 14)
    for path in (root / "train/cats/004.png", root / "test/d\u00f6gs/003.png"):
        path.write_bytes(path.read_bytes()[:70])
    return root
