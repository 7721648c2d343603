"""Learning curves, and the training images that an accuracy takes.

`table` holds rows of `analysis.frame.comparison` of one test set, `curves` come from `learning_curves`.
"""

import math

import numpy as np
import pandas as pd

from analysis.findings.transfer import APPROACH, TRANSFER, approaches, t_interval


def learning_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy against the number of training images.

    Returns:
        A row per approach and size: `approach`, `kind`, `model`, `features`, `train_rows`, `accuracy`
        (the mean over seeds), `low`, `high` and `seeds` (their number). With two seeds or more the bounds
        are the mean's 95% t interval, which covers the choice of the training images. With one they are
        Wilson's, which covers that of the test images. All in 0..1; most accurate approach first.
    """
    rows = []
    for (*names, size), runs in approaches(table).groupby([*APPROACH, "train_rows"]):
        values = runs["accuracy"].to_numpy()
        if len(values) == 1:
            low, high = runs[["accuracy_low", "accuracy_high"]].iloc[0]
        else:
            low, high = np.clip(t_interval(values), 0, 1)
        rows.append([*names, size, values.mean(), low, high, len(values)])
    curves = pd.DataFrame(rows, columns=[*APPROACH, "train_rows", "accuracy", "low", "high", "seeds"])
    curves["peak"] = curves.groupby("approach")["accuracy"].transform("max")
    order = ["peak", "approach", "train_rows"]
    return curves.sort_values(order, ascending=[False, True, True], ignore_index=True).drop(columns="peak")


def common_target(curves: pd.DataFrame) -> float:
    """The highest whole percent of accuracy, as a share, that transfer and a control both reach."""
    is_transfer = curves["kind"] == TRANSFER
    peak = min(curves.loc[is_transfer, "accuracy"].max(), curves.loc[~is_transfer, "accuracy"].max())
    return max(percent / 100 for percent in range(101) if percent / 100 <= peak)


def images_needed(curves: pd.DataFrame, target: float) -> pd.DataFrame:
    """The number of training images that each approach needs to reach an accuracy, 0..1.

    Returns:
        A row per approach: `approach`, `kind`, `model`, `features`, `images` (where the mean curve first
        reaches the target, interpolated linearly in accuracy over the logarithm of the images; infinite
        if it never does), `at_most` (true if the smallest size already reaches it; `images` is that
        size), `largest` (the largest size), and `low` and `high`: where the curve's upper and lower bounds
        reach the target. `low` is 0 if the upper bound does at the smallest size, `high` infinite if the lower
        bound never does. Fewest images first.
    """
    rows = []
    for names, curve in curves.groupby(APPROACH):
        sizes = curve["train_rows"].to_numpy(float)  # ascending
        images = _first_reached(sizes, curve["accuracy"].to_numpy(), target)
        at_most = images == 0
        low = _first_reached(sizes, curve["high"].to_numpy(), target)
        high = _first_reached(sizes, curve["low"].to_numpy(), target) or sizes[0]
        rows.append([*names, sizes[0] if at_most else images, at_most, int(sizes[-1]), low, high])
    needed = pd.DataFrame(rows, columns=[*APPROACH, "images", "at_most", "largest", "low", "high"])
    return needed.sort_values(["images", "approach"], ignore_index=True)


def _first_reached(sizes: np.ndarray, values: np.ndarray, target: float) -> float:
    """Where a curve first reaches a value; 0 if it does at the smallest size, infinite if it never does."""
    reached = np.flatnonzero(values >= target)
    if not len(reached):
        return math.inf
    i = reached[0]
    if i == 0:
        return 0.0
    part = (target - values[i - 1]) / (values[i] - values[i - 1])
    return float(sizes[i - 1] * (sizes[i] / sizes[i - 1]) ** part)
