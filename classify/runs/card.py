"""The model card of a run, its README.md: what the head is, how good it is, and where its limits lie.

After Mitchell et al., Model Cards for Model Reporting, 2019.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from classify.runs.persist import HEAD
from classify.runs.results import RESULT, RunResult
from classify.runs.words import escaped, markdown_table
from featurize.cache import Certificate

CARD = "README.md"


def model_card(result: RunResult) -> str:
    """The card as Markdown, from the run's record alone."""
    # Imported here so that `import classify` stays fast.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("classify.runs"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"combine": _combined, "count": _count, "escaped": escaped, "percent": _percent}
    return environment.get_template("card.md.j2").render(
        run=result,
        head_file=HEAD,
        result_file=RESULT,
        precision=_precision(result),
        suspects=_suspects(result),
        recall=_recall_rows(result),
        calibration=_calibration_rows(result),
        sets=_set_rows(result),
        interval=_interval,
        table=_table,
    )


def _precision(result: RunResult) -> str:
    """The precision of the features, and what a lower one costs."""
    if result.certificate is None:
        return "float32"
    return f"{result.spec['precision']}: {Certificate(**result.certificate).in_words}"


def _suspects(result: RunResult) -> str:
    """How the suspected labels of an audit were trained on."""
    if result.suspects is None:
        return "not told apart"
    what = "left out" if result.suspects == "dropped" else "weighted by the probability that the label is right"
    return f"{_count(result.suspects_rows)} training images in {result.suspects_file} were {what}"


def _recall_rows(result: RunResult) -> list[list[str]]:
    """Each class with its test images, its recall and the interval of that."""
    rows = []
    for name, recall in result.recall.items():
        images = _count(result.support[name])
        if recall is None:
            rows.append([name, images, "-", "-"])
        else:
            value, low, high = recall
            rows.append([name, images, _percent(value), _interval(low, high)])
    return rows


def _calibration_rows(result: RunResult) -> list[list[str]]:
    """Each bin of test images with its mean probability and accuracy."""
    rows = []
    for group in result.reliability:
        rows.append([_count(int(group["rows"])), _percent(group["confidence"]), _percent(group["accuracy"])])
    return rows


def _set_rows(result: RunResult) -> list[list[str]]:
    """Each class with the share of its test images whose set holds it, the interval of that, and the mean size."""
    rows = []
    for name, found in result.class_coverage.items():
        if found is None:
            rows.append([name, "-", "-", "-"])
        else:
            share, low, high, size = found
            rows.append([name, _percent(share), _interval(low, high), f"{size:.1f}"])
    return rows


def _table(rows: Mapping[str, Any] | Sequence[Sequence[Any]], heading: Sequence[str] = ("", "")) -> str:
    import pandas as pd

    lines = list(rows.items()) if isinstance(rows, Mapping) else rows
    return markdown_table(pd.DataFrame(lines, columns=list(heading), dtype=object))


def _combined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {**first, **second}


def _count(number: float) -> str:
    return f"{number:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _interval(low: float, high: float) -> str:
    return f"{_percent(low)} to {_percent(high)}"
