import base64
import hashlib
import io
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_reports import COLOURS, HOSTILE, TABLE, make_map, make_report, report_filled_with
from tinyhtml5.parser import HTMLParser

from analysis.report import html
from analysis.report.content import Report, Section, Table
from analysis.report.html import write_report
from featurize.core.errors import DataError
from featurize.images import load_dataset

SVG = "{http://www.w3.org/2000/svg}"


def parse(path: Path) -> Element:
    """The document, checked to be without any parse error."""
    parser = HTMLParser(namespace_html_elements=False)
    document = parser.parse(path.read_bytes(), override_encoding="utf-8")
    assert parser.errors == []
    return document


def written(report: Report, folder: Path) -> Element:
    return parse(write_report(report, folder / "report.html"))


def texts(document: Element, path: str) -> list[str]:
    return [" ".join("".join(element.itertext()).split()) for element in document.iterfind(path)]


def source(data_uri: str) -> bytes:
    return base64.b64decode(data_uri.partition("base64,")[2])


def test_everything_is_said_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "out" / "report.html"
    assert write_report(make_report(), path) == path
    document = parse(path)
    assert texts(document, ".//h1") == texts(document, ".//title") == ["Does it help?"]
    assert texts(document, ".//header/p") == ["On 1,000 images."]
    assert texts(document, ".//h2") == ["Accuracy", "Time", "Limits", "How to reproduce", "Skipped"]
    assert texts(document, ".//p[@class='answer']") == ["It does."]
    assert texts(document, ".//summary/span")[:2] == ["It helps by 30 points.", "It takes 5 s."]
    assert texts(document, ".//details[@id='section-1']//ul[@class='plain']/li") == ["Both saw 100 images."]
    assert texts(document, ".//ul[@class='notes']/li") == ["Exact McNemar tests."]
    captions = ["Every head.", "All heads.", "A line.", "svm"]
    assert texts(document, ".//figcaption")[:4] == captions
    assert texts(document, ".//figcaption")[4].startswith("The vectors as a map.")
    assert texts(document, ".//pre/code") == ["frozenbench featurize --data sample", "frozenbench analysis"]
    assert texts(document, ".//dt") == ["machine", "runs", "numpy", "python", "test images"]
    assert texts(document, ".//dd") == ["2 cores", "open", "2.3.1", "3.11", "ab" * 32]
    assert texts(document, ".//details[@id='limits']//li") == ["Small images only."]
    assert texts(document, ".//details[@id='skipped']//li") == ["data/runs/x/svm-1: result.json cannot be used"]


def test_the_table_is_the_frame(tmp_path: Path) -> None:
    document = written(make_report(sections=[Section("A", "B", [Table("x", TABLE)])]), tmp_path)
    assert texts(document, ".//details//thead/tr/th") == list(TABLE.columns)
    lines = document.findall(".//details//tbody/tr")
    assert [[cell.text for cell in line] for line in lines] == TABLE.to_numpy().tolist()
    assert [[cell.tag for cell in line] for line in lines] == [["th", "td", "td", "td"]] * 3


def test_the_numbers_and_their_intervals(tmp_path: Path) -> None:
    document = written(make_report(), tmp_path)
    gain, fast, epochs = document.iterfind(".//ul[@class='numbers']/li")
    assert texts(gain, "p") == ["+30 points gained", "95% interval 27 to 33; over knn"]
    low, high = (
        float(part) for part in re.findall(r"[\d.]+", gain.find(f".//{SVG}path[@class='bounds']").get("d"))[::2]
    )
    value, none = float(gain.find(f".//{SVG}circle").get("cx")), float(gain.find(f".//{SVG}text").get("x"))
    assert none < low < value < high < 200
    assert (value - none) / (high - none) == pytest.approx(30 / 33, abs=0.01)
    assert fast.find(f".//{SVG}path[@class='bounds']").get("d").endswith("H200.0")  # open: up to the end
    assert epochs.get("class") == "unmeasured"
    assert texts(epochs, "p") == [
        "? times as many epochs", "not measured: no history", "frozenbench run photos",
    ]  # fmt: skip
    assert epochs.find(f".//{SVG}circle") is None


def test_the_ranking_has_bars_and_shows_the_rest_on_demand(tmp_path: Path) -> None:
    document = written(make_report(), tmp_path)
    first, second = document.iterfind(".//section[@id='ranking']//tbody/tr")
    assert [(row.get("class"), row.get("data-head")) for row in (first, second)] == [(None, "svm"), ("more", "knn")]
    assert texts(first, "*") == ["svm", "70.0 (67 to 73)", "2.0"]
    bar = first.find(f".//{SVG}svg")
    assert bar.get("class") == "bar transfer"
    assert float(bar.find(f"{SVG}rect").get("width")) == 70
    assert [path.get("d") for path in bar.iterfind(f"{SVG}path")] == ["M10.0 0V10", "M67.0 5H73.0"]
    assert second.find(f".//{SVG}path[@class='mark']") is None
    assert "extra" in first[2].get("class")
    assert [box.get("class") for box in document.iterfind(".//section[@id='ranking']//input")] == [
        "all-columns", "all-rows",
    ]  # fmt: skip


def test_a_column_without_values_is_left_out(tmp_path: Path) -> None:
    table = Table("x", pd.DataFrame({"name": ["a", "b"], "none": ["-", ""], "some": ["-", "1"]}))
    document = written(make_report(sections=[Section("A", "B", [table])]), tmp_path)
    assert texts(document, ".//details//thead/tr/th") == ["name", "some"]


def test_the_matrix_is_in_percent_of_each_class(tmp_path: Path) -> None:
    document = written(make_report(), tmp_path)
    table = document.find(".//table[@class='matrix']")
    assert texts(table, "thead//th")[1:] == texts(table, "tbody//th") == ["cow", "ant", "bee"]
    rows = [[(cell.text, cell.get("class")) for cell in row.iterfind("td")] for row in table.iterfind("tbody/tr")]
    assert rows == [
        [("100", "shade-10"), (None, "shade-1"), (None, "shade-0")],
        [(None, "shade-0"), ("80", "shade-9"), ("20", "shade-5")],
        [(None, "shade-0"), (None, "shade-0"), ("100", "shade-10")],
    ]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["72.6 (69.8 to 75.3)", "8"], True),
        (["+3.1", "\u22122.0"], True),
        (["≤ 100", "1,024", "never"], True),
        (["95", "never", "never"], True),
        (["-", "never", "-"], False),
        (["svm", "2-layer mlp", "knn"], False),
        (["60 test images are too few to tell two heads apart"], False),
    ],
)
def test_columns_of_numbers_are_aligned_as_such(tmp_path: Path, cells: list[str], expected: bool) -> None:
    table = Table("x", pd.DataFrame({"name": ["a"] * len(cells), "value": cells}))
    document = written(make_report(sections=[Section("A", "B", [table])]), tmp_path)
    rows = document.find(".//details[@id='section-1']").iter("tr")
    assert [cell.get("class") == "number" for _, cell in rows] == [expected] * (len(cells) + 1)


def test_some_cells_are_bold(tmp_path: Path) -> None:
    table = Table("x", pd.DataFrame({"name": ["a", "b"], "value": ["1", "<2>"]}), frozenset({(1, 1), (0, 0)}))
    document = written(make_report(sections=[Section("A", "B", [table])]), tmp_path)
    assert texts(document, ".//tbody/tr/th/b") == ["a"]
    assert texts(document, ".//tbody/tr/td/b") == ["<2>"]


def test_a_table_without_rows_has_its_headings(tmp_path: Path) -> None:
    document = written(make_report(sections=[Section("A", "B", [Table("x", TABLE[:0])])]), tmp_path)
    assert texts(document, ".//details//thead/tr/th") == list(TABLE.columns)
    assert list(document.iterfind(".//details//tbody/tr")) == []


def test_what_is_empty_is_left_away(tmp_path: Path) -> None:
    empty: dict[str, Any] = {"numbers": [], "commands": [], "versions": {}, "fingerprints": {}, "limits": []}
    document = written(make_report(**empty, skipped=[]), tmp_path)
    assert texts(document, ".//h2") == ["Accuracy", "Time"]
    assert document.find(".//ul[@class='numbers']") is None


@pytest.mark.parametrize("text", ["x", *HOSTILE])
def test_the_page_is_accessible_whatever_it_says(tmp_path: Path, text: str) -> None:
    document = written(report_filled_with(text), tmp_path)
    assert document.get("lang") == "en"
    levels = [int(element.tag[1]) for element in document.iter() if re.fullmatch("h[1-6]", str(element.tag))]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [element.get("id") for element in document.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in document.iter():
        link = element.get("href") or ""
        named = [element.get("aria-labelledby"), element.get("aria-describedby"), re.sub("^(?!#).*|^#", "", link)]
        assert {name for name in named if name} <= set(ids)
    assert list(document.iter("img")) == []
    pictures = [element.get("aria-label") for element in document.iter() if element.get("role") == "img"]
    assert pictures == [text]
    assert {heading.get("scope") for heading in document.iter("th")} == {"col", "row"}


@pytest.mark.parametrize("text", ["x", *HOSTILE])
def test_nothing_is_loaded_from_elsewhere(tmp_path: Path, text: str) -> None:
    document = written(report_filled_with(text), tmp_path)
    for element in document.iter():
        for name, value in element.attrib.items():
            assert not str(name).startswith("on")
            assert name != "style"
            if name in {"src", "href", "srcset", "data", "action", "formaction", "poster", "background", "ping"}:
                own = value.startswith("#") or re.fullmatch(r"[./]*\w[\w./-]*", value)  # a file beside the report
                assert own or re.match("data:image/webp;base64,", value)
    assert {str(element.tag) for element in document.iter()} & {"link", "iframe", "object", "embed", "base"} == set()
    assert re.search(r"url\(|@import", "".join(texts(document, ".//style"))) is None
    assert "://" not in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_text_and_nothing_else(tmp_path: Path, text: str) -> None:
    harmless, document = (
        written(report_filled_with("x"), tmp_path),
        written(report_filled_with(text), tmp_path),
    )
    assert [element.tag for element in document.iter()] == [element.tag for element in harmless.iter()]
    fold = "details[@id='section-1']//table[1]"
    for path in ("title", "h1", "p[@class='answer']", "summary/h2", "code", "dt", "dd", "li/bdi", "bdi[2]"):
        found = document.findall(f".//{path}")[:1]
        assert found
        assert {element.text for element in found} == {text}
    for path in (f"{fold}//td", f"{fold}//thead/tr/th", "table[@class='matrix']//tbody//th"):
        found = document.findall(f".//{path}")[:2]
        assert found
        assert {element.text for element in found} == {text}
    assert document.find(".//tbody/tr").get("data-head") == text
    assert {dot.get("data-caption") for dot in document.iter(f"{SVG}use") if dot.get("x")} == {text}
    legend = document.findall(f".//ul[@class='legend']//button/{SVG}svg")
    assert [marker.tail for marker in legend] == [text] * 3


def test_characters_that_html_forbids_are_replaced(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")  # as in a path that is not UTF-8
    document = written(make_report(skipped=[(f"\x1b[31m{name}\x00\ufffe", "\U0010ffff\x9f")]), tmp_path)
    assert texts(document, ".//li/bdi") == ["\ufffd[31mcaf\ufffd\ufffd\ufffd", "\ufffd\ufffd"]


def test_only_our_style_and_script_may_run(tmp_path: Path) -> None:
    document = written(make_report(), tmp_path)
    (policy,) = (meta.get("content") for meta in document.iter("meta") if meta.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        (element,) = (found for found in document.iter(tag) if found.get("type") is None)
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def points(document: Element) -> np.ndarray:
    return np.array(
        [(float(dot.get("x")), float(dot.get("y"))) for dot in document.iter(f"{SVG}use") if dot.get("data-caption")]
    )


def test_the_map_keeps_the_points_shape(tmp_path: Path) -> None:
    document = written(make_report(), tmp_path)
    positions = points(document)
    step = positions[1, 0] - positions[0, 0]
    np.testing.assert_allclose(positions[3] - positions[0], [0, step])  # the same scale; y goes up
    np.testing.assert_allclose((positions[0] + positions[5]) / 2, [500, 375])
    assert positions.min() >= 20
    assert (positions <= [980, 730]).all()
    dots = [dot for dot in document.iter(f"{SVG}use") if dot.get("data-caption")]
    assert [dot.get("data-class") for dot in dots] == ["0", "1", "2", "0", "1", "2"]
    assert [dot.get("data-caption") for dot in dots] == [f"image {number}" for number in range(6)]
    assert [dot.get("href") for dot in dots[:3]] == ["#marker-0", "#marker-1", "#marker-2"]


def test_points_in_one_place_stand_in_the_middle(tmp_path: Path) -> None:
    drawn = make_map(points=np.ones((6, 2)))
    document = written(make_report(sections=[Section("A", "B", [drawn])]), tmp_path)
    np.testing.assert_allclose(points(document), [[500, 375]] * 6)


def test_seventy_classes_look_different(tmp_path: Path) -> None:
    drawn = make_map(class_names=[str(number) for number in range(70)])
    document = written(make_report(sections=[Section("A", "B", [drawn])]), tmp_path)
    legend = [(dot.get("href"), dot.get("class")) for dot in document.iterfind(f".//li//{SVG}use")]
    assert len(set(legend)) == 70


@pytest.mark.parametrize(("shape", "side"), [((32, 32), 32), ((192, 96), 96), ((8, 8), 8)])
def test_the_sheet_holds_every_image(tmp_path: Path, shape: tuple[int, int], side: int) -> None:
    thumbnails = np.tile(COLOURS[:, None, None].astype(np.uint8), (1, *shape, 1))
    document = written(make_report(thumbnails=thumbnails), tmp_path)
    element = document.find(f".//{SVG}image")
    assert element.get("data-tile") == f"[{side}, 3]"
    sheet = np.asarray(Image.open(io.BytesIO(source(element.get("href")))).convert("RGB"))
    assert (element.get("width"), element.get("height")) == (str(sheet.shape[1]), str(sheet.shape[0]))
    for number, colour in enumerate(COLOURS):
        row, column = divmod(number, 3)
        centre = sheet[row * side + side // 2, column * side + side // 2]
        np.testing.assert_allclose(centre, colour, atol=12)


def test_a_tile_is_its_part_of_the_sheet(tmp_path: Path) -> None:
    document = written(make_report(), tmp_path)
    (tile,) = document.iterfind(".//details[@id='section-2']//span[@class='tile']")
    assert texts(tile, "span") == ["cow, taken for ant"]
    picture = tile.find(f"{SVG}svg")
    assert picture.get("viewBox") == "64 0 32 32"
    assert picture.find(f"{SVG}use").get("href") == "#sheet"


def test_the_data_are_json_whatever_they_say(tmp_path: Path) -> None:
    for text in HOSTILE:
        document = written(report_filled_with(text), tmp_path)
        (element,) = (script for script in document.iter("script") if script.get("id") == "data")
        assert json.loads(element.text)["images"] == [text] * 5


def test_a_map_of_2000_real_images_leaves_room(tmp_path: Path) -> None:
    images = np.asarray(load_dataset("sample").splits["train"].images)
    drawn = make_map(
        points=np.random.default_rng(0).normal(size=(2000, 2)),
        labels=np.arange(2000) % 3,
        captions=["cat, taken for dog"] * 2000,
        images=list(range(2000)),
    )
    report = make_report(sections=[Section("A", "B", [drawn])], thumbnails=images[:2000])
    path = write_report(report, tmp_path / "report.html")
    assert path.stat().st_size < 2_500_000


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = [write_report(make_report(), tmp_path / name) for name in ("one.html", "two.html")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_report_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MOST_BYTES", 20_000)
    with pytest.raises(DataError, match=r"report\.html would have .* MB, expected at most 0\.02 MB, as it has 6 thumb"):
        write_report(make_report(), tmp_path / "out" / "report.html")
    assert not (tmp_path / "out").exists()
