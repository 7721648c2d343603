"""The tables beside the claims, numbers as text under headings, and sentences that go with them."""

import math
from collections.abc import Sequence

import pandas as pd

from analysis.findings import text
from analysis.findings.speed import Ratio


def gains_table(found: pd.DataFrame, intervals: dict[str, tuple[float, float, float]]) -> pd.DataFrame:
    """A row per pair in `gains`; `intervals` are accuracy and bounds by run directory."""
    rows = []
    for row in found.itertuples():
        gain, low, high = text.points(row.gain, row.gain_low, row.gain_high)
        rows.append(
            {
                "head": row.approach,
                "control": row.control_approach,
                "train images": f"{row.train_rows:,}",
                "accuracy (95% interval)": text.percent(*intervals[row.run_dir]),
                "control's accuracy (95% interval)": text.percent(*intervals[row.control_run_dir]),
                "gain, points (95% interval)": f"{gain} ({low} to {high})",
                "p (Holm)": text.p_value(row.adjusted),
                "both wrong %": f"{100 * row.both_wrong:.1f}",
                "error overlap %": "-" if math.isnan(row.error_overlap) else f"{100 * row.error_overlap:.0f}",
            }
        )
    return pd.DataFrame(rows)


def curves_table(curves: pd.DataFrame, needed: pd.DataFrame, target: float) -> pd.DataFrame:
    """A row per approach in `learning_curves`, a column per size, and the `images_needed` for the target."""
    needs = {row["approach"]: text.images(row) for row in needed.to_dict("records")}
    headings = {size: f"% with {size:,} images" for size in sorted(set(curves["train_rows"]))}
    rows = []
    for approach, curve in curves.groupby("approach", sort=False):
        row = {"approach": approach, **dict.fromkeys(headings.values(), "-")}
        for point in curve.itertuples():
            row[headings[point.train_rows]] = text.with_interval(point.accuracy, point.low, point.high)
        fewest, most = curve["seeds"].min(), curve["seeds"].max()
        row["seeds"] = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        row[f"images for {100 * target:.0f}%"] = needs[str(approach)]
        rows.append(row)
    return pd.DataFrame(rows)


def time_table(found: pd.DataFrame) -> pd.DataFrame:
    """A row per approach in `seconds_to_reach`."""
    rows = [
        {
            "approach": row.approach,
            "train images": "-" if math.isnan(row.train_rows) else f"{row.train_rows:,.0f}",
            "accuracy %": "-" if math.isnan(row.accuracy) else f"{100 * row.accuracy:.1f}",
            "fit s": text.seconds(row.fit_seconds),
            "extraction s": text.seconds(row.extraction_seconds),
            "both s": text.seconds(row.seconds),
            "heads": f"{row.heads:.0f}",
            "s, extraction shared": text.seconds(row.shared_seconds),
            "s by validation": text.seconds(row.history_seconds),
            "ms per correct answer": "-" if math.isnan(row.ms_per_answer) else text.two_digits(row.ms_per_answer),
        }
        for row in found.itertuples()
    ]
    return pd.DataFrame(rows)


def convergence_table(found: pd.DataFrame) -> pd.DataFrame:
    """A row per approach in `convergence`, at its largest number of training images."""
    rows = []
    for approach, runs in found.groupby("approach", sort=False):
        runs = runs[runs["train_rows"] == runs["train_rows"].max()]
        trained_in_epochs = runs["epochs"].notna().any()
        rows.append(
            {
                "approach": approach,
                "train images": f"{runs['train_rows'].iloc[0]:,}",
                "epochs": text.mean_and_range(runs["epochs"], text.count),
                "epochs to 90% of the final accuracy": text.mean_and_range(runs["epochs_to_90"], text.count),
                "s per epoch": text.mean_and_range(runs["seconds_per_epoch"], text.seconds),
                "s to 90%": text.mean_and_range(runs["seconds_to_90"], text.seconds),
                "iterations": "-" if trained_in_epochs else text.mean_and_range(runs["iterations"], text.count),
            }
        )
    return pd.DataFrame(rows)


def class_sentences(found: pd.DataFrame, class_names: Sequence[str], control: str) -> list[str]:
    """Which classes a head recognises better than a control, from `class_gains`; empty if no interval shows any."""
    gaining, losing = int((found["low"] > 0).sum()), int((found["high"] < 0).sum())
    if not gaining and not losing:
        return []
    lose = f", and {losing:,} lose" if losing else ""
    sentences = [f"Against {control}, {gaining:,} of {len(found):,} classes gain beyond chance{lose}."]
    most = found["gain"].idxmax()
    if found.loc[most, "low"] > 0:
        gain, low, high = (number.removeprefix("+") for number in text.points(*found.loc[most]))
        sentences.append(f"The largest gain is that of {class_names[int(str(most))]}: {gain} points ({low} to {high}).")
    return sentences


def ratio_sentence(ratio: Ratio, what: str) -> str:
    """How many times as much a control takes of something."""
    times, low, high = (text.two_digits(value) for value in (ratio.value, ratio.low, ratio.high))
    return f"On the same images, the control takes {times} times {what} ({low} to {high})."


def answer_sentence(ratio: Ratio) -> str:
    """Which side takes longer for a correct answer, from a ratio whose interval lies on one side of 1."""
    values = (ratio.value, ratio.low, ratio.high)
    who, other = "the control", "the frozen network"
    if ratio.value < 1:
        who, other = other, who
        values = (1 / ratio.value, 1 / ratio.high, 1 / ratio.low)
    times, low, high = map(text.two_digits, values)
    return f"A correct answer takes {who} {times} times as long as {other} ({low} to {high}), extraction included."
