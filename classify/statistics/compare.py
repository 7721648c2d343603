"""Which heads differ significantly on the same test rows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from classify.statistics.design import design_effect
from featurize.core.errors import DataError

ALPHA = 0.05
AGAIN = "compare runs on one test set only, or train this one again with frozenbench classify --force"


@dataclass(frozen=True)
class Comparison:
    """All pairs of R runs on the same n test rows, the most accurate run first.

    Attributes:
        runs: R keys, as given.
        rows: n.
        accuracy: float64 (R,), 0..1.
        discordant: int64 (R, R), rows that exactly one run of a pair gets right.
        design: float64 (R, R), the design effect of each pair's difference, see `design.design_effect`: 1 where
            the rows are independent.
        p: float64 (R, R), exact McNemar p values, or, where the rows are not independent, those of `clustered_p`;
            1 on the diagonal.
        adjusted: float64 (R, R), the p values after Holm's correction over all pairs.
        groups: the letters of each run (`letters`): two runs share a letter if, and only if, they do
            not differ significantly (`adjusted` above `ALPHA`).
    """

    runs: tuple[Any, ...]
    rows: int
    accuracy: np.ndarray
    discordant: np.ndarray
    design: np.ndarray
    p: np.ndarray
    adjusted: np.ndarray
    groups: dict[Any, str]


def compare(predictions: Mapping[Any, Any]) -> Comparison:
    """Compare runs with one another.

    Args:
        predictions: by run (its directory or any other key) a table with the columns `id`, `label`
            and `predicted`: a DataFrame of its predictions.parquet, or a dict of arrays (n,). Rows are
            matched by id. With the column `group`, rows of one group are not independent; with the column `fold`,
            they come from a cross-validation.

    Raises:
        DataError: the runs were not tested on the same rows, or an id occurs twice.
    """
    correct, clusters, in_folds = correctness(predictions)  # (R, n), 0. or 1.
    order = np.argsort(-correct.mean(axis=1), kind="stable")
    correct = correct[order]
    keys = list(predictions)
    runs = tuple(keys[number] for number in order)
    only = np.rint(correct @ (1 - correct).T).astype(np.int64)  # (R, R), rows correct in i but not in j
    design = np.ones_like(only, np.float64)
    if clusters is None and not in_folds:
        p = mcnemar_p(only, only.T)
    else:
        design = _designs(correct, clusters, in_folds=in_folds)
        count = correct.shape[1] if clusters is None else len(np.unique(clusters))
        p = clustered_p(only, only.T, design, count)
    upper = np.triu_indices(len(runs), 1)
    adjusted = np.ones_like(p)
    adjusted[upper] = holm(p[upper])
    adjusted = np.minimum(adjusted, adjusted.T)
    groups = letters(adjusted > ALPHA)
    return Comparison(
        runs=runs,
        rows=correct.shape[1],
        accuracy=correct.mean(axis=1),
        discordant=only + only.T,
        design=design,
        p=p,
        adjusted=adjusted,
        groups=dict(zip(runs, groups, strict=True)),
    )


def holm(pvalues: np.ndarray) -> np.ndarray:
    """P values (m,) corrected for m tests, in the given order.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics
    6, 1979: the smallest is multiplied by m, the next by m - 1, and so on; none becomes smaller than
    the one before it, or larger than one.
    """
    p = np.asarray(pvalues, np.float64)
    order = np.argsort(p)
    multiplied = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(multiplied), 1)
    return adjusted


def letters(same: np.ndarray) -> list[str]:
    """A compact letter display: letters that i and j share if, and only if, `same[i, j]`.

    Each letter is a maximal set of runs that are all the same, and every pair that is the same is in
    some set (Piepho, An Algorithm for a Letter-Based Representation of All-Pairwise Comparisons, 2004).
    Piepho's insert-and-absorb keeps all maximal sets, of which there can be 2^(R/2). This greedy clique
    cover (Gramm et al., Algorithms for Compact Letter Displays, 2007) adds a set only for a pair that
    is in none yet: it is fast for any R and never needs more letters.

    Args:
        same: bool (R, R), symmetric, true on the diagonal; the best run first.

    Returns:
        The letters of each run, `a` for the best: a to z, then a1 to z1, a2 and so on.
    """
    covered = np.zeros_like(same)
    groups = []
    for i in range(len(same)):
        while (uncovered := same[i] & ~covered[i]).any():
            members = [i]
            candidates = same[i].copy()
            # First the runs that share no letter with this one yet, then any others that fit the set.
            for j in [*np.flatnonzero(uncovered), *np.flatnonzero(~uncovered)]:
                if candidates[j] and j != i:
                    members.append(int(j))
                    candidates &= same[j]
            covered[np.ix_(members, members)] = True
            groups.append(sorted(members))
    result = [""] * len(same)
    for number, group in enumerate(sorted(groups)):
        letter = chr(ord("a") + number % 26)
        if number >= 26:
            letter += str(number // 26)
        for member in group:
            result[member] += letter
    return result


def smallest_difference(rows: int, discordant: int, alpha: float = ALPHA) -> float:
    """The smallest significant difference in accuracy, given how often two heads disagree.

    Args:
        rows: size of the test set.
        discordant: rows that exactly one of the heads gets right.
        alpha: the level of one exact McNemar test.

    Returns:
        A share of the rows. If the discordant rows are too few for any significant difference, the
        share that the least sufficient number of them would be, all of them won by one head; above 1
        if the test set has fewer rows than that.
    """
    from scipy.stats import binom

    enough = math.ceil(math.log2(2 / alpha))  # 2 * 0.5**enough <= alpha
    discordant = max(discordant, enough)
    # The largest number of discordant rows that the worse head may win.
    worse = int(binom.ppf(alpha / 2, discordant, 0.5))
    while worse > 0 and mcnemar_p(worse, discordant - worse) > alpha:
        worse -= 1
    return (discordant - 2 * worse) / rows


def size_warning(comparison: Comparison, name: Callable[[Any], str] = str) -> str | None:
    """One line if the test set is too small for the difference between the two best runs, else None.

    The level is the one at which Holm's procedure tests this pair, so there is never a warning about
    runs with different letters.

    Args:
        comparison: a comparison of any number of runs.
        name: gives a run's name from its key.
    """
    if len(comparison.runs) < 2:
        return None
    tests_left = int((comparison.p[np.triu_indices(len(comparison.runs), 1)] >= comparison.p[0, 1]).sum())
    design = comparison.design[0, 1]
    rows, discordant = round(comparison.rows / design), round(comparison.discordant[0, 1] / design)
    needed = smallest_difference(rows, discordant, ALPHA / tests_left)
    difference = comparison.accuracy[0] - comparison.accuracy[1]
    if difference > needed - 0.5 / comparison.rows:  # half a row allows for rounding
        return None
    best, second = (name(run) for run in comparison.runs[:2])
    if needed > 1:
        return f"{comparison.rows:,} test images are too few to tell {best} and {second} apart, whatever they predict"
    return (
        f"{comparison.rows:,} test images tell apart heads that differ by about {100 * needed:.2f} points; "
        f"{best} and {second} differ by {100 * difference:.2f}"
    )


def mcnemar_p(a: Any, b: Any) -> Any:
    """Exact two-sided p values, any shape, from the numbers of rows that only one of two heads gets right.

    McNemar, Psychometrika 12, 1947: if both heads are equally accurate, each of these rows falls to
    either with probability 1/2, so their numbers are binomial.
    """
    from scipy.stats import binom

    return np.minimum(2 * binom.cdf(np.minimum(a, b), np.add(a, b), 0.5), 1)


def clustered_p(a: Any, b: Any, design: Any, clusters: int) -> Any:
    """Two-sided p values, any shape, of the numbers of rows that only one of two heads gets right, in clusters.

    Durkalski et al., Analysis of Clustered Matched-pair Data, Statistics in Medicine 22, 2003: McNemar's statistic
    with the variance between clusters, here as its design effect, and Student's distribution for few clusters.

    Args:
        a: rows that only the first head gets right.
        b: rows that only the second head gets right.
        design: the design effect of the difference, 1 or more.
        clusters: the number of groups, or of rows if each stands for itself.
    """
    from scipy.stats import t

    discordant = np.add(a, b)
    z = np.abs(np.subtract(a, b)) / np.sqrt(np.maximum(discordant * design, 1))
    return np.where(discordant == 0, 1.0, 2 * t.sf(z, max(1, clusters - 1)))


def correctness(predictions: Mapping[Any, Any]) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Which rows each run gets right.

    Args:
        predictions: of R runs, as for `compare`.

    Returns:
        Float64 (R, n), 1 where a run is correct, with the columns sorted by id; the groups, (n,), or None; and
        whether the rows come from a cross-validation.

    Raises:
        DataError: the runs were not tested on the same rows, or an id occurs twice.
    """
    correct = []
    first: Any = None
    groups = None
    in_folds = False
    for run, table in predictions.items():
        ids, labels, predicted = (np.asarray(table[column]) for column in ("id", "label", "predicted"))
        order = np.argsort(ids)
        ids, labels, predicted = ids[order], labels[order], predicted[order]
        if repeated := len(ids) - len(np.unique(ids)):
            raise DataError(f"{run}: {repeated:,} of its {len(ids):,} test rows have the id of another one; {AGAIN}")
        if first is None:
            first, first_ids, first_labels = run, ids, labels
            if "group" in table:
                groups = np.asarray(table["group"])[order]
            in_folds = "fold" in table
        if not np.array_equal(ids, first_ids):
            apart = len(np.setxor1d(ids, first_ids))
            raise DataError(f"{run} and {first} were tested on different images ({apart:,} in one only); {AGAIN}")
        if other := int((labels != first_labels).sum()):
            raise DataError(f"{run} and {first} have different labels for {other:,} of {len(ids):,} images; {AGAIN}")
        correct.append(predicted == labels)
    return np.array(correct, np.float64), groups, in_folds


def _designs(correct: np.ndarray, groups: np.ndarray | None, *, in_folds: bool) -> np.ndarray:
    """The design effect of the difference of each pair of runs, (R, R), from their correctness, (R, n)."""
    runs = len(correct)
    designs = np.ones((runs, runs))
    for i in range(runs):
        for j in range(i):
            designs[i, j] = designs[j, i] = design_effect(correct[i] - correct[j], groups, in_folds=in_folds)
    return designs
