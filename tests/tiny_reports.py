"""Small reports, with ordinary and with hostile texts."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.report.content import (
    Drawing,
    Explorer,
    Facts,
    Interval,
    Link,
    Matrix,
    Number,
    PointMap,
    Report,
    Section,
    Table,
    Tiles,
)

TABLE = pd.DataFrame(
    [["svm", "70.0 (67 to 73)", "1,024", "-"], ["knn", "8.5 (7 to 10)", "96", "2.5"], ["mlp", "71.2", "512", "10.0"]],
    columns=["head", "accuracy % (95% interval)", "vector", "fit, s"],
)
COLOURS = np.array([[250, 20, 20], [20, 200, 20], [20, 20, 250], [240, 240, 20], [20, 220, 220], [120, 120, 120]])
# Texts that break a page which does not escape them, or that are hard to show.
HOSTILE = [
    "<script>hacked = true</script>",
    "\"><img src=x onerror='hacked = true'>",
    "' onmouseover='hacked = true",
    "</title></style></script></textarea>--><svg onload=hacked=true>",
    "{{ 7 * 7 }}{% raw %}",
    "a &amp; b &lt; c",
    "javascript:hacked=true",
    "قطة",
    "\u202e\u05d7\u05ea\u05d5\u05dc",
    "猫 · 고양이 · แมว · кот",
    "👩\u200d🔬 e\u0301",
]


THUMBNAILS = np.tile(COLOURS[:, None, None].astype(np.uint8), (1, 32, 32, 1))
# Two runs on five of seven test images; the sixth thumbnail is of a training image.
DATA = {
    "classes": ["ant", "bee", "cow"],
    "runs": [{"name": "svm"}, {"name": "knn"}],
    "images": ["ant/0.png", "bee/1.png", "cow/2.png", "ant/3.png", "bee/4.png"],
    "labels": [0, 1, 2, 0, 1, 2],
    "near": [[5], [], [], [], []],
    "predicted": [[0, 1, 0, 0, 0], [0, 2, 2, 1, 1]],
    "pairs": {"0-1": [2, 3, 1, 1, "0.625"]},
    "best": 0,
    "control": 1,
    "tested": 5,
    "of": 7,
}


def make_map(**changes: Any) -> PointMap:
    """Six points in two rows of three; each has an image of one colour."""
    values = {
        "points": np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]),
        "labels": np.array([0, 1, 2, 0, 1, 2]),
        "class_names": ["ant", "bee", "cow"],
        "captions": [f"image {number}" for number in range(6)],
        "images": list(range(6)),
        "caption": "The vectors as a map.",
    }
    return PointMap(**{**values, **changes})


def make_ranking(text: str = "svm") -> Table:
    """Two heads with their accuracies as bars; the second row and the last column are shown on demand."""
    cells = [
        [text, Interval("70.0 (67 to 73)", 0.7, 0.67, 0.73, "transfer", 0.1), "2.0"],
        ["knn", Interval("8.5 (7 to 10)", 0.085, 0.07, 0.1, "control"), "1.0"],
    ]
    frame = pd.DataFrame(cells, columns=["head", "accuracy %", "log loss"])
    return Table("Every head.", frame, extra=frozenset({"log loss"}), first=1, keys=[{"head": text}, {"head": "knn"}])


def make_matrix(**changes: Any) -> Matrix:
    """The confusion matrix of a run on three classes, shown in another order."""
    counts = np.array([[8, 2, 0], [0, 10, 0], [1, 0, 999]])
    values = {
        "caption": "svm",
        "counts": counts,
        "class_names": ["ant", "bee", "cow"],
        "order": [2, 0, 1],
        "run": "svm",
    }
    return Matrix(**{**values, **changes})


DRAWING = Drawing('<svg viewBox="0 0 9 9"><path d="M0 0H9" stroke="currentColor"/></svg>', "A line.", "A line upwards.")
NUMBERS = [
    Number("+30", "points gained", "95% interval 27 to 33", "over knn", scale=(27, 30, 33, 0)),
    Number("4", "times as fast", "2 or more", "to 70%", scale=(2, 4, np.inf, 1), no_difference="1"),
    Number("", "times as many epochs", detail="no history", command="frozenbench run photos"),
]


def make_report(**changes: Any) -> Report:
    """A report with a section of every kind of part and an empty one, with some fields changed."""
    parts = [Table("All heads.", TABLE), DRAWING, make_matrix(), make_map()]
    images = [
        Tiles("Mistakes.", [("of ants", [(2, "cow, taken for ant")])]),
        Explorer("Two heads."),
        Facts({"machine": "2 cores", "runs": Link("open", "../runs/")}),
    ]
    values = {
        "title": "Does it help?",
        "subtitle": "On 1,000 images.",
        "answer": "It does.",
        "numbers": NUMBERS,
        "ranking": make_ranking(),
        "sections": [
            Section("Accuracy", "It helps by 30 points.", parts, ["Both saw 100 images."], ["Exact McNemar tests."]),
            Section("Time", "It takes 5 s.", images),
        ],
        "commands": ["frozenbench featurize --data sample", "frozenbench analysis"],
        "versions": {"numpy": "2.3.1", "python": "3.11"},
        "fingerprints": {"test images": "ab" * 32},
        "limits": ["Small images only."],
        "skipped": [("data/runs/x/svm-1", "result.json cannot be used")],
        "thumbnails": THUMBNAILS,
        "data": DATA,
    }
    return Report(**{**values, **changes})


def report_filled_with(text: str) -> Report:
    """A report in which every text is `text`."""
    picture = Drawing(DRAWING.svg, text, text)
    drawn = make_map(class_names=[text] * 3, captions=[text] * 6, caption=text)
    table = Table(text, pd.DataFrame([[text, text]] * 2, columns=[text, text]))
    matrix = make_matrix(class_names=[text] * 3, caption=text, run=text)
    number = Number(text, text, text, text, text)
    tiles = Tiles(text, [(text, [(0, text)])])
    links = Facts({text: text, f"{text} file": Link(text, "x.csv")})
    parts = [picture, table, matrix, drawn, tiles, links, Explorer(text)]
    sections = [Section(text, text, parts, [text], [text])]
    data = {**DATA, "classes": [text] * 3, "runs": [{"name": text}] * 2, "images": [text] * 5}
    return Report(
        text, text, text, [number], make_ranking(text), sections, [text], {text: text}, {text: text}, [text],
        [(text, text)], THUMBNAILS, data,
    )  # fmt: skip
