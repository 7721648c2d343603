"""Figures that show images, and the map of their vectors."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from analysis.figures import names, style

IMAGES_PER_ROW = 6
CAPTION_SIZE = 8.0
CAPTION_INCHES = 1.2
NEIGHBOUR_INCHES = 1.0
NAME_ON_MAP_INCHES = 1.5
NAMED_ON_MAP = 8


def mistakes(images: np.ndarray, captions: Sequence[str], drawn: Figure) -> list[Axes]:
    """A grid of images (n, height, width, 3) with a caption of up to four lines below each, six in a row.

    It fills an empty figure; 1.35 inches for each column and 2 for each row suit it. A line of a caption has room
    for `CAPTION_INCHES` of letters of `CAPTION_SIZE` points.
    """
    rows = -(-len(images) // IMAGES_PER_ROW)
    grid = drawn.subplots(rows, min(IMAGES_PER_ROW, len(images)), squeeze=False).ravel()
    for ax in grid:
        ax.set_axis_off()
    for ax, image, caption in zip(grid, images, captions, strict=False):
        _show(ax, image, caption)
    return list(grid[: len(images)])


def neighbours(
    images: np.ndarray,
    labels: Sequence[int],
    nearest: np.ndarray,
    nearest_labels: np.ndarray,
    class_names: Sequence[str],
    drawn: Figure,
) -> list[Axes]:
    """A row per test image: the image, then the nearest training images; another class has a dashed frame.

    Args:
        images: uint8 (q, height, width, 3), RGB.
        labels: q true classes.
        nearest: uint8 (q, k, height, width, 3), RGB, the nearest first.
        nearest_labels: int (q, k), their classes.
        class_names: K names.
        drawn: an empty figure; an inch for each column and 1.2 for each row suit it.
    """
    same, other = style.colours(2)
    texts = names.fitted(class_names, NEIGHBOUR_INCHES, CAPTION_SIZE, word="class")
    axes = drawn.subplots(len(images), nearest.shape[1] + 1, squeeze=False)
    for row, image, label, found, found_labels in zip(axes, images, labels, nearest, nearest_labels, strict=True):
        _show(row[0], image, texts[label]).xaxis.label.set_fontweight("bold")
        for ax, neighbour, found_label in zip(row[1:], found, found_labels, strict=True):
            _show(ax, neighbour, texts[found_label])
            colour, line = (same, "-") if found_label == label else (other, "--")
            for spine in ax.spines.values():
                spine.set(visible=True, color=colour, linewidth=2, linestyle=line)
    axes[0, 0].set_title("test image", fontsize=CAPTION_SIZE)
    for number, ax in enumerate(axes[0, 1:], 1):
        ax.set_title("nearest" if number == 1 else f"{number}.", fontsize=CAPTION_SIZE)
    return list(axes.ravel())


def vector_map(points: np.ndarray, labels: np.ndarray, class_names: Sequence[str], ax: Axes) -> Axes:
    """A map of vectors in two dimensions, a colour and marker per class, its name at the densest spot.

    Of more than `style.MANY_CLASSES` classes only the largest are named, `NAMED_ON_MAP`.

    Args:
        points: float (n, 2), from `analysis.figures.pictures.embedding`.
        labels: int (n,), 0..K-1.
        class_names: K names.
        ax: where to draw.
    """
    palette = style.colours(len(class_names))
    texts = names.fitted(class_names, NAME_ON_MAP_INCHES, word="class")
    sizes = np.bincount(labels, minlength=len(class_names))
    few = len(class_names) <= style.MANY_CLASSES
    named = np.argsort(-sizes, kind="stable")[: None if few else NAMED_ON_MAP]
    for number, text in enumerate(texts):
        own = points[labels == number]
        if not len(own):
            continue
        x, y = own.T
        look = {"color": palette[number], "marker": style.MARKERS[number % len(style.MARKERS)]}
        ax.scatter(x, y, s=24, edgecolors="0.25", linewidths=0.3, label=text, **look)
        if number in named:
            ax.text(
                *_densest(own),
                text,
                ha="center",
                va="center",
                fontweight="bold",
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
    ax.set(xticks=[], yticks=[], aspect="equal")  # only neighbourhoods have a meaning
    for spine in ax.spines.values():
        spine.set_visible(False)
    if few:
        columns = int(0.9 * style.figure_width(ax) / (max(map(names.width_of, texts)) + 0.5))
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=min(5, columns), handletextpad=0, columnspacing=1)
    return ax


def _densest(points: np.ndarray) -> tuple[float, float]:
    """The point of (n, 2) with the smallest mean distance to its nearest quarter of the points."""
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    quarter = np.sort(distances, axis=1)[:, : 1 + len(points) // 4]
    x, y = points[quarter.mean(axis=1).argmin()]
    return float(x), float(y)


def _show(ax: Axes, image: np.ndarray, caption: str) -> Axes:
    """An image with a caption below, and no axes."""
    ax.set_axis_on()
    ax.imshow(image, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel(caption, fontsize=CAPTION_SIZE)
    return ax
