"""Does transfer learning help? Four claims, each answered with numbers, whichever way they point."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.findings import evidence, measures, text
from analysis.findings.learning import common_target, images_needed, learning_curves
from analysis.findings.measures import (
    Measure,
    epochs_saved,
    images_saved,
    points_gained,
    times_as_fast,
    unmeasured,
)
from analysis.findings.speed import at_equal_time, convergence, paired_ratio, seconds_to_reach, timed
from analysis.findings.transfer import BASELINE, TRANSFER, approaches, best_gain, difference, gains
from classify.runs import RunResult
from classify.statistics import ALPHA

TITLES = {
    "accuracy": "Accuracy",
    "little-data": "Few images",
    "training-time": "Training time",
    "convergence": "Convergence",
}
LABELS = {
    "accuracy": measures.GAIN,
    "little-data": measures.IMAGES,
    "training-time": measures.TIME,
    "convergence": measures.EPOCHS,
}
CONTROLS = {
    "pixels": "heads on raw pixels",
    "random": "heads on the same network with random weights",
    "scratch": "a network trained from scratch",
}
RATIO_NOTE = (
    "How many times as much the control takes is the geometric mean over seeds. Its interval is Student's, of the "
    "logarithms; with each seed, both have the same training images."
)
MORE_SIZES = ("--preset", "full")  # trains every control on few images too
ALIKE = 1.25  # times within this factor count as about equal


@dataclass(frozen=True)
class Claim:
    """A claim about transfer learning, and what the runs show.

    A sentence has at most 25 words and three numbers, and is said once. Brackets hold 95% intervals.

    Attributes:
        key: `accuracy`, `little-data`, `training-time` or `convergence`.
        title: a heading.
        finding: the sentence that answers, whichever way the numbers point; or what is missing.
        measure: its number.
        details: further sentences.
        table: text under headings; may be empty.
        notes: how it was measured, and the limits of that.
    """

    key: str
    title: str
    finding: str
    measure: Measure
    details: tuple[str, ...]
    table: pd.DataFrame
    notes: tuple[str, ...] = ()


def claims(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> list[Claim]:
    """The four claims, in the order accuracy, few images, training time, convergence.

    Args:
        table: rows of `analysis.frame.comparison` of one test set.
        runs: at least the runs of these rows.

    Raises:
        DataError: the predictions of a run cannot be used.
    """
    if missing := _missing_side(table):
        return [_incomplete(key, missing, table, runs) for key in TITLES]
    return [
        _accuracy(table, runs),
        _little_data(table, runs),
        _training_time(table, runs),
        _convergence(table, runs),
    ]


def experiment_command(table: pd.DataFrame, runs: Mapping[Path, RunResult], *options: str) -> str:
    """The command that makes all runs on the images of these runs."""
    data = runs[Path(table["run_dir"].iloc[0])].source.get("data") or "PATH-OF-THE-IMAGES"
    return shlex.join(["frozenbench", "run", str(data), *options])


def _accuracy(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> Claim:
    found = gains(table)
    if found.empty:
        missing = "No control was trained on as many images as a head on a pretrained network"
        return _incomplete("accuracy", missing, table, runs)
    intervals = {row.run_dir: (row.accuracy, row.accuracy_low, row.accuracy_high) for row in table.itertuples()}
    best = best_gain(found)
    finding = _gain_sentence(
        best["approach"],
        f"the best control, {best['control_approach']}",
        *best[["gain", "gain_low", "gain_high"]],
        certain=best["adjusted"] <= ALPHA,
    )
    details = [
        f"The control reaches {text.accuracy(*intervals[best['control_run_dir']])}.",
        f"Both were trained on {best['train_rows']:,} images; p is {text.p_value(best['adjusted'])}.",
    ]
    notes = [
        "Both runs of a pair were trained on equally many images and tested on the same ones.",
        "Intervals of gains are paired (Bonett and Price, 2012), and not corrected for the number of pairs.",
        "The p values are those of McNemar's exact test after Holm's correction over the rows of the table.",
        "Error overlap: the share of images that both get wrong, among those that either gets wrong.",
        "The best head and the best control are chosen on the test images, which favours both a little.",
    ]
    considered = approaches(table)
    of_transfer = considered["kind"] == TRANSFER
    unmatched = considered[of_transfer & ~considered["train_rows"].isin(considered.loc[~of_transfer, "train_rows"])]
    if len(unmatched) and unmatched["accuracy"].iloc[0] > best["accuracy"]:
        top = unmatched.iloc[0]
        notes.append(
            f"{top['approach']} with {top['train_rows']:,} training images is more accurate; no control was trained "
            "on as many."
        )
    notes += _missing_controls(table, runs)
    return _claim("accuracy", finding, points_gained(best), details, evidence.gains_table(found, intervals), notes)


def _little_data(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> Claim:
    curves = learning_curves(table)
    target = common_target(curves)
    needed = images_needed(curves, target)
    shown = evidence.curves_table(curves, needed, target)
    is_transfer = curves["kind"] == TRANSFER
    sizes, control_sizes = set(curves.loc[is_transfer, "train_rows"]), set(curves.loc[~is_transfer, "train_rows"])
    if len(sizes) < 2 or len(control_sizes) < 2:
        which = "The heads on a pretrained network" if len(sizes) < 2 else "The controls"
        return _incomplete("little-data", f"{which} were trained on one number of images only", table, runs, shown)
    if not sizes & control_sizes:
        missing = "No number of training images is shared by heads on a pretrained network and controls"
        return _incomplete("little-data", missing, table, runs, shown)
    size = min(sizes & control_sizes)
    at_size = curves[curves["train_rows"] == size].sort_values("accuracy", ascending=False, kind="stable")
    ours, control = _sides(at_size)
    fewest, fewest_control = _sides(needed)
    gain, low, high, seeds = difference(table, ours["approach"], control["approach"], size)
    finding = (
        f"For {_whole_percent(target)} accuracy, {fewest['approach']} needs {text.images(fewest)} training images, "
        f"{fewest_control['approach']} {text.images(fewest_control)}."
    )
    details = [
        f"The smallest training set has {size:,} images, {_per_class(size, table, runs)}.",
        _gain_sentence(f"There, {ours['approach']}", control["approach"], gain, low, high, certain=low > 0 or high < 0),
    ]
    if seeds > 1:
        paired = f"paired over {seeds} seeds; with each seed, both have the same training images"
    else:
        paired = "paired over the test images of one seed (Bonett and Price, 2012)"
    notes = [
        "Accuracies are means over seeds with 95% t intervals, or single runs with Wilson's interval.",
        "The t intervals cover the choice of the training images, not that of the test images.",
        f"The difference at {size:,} images is {paired}.",
        f"{_whole_percent(target)} is the highest whole percent that both sides reach.",
        "The images needed are interpolated between the sizes tried, linearly in accuracy over the logarithm of the "
        "images.",
        "The interval of their ratio combines those of the two curves.",
    ]
    measure = images_saved(fewest, fewest_control, target, experiment_command(table, runs, *MORE_SIZES))
    return _claim("little-data", finding, measure, details, shown, [*notes, *_missing_controls(table, runs)])


def _training_time(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> Claim:
    untuned = table[table["tuned"] == 0]
    if missing := _missing_side(untuned):
        return _incomplete("training-time", f"{missing} with default settings", table, runs)
    target = common_target(learning_curves(untuned))
    found = _with_cost(seconds_to_reach(untuned, runs, target))
    ours, control = _sides(found.sort_values("cost", kind="stable"))
    details = [
        f"{ours['approach']} takes {_cost(ours)} s, of which {text.seconds(ours['extraction_seconds'])} s extract the "
        f"features of {ours['train_rows']:,.0f} images.",
        f"{control['approach']} takes {_cost(control)} s.",
    ]
    if ours["heads"] > 1:
        shared = text.seconds(ours["shared_seconds"])
        details.append(f"If {ours['heads']:.0f} heads share the extraction, each takes {shared} s in all.")
    both = timed(table)
    ratio = paired_ratio(both, "seconds", ours["approach"], control["approach"])
    if ratio is not None:
        details.append(evidence.ratio_sentence(ratio, "as long"))
    equal = at_equal_time(table)
    if equal is not None and (equal.low > 0 or equal.high < 0):
        within = f"In as much time, {equal.approach}"
        details.append(_gain_sentence(within, equal.control, equal.gain, equal.low, equal.high, certain=True))
        details.append(f"Each has {text.seconds(equal.seconds)} s, extraction included, on any number of images.")
    per_answer = paired_ratio(both, "ms_per_answer", ours["approach"], control["approach"])
    if per_answer is not None and (per_answer.low > 1 or per_answer.high < 1):
        details.append(evidence.answer_sentence(per_answer))
    shown = evidence.time_table(found[found["cost"] < math.inf])
    notes = _time_notes(found, target, several_machines=_machines(untuned, runs) > 1, tuned=len(untuned) < len(table))
    measure = times_as_fast(ours, control, target, ratio, experiment_command(table, runs, *MORE_SIZES))
    notes += _missing_controls(untuned, runs)
    return _claim("training-time", _time_verdict(ours, control, target), measure, details, shown, notes)


def _with_cost(found: pd.DataFrame) -> pd.DataFrame:
    """Rows of `seconds_to_reach` with `cost`: the cheapest run's seconds, or those of the history if they are fewer."""
    cost = found[["seconds", "history_seconds"]].min(axis=1)
    return found.assign(cost=cost, at_most=found["at_most"] & (cost == found["seconds"]))


def _cost(row: pd.Series) -> str:
    return f"at most {text.seconds(row['cost'])}" if row["at_most"] else text.seconds(row["cost"])


def _time_verdict(ours: pd.Series, control: pd.Series, target: float) -> str:
    """Which side is faster. An upper bound of one side does not show that this side is slower."""
    to = f"to {_whole_percent(target)} accuracy"
    if control["cost"] >= ALIKE * ours["cost"] and not control["at_most"]:
        times = text.two_digits(control["cost"] / ours["cost"])
        return f"{ours['approach']} is {times} times as fast {to} as {control['approach']}."
    if ours["cost"] >= ALIKE * control["cost"] and not ours["at_most"]:
        times = text.two_digits(ours["cost"] / control["cost"])
        return f"The frozen network saves no time: {to}, it takes {times} times as long as {control['approach']}."
    if ours["at_most"] or control["at_most"]:
        return f"Which is faster {to} is open, as smaller training sets were not tried."
    return f"{ours['approach']} takes about as long {to} as {control['approach']}."


def _machines(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> int:
    return len({runs[Path(run_dir)].machine for run_dir in table["run_dir"]})


def _time_notes(found: pd.DataFrame, target: float, *, several_machines: bool, tuned: bool) -> list[str]:
    percent = _whole_percent(target)
    notes = [
        f"{percent} is the highest whole percent that both sides reach with default settings.",
        "Each approach is represented by its cheapest run that reaches it, among the sizes tried.",
        "Extraction is the time for the features of the run's training images.",
        f"Seconds are wall-clock times of single runs; times within a factor of {ALIKE} count as about equal.",
        "Energy was not measured, and the network's pretraining is not counted.",
        RATIO_NOTE,
    ]
    never = found.loc[found["cost"] == math.inf, "approach"]
    if len(never):
        notes.append(f"{len(never)} others reach {percent} at no size tried.")
    if found["history_seconds"].notna().any():
        notes.append(
            "By validation: the time to the first epoch from scratch with that validation accuracy. If it is shorter, "
            "it counts, which favours the control."
        )
    if several_machines:
        notes.append("The runs come from several machines, so their seconds are not comparable.")
    if tuned:
        notes.append("Tuned heads are left out, because their seconds do not include the search.")
    return notes


def _convergence(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> Claim:
    found = convergence(table, runs)
    trained = found[found["epochs"].notna()]
    linear = found[(found["model"] == "logreg") & found["iterations"].notna()]
    shown = evidence.convergence_table(found)
    iterations = []
    if opposed := _opposed(linear, prefer="pixels"):
        ours, control = (text.count(_mean_numbers(linear, row)["iterations"]) for row in opposed)
        iterations.append(
            f"Logistic regression takes {ours} iterations with {opposed[0]['features']} and {control} with "
            f"{opposed[1]['features']}."
        )
    notes = [
        "Each network is measured against its own final accuracy on training images, with dropout and augmentation.",
        "An epoch is one pass over the training images, whatever it costs, and each network has its own schedule.",
        "Numbers are means over seeds; the table adds the smallest and the largest.",
        *_missing_controls(table, runs),
    ]
    pair = _opposed(trained, prefer="scratch")
    if pair is None:
        has_transfer = TRANSFER in set(trained["kind"])
        which = "a control with as many images" if has_transfer else "a pretrained network's head"
        reason = f"There is no training history of {which}."
        measure = unmeasured(measures.EPOCHS, "no training history", experiment_command(table, runs))
        return _claim("convergence", reason, measure, iterations, shown, notes)
    ratio = paired_ratio(trained, "epochs_to_90", pair[0]["approach"], pair[1]["approach"])
    numbers = [_mean_numbers(trained, row) for row in pair]
    epochs = [each["epochs_to_90"] for each in numbers]
    finding = (
        f"{pair[0]['approach']} comes near its own final accuracy after {text.count(epochs[0])} epochs, "
        f"{pair[1]['approach']} near its own after {text.count(epochs[1])}."
    )
    details = []
    for row, each in zip(pair, numbers, strict=True):
        seen, seconds = f"{each['images_to_90']:,.0f}", text.seconds(each["seconds_to_90"])
        details.append(f"Until then, {row['approach']} sees {seen} images in {seconds} s.")
    if ratio is not None:
        details.append(evidence.ratio_sentence(ratio, "as many epochs"))
    return _claim(
        "convergence", finding, epochs_saved(epochs[0], epochs[1], ratio), [*details, *iterations], shown, notes
    )


def _opposed(found: pd.DataFrame, prefer: str) -> tuple[pd.Series, pd.Series] | None:
    """The most accurate run of transfer and of a control, at the largest size that both have.

    Controls of the kind `prefer` come before the others. None if no size is shared.
    """
    ours, controls = found[found["kind"] == TRANSFER], found[found["kind"] != TRANSFER]
    for candidates in (controls[controls["kind"] == prefer], controls):
        sizes = set(ours["train_rows"]) & set(candidates["train_rows"])
        if sizes:
            rows = pd.concat([ours, candidates])
            largest = rows[rows["train_rows"] == max(sizes)]
            return _sides(largest.sort_values("accuracy", ascending=False, kind="stable"))
    return None


def _sides(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """The first row of transfer, and the first row of a control."""
    is_transfer = rows["kind"] == TRANSFER
    return rows[is_transfer].iloc[0], rows[~is_transfer].iloc[0]


def _mean_numbers(found: pd.DataFrame, row: pd.Series) -> pd.Series:
    """The means over the runs of a row's approach and size."""
    runs = found[(found["approach"] == row["approach"]) & (found["train_rows"] == row["train_rows"])]
    return runs[["epochs", "epochs_to_90", "seconds_to_90", "images_to_90", "iterations"]].astype(float).mean()


def _claim(
    key: str, finding: str, measure: Measure, details: list[str], table: pd.DataFrame, notes: list[str]
) -> Claim:
    return Claim(key, TITLES[key], finding, measure, tuple(details), table, tuple(notes))


def _incomplete(
    key: str, missing: str, table: pd.DataFrame, runs: Mapping[Path, RunResult], shown: pd.DataFrame | None = None
) -> Claim:
    """A claim for which runs are missing: which, and the command that adds them."""
    reason = missing[0].lower() + missing[1:]  # after a colon
    measure = unmeasured(LABELS[key], reason, experiment_command(table, runs))
    return _claim(key, f"{missing}.", measure, [], pd.DataFrame() if shown is None else shown, [])


def _missing_side(table: pd.DataFrame) -> str:
    """Which side of the comparison has no run; empty if both have one."""
    kinds = set(table.loc[table["model"] != BASELINE, "kind"])
    if TRANSFER not in kinds:
        return "There is no run on the features of a pretrained network"
    return "" if kinds - {TRANSFER} else "There is no run of a control"


def _missing_controls(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> list[str]:
    """A note on the kinds of control that have no run."""
    names = [name for kind, name in CONTROLS.items() if kind not in set(table["kind"])]
    if not names:
        return []
    return [f"These controls are missing: {', '.join(names)}. {experiment_command(table, runs)} adds them."]


def _gain_sentence(ours: str, control: str, gain: float, low: float, high: float, *, certain: bool) -> str:
    """A sentence on a difference of accuracies, as shares, between transfer and a control."""
    if not certain:
        value, lower, upper = text.points(gain, low, high)
        return f"{ours} differs by {value} points ({lower} to {upper}) from {control}; this may be chance."
    gains_points = gain > 0
    shares = (gain, low, high) if gains_points else (-gain, -high, -low)
    value, lower, upper = (number.removeprefix("+") for number in text.points(*shares))
    if gains_points:
        return f"{ours} gains {value} points ({lower} to {upper}) over {control}."
    return f"{ours} loses {value} points ({lower} to {upper}) against {control}."


def _per_class(size: int, table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> str:
    classes = len(runs[Path(table["run_dir"].iloc[0])].class_names)
    return f"{size // classes:,} per class" if size % classes == 0 else f"about {size / classes:,.0f} per class"


def _whole_percent(share: float) -> str:
    return f"{100 * share:.0f}%"
