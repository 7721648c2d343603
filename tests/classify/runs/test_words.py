from types import SimpleNamespace

import pandas as pd
import pytest
from tiny_runs import make_result

from classify.runs import head_name, markdown_table


@pytest.mark.parametrize(
    ("changes", "name", "detailed"),
    [
        ({}, "logreg", "logreg"),
        ({"tuned": 20}, "logreg (tuned)", "logreg (tuned)"),
        ({"tuned": 20, "class_weight": "balanced"}, "logreg (tuned, balanced)", "logreg (tuned, balanced)"),
        ({"seed": 3, "converged": False}, "logreg", "logreg (seed 3, not converged)"),
        ({"class_weight": "balanced", "seed": 3}, "logreg (balanced)", "logreg (balanced, seed 3)"),
        ({"seed": 1003, "draw": 3}, "logreg", "logreg (seed 1003, draw 3)"),
        ({"converged": None}, "logreg", "logreg"),
    ],
)
def test_the_name_of_a_head(changes: dict, name: str, detailed: str) -> None:
    run = make_result(**changes)
    row = SimpleNamespace(**{**vars(run), "class_weight": run.class_weight or "none"})  # as the analysis has it
    for either in (run, row):
        assert head_name(either) == name
        assert head_name(either, details=True) == detailed


def test_a_markdown_table() -> None:
    table = pd.DataFrame({"head": ["a|b", "<img>\n!"], "accuracy %": ["70.50", "9"]}, index=[7, 8])
    rows = [[cell.strip() for cell in line.split(" | ")] for line in markdown_table(table).splitlines()]
    assert rows[0] == ["| head", "accuracy %   |"]
    assert rows[2:] == [["| a\\|b", "70.50        |"], ["| &lt;img> !", "9            |"]]
