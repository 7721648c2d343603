"""The tables beside the claims: numbers as text under headings."""

import math

import pandas as pd

from analysis.findings import text


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
