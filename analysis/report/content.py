"""What a report consists of: text, tables, figures. `analysis.report.html` writes it as a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Drawing:
    """A figure as an `svg` element of our own making, with its caption; `alt` describes it in words."""

    svg: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Interval:
    """A cell with a bar for a share (0..1) and a line for its bounds; `look` is `transfer`, `control` or empty."""

    text: str
    value: float
    low: float
    high: float
    look: str = ""
    mark: float = math.nan  # a share to compare with, such as chance

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """Strings or intervals under the columns' names; the first column names the rows.

    Readers can sort by the number at the start of a cell, so a column has one unit. Cells without a number come last.
    Columns without any value are left out.

    Attributes:
        caption: what the table shows.
        frame: the cells.
        bold: row and column of the bold cells.
        extra: the columns that are shown on demand.
        first: the number of rows that are shown before the others are asked for; None for all.
        keys: of each row, what filters know it by, such as its `network`; empty for none.
    """

    caption: str
    frame: pd.DataFrame
    bold: frozenset[tuple[int, int]] = frozenset()
    extra: frozenset[str] = frozenset()
    first: int | None = None
    keys: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: counts (K, K) of true by predicted class, shown in percent of each row."""

    caption: str
    counts: np.ndarray
    class_names: Sequence[str]
    order: Sequence[int]  # of the K classes
    run: str = ""  # its key, for the images behind a cell


@dataclass(frozen=True)
class Number:
    """A large number with its interval, or in grey what was not measured.

    Attributes:
        value: as text; empty if it was not measured.
        label: what it counts.
        interval: its bounds as text, or that there are none.
        detail: what is compared, or why there is no number.
        command: measures it; empty if it was measured.
        scale: for the drawing, in the order low, value, high, no difference; None if there is nothing to draw. Bounds
            may be infinite.
        no_difference: the text at that place.
    """

    value: str
    label: str
    interval: str = ""
    detail: str = ""
    command: str = ""
    scale: tuple[float, float, float, float] | None = None
    no_difference: str = "0"


@dataclass(frozen=True)
class PointMap:
    """Points in the plane; each shows its image under the pointer."""

    points: np.ndarray  # (n, 2), finite; drawn at the same scale in both directions
    labels: np.ndarray  # (n,) integers, 0..K-1
    class_names: Sequence[str]  # K
    captions: Sequence[str]  # n texts below the images
    images: Sequence[int]  # their numbers among the report's thumbnails; -1 for none
    caption: str  # of the map


@dataclass(frozen=True)
class Tiles:
    """Rows of thumbnails: a title, and the numbers of images with their captions."""

    caption: str
    rows: Sequence[tuple[str, Sequence[tuple[int, str]]]]


class Link(NamedTuple):
    """A file beside the report."""

    text: str
    href: str


@dataclass(frozen=True)
class Facts:
    """Values by their names."""

    pairs: Mapping[str, str | Link]


@dataclass(frozen=True)
class Explorer:
    """The place where scripts show the images behind the figures, from the report's `data`."""

    caption: str


Part = Drawing | Table | Matrix | PointMap | Tiles | Facts | Explorer


@dataclass(frozen=True)
class Section:
    """A fold: its title and finding are always seen, the rest on demand.

    Attributes:
        title: of the fold.
        finding: one sentence.
        parts: the evidence.
        details: further sentences.
        notes: how it was measured.
        commands: measure it; empty if it was measured.
    """

    title: str
    finding: str
    parts: list[Part]
    details: Sequence[str] = ()
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """The content of a report, from top to bottom; empty fields have no section."""

    title: str  # the question
    subtitle: str  # the data in one line
    answer: str  # one sentence
    numbers: list[Number]
    ranking: Table
    sections: list[Section]  # the evidence, folded
    commands: list[str]  # shell commands that make this report from scratch, in order
    versions: dict[str, str]  # by name of the program or library
    fingerprints: dict[str, str]  # hexadecimal digits by the name of what they identify
    limits: list[str]  # what the numbers do not show
    skipped: list[tuple[str, str]]  # runs and files that could not be used, each with the reason
    thumbnails: Sequence[np.ndarray] = ()  # images, uint8 RGB (height, width, 3), which parts know by their numbers
    data: Mapping[str, Any] = field(default_factory=dict)  # for the scripts, see `analysis.report.explore`
