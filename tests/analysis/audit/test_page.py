import html
import json
import re
from pathlib import Path

import numpy as np

from analysis.audit.page import FIRST_SHOWN, labels_table, write_page
from analysis.audit.suspects import Rows, Suspects

CLASSES = ["cat", 'd"o,g', "<b>&"]


def rows_and_suspects(count: int = 60, paths: bool = True) -> tuple[Rows, Suspects]:
    labels = np.zeros(count, np.int64)
    names = np.array([f"cat/{number} &, <i>.png".encode() for number in range(count)]) if paths else None
    splits = np.array(["train"] * (count - 1) + ["test"])
    rows = Rows(splits, np.arange(count), labels, names, labels)
    wrong = np.linspace(0.9, 0.1, count)
    suspects = Suspects(wrong, np.full(count, 1), wrong, np.arange(count), 30, 0.1, [])
    return rows, suspects


def test_the_page_holds_all_suspects_and_shows_the_first(tmp_path: Path) -> None:
    rows, suspects = rows_and_suspects()
    page = write_page(tmp_path / "a.html", "pets", ["30 <of> 60"], rows, suspects, CLASSES, None, with_splits=True)
    text = page.read_text()
    buttons = re.findall(r'<button type="button" class="suspect".*?>', text)
    assert len(buttons) == 30
    assert sum("hidden" in button for button in buttons) == 30 - FIRST_SHOWN
    assert "<i>" not in text
    assert "30 &lt;of&gt; 60" in text
    assert "wrong</" not in text
    assert "http://" not in text
    assert "https://" not in text


def test_the_table_of_corrections_names_every_file(tmp_path: Path) -> None:
    rows, suspects = rows_and_suspects(5)
    table = json.loads(labels_table(rows, CLASSES, with_splits=True))
    assert table[0] == ["path", "label", "split"]
    assert table[1] == ["cat/0 &, <i>.png", "cat", "train"]
    assert table[5][2] == "test"
    assert json.loads(labels_table(rows, CLASSES, with_splits=False))[0] == ["path", "label"]
    assert labels_table(rows_and_suspects(5, paths=False)[0], CLASSES, with_splits=True) == ""
    page = write_page(tmp_path / "a.html", "pets", [], rows, suspects, CLASSES, None, with_splits=True)
    [embedded] = re.findall(r'<pre id="labels" hidden>(.*?)</pre>', page.read_text(), re.DOTALL)
    assert json.loads(html.unescape(embedded)) == table


def test_characters_that_html_forbids_are_replaced(tmp_path: Path) -> None:
    rows, suspects = rows_and_suspects(5)
    page = write_page(tmp_path / "a.html", "pe\x01ts", [], rows, suspects, CLASSES, None, with_splits=True)
    text = page.read_text("utf-8")
    assert "\x01" not in text
    assert "pe\ufffdts" in text
