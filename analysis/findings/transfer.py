"""What transfer learning is worth: the accuracy of heads and of controls on the same images.

Heads on a pretrained network (kind `pretrained`) are compared with the controls: heads on the same
network with random weights (`random`), heads on raw pixels (`pixels`), and a network trained on the
images from scratch (`scratch`).
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from classify.runs import head_name, read_predictions
from classify.statistics import LEVEL, Comparison, compare, holm
from featurize.core.intervals import paired_interval

TRANSFER = "pretrained"
BASELINE = "dummy"  # ignores the features
APPROACH = ["approach", "kind", "model", "features"]  # the columns that name one
GAINS = [
    "approach", "control_approach", "control", "train_rows", "accuracy", "control_accuracy", "gain", "gain_low",
    "gain_high", "p", "adjusted", "both_wrong", "error_overlap", "best", "run_dir", "control_run_dir",
]  # fmt: skip


def named(table: pd.DataFrame) -> pd.DataFrame:
    """The runs with the columns `head` and `approach`, without the baseline that ignores the features.

    An approach is a head on features, such as `svm on pixels`.
    """
    rows = table[table["model"] != BASELINE]
    networks_from_scratch = rows.loc[rows["kind"] == "scratch", "features"].nunique()
    heads, names = [], []
    for row in rows.itertuples():
        head = head_name(row)
        if row.kind != "scratch":
            name = f"{head} on {row.features}"
        elif networks_from_scratch > 1:
            name = f"{head} from scratch on {row.features}"
        else:
            name = f"{head} from scratch"
        heads.append(head)
        names.append(name)
    return rows.assign(head=heads, approach=names)


def approaches(table: pd.DataFrame) -> pd.DataFrame:
    """The runs to compare, as from `named`: one per approach, size and draw of the training images.

    Further seeds on the same draw are left out. Of several searches the longest is kept.
    """
    rows = named(table)
    rows = rows[rows["seed"] == rows["draw"]]
    longest_first = rows.sort_values(["tuned", "run_dir"], ascending=[False, True])
    return rows.loc[sorted(longest_first.drop_duplicates(["approach", "train_rows", "seed"]).index)]


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Each head on pretrained features against controls with as many training images.

    The controls of a head are the same head on `pixels`, the same head on the same layers of the same
    backbone with `random` weights, a network from `scratch`, and the most accurate control of any kind
    (`best`). If several runs qualify, the most accurate one is used. A pair has the largest number of
    training images that both were trained on, and the lowest seed.

    Args:
        rows: of `analysis.frame.comparison`, of one test set.

    Returns:
        A row per pair with the columns `GAINS`, the most accurate head first. `gain` is the difference
        of the two accuracies with its 95% interval (`paired_interval`), `p` McNemar's exact p value,
        `adjusted` the same after Holm's correction over all rows. `both_wrong` is the share of the test
        images that both get wrong, `error_overlap` their share of the images that either gets wrong
        (Jaccard; NaN if both make no mistake). Shares are in 0..1.

    Raises:
        DataError: the predictions of a run cannot be used.
    """
    considered = approaches(rows)
    pairs = _all_pairs(considered)
    if not pairs:
        return pd.DataFrame(columns=GAINS)
    used = considered.loc[sorted({number for pair in pairs for number in pair}), "run_dir"]
    compared = compare({run_dir: read_predictions(Path(run_dir)) for run_dir in used})
    found = []
    for (number, other), best in pairs.items():
        head, control = considered.loc[number], considered.loc[other]
        names = {
            "approach": head["approach"],
            "control_approach": control["approach"],
            "control": control["kind"],
            "train_rows": head["train_rows"],
            "run_dir": head["run_dir"],
            "control_run_dir": control["run_dir"],
        }
        found.append({**names, "best": best, **_paired(compared, head["run_dir"], control["run_dir"])})
    result = pd.DataFrame(found)
    result["adjusted"] = holm(result["p"].to_numpy())
    order = ["accuracy", "approach", "control_accuracy", "control_approach"]
    return result.sort_values(order, ascending=[False, True, False, True], ignore_index=True)[GAINS]


def best_gain(found: pd.DataFrame) -> pd.Series:
    """The row of `gains` with the best head on pretrained features and the best control, on most training images.

    Args:
        found: from `gains`, not empty.
    """
    against_best = found[found["best"]]
    return against_best.sort_values(["train_rows", "accuracy"], ascending=False, kind="stable").iloc[0]


def t_interval(values: np.ndarray) -> np.ndarray:
    """The bounds (2,) of Student's 95% interval of the mean of values (n,), n > 1."""
    from scipy.stats import t

    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean() + half * np.array([-1, 1])


def difference(table: pd.DataFrame, approach: str, control: str, size: int) -> tuple[float, float, float, int]:
    """The gain in accuracy of one approach over another with `size` training images: mean, 95% bounds, seeds.

    With two shared seeds or more, the interval is Student's over the seeds. With one, it is
    `paired_interval` over the test images.
    """
    rows = approaches(table)
    rows = rows[rows["train_rows"] == size]
    ours, controls = rows[rows["approach"] == approach], rows[rows["approach"] == control]
    both = ours.merge(controls, on="seed", suffixes=("", "_control"))
    if len(both) > 1:
        differences = (both["accuracy"] - both["accuracy_control"]).to_numpy()
        low, high = np.clip(t_interval(differences), -1, 1)
        return float(differences.mean()), float(low), float(high), len(both)
    run_dirs = rows.loc[list(_pair(ours, controls) or ()), "run_dir"].tolist()
    return *paired_gain(*run_dirs), 1


def paired_gain(run_dir: str, control: str) -> tuple[float, float, float]:
    """How much more accurate one run is than another on the same test images, with the bounds of `paired_interval`.

    Raises:
        DataError: the predictions of a run cannot be used.
    """
    compared = compare({each: read_predictions(Path(each)) for each in (run_dir, control)})
    pair = _paired(compared, run_dir, control)
    return pair["gain"], pair["gain_low"], pair["gain_high"]


def class_gains(run_dir: str, control: str) -> pd.DataFrame:
    """How much more of each class one run recognises than another.

    Returns:
        A row per class with test images, by its number: `gain`, `low` and `high`, in -1..1. The intervals are those of
        `paired_interval` with Bonferroni's correction: with 95%, all of them hold at once.

    Raises:
        DataError: the predictions of a run cannot be used.
    """
    predictions = {each: read_predictions(Path(each)) for each in (run_dir, control)}
    compared = compare(predictions)
    design = compared.design[0, 1]
    both = predictions[run_dir].merge(predictions[control], on="id", suffixes=("", "_control"))
    both["ours"] = both["predicted"] == both["label"]
    both["theirs"] = both["predicted_control"] == both["label"]
    by_class = both.groupby("label")
    level = 1 - (1 - LEVEL) / len(by_class)
    found = {}
    for label, rows in by_class:
        only_ours, only_theirs = (rows["ours"] & ~rows["theirs"]).sum(), (~rows["ours"] & rows["theirs"]).sum()
        bounds = paired_interval(only_ours / design, only_theirs / design, len(rows) / design, level)
        found[label] = [(only_ours - only_theirs) / len(rows), *bounds]
    return pd.DataFrame.from_dict(found, orient="index", columns=["gain", "low", "high"])


def _all_pairs(considered: pd.DataFrame) -> dict[tuple[int, int], bool]:
    """The pairs of `gains` as row labels of head and control, and whether the control is the best of all kinds."""
    controls = considered[considered["kind"] != TRANSFER]
    pairs: dict[tuple[int, int], bool] = {}
    for _, own in considered[considered["kind"] == TRANSFER].groupby("approach", sort=False):
        first = own.iloc[0]
        same_head = controls[controls["head"] == first["head"]]
        pixels, random = same_head[same_head["kind"] == "pixels"], same_head[same_head["kind"] == "random"]
        same_layers = (random["backbone"] == first["backbone"]) & (random["layers"] == first["layers"])
        scratch = controls[controls["kind"] == "scratch"]
        for candidates in (pixels, random[same_layers], scratch):
            if pair := _pair(own, candidates):
                pairs[pair] = False
        if pair := _pair(own, controls):
            pairs[pair] = True  # in the place of the same pair, if it is there already
    return pairs


def _pair(own: pd.DataFrame, candidates: pd.DataFrame) -> tuple[int, int] | None:
    """The row labels of the run of one approach and of the control to compare; None without a common size."""
    sizes = set(own["train_rows"]) & set(candidates["train_rows"])
    if not sizes:
        return None
    head = own[own["train_rows"] == max(sizes)].sort_values("seed").iloc[0]
    controls = candidates[candidates["train_rows"] == max(sizes)]
    controls = controls.assign(other=controls["seed"] != head["seed"]).sort_values(["other", "seed"], kind="stable")
    return head.name, controls.drop_duplicates("approach")["accuracy"].idxmax()


def _paired(compared: Comparison, run_dir: str, control: str) -> dict[str, float]:
    """The columns of `GAINS` that compare two runs, without the corrected p value."""
    i, j = compared.runs.index(run_dir), compared.runs.index(control)
    n, accuracy, other = compared.rows, compared.accuracy[i], compared.accuracy[j]
    discordant = int(compared.discordant[i, j])
    only_head = round((discordant + n * (accuracy - other)) / 2)
    both_wrong = round(n * (1 - other)) - only_head
    either_wrong = both_wrong + discordant
    design = compared.design[i, j]
    low, high = paired_interval(only_head / design, (discordant - only_head) / design, n / design)
    return {
        "accuracy": accuracy,
        "control_accuracy": other,
        "gain": accuracy - other,
        "gain_low": low,
        "gain_high": high,
        "p": compared.p[i, j],
        "both_wrong": both_wrong / n,
        "error_overlap": both_wrong / either_wrong if either_wrong else math.nan,
    }
