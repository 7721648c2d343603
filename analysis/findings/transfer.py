"""What transfer learning is worth, in figures: accuracy, images, seconds and epochs of heads and controls.

Heads on a pretrained network (the kind `pretrained`) are compared with the controls: heads on the same
network with random weights (`random`), on raw pixels (`pixels`), and a network trained on the images
from scratch (`scratch`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.frame import comparison, head_name
from classify.runs import RunResult, read_predictions
from classify.statistics import LEVEL, Comparison, compare, holm

TRANSFER = "pretrained"
BASELINE = "dummy"  # looks at no feature
APPROACH = ["approach", "kind", "model", "features"]
GAINS = [
    "model", "features", "control", "control_model", "train_rows", "accuracy", "control_accuracy", "gain", "gain_low",
    "gain_high", "p", "adjusted", "both_wrong", "error_overlap", "best", "approach", "control_approach", "run_dir",
    "control_run_dir",
]  # fmt: skip


@dataclass(frozen=True)
class Ratio:
    """How many times as much a control takes, on so many training images, over so many seeds, with a 95% interval."""

    value: float
    low: float
    high: float
    train_rows: int
    seeds: int


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """What pretrained features are worth: each head on them against controls with as many training images.

    The controls of a head are the same head on `pixels`, the same head on the same backbone's layers
    with `random` weights, a network from `scratch`, and whichever control is the most accurate of all
    (`best`). Where there are several to choose from, the most accurate one stands for them. The number
    of training images is the largest that both have; of several seeds the lowest is taken.

    Args:
        rows: of `analysis.frame.comparison`, of one test set.

    Returns:
        A row per pair with the columns `GAINS`, the most accurate head first. `gain` is the difference
        of the two accuracies with its 95% interval (`paired_interval`), `p` McNemar's exact p value,
        `adjusted` the same by Holm over all rows. `both_wrong` is the share of the test images that both
        get wrong, `error_overlap` their share of the images that either gets wrong (Jaccard; NaN where
        there is none). Shares are in 0..1.

    Raises:
        DataError: the predictions of a run cannot be used.
    """
    considered = approaches(rows)
    controls = considered[considered["kind"] != TRANSFER]
    pairs: dict[tuple[int, int], bool] = {}
    for _, own in considered[considered["kind"] == TRANSFER].groupby("approach", sort=False):
        head = own.iloc[0]
        same = controls[controls["head"] == head["head"]]
        pixels, random = same[same["kind"] == "pixels"], same[same["kind"] == "random"]
        random = random[(random["backbone"] == head["backbone"]) & (random["layers"] == head["layers"])]
        for among in (pixels, random, controls[controls["kind"] == "scratch"], controls):
            pair = _pair(own, among)
            if pair is not None:
                pairs[pair] = among is controls
    if not pairs:
        return pd.DataFrame(columns=GAINS)
    used = considered.loc[sorted({number for pair in pairs for number in pair}), "run_dir"]
    compared = compare({run_dir: read_predictions(Path(run_dir)) for run_dir in used})
    found = []
    for (number, other), best in pairs.items():
        head, control = considered.loc[number], considered.loc[other]
        found.append(
            {
                **{name: head[name] for name in ("model", "features", "train_rows", "approach", "run_dir")},
                "control": control["kind"],
                "control_model": control["model"],
                "control_approach": control["approach"],
                "control_run_dir": control["run_dir"],
                "best": best,
                **_paired(compared, head["run_dir"], control["run_dir"]),
            }
        )
    result = pd.DataFrame(found)
    result["adjusted"] = holm(result["p"].to_numpy())
    order = ["accuracy", "approach", "control_accuracy", "control_approach"]
    return result.sort_values(order, ascending=[False, True, False, True], ignore_index=True)[GAINS]


def paired_interval(only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """95% interval of the difference in accuracy of heads A and B on the same n rows, -1..1.

    Bonett and Price, Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on
    Paired Data, Journal of Educational and Behavioral Statistics 37, 2012: Wald's interval after one row
    more has been counted for each of the two discordant cells. Recommended by Fagerland, Lydersen and
    Laake, Statistics in Medicine 33, 2014.

    Args:
        only_a: rows that A gets right and B wrong.
        only_b: rows that B gets right and A wrong.
        n: of all rows.
    """
    from scipy.stats import norm

    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = norm.ppf((1 + LEVEL) / 2) * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    return max(a - b - half, -1), min(a - b + half, 1)


def learning_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy against the number of training images.

    Args:
        table: rows of `analysis.frame.comparison` of one test set.

    Returns:
        A row per approach (a head on features) and size: `approach`, `kind`, `model`, `features`,
        `train_rows`, `accuracy` (the mean over seeds), `low`, `high`, `seeds` (how many). Of two seeds
        and more the bounds are the mean's 95% t interval, which covers the choice of the training images;
        of one, Wilson's, which covers that of the test images. All in 0..1; most accurate approach first.
    """
    rows = []
    for (*names, size), runs in approaches(table).groupby([*APPROACH, "train_rows"]):
        values, seeds = runs["accuracy"].to_numpy(), len(runs)
        if seeds == 1:
            low, high = runs[["accuracy_low", "accuracy_high"]].iloc[0]
        else:
            low, high = np.clip(_t_interval(values), 0, 1)
        rows.append([*names, size, values.mean(), low, high, seeds])
    curves = pd.DataFrame(rows, columns=[*APPROACH, "train_rows", "accuracy", "low", "high", "seeds"])
    curves["peak"] = curves.groupby("approach")["accuracy"].transform("max")
    order = ["peak", "approach", "train_rows"]
    return curves.sort_values(order, ascending=[False, True, True], ignore_index=True).drop(columns="peak")


def images_needed(curves: pd.DataFrame, target: float) -> pd.DataFrame:
    """How many training images an approach needs for an accuracy.

    Args:
        curves: from `learning_curves`.
        target: accuracy, 0..1.

    Returns:
        A row per approach: `approach`, `kind`, `model`, `features`, `images` (where the mean curve first
        reaches the target, interpolated linearly in accuracy over the logarithm of the images; infinite
        where it does not), `at_most` (true where the smallest size reaches it already, which `images`
        then is) and `largest` (the most images that were tried). Fewest images first.
    """
    rows = []
    for names, curve in curves.groupby(APPROACH):
        sizes, values = curve["train_rows"].to_numpy(float), curve["accuracy"].to_numpy()  # ascending sizes
        reached = np.flatnonzero(values >= target)
        images = math.inf
        if len(reached):
            i = int(reached[0])
            images = sizes[i]
            if i > 0:
                part = (target - values[i - 1]) / (values[i] - values[i - 1])
                images = sizes[i - 1] * (sizes[i] / sizes[i - 1]) ** part
        rows.append([*names, images, bool(len(reached) and reached[0] == 0), int(sizes[-1])])
    needed = pd.DataFrame(rows, columns=[*APPROACH, "images", "at_most", "largest"])
    return needed.sort_values(["images", "approach"], ignore_index=True)


def seconds_to_reach(table: pd.DataFrame, runs: Mapping[Path, RunResult], target: float) -> pd.DataFrame:
    """What it takes each approach to reach an accuracy on the test images, by its cheapest run that does.

    Heads with searched settings are left out: their fit's seconds do not hold the search.

    Args:
        table: rows of `analysis.frame.comparison` of one test set.
        runs: at least the runs of these rows.
        target: accuracy, 0..1.

    Returns:
        A row per approach: `approach`, `kind`, `model`, `features`, `train_rows` (of the run; NaN
        without one), `at_most` (true where it is the smallest number tried, so that fewer images and seconds
        might do), `accuracy`, `fit_seconds`, `extraction_seconds` (of all its training images), `seconds` (both),
        `heads` (models that were trained on the same features), `shared_seconds` (the fit, and the
        extraction divided by these heads) and `history_seconds` (extraction included: the first epoch of any
        run whose validation accuracy reaches the target; NaN where there is none of that, as for all that
        are not trained from scratch). Seconds are infinite where the target is not reached. Fewest first.
    """
    considered = timed(table)
    heads = considered.groupby("features")["model"].transform("nunique")
    considered = considered.assign(
        heads=heads,
        at_most=considered["train_rows"] == considered.groupby("approach")["train_rows"].transform("min"),
        shared_seconds=considered["fit_seconds"] + considered["extraction_seconds"] / heads,
    )
    columns = [
        "train_rows", "at_most", "accuracy", "fit_seconds", "extraction_seconds", "seconds", "heads", "shared_seconds",
    ]  # fmt: skip
    unreached = {name: math.nan if name in ("train_rows", "accuracy") else math.inf for name in columns}
    rows = []
    for names, own in considered.groupby(APPROACH):
        reached = own[own["accuracy"] >= target].sort_values(["seconds", "run_dir"])
        values = reached.iloc[0] if len(reached) else {**unreached, "at_most": False, "heads": own["heads"].iloc[0]}
        epochs = [
            _seconds_to_validation(runs[Path(run_dir)], target) + extraction
            for run_dir, extraction in zip(own["run_dir"], own["extraction_seconds"], strict=True)
            if runs[Path(run_dir)].history.get("validation_accuracy")
        ]
        rows.append([*names, *(values[name] for name in columns), min(epochs, default=math.nan)])
    result = pd.DataFrame(rows, columns=[*APPROACH, *columns, "history_seconds"])
    return result.sort_values(["seconds", "approach"], ignore_index=True)


def timed(table: pd.DataFrame) -> pd.DataFrame:
    """The `approaches` with default settings; `extraction_seconds` of all training images, `seconds` with the fit."""
    considered = approaches(table[table["tuned"] == 0])
    extraction = considered["extraction_seconds"] * considered["train_rows"]
    return considered.assign(extraction_seconds=extraction, seconds=considered["fit_seconds"] + extraction)


def paired_ratio(found: pd.DataFrame, column: str, approach: str, control: str) -> Ratio | None:
    """How many times as much a control takes as an approach, on the same training images.

    Args:
        found: a row per run, of `timed` or `convergence`.
        column: what is compared, such as `seconds`; above 0.
        approach: of the first.
        control: the approach of the other.

    Returns:
        The geometric mean over the seeds that both have, with Student's 95% interval of the logarithms, at the
        largest number of training images with two seeds and more. None where there is none.
    """
    sides = [found.loc[found["approach"] == name, ["train_rows", "seed", column]] for name in (approach, control)]
    both = sides[0].merge(sides[1], on=["train_rows", "seed"], suffixes=("", "_control")).dropna()
    several = both[both.groupby("train_rows")["seed"].transform("size") > 1]
    if several.empty:
        return None
    size = several["train_rows"].max()
    pairs = several[several["train_rows"] == size]
    logs = np.log(pairs[f"{column}_control"].to_numpy(float) / pairs[column].to_numpy(float))
    low, high = np.exp(_t_interval(logs))
    return Ratio(float(np.exp(logs.mean())), float(low), float(high), int(size), len(pairs))


def convergence(runs: Mapping[Path, RunResult]) -> pd.DataFrame:
    """How soon heads that are trained in epochs come near their end, and how many iterations others take.

    Args:
        runs: of one test set.

    Returns:
        A row per run that has a history or is a logistic regression: `approach`, `kind`, `model`,
        `features`, `train_rows`, `seed`, `accuracy` (on the test images, 0..1), `epochs`, `epochs_to_90`
        (the first epoch with at least 90% of the last one's training accuracy), `seconds_per_epoch`,
        `seconds_to_90`, `iterations` and `run_dir`; NaN where a run has no such figure. In the order of
        the approaches' names, sizes and seeds.
    """
    rows = []
    considered = approaches(comparison(runs))
    for row in considered.sort_values(["approach", "train_rows", "seed"]).itertuples():
        history = runs[Path(row.run_dir)].history
        epochs = [math.nan] * 4
        if history:
            accuracy = history["accuracy"]
            near = next(epoch for epoch, value in enumerate(accuracy, start=1) if value >= 0.9 * accuracy[-1])
            seconds = row.fit_seconds / len(accuracy)
            epochs = [len(accuracy), near, seconds, seconds * near]
        elif row.model != "logreg":
            continue
        names = [getattr(row, name) for name in (*APPROACH, "train_rows", "seed", "accuracy")]
        rows.append([*names, *epochs, row.iterations, row.run_dir])
    columns = [
        *APPROACH, "train_rows", "seed", "accuracy", "epochs", "epochs_to_90", "seconds_per_epoch", "seconds_to_90",
        "iterations", "run_dir",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def common_target(curves: pd.DataFrame) -> float:
    """The highest whole percent of accuracy (as a share) that transfer and a control both reach.

    Args:
        curves: from `learning_curves`, with rows of both.
    """
    of_transfer = curves["kind"] == TRANSFER
    peak = min(curves.loc[of_transfer, "accuracy"].max(), curves.loc[~of_transfer, "accuracy"].max())
    return next(percent / 100 for percent in range(100, -1, -1) if percent / 100 <= peak)


def approaches(table: pd.DataFrame) -> pd.DataFrame:
    """The runs that take part, with the columns `head` and `approach`: one for each approach, size and seed.

    The baseline that looks at no feature is left out, and of searched heads all but the longest search.
    """
    rows = table[table["model"] != BASELINE]
    scratch = rows.loc[rows["kind"] == "scratch", "features"].nunique()
    heads = [head_name(row) for row in rows.itertuples()]
    approaches = [
        f"{head} from scratch" + (f" on {features}" if scratch > 1 else "")
        if kind == "scratch"
        else f"{head} on {features}"
        for head, kind, features in zip(heads, rows["kind"], rows["features"], strict=True)
    ]
    rows = rows.assign(head=heads, approach=approaches)
    longest = rows.sort_values(["tuned", "run_dir"], ascending=[False, True])
    return rows.loc[sorted(longest.drop_duplicates(["approach", "train_rows", "seed"]).index)]


def _pair(own: pd.DataFrame, among: pd.DataFrame) -> tuple[int, int] | None:
    """Rows of one approach and of its controls -> the indices of the two to be compared."""
    sizes = set(own["train_rows"]) & set(among["train_rows"])
    if not sizes:
        return None
    head = own[own["train_rows"] == max(sizes)].sort_values("seed").iloc[0]
    controls = among[among["train_rows"] == max(sizes)]
    controls = controls.assign(other=controls["seed"] != head["seed"]).sort_values(["other", "seed"], kind="stable")
    return head.name, controls.drop_duplicates("approach")["accuracy"].idxmax()


def _paired(compared: Comparison, run_dir: str, control: str) -> dict[str, float]:
    """The columns of `GAINS` that compare two runs, but for the corrected p value."""
    i, j = compared.runs.index(run_dir), compared.runs.index(control)
    n, accuracy, other = compared.rows, compared.accuracy[i], compared.accuracy[j]
    discordant = int(compared.discordant[i, j])
    only_head = round((discordant + n * (accuracy - other)) / 2)
    both_wrong = round(n * (1 - other)) - only_head
    low, high = paired_interval(only_head, discordant - only_head, n)
    wrong = both_wrong + discordant
    return {
        "accuracy": accuracy,
        "control_accuracy": other,
        "gain": accuracy - other,
        "gain_low": low,
        "gain_high": high,
        "p": compared.p[i, j],
        "both_wrong": both_wrong / n,
        "error_overlap": both_wrong / wrong if wrong else math.nan,
    }


def difference(table: pd.DataFrame, approach: str, control: str, size: int) -> tuple[float, float, float, int]:
    """How much more accurate one approach is than another at a size: mean, 95% bounds, seeds that both have."""
    rows = approaches(table)
    rows = rows[rows["train_rows"] == size]
    ours, controls = rows[rows["approach"] == approach], rows[rows["approach"] == control]
    both = ours.merge(controls, on="seed", suffixes=("", "_control"))
    if len(both) > 1:
        differences = (both["accuracy"] - both["accuracy_control"]).to_numpy()
        low, high = np.clip(_t_interval(differences), -1, 1)
        return float(differences.mean()), float(low), float(high), len(both)
    run_dirs = rows.loc[list(_pair(ours, controls) or ()), "run_dir"].tolist()
    figures = _paired(compare({run_dir: read_predictions(Path(run_dir)) for run_dir in run_dirs}), *run_dirs)
    return figures["gain"], figures["gain_low"], figures["gain_high"], 1


def _t_interval(values: np.ndarray) -> np.ndarray:
    """The bounds (2,) of Student's 95% interval of the mean of values (n,), n > 1."""
    from scipy.stats import t

    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean() + half * np.array([-1, 1])


def _seconds_to_validation(run: RunResult, target: float) -> float:
    """The seconds of a fit to the end of the first epoch with this validation accuracy; infinite without one."""
    values = run.history["validation_accuracy"]
    reached = (epoch for epoch, value in enumerate(values, start=1) if value >= target)
    return next(reached, math.inf) * run.fit_seconds / len(values)
