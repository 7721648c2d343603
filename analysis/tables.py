"""Runs as tables: comparison.csv with every figure, comparison.md to be read."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from classify.results import RunResult
from featurize.files import written_whole

COLUMNS = [
    "dataset", "test_set", "features", "backbone", "weights", "model", "seed", "dim", "train_rows", "test_rows",
    "accuracy", "accuracy_low", "accuracy_high", "macro_f1", "log_loss", "ece", "fit_seconds",
    "predict_ms_per_image", "iterations", "converged", "run_dir",
]  # fmt: skip
CONTROL = "pixels"


def comparison(runs: Mapping[Path, RunResult]) -> pd.DataFrame:
    """One row per run with the columns `COLUMNS`, test sets apart, best first.

    `test_set` names the test images: the data set's name and the first digits of their digest.
    Accuracy, its bounds, macro F1 and calibration error are in 0..1.
    """
    rows = [
        {
            **vars(result),
            "test_set": f"{result.dataset}-{result.test_digest[:8]}",
            "backbone": result.spec["backbone"],
            "features": result.features.removeprefix(f"{result.dataset}-"),
            "run_dir": path.as_posix(),
        }
        for path, result in runs.items()
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    order = ["dataset", "test_set", "accuracy", "features", "model", "seed", "run_dir"]
    return table.sort_values(order, ascending=[True, True, False, True, True, True, True], ignore_index=True)


def transfer_gain(table: pd.DataFrame) -> pd.DataFrame:
    """What features are worth over raw pixels, for runs of one test set.

    Returns a row per head and kind of features, for heads that also ran on `pixels` with as many
    training images: `model`, `features`, `accuracy`, `pixels`, `gain` (all in 0..1), best gain first.
    """
    keys = ["model", "train_rows"]
    best = table.sort_values("accuracy", ascending=False).drop_duplicates([*keys, "features"])
    control = best[best["backbone"] == CONTROL].drop_duplicates(keys)
    pairs = best[best["backbone"] != CONTROL].merge(
        control[[*keys, "accuracy"]].rename(columns={"accuracy": "pixels"}), on=keys
    )
    pairs["gain"] = pairs["accuracy"] - pairs["pixels"]
    return pairs.sort_values(["gain", "model", "features"], ascending=[False, True, True], ignore_index=True)[
        ["model", "features", "accuracy", "pixels", "gain"]
    ]


def markdown(table: pd.DataFrame) -> str:
    """The comparison as GitHub-flavoured Markdown, a section for each test set."""
    sections = ["# Comparison"]
    for _, rows in table.groupby("test_set", sort=False):
        first = rows.iloc[0]
        sections.append(f"## {first['dataset']}: {first['test_rows']:,} test images")
        sections.append(
            _markdown_table(
                ["features", "head", "train images", "accuracy % (95% interval)", "macro F1 %", "log loss", "ECE %",
                 "fit s", "predict ms/image", "vector"],
                [
                    [
                        row.features,
                        row.model + (" (not converged)" if row.converged is False else ""),
                        f"{row.train_rows:,}",
                        f"{_percent(row.accuracy)} ({_percent(row.accuracy_low)} to {_percent(row.accuracy_high)})",
                        _percent(row.macro_f1),
                        "-" if pd.isna(row.log_loss) else f"{row.log_loss:.3f}",
                        "-" if pd.isna(row.ece) else _percent(row.ece),
                        f"{row.fit_seconds:.1f}",
                        f"{row.predict_ms_per_image:.3f}",
                        f"{row.dim:,}",
                    ]
                    for row in rows.itertuples()
                ],
            )
        )  # fmt: skip
        gain = transfer_gain(rows)
        if len(gain):
            sections.append("### What the features are worth: the same head on raw pixels")
            sections.append(
                _markdown_table(
                    ["head", "features", "accuracy %", "on raw pixels %", "gain, points"],
                    [
                        [
                            row.model,
                            row.features,
                            _percent(row.accuracy),
                            _percent(row.pixels),
                            _points(row.gain),
                        ]
                        for row in gain.itertuples()
                    ],
                )
            )
    return "\n\n".join(sections) + "\n"


def write_comparison(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write comparison.csv and comparison.md; returns their paths."""
    paths = [folder / "comparison.csv", folder / "comparison.md"]
    texts = [table.to_csv(index=False, lineterminator="\n"), markdown(table)]
    for path, text in zip(paths, texts, strict=True):
        with written_whole(path) as temporary:
            temporary.write_text(text, "utf-8")
    return paths


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(gain: float) -> str:
    return f"{100 * gain:+.1f}"


def _markdown_table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
