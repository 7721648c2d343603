"""Does transfer learning help? Four claims, each answered with numbers, whichever way they point."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.findings import evidence, text
from analysis.findings.learning import common_target, images_needed, learning_curves
from analysis.findings.speed import Ratio, convergence, paired_ratio, seconds_to_reach, timed
from analysis.findings.transfer import BASELINE, TRANSFER, approaches, best_gain, difference, gains
from classify.runs import RunResult, head_name
from classify.statistics import ALPHA

HEADINGS = {
    "accuracy": ("Accuracy", "Is a head on a pretrained network more accurate?"),
    "little-data": ("Little data", "Does a head on a pretrained network need fewer images?"),
    "training-time": ("Training time", "Does a head on a pretrained network take less time to the same accuracy?"),
    "convergence": ("Convergence", "Does a head on a pretrained network converge in fewer epochs?"),
}
CONTROLS = {
    "pixels": "heads on raw pixels",
    "random": "heads on the same network with random weights",
    "scratch": "a network trained from scratch",
}
EXPERIMENT = "frozenbench run PATH-OF-THE-IMAGES"
RATIO_NOTE = (
    "How many times as much the control takes is the geometric mean over seeds, with Student's 95% interval of the "
    "logarithms. With each seed, both have the same training images."
)
ALIKE = 1.25  # times within this factor count as about equal


@dataclass(frozen=True)
class Claim:
    """A claim about transfer learning, and what the runs show.

    Attributes:
        key: `accuracy`, `little-data`, `training-time` or `convergence`.
        title: a heading.
        question: the claim as a question.
        finding: short sentences with numbers, whichever way they point; or what is missing, and the
            command that adds it. Brackets hold 95% intervals.
        table: text under headings; may be empty.
        notes: how it was measured, and the limits of that.
    """

    key: str
    title: str
    question: str
    finding: str
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
    if missing := _missing_side(table):
        return [_incomplete(key, missing, table) for key in HEADINGS]
    return [_accuracy(table), _little_data(table, runs), _training_time(table, runs), _convergence(table, runs)]


def _accuracy(table: pd.DataFrame) -> Claim:
    found = gains(table)
    if found.empty:
        missing = "No control was trained on as many images as a head on a pretrained network"
        return _incomplete("accuracy", missing, table)
    intervals = {row.run_dir: (row.accuracy, row.accuracy_low, row.accuracy_high) for row in table.itertuples()}
    best = best_gain(found)
    certain = best["adjusted"] <= ALPHA
    gain, low, high = best[["gain", "gain_low", "gain_high"]]
    finding = (
        f"{best['approach']}: {text.accuracy(*intervals[best['run_dir']])} on "
        f"{table['test_rows'].iloc[0]:,} test images; the best control, {best['control_approach']}, "
        f"{text.percent(*intervals[best['control_run_dir']])}. Both were trained on {best['train_rows']:,} images. "
        + _gain_sentence(gain, low, high, certain=certain, detail=f", p {text.p_value(best['adjusted'])}")
    )
    notes = [
        "Both runs of a pair were trained on equally many images and tested on the same test images. The table gives "
        "paired 95% intervals (Bonett and Price, 2012) and p values of McNemar's exact test after Holm's correction "
        "over its rows. The intervals are not corrected for their number.",
        "Error overlap: the share of images that both get wrong, among those that either gets wrong.",
        "The best head and the best control are chosen on the test images, which favours both a little.",
    ]
    considered = approaches(table)
    of_transfer = considered["kind"] == TRANSFER
    unmatched = considered[of_transfer & ~considered["train_rows"].isin(considered.loc[~of_transfer, "train_rows"])]
    if len(unmatched) and unmatched["accuracy"].iloc[0] > best["accuracy"]:
        top = unmatched.iloc[0]
        notes.append(
            f"With {top['train_rows']:,} training images, {top['approach']} reaches "
            f"{text.accuracy(*intervals[top['run_dir']])}; no control was trained on as many."
        )
    return _claim("accuracy", finding, evidence.gains_table(found, intervals), [*notes, *_missing_controls(table)])


def _little_data(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> Claim:
    curves = learning_curves(table)
    target = common_target(curves)
    needed = images_needed(curves, target)
    shown = evidence.curves_table(curves, needed, target)
    is_transfer = curves["kind"] == TRANSFER
    sizes, control_sizes = set(curves.loc[is_transfer, "train_rows"]), set(curves.loc[~is_transfer, "train_rows"])
    if len(sizes) < 2 or len(control_sizes) < 2:
        which = "the heads on a pretrained network" if len(sizes) < 2 else "the controls"
        missing = f"There is no learning curve of {which}: they were trained on one number of images only"
        return _incomplete("little-data", missing, table, shown)
    if not sizes & control_sizes:
        missing = "No number of training images is shared by heads on a pretrained network and controls"
        return _incomplete("little-data", missing, table, shown)
    size = min(sizes & control_sizes)
    at_size = curves[curves["train_rows"] == size].sort_values("accuracy", ascending=False, kind="stable")
    ours, control = _sides(at_size)
    fewest, fewest_control = _sides(needed)
    gain, low, high, seeds = difference(table, ours["approach"], control["approach"], size)
    finding = (
        f"With {size:,} training images ({_per_class(size, table, runs)}), {ours['approach']} reaches "
        f"{text.accuracy(*ours[['accuracy', 'low', 'high']])}; the best control, "
        f"{control['approach']}, {text.percent(*control[['accuracy', 'low', 'high']])}. "
        f"{_gain_sentence(gain, low, high, certain=low > 0 or high < 0)} "
        f"To reach {_whole_percent(target)} accuracy, {fewest['approach']} needs {text.images(fewest)} training images "
        f"and {fewest_control['approach']} {text.images(fewest_control)}."
    )
    if seeds > 1:
        paired = f"over {seeds} seeds (95% t interval). With each seed, both have the same training images"
    else:
        paired = "over the test images of one seed (Bonett and Price, 2012)"
    notes = [
        "Accuracies are means over seeds with 95% t intervals, or single runs with Wilson's interval. The t intervals "
        "cover the choice of the training images, not that of the test images.",
        f"The difference at {size:,} images is paired {paired}.",
        f"{_whole_percent(target)} is the highest whole percent that both sides reach. The images needed are "
        "interpolated between the sizes tried, linearly in accuracy over the logarithm of the images.",
    ]
    return _claim("little-data", finding, shown, [*notes, *_missing_controls(table)])


def _training_time(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> Claim:
    untuned = table[table["tuned"] == 0]
    if missing := _missing_side(untuned):
        return _incomplete("training-time", f"{missing} with default settings", table)
    target = common_target(learning_curves(untuned))
    found = _with_cost(seconds_to_reach(untuned, runs, target))
    ours, control = _sides(found.sort_values("cost", kind="stable"))
    finding = (
        f"To reach {_whole_percent(target)} accuracy, {ours['approach']} takes {_cost(ours)} s on "
        f"{ours['train_rows']:,.0f} training images ({_parts_of_cost(ours)}). "
        f"The fastest control, {control['approach']}, takes {_cost(control)} s. {_time_verdict(ours, control)}"
    )
    ratio = paired_ratio(timed(table), "seconds", ours["approach"], control["approach"])
    if ratio is not None:
        finding += f" {_ratio_sentence(ratio, 'as long')}"
    shown = evidence.time_table(found[found["cost"] < math.inf])
    notes = _time_notes(found, target, several_machines=_machines(untuned, runs) > 1, tuned=len(untuned) < len(table))
    return _claim("training-time", finding, shown, [*notes, *_missing_controls(untuned)])


def _with_cost(found: pd.DataFrame) -> pd.DataFrame:
    """Rows of `seconds_to_reach` with `cost`: the cheapest run's seconds, or those of the history if they are fewer."""
    cost = found[["seconds", "history_seconds"]].min(axis=1)
    return found.assign(cost=cost, at_most=found["at_most"] & (cost == found["seconds"]))


def _cost(row: pd.Series) -> str:
    return f"at most {text.seconds(row['cost'])}" if row["at_most"] else text.seconds(row["cost"])


def _parts_of_cost(row: pd.Series) -> str:
    """The fit and the extraction, and the cost for each head if several share the extraction."""
    parts = f"{text.seconds(row['fit_seconds'])} s to fit, {text.seconds(row['extraction_seconds'])} s to extract"
    if row["heads"] == 1:
        return parts
    shared = text.seconds(row["shared_seconds"])
    return f"{parts}; {shared} s in all if {row['heads']:.0f} heads share the features"


def _time_verdict(ours: pd.Series, control: pd.Series) -> str:
    """Which side is faster. An upper bound of one side does not show that this side is slower."""
    if control["cost"] >= ALIKE * ours["cost"] and not control["at_most"]:
        return f"Transfer learning is {text.two_digits(control['cost'] / ours['cost'])} times as fast."
    if ours["cost"] >= ALIKE * control["cost"] and not ours["at_most"]:
        times = text.two_digits(ours["cost"] / control["cost"])
        return f"Transfer learning saves no time: it takes {times} times as long."
    if ours["at_most"] or control["at_most"]:
        return f"Which is faster is open, as smaller sizes were not tried. To try them, run {EXPERIMENT}."
    return "Transfer learning takes about as long."


def _machines(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> int:
    return len({runs[Path(run_dir)].machine for run_dir in table["run_dir"]})


def _time_notes(found: pd.DataFrame, target: float, *, several_machines: bool, tuned: bool) -> list[str]:
    percent = _whole_percent(target)
    notes = [
        f"{percent} is the highest whole percent that both sides reach. Each approach is represented by its cheapest "
        "run that reaches it, among the sizes tried. Extraction is the time for the features of the run's training "
        "images; shared, it is divided by the heads on these features.",
        f"Seconds are wall-clock times of single runs. Times within a factor of {ALIKE} count as about equal. Energy "
        "was not measured, and the network's pretraining is not counted.",
        RATIO_NOTE,
    ]
    never = found.loc[found["cost"] == math.inf, "approach"]
    if len(never):
        notes.append(f"These reach {percent} at no size tried: {', '.join(never)}.")
    if found["history_seconds"].notna().any():
        notes.append(
            "By validation: the time to the first epoch of training from scratch whose validation accuracy reaches "
            "the target. If it is shorter, it counts as the control's time, which favours the control."
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
    sentences = _epochs_sentences(trained)
    if pair := _opposed(linear, prefer="pixels"):
        ours, control = (text.count(_mean_numbers(linear, row)["iterations"]) for row in pair)
        sentences.append(
            f"On {pair[0]['train_rows']:,} images, logistic regression takes {ours} iterations with "
            f"{pair[0]['features']} and {control} with {pair[1]['features']}."
        )
    notes = [
        "Each network is measured against its own final training accuracy, on training images during training, with "
        "dropout and augmentation. An epoch is one pass over the training images, whatever it costs, and each network "
        "has its own schedule. Numbers are means over seeds; the table adds the smallest and the largest.",
        RATIO_NOTE,
    ]
    shown = evidence.convergence_table(found)
    return _claim("convergence", " ".join(sentences), shown, [*notes, *_missing_controls(table)])


def _epochs_sentences(trained: pd.DataFrame) -> list[str]:
    """How many epochs transfer and a control take, or which of them has no history."""
    pair = _opposed(trained, prefer="scratch")
    if pair is None:
        has_transfer = TRANSFER in set(trained["kind"])
        which = "a control with as many images" if has_transfer else "a pretrained network's head"
        return [f"There is no training history of {which}. To add one, run {EXPERIMENT}."]
    ours, control = pair
    numbers, control_numbers = _mean_numbers(trained, ours), _mean_numbers(trained, control)
    if numbers["epochs_to_90"] < control_numbers["epochs_to_90"]:
        verdict = "Transfer learning converges in fewer epochs."
    elif numbers["epochs_to_90"] > control_numbers["epochs_to_90"]:
        verdict = "Transfer learning does not converge in fewer epochs."
    else:
        verdict = "Transfer learning converges in as many epochs."
    sentences = [
        f"On {ours['train_rows']:,} training images, {ours['approach']} reaches 90% of its final training accuracy "
        f"after {_epochs(numbers)}, {control['approach']} after {_epochs(control_numbers)}.",
        verdict,
    ]
    ratio = paired_ratio(trained, "epochs_to_90", ours["approach"], control["approach"])
    if ratio is not None:
        sentences.append(_ratio_sentence(ratio, "as many epochs"))
    return sentences


def _epochs(numbers: pd.Series) -> str:
    epochs, near_end = text.count(numbers["epochs"]), text.count(numbers["epochs_to_90"])
    return f"{near_end} of {epochs} epochs ({text.seconds(numbers['seconds_to_90'])} s)"


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
    return runs[["epochs", "epochs_to_90", "seconds_to_90", "iterations"]].astype(float).mean()


def _claim(key: str, finding: str, table: pd.DataFrame, notes: list[str]) -> Claim:
    title, question = HEADINGS[key]
    return Claim(key, title, question, finding, table, tuple(notes))


def _incomplete(key: str, missing: str, table: pd.DataFrame, shown: pd.DataFrame | None = None) -> Claim:
    """A claim for which runs are missing: which, the command that adds them, and the best run so far."""
    best = table.loc[table["accuracy"].idxmax()]
    accuracy = text.accuracy(*best[["accuracy", "accuracy_low", "accuracy_high"]])
    finding = (
        f"{missing}. To add one, run {EXPERIMENT}. The best run so far is {head_name(best)} on {best['features']}: "
        f"{accuracy} on {best['test_rows']:,} test images, trained on {best['train_rows']:,} images in "
        f"{text.seconds(best['fit_seconds'])} s."
    )
    return _claim(key, finding, pd.DataFrame() if shown is None else shown, [])


def _missing_side(table: pd.DataFrame) -> str:
    """Which side of the comparison has no run; empty if both have one."""
    kinds = set(table.loc[table["model"] != BASELINE, "kind"])
    if TRANSFER not in kinds:
        return "There is no run on the features of a pretrained network"
    return "" if kinds - {TRANSFER} else "There is no run of a control"


def _missing_controls(table: pd.DataFrame) -> list[str]:
    """A note on the kinds of control that have no run."""
    names = [name for kind, name in CONTROLS.items() if kind not in set(table["kind"])]
    return [f"These controls are missing: {', '.join(names)}. {EXPERIMENT} adds them."] if names else []


def _gain_sentence(gain: float, low: float, high: float, *, certain: bool, detail: str = "") -> str:
    """A sentence on a difference of accuracies, as shares, between transfer and a control."""
    if not certain:
        value, lower, upper = text.points(gain, low, high)
        return f"The difference of {value} points ({lower} to {upper}{detail}) may be chance."
    if gain > 0:
        value, lower, upper = (number.removeprefix("+") for number in text.points(gain, low, high))
        return f"Transfer learning gains {value} points ({lower} to {upper}{detail})."
    value, lower, upper = (number.removeprefix("+") for number in text.points(-gain, -high, -low))
    return f"Transfer learning does not help here: it loses {value} points ({lower} to {upper}{detail})."


def _ratio_sentence(ratio: Ratio, what: str) -> str:
    times, low, high = (text.two_digits(value) for value in (ratio.value, ratio.low, ratio.high))
    return (
        f"On the same {ratio.train_rows:,} images, the control takes {times} times {what} "
        f"({low} to {high}, {ratio.seeds} seeds)."
    )


def _per_class(size: int, table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> str:
    classes = len(runs[Path(table["run_dir"].iloc[0])].class_names)
    return f"{size // classes:,} per class" if size % classes == 0 else f"about {size / classes:,.0f} per class"


def _whole_percent(share: float) -> str:
    return f"{100 * share:.0f}%"
