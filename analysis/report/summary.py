"""The report as Markdown, for a pull request: the answer, the numbers, the findings and the ranking."""

from pathlib import Path

import pandas as pd

from analysis.report.content import Report, Table
from classify.runs import markdown_table
from featurize.core.files import written_whole

SECTIONS = 4  # those that answer the four questions


def write_summary(report: Report, path: Path) -> Path:
    """Write a report without its figures; returns the path.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    lines = [f"# {report.title}", report.subtitle, f"**{report.answer}**"]
    if report.numbers:
        rows = [
            {
                "": number.label,
                "value": number.value or "not measured",
                "95% interval": number.interval.removeprefix("95% interval "),
                "what": f"{number.detail}; measure it with `{number.command}`" if number.command else number.detail,
            }
            for number in report.numbers
        ]
        lines.append(markdown_table(pd.DataFrame(rows)))
    lines.append("\n".join(f"- **{section.title}**: {section.finding}" for section in report.sections[:SECTIONS]))
    lines += [report.ranking.caption, markdown_table(_shown(report.ranking))]
    for section in report.sections[SECTIONS:]:
        if section.title == "Findings" and section.parts:
            (table,) = (part for part in section.parts if isinstance(part, Table))
            lines += ["## Findings", markdown_table(_shown(table))]
    text = "\n\n".join(lines) + "\n"
    with written_whole(path) as temporary:
        temporary.write_text(text, "utf-8")
    return path


def _shown(table: Table) -> pd.DataFrame:
    """The columns that are shown by default, as text; the colours of the bars are not."""
    return table.frame[[name for name in table.frame.columns if name not in table.extra]].astype(str)
