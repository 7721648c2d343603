"""How runs are written for readers: the one name of a head and the one Markdown table."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def head_name(run: Any, details: bool = False) -> str:
    """A head's name with the options that set it apart from its defaults, such as `svm (tuned, balanced)`.

    Args:
        run: a `RunResult`, or a row of the analysis' table of runs.
        details: add a seed other than 0, the draw of the training images if another seed made it, and whether the fit
            stopped before it converged.
    """
    marks = []
    if run.tuned:
        marks.append("tuned")
    if run.class_weight == "balanced":
        marks.append("balanced")
    if run.suspects in ("dropped", "weighted"):
        marks.append(f"suspects {run.suspects}")
    if details and run.seed:
        marks.append(f"seed {run.seed}")
    if details and run.draw not in (None, run.seed):
        marks.append(f"draw {run.draw}")
    if details and run.converged is not None and not run.converged:
        marks.append("not converged")
    return f"{run.model} ({', '.join(marks)})" if marks else str(run.model)


def markdown_table(table: "pd.DataFrame") -> str:
    """A DataFrame as a Markdown table, without its index; each cell is escaped and stays on one line."""
    text = table.map(escaped).set_axis([escaped(heading) for heading in table.columns], axis=1)
    return str(text.to_markdown(index=False, disable_numparse=True))


def escaped(value: object) -> str:
    """A value on one line, without the characters that end a cell or begin an HTML tag."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
