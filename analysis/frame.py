"""Runs as tables: comparison.csv with every figure, comparison.md and comparison.tex to be read."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from classify.runs import RunResult, read_predictions
from classify.statistics import compare
from featurize.core.files import written_whole

COLUMNS = [
    "dataset", "test_set", "kind", "features", "cache", "backbone", "weights", "layers", "model", "seed",
    "class_weight", "tuned", "dim", "train_rows", "test_rows", "accuracy", "accuracy_low", "accuracy_high",
    "balanced_accuracy", "macro_f1", "macro_f1_low", "macro_f1_high", "log_loss", "brier", "ece", "fit_seconds",
    "extraction_seconds", "predict_ms_per_image", "iterations", "converged", "head_bytes", "fingerprint", "run_dir",
]  # fmt: skip
HEAD = ["test_set", "features", "layers", "model", "class_weight"]
TIED = "†"
ACCURACY = "accuracy % (95% interval)"
BALANCED = "balanced accuracy %"
BOLD = "In bold: the most accurate."
LEGEND = (
    f"{TIED}: not significantly less accurate than the best. Heads that share a letter do not differ "
    "significantly (exact McNemar tests on the same test images, Holm's correction over all pairs, 5%). Percentages "
    "are rounded to what their intervals support."
)
TEXT_COLUMNS = ("features", "head", "group")  # the others hold numbers, to be set on the right
ESCAPES = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        TIED: r"$^{\dagger}$",
    }
)


def comparison(runs: Mapping[Path, RunResult]) -> pd.DataFrame:
    """One row per run with the columns `COLUMNS`, test sets apart, best first.

    `test_set` names the test images: the data set's name and the first digits of their digest.
    `kind` is what the head works on: `pretrained` or `random` (a network with such weights), `pixels`,
    or `scratch` (the images themselves, by a network that is trained on them). `cache` is the name of
    the vectors' file, `features` what they are called for short: the backbone and its weights, or the
    whole name where that says too little. Where one name stands for several kinds of vectors, their
    layers or the first digits of their fingerprints are added. Accuracies, macro F1, their bounds
    and the calibration error are in 0..1; `extraction_seconds` is for one image.
    """
    rows = [
        {
            **vars(result),
            "test_set": f"{result.dataset}-{result.test_digest[:8]}",
            "kind": _kind(result),
            "backbone": result.spec["backbone"],
            "features": _short(result),
            "cache": _long(result),
            "layers": "+".join(result.layers),
            "class_weight": result.class_weight or "none",
            "run_dir": path.as_posix(),
        }
        for path, result in runs.items()
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    unclear = table.groupby(["test_set", "features"])["cache"].transform("nunique") > 1
    table["features"] = table["features"].mask(unclear, table["cache"])
    for column, mark in (("layers", table["layers"]), ("fingerprint", table["fingerprint"].str[:6])):
        several = table.groupby(["test_set", "features"])[column].transform("nunique") > 1
        table["features"] = table["features"].where(~several, table["features"] + " (" + mark + ")")
    order = ["dataset", "test_set", "accuracy", "features", "model", "seed", "run_dir"]
    return table.sort_values(order, ascending=[True, True, False, True, True, True, True], ignore_index=True)


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """The runs to be shown together: of each head on the same features one, best first.

    It is the one with the most training images, then with the longest search, then with the lowest
    seed. Heads with default settings and searched ones, with class weights and without, stand apart.

    Args:
        table: from `comparison`, or some of its rows.
    """
    chosen = (
        table.assign(searched=table["tuned"] > 0)
        .sort_values(["train_rows", "tuned", "seed", "run_dir"], ascending=[False, False, True, True])
        .drop_duplicates([*HEAD, "searched"])
    )
    return table.loc[sorted(chosen.index)].reset_index(drop=True)


def with_groups(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one test set with the column `group`: those that share a letter do not differ significantly.

    Raises:
        DataError: the predictions of a run cannot be read, or are not of the same test images.
    """
    groups = compare({run_dir: read_predictions(Path(run_dir)) for run_dir in rows["run_dir"]}).groups
    return rows.assign(group=rows["run_dir"].map(groups))


def head_name(row: Any) -> str:
    """The head of a row of `comparison`, with what sets it apart from its defaults."""
    marks = [*(["tuned"] if row.tuned else []), *(["balanced"] if row.class_weight != "none" else [])]
    return row.model + (f" ({', '.join(marks)})" if marks else "")


def decimals(low: float, high: float) -> int:
    """How many decimals of a percentage its interval supports.

    The last digit shown has the place of the first digit of the interval's half-width: none for 2.8
    points, one for 0.9, two for 0.05; three at most. One where the interval has no width.

    Args:
        low: the interval's lower bound, as a share (0..1) or difference of shares.
        high: the upper bound.
    """
    half = 50 * (high - low)  # points
    return min(max(-math.floor(math.log10(half)), 0), 3) if half > 0 else 1


def rounded(value: float, low: float, high: float) -> str:
    """A share (0..1) in percent, without the sign, to the decimals that its interval supports."""
    return f"{100 * value:.{decimals(low, high)}f}"


def with_interval(value: float, low: float, high: float) -> str:
    """A share (0..1) and its bounds in percent, such as `72 (69 to 74)`."""
    return f"{rounded(value, low, high)} ({rounded(low, low, high)} to {rounded(high, low, high)})"


def readable(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `with_groups` as text under headings; the accuracy of those tied with the best is marked `TIED`.

    Balanced accuracy, the mean of the classes' recalls, is shown where the classes are of unequal size.
    """
    best = rows["accuracy"].max()
    unequal = not np.allclose(rows["balanced_accuracy"], rows["accuracy"], atol=5e-4)
    letters = _letters("".join(rows.loc[rows["accuracy"] == best, "group"]))
    return pd.DataFrame(
        [
            {
                "features": row.features,
                "head": head_name(row) + (" (not converged)" if row.converged is False else ""),
                "train images": f"{row.train_rows:,}",
                ACCURACY: with_interval(row.accuracy, row.accuracy_low, row.accuracy_high)
                + (f" {TIED}" if row.accuracy < best and letters & _letters(row.group) else ""),
                **({BALANCED: f"{100 * row.balanced_accuracy:.1f}"} if unequal else {}),
                "group": row.group,
                "macro F1 % (95% interval)": with_interval(row.macro_f1, row.macro_f1_low, row.macro_f1_high),
                "log loss": "-" if pd.isna(row.log_loss) else f"{row.log_loss:.3f}",
                "ECE %": "-" if pd.isna(row.ece) else f"{100 * row.ece:.1f}",
                "fit s": f"{row.fit_seconds:.1f}",
                "extract ms/image": f"{1000 * row.extraction_seconds:.2f}",
                "predict ms/image": f"{row.predict_ms_per_image:.3f}",
                "vector": f"{row.dim:,}",
                "size MB": f"{row.head_bytes / 1e6:.1f}" if row.head_bytes else "-",
            }
            for row in rows.itertuples()
        ]
    )


def write_comparison(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write comparison.csv (all runs), comparison.md and comparison.tex (the headline runs); returns their paths.

    The LaTeX file needs the packages booktabs and graphicx.

    Raises:
        DataError: the predictions of a run cannot be used; nothing is written.
    """
    parts = _parts(table)
    texts = {
        "comparison.csv": table.to_csv(index=False, lineterminator="\n"),
        "comparison.md": _markdown(parts),
        "comparison.tex": _latex(parts),
    }
    for name, text in texts.items():
        with written_whole(folder / name) as temporary:
            temporary.write_text(text, "utf-8")
    return [folder / name for name in texts]


def _long(result: RunResult) -> str:
    """The name of the vectors, without the data set's."""
    return result.features.removeprefix(f"{result.dataset}-")


def _short(result: RunResult) -> str:
    """The backbone and its weights, where the vectors' name begins with them, as one that the user chose does not."""
    name = "pixels" if result.spec["backbone"] == "pixels" else f"{result.spec['backbone']}-{result.weights}"
    return name if f"{_long(result)}-".startswith(f"{name}-") else _long(result)


def _kind(result: RunResult) -> str:
    if result.model == "cnn":
        return "scratch"
    if result.spec["backbone"] == "pixels":
        return "pixels"
    return "random" if result.weights.startswith("random") else "pretrained"


def _letters(group: str) -> set[str]:
    """The letters of a group; from the 27th on they are numbered."""
    return set(re.findall(r"[a-z]\d*", group))


def _parts(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The headline rows of each test set, with groups."""
    return [with_groups(rows) for _, rows in headline(table).groupby("test_set", sort=False)]


def _title(rows: pd.DataFrame) -> str:
    return f"{rows['dataset'].iloc[0]}: {rows['test_rows'].iloc[0]:,} test images"


def bold_cells(rows: pd.DataFrame) -> frozenset[tuple[int, int]]:
    """Row and column, of the table that `readable` makes of these rows, of the best accuracies."""
    column = list(readable(rows).columns).index(ACCURACY)
    return frozenset((row, column) for row in np.flatnonzero(rows["accuracy"] == rows["accuracy"].max()).tolist())


def _cells(rows: pd.DataFrame, bold: str, cell: Any) -> list[list[str]]:
    """The readable rows, each cell as `cell` writes it, the best accuracies set in bold by a format."""
    shown = readable(rows)
    lines = [[cell(text) for text in texts] for texts in shown.to_numpy().tolist()]
    for row, column in bold_cells(rows):
        lines[row][column] = bold.format(lines[row][column])
    return [[cell(heading) for heading in shown.columns], *lines]


def _markdown(parts: list[pd.DataFrame]) -> str:
    sections = ["# Comparison"]
    for rows in parts:
        heading, *lines = _cells(rows, "**{}**", lambda text: text.replace("|", "\\|").replace("<", "&lt;"))
        lines = [heading, ["---"] * len(heading), *lines]
        sections += [f"## {_title(rows)}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return "\n\n".join([*sections, f"{BOLD} {LEGEND}"]) + "\n"


def _latex(parts: list[pd.DataFrame]) -> str:
    sections = ["% needs \\usepackage{booktabs,graphicx}"]
    for rows in parts:
        heading, *lines = _cells(rows, r"\textbf{{{}}}", lambda text: text.translate(ESCAPES))
        sections.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{_title(rows).translate(ESCAPES)}. {BOLD} {LEGEND.translate(ESCAPES)}}}",
                    r"\resizebox{\linewidth}{!}{%",
                    rf"\begin{{tabular}}{{{''.join('l' if name in TEXT_COLUMNS else 'r' for name in heading)}}}",
                    r"\toprule",
                    " & ".join(heading) + r" \\",
                    r"\midrule",
                    *(" & ".join(line) + r" \\" for line in lines),
                    r"\bottomrule",
                    r"\end{tabular}}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(sections) + "\n"
