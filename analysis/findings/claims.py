"""Does transfer learning help? Four claims, each answered in a sentence, whichever way the figures point."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.findings.transfer import (
    BASELINE,
    TRANSFER,
    Ratio,
    approaches,
    common_target,
    convergence,
    difference,
    gains,
    images_needed,
    learning_curves,
    paired_ratio,
    seconds_to_reach,
    timed,
)
from analysis.frame import decimals, head_name, with_interval
from classify.runs import RunResult
from classify.statistics import ALPHA

CONTROLS = {
    "pixels": "heads on raw pixels",
    "random": "heads on the same network with random weights",
    "scratch": "a network trained from scratch",
}
EXPERIMENT = "python -m analysis experiment --preset quick"
RATIO_NOTE = (
    "How many times as much the control takes is the geometric mean over seeds, each of which gives both the same "
    "training images, with Student's 95% interval of the logarithms."
)
ALIKE = 1.25  # times that differ by less than this factor are called about as long
Answer = tuple[str, pd.DataFrame, tuple[str, ...]]
"""The last three fields of a `Claim`."""


@dataclass(frozen=True)
class Claim:
    """A claim about transfer learning, and what the runs say of it.

    Attributes:
        key: `accuracy`, `little-data`, `training-time` or `convergence`.
        title: a heading.
        question: what is asked.
        answer: one sentence with numbers, whichever way they point; or what is missing, and the command
            that makes it.
        table: text under headings, ready to be shown; may be empty.
        notes: how it was measured, and what that leaves open.
    """

    key: str
    title: str
    question: str
    answer: str
    table: pd.DataFrame
    notes: tuple[str, ...] = ()


def claims(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> list[Claim]:
    """The four claims, in the order accuracy, little data, training time, convergence.

    Args:
        table: rows of `analysis.frame.comparison` of one test set.
        runs: at least the runs of these rows.

    Raises:
        DataError: the predictions of a run cannot be used.
    """
    own = {Path(run_dir): runs[Path(run_dir)] for run_dir in table["run_dir"]}
    missing = _missing(table)
    return [
        Claim(key, title, question, *((_without(missing, table), pd.DataFrame()) if missing else find(table, own)))
        for key, title, question, find in (
            ("accuracy", "Accuracy", "Is a head on a pretrained network more accurate?", _accuracy),
            ("little-data", "Little data", "Does a head on a pretrained network need fewer images?", _little_data),
            (
                "training-time",
                "Training time",
                "Is a head on a pretrained network as accurate in less time?",
                _training_time,
            ),
            ("convergence", "Convergence", "Does a head on a pretrained network converge more easily?", _convergence),
        )
    ]


def _accuracy(table: pd.DataFrame, _: Mapping[Path, RunResult]) -> Answer:
    found = gains(table)
    if found.empty:
        missing = "There is no control that was trained on as many images as a head on a pretrained network"
        return _without(missing, table), pd.DataFrame(), ()
    intervals = {row.run_dir: _percent(row.accuracy, row.accuracy_low, row.accuracy_high) for row in table.itertuples()}
    shown = pd.DataFrame(
        [
            {
                "head": row.approach,
                "control": row.control_approach,
                "train images": f"{row.train_rows:,}",
                "accuracy (95% interval)": intervals[row.run_dir],
                "control's accuracy (95% interval)": intervals[row.control_run_dir],
                "gain, points (95% interval)": "{} ({} to {})".format(*_points(row.gain, row.gain_low, row.gain_high)),
                "p (Holm)": _p(row.adjusted),
                "both wrong %": f"{100 * row.both_wrong:.1f}",
                "error overlap %": "-" if math.isnan(row.error_overlap) else f"{100 * row.error_overlap:.0f}",
            }
            for row in found.itertuples()
        ]
    )
    best = found[found["best"]].sort_values(["train_rows", "accuracy"], ascending=False, kind="stable").iloc[0]
    gain = best[["gain", "gain_low", "gain_high"]]
    verdict = _verdict(*gain, certain=best["adjusted"] <= ALPHA, detail=f", p {_p(best['adjusted'])}")
    answer = (
        f"{best['approach']} is right for {intervals[best['run_dir']]} of {table['test_rows'].iloc[0]:,} test images "
        f"and the best control, {best['control_approach']}, for {intervals[best['control_run_dir']]}, both trained on "
        f"{best['train_rows']:,} images: {verdict}."
    )
    notes = [
        "Both of a pair were trained on equally many images and are measured on the same test images: paired 95% "
        "intervals (Bonett and Price, 2012), McNemar's exact test, p values by Holm over the rows of the table. The "
        "intervals are not widened for their number.",
        "Error overlap: of the images that either gets wrong, the share that both get wrong.",
        "The best head and the best control are chosen by the test images, which favours both a little.",
    ]
    considered = approaches(table)
    top = considered[considered["kind"] == TRANSFER].iloc[0]
    if top["accuracy"] > best["accuracy"]:
        notes.append(
            f"With {top['train_rows']:,} training images, {top['approach']} is right for {intervals[top['run_dir']]}; "
            "no control was trained on as many."
        )
    return answer, shown, (*notes, *_absent(table))


def _little_data(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> Answer:
    curves = learning_curves(table)
    target = common_target(curves)
    needed = images_needed(curves, target)
    shown = _curves_shown(curves, needed, target)
    sizes = [set(curves.loc[(curves["kind"] == TRANSFER) == side, "train_rows"]) for side in (True, False)]
    if min(map(len, sizes)) < 2:
        which = "the heads on a pretrained network" if len(sizes[0]) < 2 else "the controls"
        missing = f"There is no learning curve of {which}, which were trained on one number of images only"
        return _without(missing, table), shown, ()
    if not sizes[0] & sizes[1]:
        missing = "There is no number of images on which both heads on a pretrained network and controls were trained"
        return _without(missing, table), shown, ()
    size = min(sizes[0] & sizes[1])
    ours, control = _sides(curves[curves["train_rows"] == size].sort_values("accuracy", ascending=False, kind="stable"))
    fewest, fewest_control = _sides(needed)
    gain, low, high, seeds = difference(table, ours["approach"], control["approach"], size)
    classes = len(next(iter(runs.values())).class_names)
    a_class = f"{size // classes:,}" if size % classes == 0 else f"about {size / classes:,.0f}"
    answer = (
        f"With {size:,} training images ({a_class} a class), {ours['approach']} is right for "
        f"{_percent(*ours[['accuracy', 'low', 'high']])} of the test images and the best control, "
        f"{control['approach']}, for {_percent(*control[['accuracy', 'low', 'high']])}: "
        f"{_verdict(gain, low, high, certain=low > 0 or high < 0)}; to be right for {100 * target:.0f}%, "
        f"{fewest['approach']} needs {_images(fewest)} images and {fewest_control['approach']} "
        f"{_images(fewest_control)}."
    )
    paired = (
        f"over {seeds} seeds, each of which gives both the same training images (95% t interval)"
        if seeds > 1
        else "over the same test images, for one seed (Bonett and Price, 2012)"
    )
    notes = (
        "Accuracies are means over seeds with 95% t intervals where there are several, else those of one run with "
        "Wilson's interval. The t intervals cover the choice of the training images, not that of the test images.",
        f"The difference at {size:,} images is paired {paired}.",
        f"{100 * target:.0f}% is the highest whole percent that both sides reach. The images needed for it are "
        "interpolated between the numbers that were tried, linearly in accuracy over the logarithm of the images.",
        *_absent(table),
    )
    return answer, shown, notes


def _training_time(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> Answer:
    untuned = table[table["tuned"] == 0]
    if missing := _missing(untuned):
        return _without(f"{missing} with default settings", table), pd.DataFrame(), ()
    target = common_target(learning_curves(untuned))
    found = seconds_to_reach(untuned, runs, target)
    # Where its history reaches the target sooner than its cheapest run, a control is given that.
    found["cost"] = found[["seconds", "history_seconds"]].min(axis=1)
    found["at_most"] &= found["cost"] == found["seconds"]
    in_time = found[found["cost"] < math.inf]
    shown = pd.DataFrame(
        [
            {
                "approach": row.approach,
                "train images": "-" if math.isnan(row.train_rows) else f"{row.train_rows:,.0f}",
                "accuracy %": "-" if math.isnan(row.accuracy) else f"{100 * row.accuracy:.1f}",
                "fit s": _seconds(row.fit_seconds),
                "extraction s": _seconds(row.extraction_seconds),
                "both s": _seconds(row.seconds),
                "heads": f"{row.heads:.0f}",
                "s, extraction shared": _seconds(row.shared_seconds),
                "s by validation": _seconds(row.history_seconds),
            }
            for row in in_time.itertuples()
        ]
    )
    ours, control = _sides(found.sort_values("cost", kind="stable"))
    if control["cost"] >= ALIKE * ours["cost"] and not control["at_most"]:
        verdict = f"transfer learning is {_times(control['cost'] / ours['cost'])} times as fast"
    elif ours["cost"] >= ALIKE * control["cost"] and not ours["at_most"]:
        verdict = f"transfer learning saves no time, it takes {_times(ours['cost'] / control['cost'])} times as long"
    elif ours["at_most"] or control["at_most"]:
        verdict = f"which is faster is open, as fewer images were not tried; {EXPERIMENT} tries them"
    else:
        verdict = "transfer learning takes about as long"
    shared = f", or {_seconds(ours['shared_seconds'])} s in all if {ours['heads']:.0f} heads share them"
    answer = (
        f"To be right for {100 * target:.0f}% of the test images, {ours['approach']} takes {_bounded(ours)} s "
        f"on {ours['train_rows']:,.0f} training images ({_seconds(ours['fit_seconds'])} s for the fit and "
        f"{_seconds(ours['extraction_seconds'])} s for the features{shared if ours['heads'] > 1 else ''}), the fastest "
        f"control, {control['approach']}, {_bounded(control)} s: {verdict}"
        + _on_the_same(paired_ratio(timed(table), "seconds", ours["approach"], control["approach"]), "seconds")
        + "."
    )
    notes = [
        f"{100 * target:.0f}% is the highest whole percent that both sides reach. Of each approach the cheapest run "
        "that reaches it counts, among the numbers of training images that were tried. Extraction is the time for the "
        "features of these images; shared, it is divided by the heads that were trained on these features.",
        f"Seconds are wall-clock times of single runs; times within a factor of {ALIKE} are "
        "called about as long. Energy was not measured. What the network's pretraining took is not counted.",
        RATIO_NOTE,
    ]
    if len(in_time) < len(found):
        never = ", ".join(found.loc[found["cost"] == math.inf, "approach"])
        notes.append(f"Right for {100 * target:.0f}% with no number of images that was tried: {never}.")
    if found["history_seconds"].notna().any():
        notes.append(
            "By validation: the first epoch of training from scratch whose validation accuracy reaches the target. "
            "The control is given this time where it is the smaller one, which favours it."
        )
    if len({runs[Path(run_dir)].machine for run_dir in untuned["run_dir"]}) > 1:
        notes.append("The runs come from several machines: their seconds are not comparable.")
    if len(untuned) < len(table):
        notes.append("Heads with searched settings are left out, as their seconds do not hold the search.")
    return answer, shown, (*notes, *_absent(untuned))


def _convergence(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> Answer:
    found = convergence(runs)
    trained, linear = found[found["epochs"].notna()], found[(found["model"] == "logreg") & found["iterations"].notna()]
    parts = []
    if pair := _opposed(trained, prefer="scratch"):
        ours, control = (_over_seeds(trained, row) for row in pair)
        if ours["epochs_to_90"] < control["epochs_to_90"]:
            verdict = "transfer learning converges in fewer epochs"
        elif ours["epochs_to_90"] > control["epochs_to_90"]:
            verdict = "transfer learning does not converge in fewer epochs"
        else:
            verdict = "transfer learning converges in as many epochs"
        parts.append(
            f"Trained on {pair[0]['train_rows']:,} images, {pair[0]['approach']} has 90% of its final training "
            f"accuracy after {_epochs(ours)}, {pair[1]['approach']} after {_epochs(control)}: {verdict}"
            + _on_the_same(paired_ratio(trained, "epochs_to_90", *(side["approach"] for side in pair)), "epochs to 90%")
        )
    else:
        which = "a control with as many images" if TRANSFER in set(trained["kind"]) else "a pretrained network's head"
        parts.append(f"There is no history of the training of {which}; {EXPERIMENT} makes it")
    if pair := _opposed(linear, prefer="pixels"):
        counts = [_count(_over_seeds(linear, row)["iterations"]) for row in pair]
        parts.append(
            f"on {pair[0]['train_rows']:,} images, logistic regression takes {counts[0]} iterations with "
            f"{pair[0]['features']} and {counts[1]} with {pair[1]['features']}"
        )
    notes = (
        "Each is measured by its own final training accuracy, on training images as they pass, with dropout and "
        "augmentation. An epoch is one pass over the training images, whatever it costs, and each network has a "
        "schedule of its own. Of several seeds the means are given, in the table with the smallest and the largest.",
        RATIO_NOTE,
        *_absent(table),
    )
    return "; ".join(parts) + ".", _convergence_shown(found), notes


def _opposed(found: pd.DataFrame, prefer: str) -> tuple[pd.Series, pd.Series] | None:
    """The most accurate run of transfer, and of a control with as many images, at the largest such number.

    Controls of the kind `prefer` go before the others. None where there are no two.
    """
    ours, controls = (found[(found["kind"] == TRANSFER) == side] for side in (True, False))
    for among in (controls[controls["kind"] == prefer], controls):
        if sizes := set(ours["train_rows"]) & set(among["train_rows"]):
            rows = pd.concat([ours, among])
            return _sides(
                rows[rows["train_rows"] == max(sizes)].sort_values("accuracy", ascending=False, kind="stable")
            )
    return None


def _sides(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """The first row of transfer, and the first of a control."""
    of_transfer = rows["kind"] == TRANSFER
    return rows[of_transfer].iloc[0], rows[~of_transfer].iloc[0]


def _over_seeds(found: pd.DataFrame, row: pd.Series) -> pd.Series:
    """The mean figures of the runs of a row's approach and size."""
    runs = found[(found["approach"] == row["approach"]) & (found["train_rows"] == row["train_rows"])]
    return runs[["epochs", "epochs_to_90", "seconds_to_90", "iterations"]].astype(float).mean()


def _curves_shown(curves: pd.DataFrame, needed: pd.DataFrame, target: float) -> pd.DataFrame:
    """A row per approach, a column per number of training images, and the images needed for the target."""
    images = {row.approach: _images(row._asdict()) for row in needed.itertuples()}
    rows = []
    for approach, curve in curves.groupby("approach", sort=False):
        row = {"approach": approach, **{_size(size): "-" for size in sorted(set(curves["train_rows"]))}}
        row |= {
            _size(point.train_rows): with_interval(point.accuracy, point.low, point.high)
            for point in curve.itertuples()
        }
        row["seeds"] = " to ".join(str(number) for number in sorted({curve["seeds"].min(), curve["seeds"].max()}))
        rows.append({**row, f"images for {100 * target:.0f}%": images[str(approach)]})
    return pd.DataFrame(rows)


def _size(images: int) -> str:
    return f"% with {images:,} images"


def _convergence_shown(found: pd.DataFrame) -> pd.DataFrame:
    """A row per approach, at its largest number of training images."""
    rows = []
    for approach, runs in found.groupby("approach", sort=False):
        runs = runs[runs["train_rows"] == runs["train_rows"].max()]
        rows.append(
            {
                "approach": approach,
                "train images": f"{runs['train_rows'].iloc[0]:,}",
                "epochs": _spread(runs["epochs"], _count),
                "epochs to 90% of the final accuracy": _spread(runs["epochs_to_90"], _count),
                "s per epoch": _spread(runs["seconds_per_epoch"], _seconds),
                "s to 90%": _spread(runs["seconds_to_90"], _seconds),
                "iterations": _spread(runs["iterations"], _count) if runs["epochs"].isna().all() else "-",
            }
        )
    return pd.DataFrame(rows)


def _missing(table: pd.DataFrame) -> str:
    """Which side of the comparison has no run at all; empty if both have."""
    kinds = set(table.loc[table["model"] != BASELINE, "kind"])
    if TRANSFER not in kinds:
        return "There is no run on the features of a pretrained network"
    return "" if kinds - {TRANSFER} else "There is no run of a control"


def _without(missing: str, table: pd.DataFrame) -> str:
    """The answer where something is missing: what, the command that makes it, and what there is."""
    best = table.loc[table["accuracy"].idxmax()]
    accuracy = _percent(*best[["accuracy", "accuracy_low", "accuracy_high"]])
    return (
        f"{missing}; {EXPERIMENT} makes it; the best run there is, {head_name(best)} on {best['features']}, is right "
        f"for {accuracy} of {best['test_rows']:,} test images, trained on {best['train_rows']:,} in "
        f"{_seconds(best['fit_seconds'])} s."
    )


def _absent(table: pd.DataFrame) -> list[str]:
    """A note on the kinds of control that have no run."""
    names = [name for kind, name in CONTROLS.items() if kind not in set(table["kind"])]
    return [f"Not among the controls here: {', '.join(names)}; {EXPERIMENT} adds them."] if names else []


def _verdict(gain: float, low: float, high: float, *, certain: bool, detail: str = "") -> str:
    """What a difference of accuracies, as shares, says of transfer learning."""
    if not certain:
        value, *bounds = _points(gain, low, high)
        return f"the difference of {value} points (95% interval {' to '.join(bounds)}{detail}) may be chance"
    worth = "is worth" if gain > 0 else "does not help here, it costs"
    shares = (gain, low, high) if gain > 0 else (-gain, -high, -low)
    value, *bounds = (number.removeprefix("+") for number in _points(*shares))
    return f"transfer learning {worth} {value} points (95% interval {' to '.join(bounds)}{detail})"


def _on_the_same(ratio: Ratio | None, what: str) -> str:
    """A clause on what a control takes on the same images; empty where no number of images has several seeds."""
    if ratio is None:
        return ""
    return (
        f"; on the same {ratio.train_rows:,} images, the control takes {_times(ratio.value)} times the {what} "
        f"(95% interval {_times(ratio.low)} to {_times(ratio.high)}, {ratio.seeds} seeds)"
    )


def _percent(value: float, low: float, high: float) -> str:
    """A share and its bounds, such as `72% (69 to 74)`."""
    return with_interval(value, low, high).replace(" ", "% ", 1)


def _points(gain: float, low: float, high: float) -> list[str]:
    """A difference of shares and its bounds, in points with their signs, to the decimals that the bounds support."""
    places = decimals(low, high)
    return [f"{round(100 * share, places) + 0.0:+.{places}f}" for share in (gain, low, high)]  # + 0.0: no -0


def _p(p: float) -> str:
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def _epochs(row: pd.Series) -> str:
    return f"{_count(row['epochs_to_90'])} of {_count(row['epochs'])} epochs ({_seconds(row['seconds_to_90'])} s)"


def _seconds(seconds: float) -> str:
    """Seconds to two digits, whole from 10 on; `-` where there are none."""
    if not math.isfinite(seconds):
        return "-"
    return f"{seconds:,.0f}" if seconds >= 9.95 else "below 0.01" if seconds < 0.01 else f"{seconds:.2g}"


def _bounded(row: pd.Series) -> str:
    return f"{'at most ' if row['at_most'] else ''}{_seconds(row['cost'])}"


def _times(factor: float) -> str:
    return f"{factor:,.0f}" if factor >= 9.95 else f"{factor:.1f}" if factor >= 0.95 else f"{factor:.2g}"


def _images(row: Any) -> str:
    """What a row of `images_needed` says, to two digits, as that is all that an interpolation is good for."""
    if math.isinf(row["images"]):
        return f"more than {row['largest']:,}"
    if row["at_most"]:
        return f"at most {row['images']:,.0f}"
    return f"about {round(row['images'], 1 - math.floor(math.log10(row['images']))):,.0f}"


def _count(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _spread(values: pd.Series, write: Any) -> str:
    """The mean of a column, with the smallest and the largest where they differ; `-` where there is none."""
    numbers = values.dropna().astype(float)
    if numbers.empty:
        return "-"
    low, high = write(numbers.min()), write(numbers.max())
    return write(numbers.mean()) + ("" if low == high else f" ({low} to {high})")
