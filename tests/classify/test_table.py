"""The table of results fits the terminal, and never cuts a number."""

import re
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import PIXELS, make_predictions, make_result, write_run

from classify.runs import RunResult, find_run
from classify.table import print_table
from featurize.core.errors import UsageError

NUMBERS = {
    "train": r"[\d,]+",
    "accuracy %": r"\d+\.\d",
    "95% interval": r"\d+\.\d to \d+\.\d",
    "macro F1 %": r"\d+\.\d",
    "log loss": r"\d\.\d{3}",
    "ECE %": r"\d+\.\d",
    "fit s": r"[\d,]+\.\d",
    "ms/image": r"\d+\.\d{3}",
    "run": r"[a-z-]+-[0-9a-f]{8}",
}


def save_runs(folder: Path, *changes: dict) -> dict[Path, RunResult]:
    results = {}
    for number, change in enumerate(changes):
        result = make_result(**change)
        path = folder / result.features / f"{result.model}-{number:08x}"
        write_run(path, result, make_predictions(np.arange(1000) % (number + 2) > 0))
        results[path] = result
    return results


@pytest.fixture
def results(tmp_path: Path) -> dict[Path, RunResult]:
    return save_runs(
        tmp_path,
        {"model": "xgboost", "tuned": 20, "class_weight": "balanced", "seed": 12, "fit_seconds": 12345.6},
        {"model": "linear-svm"},
        {**PIXELS, "train_rows": 50_000},
    )


def printed_cells(text: str) -> list[list[str]]:
    """The heading and the rows of a table, without the lines on which long text goes on."""
    lines = [line for line in text.splitlines() if line.startswith(("┃", "│"))]
    cells = [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in lines]
    return [row for row in cells if re.search(r"\d\.\d", " ".join(row)) or "head" in row]


@pytest.mark.parametrize(("width", "columns"), [(80, 5), (100, 7), (120, 9), (160, 12)])
def test_every_width(
    results: dict[Path, RunResult], width: int, columns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    print_table(results, width)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    heading, *rows = printed_cells(text)
    assert len(heading) == columns
    assert {"features", "head", "train", "accuracy %", "95% interval"} <= set(heading)
    for path in results:
        assert path.name in text
    assert len(rows) == 3
    for row in rows:
        for name, cell in zip(heading, row, strict=True):
            assert cell, name
            assert re.fullmatch(NUMBERS.get(name, ".*"), cell), (name, cell)


def test_what_all_runs_share_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(save_runs(tmp_path, {}, {"model": "svm"}), 100)
    text = capsys.readouterr().out
    title = "tiny: 1,000 test images, features vgg16-imagenet-64px-block3_pool-grid2, train 2,000"
    assert title in " ".join(text.split())
    assert "features" not in printed_cells(text)[0]


def test_markup_in_names_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(save_runs(tmp_path, {"dataset": "[red]cats[/red]", "features": "[bold]x"}), 160)
    text = capsys.readouterr().out
    assert "[red]cats[/red]: 1,000 test images" in text
    assert "[bold]x" in text


def test_a_run_by_its_name(results: dict[Path, RunResult], tmp_path: Path) -> None:
    xgboost, svm, pixels = results
    assert find_run("xgboost-00000000", tmp_path) == xgboost
    assert find_run("lin", tmp_path) == svm
    assert find_run(str(pixels), tmp_path / "elsewhere") == pixels
    with pytest.raises(UsageError, match=r"^xgbost: no such run; did you mean xgboost-00000000\?$"):
        find_run("xgbost", tmp_path)
    with pytest.raises(UsageError, match=r"^x: no such run; there are no runs in .*elsewhere, make some with"):
        find_run("x", tmp_path / "elsewhere")
    write_run(tmp_path / "other" / "xgboost-00000007", next(iter(results.values())), make_predictions(np.ones(3, bool)))
    with pytest.raises(UsageError, match=r"^xgb: 2 runs have names that begin like this \(.*; name one of them$"):
        find_run("xgb", tmp_path)
