"""Tables of runs: comparison.csv with every number, comparison.md and comparison.tex for readers."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.findings import TRANSFER, Correction, Ledger, Notice
from analysis.findings.text import deviation, points, seconds, with_interval
from analysis.frame import headline, training_cost, with_groups
from analysis.report.content import Interval, Table
from classify.runs import CODES, RunResult, head_name, markdown_table, read_predictions
from featurize.core.files import written_whole

TIED = "†"
SPREAD_CAPTION = (
    "Standard deviations in points, with 95% intervals. Those of the accuracies and of what a head is behind the best "
    "cover test images, training images and seed."
)
SPREAD_NOTES = (
    "Each head was trained on the same draws of the training images, and tested on the same images.",
    "The draws share images, so they vary less than independent ones; that is corrected (Nadeau and Bengio, 2003).",
    "The squares of a head's three standard deviations add up to the variance of one run.",
    "Spreads are those of the number of images in the draws; with more images they are smaller.",
)
SPREAD_ON_DEMAND = frozenset(
    {"that by test images", "that by training images", "that by seed", "draws", "seeds a draw"}
)
ACCURACY = "accuracy % (95% interval)"
LEGEND = (
    f"Bold: the highest accuracy. {TIED}: not significantly less accurate than the best. Heads that share a letter do "
    "not differ significantly (exact McNemar tests on the same test images, Holm's correction over all pairs, 5%). "
    "Percentages are rounded to what their intervals support."
)
SECONDS = "train s"
ROWS_AT_FIRST = 12
ONLY_IN_CSV = ("extract ms/image", "predict ms/image", "vector", "size MB")  # a printed page has no room for them
TEXT_COLUMNS = ("features", "head", "group")  # the others hold numbers, which are set flush right
# The characters that LaTeX treats as commands, and those that its standard font replaces by others.
LATEX = str.maketrans(
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


def readable(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `with_groups` as text under headings; `TIED` marks the accuracy of runs tied with the best.

    Balanced accuracy, the mean of the classes' recalls, is shown if the classes differ in size.
    """
    best = rows["accuracy"].max()
    best_letters = _letters("".join(rows.loc[rows["accuracy"] == best, "group"]))
    unequal_classes = not np.allclose(rows["balanced_accuracy"], rows["accuracy"], atol=5e-4)
    lines = []
    for row in rows.itertuples():
        tied = row.accuracy < best and best_letters & _letters(row.group)
        accuracy = with_interval(row.accuracy, row.accuracy_low, row.accuracy_high)
        line = {
            "features": row.features,
            "head": head_name(row) + (" (not converged)" if row.converged is False else ""),
            "train images": f"{row.train_rows:,}",
            ACCURACY: f"{accuracy} {TIED}" if tied else accuracy,
        }
        if unequal_classes:
            line["balanced accuracy %"] = f"{100 * row.balanced_accuracy:.1f}"
        line |= {
            "group": row.group,
            "macro F1 % (95% interval)": with_interval(row.macro_f1, row.macro_f1_low, row.macro_f1_high),
            "log loss": f"{row.log_loss:.3f}",
            "ECE %": f"{100 * row.ece:.1f}",
            "fit s": f"{row.fit_seconds:.1f}",
            "extract ms/image": f"{1000 * row.extraction_seconds:.2f}",
            "predict ms/image": f"{row.predict_ms_per_image:.3f}",
            "vector": f"{row.dim:,}",
            "size MB": f"{row.head_bytes / 1e6:.1f}" if row.head_bytes else "-",
        }
        lines.append(line)
    return pd.DataFrame(lines)


def ranking(rows: pd.DataFrame, chance: float) -> Table:
    """Rows of `with_groups` for the page: accuracies as bars, and less important columns on demand.

    Args:
        rows: best first.
        chance: the accuracy of always naming the most frequent class, 0..1.
    """
    text = readable(rows)
    bars = []
    for row, shown in zip(rows.itertuples(), text[ACCURACY], strict=True):
        look = "transfer" if row.kind == TRANSFER else "control"
        shown = shown.removesuffix(f" {TIED}")
        bars.append(Interval(shown, row.accuracy, row.accuracy_low, row.accuracy_high, look, chance))
    text[ACCURACY] = bars
    text[SECONDS] = [seconds(value) for value in training_cost(rows)["seconds"]]
    shown_columns = ["head", "features", ACCURACY, "group", SECONDS]
    extra = [name for name in text.columns if name not in shown_columns]
    return Table(
        f"Every head, best first, with 95% intervals; dots are chance ({100 * chance:.0f}%). Blue: frozen network. "
        "Grey: controls. Heads that share a letter do not differ significantly. Train s includes the features.",
        text[[*shown_columns, *extra]],
        extra=frozenset(extra),
        first=ROWS_AT_FIRST,
        keys=[{"network": row.features, "head": row.model} for row in rows.itertuples()],
    )


def best_rows(rows: pd.DataFrame) -> list[int]:
    """The numbers of the rows with the highest accuracy."""
    return [int(number) for number in np.flatnonzero(rows["accuracy"] == rows["accuracy"].max())]


def ranked_networks(rows: pd.DataFrame) -> pd.DataFrame:
    """The best head of each network, best first: some columns of `readable`."""
    best = rows.drop_duplicates("features")
    return readable(best)[["features", "head", ACCURACY, "group", "extract ms/image", "vector"]]


def spread_table(found: Ledger) -> pd.DataFrame:
    """How far each head's accuracy varies, and the difference from the best one."""
    rows = []
    for entry in found.entries:
        accuracy = entry.accuracy
        row = {
            "head": entry.approach,
            "accuracy %": with_interval(*accuracy.mean),
            "by test images": deviation(*accuracy.test),
            "by training images": deviation(*accuracy.draw),
            "by seed": "in the column before" if accuracy.seed is None else deviation(*accuracy.seed),
            "behind the best, points": "-",
            "that by test images": "-",
            "that by training images": "-",
            "that by seed": "-",
            "draws": f"{accuracy.draws}",
            "seeds a draw": f"{accuracy.seeds}",
        }
        if entry.behind is not None:
            value, low, high = points(*entry.behind.mean)
            row["behind the best, points"] = f"{value} ({low} to {high})"
            row["that by test images"] = deviation(*entry.behind.test)
            row["that by training images"] = deviation(*entry.behind.draw)
            row["that by seed"] = "-" if entry.behind.seed is None else deviation(*entry.behind.seed)
        rows.append(row)
    return pd.DataFrame(rows)


def notices_table(found: Sequence[Notice]) -> pd.DataFrame:
    """What to look at, each with its code."""
    rows = []
    for notice in found:
        code = CODES[notice.code]
        rows.append(
            {
                "code": notice.code,
                "what": code.title,
                "found here": notice.found,
                "why it matters": code.matters,
                "what to do": code.action,
                "how it is found": code.found,
            }
        )
    return pd.DataFrame(rows)


def corrected(winner: pd.Series, correction: Correction) -> pd.DataFrame:
    """The accuracy of the best head as tested, and corrected for the choice of that head."""
    look = "transfer" if winner["kind"] == TRANSFER else "control"
    found = correction.selection
    rows = {
        f"{correction.name}, as tested": (found.accuracy, winner["accuracy_low"], winner["accuracy_high"]),
        f"corrected for the choice among {found.runs:,}": (found.corrected, found.low, found.high),
    }
    bars = [Interval(with_interval(*bounds), *bounds, look) for bounds in rows.values()]
    return pd.DataFrame({"head": list(rows), ACCURACY: bars})


def write_mistakes(run_dir: Path, result: RunResult, path: Path) -> Path:
    """Write the wrong predictions of a run as CSV, the most confident first; returns the path.

    The columns are `path` (of image files), `id`, `true`, `predicted` and `probability`, that of the predicted class.

    Raises:
        DataError: the predictions cannot be read.
    """
    predictions = read_predictions(run_dir)
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    names = np.array(result.class_names)
    table = pd.DataFrame(
        {
            "path": wrong.get("path", ""),
            "id": wrong["id"],
            "true": names[wrong["label"].to_numpy(int)],
            "predicted": names[wrong["predicted"].to_numpy(int)],
            "probability": wrong.filter(regex="^p_").max(axis=1).round(4),
        }
    )
    table = table.sort_values(["probability", "id"], ascending=[False, True])
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    return path


def write_comparison(table: pd.DataFrame, folder: Path | str) -> list[Path]:
    """Write comparison.csv (all runs), comparison.md and comparison.tex (the headline runs); returns their paths.

    The table comes from `comparison`. The LaTeX file needs the packages booktabs and adjustbox.

    Raises:
        DataError: the predictions of a run cannot be used; nothing is written.
    """
    folder = Path(folder)
    test_sets = [with_groups(rows) for _, rows in headline(table).groupby("test_set", sort=False)]
    markdown = ["# Comparison", *(_markdown(rows) for rows in test_sets), LEGEND]
    latex = [r"% needs \usepackage{booktabs,adjustbox}", *(_latex(rows) for rows in test_sets)]
    texts = {
        "comparison.csv": table.to_csv(index=False, lineterminator="\n"),
        "comparison.md": "\n\n".join(markdown) + "\n",
        "comparison.tex": "\n\n".join(latex) + "\n",
    }
    for name, text in texts.items():
        with written_whole(folder / name) as temporary:
            temporary.write_text(text, "utf-8")
    return [folder / name for name in texts]


def _letters(group: str) -> set[str]:
    """The letters of a group; from the 27th on they are numbered."""
    return set(re.findall(r"[a-z]\d*", group))


def _title(rows: pd.DataFrame) -> str:
    return f"{rows['dataset'].iloc[0]}: {rows['test_rows'].iloc[0]:,} test images"


def _markdown(rows: pd.DataFrame) -> str:
    """A heading and the table of one test set."""
    text = readable(rows)
    best = best_rows(rows)
    text.loc[best, ACCURACY] = "**" + text.loc[best, ACCURACY] + "**"
    return f"## {_title(rows)}\n\n{markdown_table(text)}"


def _latex(rows: pd.DataFrame) -> str:
    """The table of one test set with its caption, scaled to a page; comparison.csv has every column."""
    text = readable(rows).drop(columns=[*ONLY_IN_CSV])
    styler = text.style.hide(axis="index")
    styler.format(_latex_escaped).format_index(_latex_escaped, axis=1)
    styler.map(lambda _: "textbf:--rwrap", subset=(best_rows(rows), [ACCURACY]))
    columns = "".join("l" if name in TEXT_COLUMNS else "r" for name in text.columns)
    tabular = styler.to_latex(column_format=columns, hrules=True).rstrip()
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex_escaped(f'{_title(rows)}. {LEGEND}')}}}",
            rf"\label{{tab:{_label(rows)}}}",
            r"\adjustbox{max width=\linewidth,max totalheight=0.75\textheight}{%",
            f"{tabular}}}",
            r"\end{table}",
        ]
    )


def _label(rows: pd.DataFrame) -> str:
    """The test set's name, of characters that a label may have."""
    return re.sub("[^A-Za-z0-9]+", "-", str(rows["test_set"].iloc[0])).strip("-")


def _latex_escaped(text: str) -> str:
    return text.translate(LATEX)
