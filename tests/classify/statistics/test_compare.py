import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from classify.statistics.compare import (
    ALPHA,
    Comparison,
    compare,
    holm,
    letters,
    mcnemar_p,
    size_warning,
    smallest_difference,
)
from featurize.core.errors import DataError


def paired(only_a: int, only_b: int, both: int = 0, neither: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which rows each of two heads gets right."""
    counts = [only_a, only_b, both, neither]
    return np.repeat([True, False, True, False], counts), np.repeat([False, True, True, False], counts)


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """The p value of two heads, from the rows (n,) that each gets right."""
    return float(mcnemar_p((correct_a & ~correct_b).sum(), (~correct_a & correct_b).sum()))


def predictions(correct: np.ndarray, seed: int | None = None) -> pd.DataFrame:
    """A predictions table, in random order if there is a seed."""
    labels = np.arange(len(correct)) % 10
    table = pd.DataFrame(
        {
            "id": 100 + np.arange(len(correct)),
            "label": labels,
            "predicted": np.where(correct, labels, (labels + 1) % 10),
        }
    )
    return table if seed is None else table.sample(frac=1, random_state=seed)


def random_runs(accuracies: list[float], rows: int = 1000, seed: int = 0) -> dict[str, pd.DataFrame]:
    random = np.random.default_rng(seed)
    return {f"run{i}": predictions(random.random(rows) < share) for i, share in enumerate(accuracies)}


def shared(groups: list[str]) -> np.ndarray:
    """Which runs share a letter."""
    sets = [set(re.findall(r"[a-z]\d*", group)) for group in groups]
    return np.array([[bool(one & other) for other in sets] for one in sets])


def sameness(runs: int, different: list[tuple[int, int]]) -> np.ndarray:
    same = np.ones((runs, runs), bool)
    for i, j in different:
        same[i, j] = same[j, i] = False
    return same


def insert_and_absorb(same: np.ndarray) -> set[frozenset[int]]:
    """Piepho's (2004) algorithm, word by word: the columns of his display."""
    columns = {frozenset(range(len(same)))}
    for i, j in zip(*np.nonzero(np.triu(~same)), strict=True):
        for column in [column for column in columns if {i, j} <= column]:
            columns = (columns - {column}) | {column - {i}, column - {j}}
            columns = {one for one in columns if not any(one < other for other in columns)}
    return columns


# Exact McNemar


def test_mcnemar_of_a_published_table() -> None:
    """Fay, Exact McNemar's Test and Matching Confidence Intervals (R package exact2x2): 21, 9, 2, 12."""
    assert mcnemar(*paired(2, 9, 21, 12)) == pytest.approx(0.06543, abs=5e-6)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(121, 59, 4e-6), (70, 59, 0.378688), (80, 59, 0.089452), (30, 60, 0.00206), (10, 30, 0.002221), (10, 10, 1.0)],
)
def test_mcnemar_of_the_tables_statsmodels_is_tested_with(only_a: int, only_b: int, p: float) -> None:
    """From VassarStats; in statsmodels/stats/tests/test_nonparametric.py."""
    assert mcnemar(*paired(only_a, only_b, 101, 33)) == pytest.approx(p, abs=5e-7)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_binomial_test_of_the_discordant_rows(only_a: int, only_b: int) -> None:
    found = mcnemar(*paired(only_a, only_b, 5, 5))
    assert found == mcnemar(*paired(only_b, only_a, 5, 5))
    assert found == pytest.approx(binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1, abs=1e-12)


def test_mcnemar_holds_its_level() -> None:
    random = np.random.default_rng(0)
    found = [mcnemar(*(random.random((2, 400)) < 0.8)) for _ in range(1000)]
    assert 0.02 < np.mean(np.array(found) <= ALPHA) <= 0.05


# Holm


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.5, 0.003, 0.32, 0.054, 0.0003], [0.64, 0.012, 0.64, 0.162, 0.0015]),  # documentation of pingouin.holm
        ([0.001, 0.01, 0.05, 0.1, 0.5, 0.9], [0.006, 0.05, 0.2, 0.3, 1.0, 1.0]),  # R 4.5, p.adjust(method="holm")
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),  # the third and fourth stay no lower than the second
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holm(p: list[float], adjusted: list[float]) -> None:
    np.testing.assert_allclose(holm(np.array(p)), adjusted, rtol=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_rejects_what_the_sequential_procedure_rejects(p: list[float]) -> None:
    """Holm's own formulation: from the smallest on, reject while p <= alpha / (hypotheses left)."""
    adjusted = holm(np.array(p))
    rejected = 0
    for value in sorted(p):
        if value * (len(p) - rejected) > ALPHA:
            break
        rejected += 1
    assert (adjusted <= ALPHA).sum() == rejected
    order = np.argsort(p)
    assert (np.diff(adjusted[order]) >= 0).all()
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= 1).all()


# Letters


@pytest.mark.parametrize(
    ("runs", "different", "expected"),
    [
        (1, [], ["a"]),
        (3, [], ["a", "a", "a"]),
        (3, [(0, 1), (0, 2), (1, 2)], ["a", "b", "c"]),
        (3, [(1, 2)], ["ab", "a", "b"]),  # multcompLetters(c("A-B" = FALSE, "A-C" = FALSE, "B-C" = TRUE))
        (3, [(0, 2)], ["a", "ab", "b"]),  # neighbours are alike, the ends are not
        (4, [(0, 2), (0, 3), (1, 3)], ["a", "ab", "bc", "c"]),
        (4, [(0, 1), (2, 3)], ["ab", "cd", "ac", "bd"]),  # four letters: no three of them are alike
    ],
)
def test_letters(runs: int, different: list[tuple[int, int]], expected: list[str]) -> None:
    assert letters(sameness(runs, different)) == expected


CHICKWTS = ["casein", "horsebean", "linseed", "meatmeal", "soybean", "sunflower"]


@pytest.mark.parametrize(
    "published", [["a", "b", "bc", "ac", "c", "a"], ["ab", "c", "ac", "ab", "ab", "b"], ["a", "a", "a", "a", "a", "a"]]
)
def test_letters_of_a_published_display(published: list[str]) -> None:
    """R's chickwts, pairwise Wilcoxon tests with Holm's correction at 0.05, 0.01 and 0.001: R package cld."""
    same = shared(published)
    found = letters(same)
    np.testing.assert_array_equal(shared(found), same)
    assert set("".join(found)) == set("".join(published))  # no more letters than published


@settings(deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: st.lists(st.booleans(), min_size=n * n, max_size=n * n)))
def test_runs_share_a_letter_if_and_only_if_they_are_the_same(cells: list[bool]) -> None:
    size = int(len(cells) ** 0.5)
    same = np.array(cells).reshape(size, size)
    same = np.triu(same, 1) | np.triu(same, 1).T | np.eye(size, dtype=bool)
    found = letters(same)
    np.testing.assert_array_equal(shared(found), same)
    # Each letter is one of Piepho's columns, so that there are never more of them.
    used = dict.fromkeys(letter for group in found for letter in re.findall(r"[a-z]\d*", group))
    columns = {
        frozenset(i for i, group in enumerate(found) if letter in re.findall(r"[a-z]\d*", group)) for letter in used
    }
    assert len(columns) == len(used)
    assert columns <= insert_and_absorb(same)


def test_more_letters_than_the_alphabet_has() -> None:
    found = letters(np.eye(60, dtype=bool))
    assert found[:2] + found[25:28] + found[52:53] == ["a", "b", "z", "a1", "b1", "a2"]
    assert len(set(found)) == 60


def test_letters_where_piephos_columns_are_a_billion() -> None:
    began = time.perf_counter()
    same = sameness(60, [(i, i + 1) for i in range(0, 60, 2)])
    np.testing.assert_array_equal(shared(letters(same)), same)
    assert time.perf_counter() - began < 10


# All of it


def test_a_comparison() -> None:
    a = np.arange(1000) < 900
    b = (np.arange(1000) < 880) | (np.arange(1000) >= 995)
    c = np.arange(1000) < 600
    found = compare({"c": predictions(c), "a": predictions(a, seed=1), "b": predictions(b, seed=2)})
    assert found.runs == ("a", "b", "c")
    assert found.rows == 1000
    np.testing.assert_allclose(found.accuracy, [0.9, 0.885, 0.6])
    np.testing.assert_array_equal(found.discordant, [[0, 25, 300], [25, 0, 285], [300, 285, 0]])
    np.testing.assert_allclose(found.p, [[1, p := mcnemar(a, b), found.p[0, 2]], [p, 1, found.p[1, 2]], found.p[2]])
    assert found.p[0, 2] == mcnemar(a, c)
    assert found.adjusted[0, 1] == found.adjusted[1, 0] == p < ALPHA  # the largest of the three
    assert found.adjusted[0, 2] == pytest.approx(3 * mcnemar(a, c))
    assert found.groups == {"a": "a", "b": "b", "c": "c"}


def test_holm_is_over_all_pairs() -> None:
    """Five pairs of equals beside it: what is significant alone no longer is."""
    a, b = np.arange(200) < 180, np.arange(200) < 174
    assert mcnemar(a, b) == 0.03125
    assert compare({"a": predictions(a), "b": predictions(b)}).groups == {"a": "a", "b": "b"}
    found = compare({"a": predictions(a), "b": predictions(b), "a2": predictions(a), "b2": predictions(b)})
    assert found.groups == dict.fromkeys(found.runs, "a")


def test_letters_say_what_the_adjusted_p_values_say() -> None:
    found = compare(random_runs([0.9, 0.89, 0.87, 0.85, 0.85, 0.8, 0.3]))
    np.testing.assert_array_equal(shared(list(found.groups.values())), found.adjusted > ALPHA)
    assert len(set("".join(found.groups.values()))) > 1


def test_keys_may_be_paths() -> None:
    tables = {Path(name): table for name, table in random_runs([0.5, 0.9]).items()}
    assert compare(tables).groups == {Path("run1"): "a", Path("run0"): "b"}


def test_one_run() -> None:
    found = compare(random_runs([0.9]))
    assert found.groups == {"run0": "a"}
    assert size_warning(found) is None


def test_runs_that_are_equally_good_stay_in_their_order() -> None:
    found = compare(random_runs([0.9]) | {"twin": random_runs([0.9])["run0"]})
    assert found.runs == ("run0", "twin")
    assert found.groups == {"run0": "a", "twin": "a"}


def test_rows_are_matched_by_id() -> None:
    a, b = np.arange(100) < 50, np.arange(100) >= 50
    in_order = compare({"a": predictions(a), "b": predictions(b)})
    shuffled = compare({"a": predictions(a, seed=1), "b": predictions(b, seed=2)})
    assert in_order.discordant[0, 1] == shuffled.discordant[0, 1] == 100


def test_different_test_rows() -> None:
    one = predictions(np.ones(100, bool))
    moved = one.assign(id=one["id"] + 3)
    with pytest.raises(DataError, match=r"^b and a were tested on different images \(6 in one only\); compare"):
        compare({"a": one, "b": moved})
    with pytest.raises(DataError, match=r"^b and a were tested on different images \(1 in one only\); compare"):
        compare({"a": one, "b": one[1:]})


def test_the_same_id_twice() -> None:
    table = predictions(np.ones(100, bool))
    with pytest.raises(DataError, match="b: 1 of its 101 test rows have the id of another one"):
        compare({"a": table, "b": pd.concat([table, table[:1]])})


def test_different_labels() -> None:
    one, other = predictions(np.ones(100, bool)), predictions(np.ones(100, bool))
    other.loc[3, "label"] = 9
    with pytest.raises(DataError, match="b and a have different labels for 1 of 100 images"):
        compare({"a": one, "b": other})


# Is the test set large enough?


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 100), st.sampled_from([0.05, 0.01, 0.05 / 19_900]))
def test_smallest_difference_is_the_first_that_is_significant(discordant: int, alpha: float) -> None:
    rows = 1000
    found = smallest_difference(rows, discordant, alpha) * rows
    # All ways in which the discordant rows may fall to the two heads.
    only = np.arange(discordant + 1)
    p = np.array([mcnemar(*paired(a, discordant - a)) for a in only])
    if (p <= alpha).any():
        assert found == pytest.approx(np.abs(2 * only - discordant)[p <= alpha].min())
    else:
        assert 0.5 ** (round(found) - 1) <= alpha < 0.5 ** (round(found) - 2)


def test_smallest_difference_at_a_size_one_knows() -> None:
    # 1.96 * sqrt(1000) = 62 of 10,000 rows.
    assert smallest_difference(10_000, 1000) == pytest.approx(0.0062, abs=0.0003)
    assert smallest_difference(10_000, 0) == 0.0006  # six rows to none have p = 1/32


def warned(only_a: int, only_b: int, rows: int) -> tuple[Comparison, str | None]:
    a, b = paired(only_a, only_b, rows - only_a - only_b)
    found = compare({"svm": predictions(a), "mlp": predictions(b)})
    return found, size_warning(found)


def test_a_test_set_too_small_for_the_difference() -> None:
    _, line = warned(510, 490, 10_000)
    assert line == ("10,000 test images tell apart heads that differ by about 0.64 points; svm and mlp differ by 0.20")


def test_a_test_set_large_enough() -> None:
    found, line = warned(540, 460, 10_000)
    assert found.groups == {"svm": "a", "mlp": "b"}
    assert line is None


def test_a_test_set_too_small_for_anything() -> None:
    assert warned(1, 0, 4)[1] == "4 test images are too few to tell svm and mlp apart, whatever they predict"


def test_the_size_needed_is_that_for_as_many_tests() -> None:
    """Six rows to none are enough for one test (p = 0.031), and seven (p = 0.016) for the first of three."""
    a, b = paired(6, 0, 194)
    assert size_warning(compare({"svm": predictions(a), "mlp": predictions(b)})) is None
    found = compare({"svm": predictions(a), "mlp": predictions(b), "twin": predictions(b)})
    assert found.groups == {"svm": "a", "mlp": "a", "twin": "a"}
    assert size_warning(found).startswith("200 test images tell apart heads that differ by about 3.50 points; svm and")


def test_names_of_the_runs() -> None:
    found, _ = warned(51, 49, 1000)
    assert size_warning(found, str.upper).endswith("; SVM and MLP differ by 0.20")


@settings(deadline=None)
@given(st.lists(st.floats(0.5, 0.95), min_size=2, max_size=6), st.integers(0, 99))
def test_runs_of_different_letters_are_never_warned_of(accuracies: list[float], seed: int) -> None:
    found = compare(random_runs(accuracies, rows=300, seed=seed))
    if found.adjusted[0, 1] <= ALPHA:
        assert size_warning(found) is None
    elif len(accuracies) == 2:
        assert size_warning(found) is not None
