from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.figures.confusion import (
    PAIR_INCHES,
    PAIR_SIZE,
    WORST_PAIRS,
    class_order,
    confusion,
    counts_of,
    most_confused,
    worst_pairs,
)
from analysis.figures.names import fitted
from analysis.figures.style import figure, save


def test_confusion_is_in_percent_of_the_true_class() -> None:
    predictions = pd.DataFrame({"label": [0] * 300 + [1], "predicted": [0] * 224 + [1] * 75 + [2] + [0]})
    with figure(5, 5) as (_, ax):
        assert confusion(counts_of(predictions, 3), ["ant", "bee", "cow"], ax) is ax
        shares = ax.collections[0].get_array().reshape(3, 3)
        texts = [text.get_text() for text in ax.texts]
        names = [label.get_text() for label in ax.get_xticklabels()]
    np.testing.assert_allclose(shares, [[224 / 3, 25, 1 / 3], [100, 0, 0], [0, 0, 0]])
    assert texts == ["75", "25", "", "100", "", "", "", "", ""]
    assert names == ["ant", "bee", "cow"]


def test_confusion_frames_and_names_the_most_frequent_mistakes() -> None:
    predictions = pd.DataFrame({"label": [0, 0, 1, 1, 1, 2], "predicted": [0, 2, 2, 2, 1, 2]})
    with figure(5, 5) as (_, ax):
        confusion(counts_of(predictions, 3), ["ant", "bee", "cow"], ax, order=[2, 0, 1])
        assert [label.get_text() for label in ax.get_xticklabels()] == ["cow", "ant", "bee"]
        assert [label.get_text() for label in ax.get_yticklabels()] == ["cow", "ant", "bee"]
        shares = ax.collections[0].get_array().reshape(3, 3)
        assert {patch.get_xy() for patch in ax.patches} == {(0, 1), (0, 2)}  # column of cow; rows of ant and bee
        assert ax.get_xlabel() == "predicted\nmost frequent mistakes:\nbee as cow (2)\nant as cow (1)"
    np.testing.assert_allclose(shares, [[100, 0, 0], [50, 50, 0], [200 / 3, 0, 100 / 3]])


def test_a_confusion_matrix_without_mistakes_names_none() -> None:
    with figure(5, 5) as (_, ax):
        confusion(counts_of(pd.DataFrame({"label": [0, 1], "predicted": [0, 1]}), 2), ["ant", "bee"], ax)
        assert ax.get_xlabel() == "predicted"
        assert not ax.patches


def test_confused_classes_stand_side_by_side() -> None:
    counts = np.diag([90] * 6)
    for i, j, often in ((0, 5, 9), (5, 0, 9), (1, 3, 8), (3, 1, 8), (2, 4, 7), (4, 2, 7), (5, 3, 2)):
        counts[i, j] = often
    order = class_order([counts, counts])
    assert sorted(order) == list(range(6))
    place = {k: order.index(k) for k in range(6)}
    assert all(abs(place[i] - place[j]) == 1 for i, j in ((0, 5), (1, 3), (2, 4), (5, 3)))
    assert order[0] < order[-1]


def test_one_order_serves_several_confusion_matrices() -> None:
    one, other = np.diag([90] * 4), np.diag([9000] * 4)
    one[[0, 2, 1, 3], [2, 0, 3, 1]] = 9
    other[[0, 1, 2, 3], [1, 0, 3, 2]] = 300  # more images, but a smaller share
    order = class_order([one, other])
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset({0, 2}), frozenset({1, 3})}
    assert class_order([np.eye(2, dtype=int)]) == [0, 1]
    assert sorted(class_order([np.zeros((4, 4), int)])) == [0, 1, 2, 3]


def test_most_confused() -> None:
    predictions = pd.DataFrame({"label": [0, 0, 1, 1, 1, 2], "predicted": [0, 2, 2, 2, 1, 0]})
    names, counts = ["ant", "bee", "cow"], counts_of(predictions, 3)
    assert most_confused(counts, names, 2) == [("bee", "cow", 2), ("ant", "cow", 1)]
    assert most_confused(counts, names, 9) == [("bee", "cow", 2), ("ant", "cow", 1), ("cow", "ant", 1)]


def test_class_names_are_not_formulas(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """A dollar sign is one; a name in letters that no font has is replaced, without a warning."""
    names = ["$5 bill", "$\\undefined$", "\u732b", "a_b^c"]
    predictions = pd.DataFrame({"label": [0, 1, 2, 3], "predicted": [1, 2, 3, 0]})
    with figure(5, 5) as (drawn, ax):
        confusion(counts_of(predictions, 4), names, ax)
        shown = [label.get_text() for label in ax.get_xticklabels()]
        assert [shown[number] for number in (0, 1, 3)] == [names[number] for number in (0, 1, 3)]
        assert shown[2] in (names[2], "class 2")  # by the fonts that are installed
        png, svg = save(drawn, tmp_path / "confusion")
    assert png.stat().st_size
    assert svg.stat().st_size
    assert [str(warning.message) for warning in recwarn] == []


def test_many_classes_show_the_worst_pairs() -> None:
    classes = 120
    counts = np.eye(classes, dtype=int) * 90
    counts[np.arange(30), np.arange(30) + 1] = np.arange(30)
    names = [f"species number {number} of a family with a long name" for number in range(classes)]
    with figure(7, 6) as (drawn, ax):
        worst_pairs(counts, names, ax)
        labels = [label.get_text() for label in ax.get_yticklabels()]
        bars = [bar.get_width() for bar in ax.patches]
        drawn.draw_without_rendering()
        assert ax.get_position().width > 0.5
        assert ax.yaxis_inverted()  # the worst on top
        behind = [text.get_text().strip() for text in ax.texts]
    assert len(labels) == len(set(labels)) == WORST_PAIRS
    true, predicted = labels[0].split("\n")
    assert true == names_in_pairs(names)[29]
    assert predicted == f"taken for {names_in_pairs(names)[30]}"
    assert bars[0] == pytest.approx(100 * 29 / 119)
    assert behind[0] == "24% (29 of 119)"


def names_in_pairs(names: list[str]) -> list[str]:
    return fitted(names, PAIR_INCHES, PAIR_SIZE, word="class")


def test_no_mistakes_among_many_classes() -> None:
    with figure(7, 6) as (drawn, ax):
        worst_pairs(np.eye(30, dtype=int), [f"class {number}" for number in range(30)], ax)
        drawn.draw_without_rendering()
        assert [text.get_text() for text in ax.texts] == ["no mistakes"]


def test_cells_have_a_decimal_if_the_class_has_a_thousand_images() -> None:
    with figure(5, 5) as (_, ax):
        confusion(np.array([[903, 97], [5, 15]]), ["ant", "bee"], ax)
        assert [text.get_text() for text in ax.texts] == ["90.3", "9.7", "25", "75"]


def test_matrices_beside_one_another_are_named_once() -> None:
    with figure(5, 5) as (drawn, ax):
        confusion(np.eye(3, dtype=int), ["ant", "bee", "cow"], ax, named=False, scale=False)
        assert ax.get_yticklabels() == []
        assert ax.get_ylabel() == ""
        assert drawn.axes == [ax]
