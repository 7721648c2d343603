"""The report in a real browser: headless Chromium, driven by selenium."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from headless import chromium, needs_chromium
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait
from tiny_reports import COLOURS, DATA, HOSTILE, make_map, make_report, report_filled_with

from analysis.report.classes import confusion_parts
from analysis.report.content import Explorer, Report, Section, Table
from analysis.report.html import write_report

pytestmark = needs_chromium
# The contrast (WCAG 2) of each text and each point of a map with what is behind it, where it is below `least`.
TOO_FAINT = """
const [selector, property, least] = arguments;
const rgb = (colour) => colour.match(/[\\d.]+/g).map((part) => Number(part) * (colour.startsWith("color(") ? 255 : 1));
const light = (colour) => rgb(colour).slice(0, 3).map((part) => part / 255)
  .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
const behind = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return rgb(colour)[3] === 0 ? behind(element.parentElement) : colour;
};
const contrast = (element) => {
  const both = [light(getComputedStyle(element)[property]), light(behind(element))];
  return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
};
return [...document.querySelectorAll(selector)].filter((element) => element.checkVisibility())
  .map((element) => [element.outerHTML.slice(0, 80), contrast(element)]).filter(([, found]) => found < least);
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(browser: webdriver.Chrome, tmp_path: Path) -> webdriver.Chrome:
    """The report of `make_report`, opened from its file at a desktop's size in the light theme."""
    media(browser)
    size(browser, 1280, 900)
    show(browser, make_report(), tmp_path)
    return browser


def show(browser: webdriver.Chrome, report: Report, folder: Path) -> str:
    address = write_report(report, folder / "report.html").as_uri()
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(address)
    browser.execute_script("document.querySelectorAll('.fold').forEach((fold) => { fold.open = true; })")
    return address


TABLE = "#section-1 table:not(.matrix)"


def media(browser: webdriver.Chrome, kind: str = "screen", theme: str = "light", motion: str = "reduce") -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}, {"name": "prefers-reduced-motion", "value": motion}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": kind, "features": features})


def size(browser: webdriver.Chrome, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def requests(browser: webdriver.Chrome) -> set[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    return {url for url in urls if not url.startswith(("data:", "chrome"))}  # chrome: what the browser began with


def find(page: webdriver.Chrome, selector: str) -> WebElement:
    return page.find_element("css selector", selector)


def find_all(page: webdriver.Chrome, selector: str) -> list[WebElement]:
    return page.find_elements("css selector", selector)


def style(page: webdriver.Chrome, selector: str, name: str) -> Any:
    return page.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, name
    )


def actions(page: webdriver.Chrome) -> ActionChains:
    """Input whose pointer moves at once: a quarter of a second for each move is selenium's default."""
    return ActionChains(page, duration=0)


def press(page: webdriver.Chrome, *keys: str) -> None:
    actions(page).send_keys(*keys).perform()


def test_it_opens_without_errors_or_requests(browser: webdriver.Chrome, tmp_path: Path) -> None:
    address = show(browser, make_report(), tmp_path)
    assert browser.get_log("browser") == []
    assert requests(browser) == {address}
    assert browser.title == "Does it help?"
    assert browser.execute_script("return sheet.naturalWidth") == 96


def test_folds_are_closed_until_they_are_asked_for(page: webdriver.Chrome, tmp_path: Path) -> None:
    address = (tmp_path / "report.html").as_uri()
    page.get("about:blank")
    page.get(f"{address}#section-2")
    assert [fold.get_dom_attribute("open") is not None for fold in find_all(page, ".fold")][:3] == [False, True, False]
    assert find(page, "#ranking table").is_displayed()
    find(page, "#section-1 summary").send_keys(Keys.ENTER)
    assert find(page, "#section-1 table").is_displayed()


def test_the_answer_and_the_ranking_are_above_the_fold(page: webdriver.Chrome) -> None:
    size(page, 1280, 800)
    for selector in ("h1", ".answer", ".numbers", "#ranking table"):
        box = find(page, selector).rect
        assert box["y"] + box["height"] < 800, selector


def test_rows_and_columns_are_shown_on_demand(page: webdriver.Chrome) -> None:
    first, second = find_all(page, "#ranking tbody tr")
    assert (first.is_displayed(), second.is_displayed()) == (True, False)
    find(page, "#ranking .all-rows").click()
    assert second.is_displayed()
    assert [heading.is_displayed() for heading in find_all(page, "#ranking thead th")] == [True, True, False]
    find(page, "#ranking .menu summary").click()
    find_all(page, "#ranking .menu input")[1].click()
    assert [cell.text for cell in find_all(page, "#ranking td:last-child")] == ["2.0", "1.0"]
    find_all(page, "#ranking .menu input")[0].click()
    assert [heading.is_displayed() for heading in find_all(page, "#ranking thead th")] == [True, False, True]


def test_a_table_is_saved_as_it_is_shown(page: webdriver.Chrome, tmp_path: Path) -> None:
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    find(page, "#section-1 figure .menu summary").click()
    find(page, "#section-1 figure .menu button").click()
    WebDriverWait(page, 10).until(lambda _: (tmp_path / "table.csv").exists())
    lines = (tmp_path / "table.csv").read_text("utf-8").splitlines()
    assert lines[0] == 'head,accuracy % (95% interval),vector,"fit, s"'
    assert lines[1] == 'svm,70.0 (67 to 73),"1,024",-'


def test_without_scripts_the_page_is_complete(page: webdriver.Chrome, tmp_path: Path) -> None:
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        find(page, "#ranking .all-columns").click()
        assert find_all(page, "#ranking thead th")[2].is_displayed()
        find(page, "#section-1 summary").click()
        assert find(page, TABLE).is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_do_nothing(browser: webdriver.Chrome, tmp_path: Path, text: str) -> None:
    address = show(browser, report_filled_with(text), tmp_path)
    actions(browser).move_to_element(find(browser, ".plane use")).perform()
    assert find(browser, "output span").get_property("textContent") == text
    assert browser.execute_script("return window.hacked") is None
    assert browser.get_log("browser") == []
    assert requests(browser) == {address}


def test_what_is_slipped_in_neither_runs_nor_loads(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = write_report(make_report(), tmp_path / "report.html")
    page = path.read_text("utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        image = f"<img src='http://127.0.0.1:{server.getsockname()[1]}/x.png' onerror='hacked = true'>"
        path.write_text(page.replace("</header>", f"<script>hacked = true</script>{image}</header>"), "utf-8")
        browser.get(path.as_uri())
        assert browser.execute_script("return window.hacked") is None
        server.settimeout(0.5)
        with pytest.raises(TimeoutError):
            server.accept()
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]


@pytest.mark.parametrize("width", [320, 390, 1280, 1920])
def test_no_page_is_wider_than_the_screen(page: webdriver.Chrome, tmp_path: Path, width: int) -> None:
    size(page, width, 900)
    long = "a_name_without_any_space_" * 8
    wide = Table(long, pd.DataFrame([[long, *range(20)]], columns=[f"column {number}" for number in range(21)]))
    sections = [Section(long, long, [wide, make_map(class_names=[long] * 3)], [long])]
    show(page, make_report(title=long, answer=long, sections=sections, commands=[long]), tmp_path)
    widths = page.execute_script("const page = document.documentElement; return [page.scrollWidth, page.clientWidth]")
    assert widths[0] == widths[1]
    inner = page.execute_script(
        "const box = document.querySelector('#section-1 .scroll'); return [box.scrollWidth, box.clientWidth]"
    )
    assert inner[0] > inner[1]  # the table scrolls in itself
    assert style(page, ".scroll", "overflowX") == "auto"
    assert find(page, f"{TABLE} tbody th").size["width"] < 200  # the row's name stays in sight and leaves room


def test_the_whole_page_fits_a_phone(page: webdriver.Chrome, tmp_path: Path) -> None:
    size(page, 390, 844)
    show(page, make_report(), tmp_path)
    choose(page, SHOW, "all images")
    find(page, "#explore .tile").click()
    assert page.execute_script("return document.documentElement.scrollWidth") == 390


def column(page: webdriver.Chrome, number: int) -> list[str]:
    return [cell.text for cell in find_all(page, f"{TABLE} tbody tr > :nth-child({number})")]


def sorting(page: webdriver.Chrome) -> list[str | None]:
    return [heading.get_dom_attribute("aria-sort") for heading in find_all(page, f"{TABLE} thead th")]


def test_tables_sort_by_the_mouse(page: webdriver.Chrome) -> None:
    head, accuracy, vector, fit = find_all(page, f"{TABLE} thead button")
    assert sorting(page) == [None] * 4
    accuracy.click()
    assert column(page, 2) == ["8.5 (7 to 10)", "70.0 (67 to 73)", "71.2"]
    assert column(page, 1) == ["knn", "svm", "mlp"]  # whole rows move
    assert sorting(page) == [None, "ascending", None, None]
    accuracy.click()
    assert column(page, 2) == ["71.2", "70.0 (67 to 73)", "8.5 (7 to 10)"]
    assert sorting(page) == [None, "descending", None, None]
    vector.click()
    assert column(page, 3) == ["96", "512", "1,024"]
    assert sorting(page) == [None, None, "ascending", None]
    fit.click()
    assert column(page, 4) == ["2.5", "10.0", "-"]
    fit.click()
    assert column(page, 4) == ["10.0", "2.5", "-"]  # what is no number stays last
    head.click()
    assert column(page, 1) == ["knn", "mlp", "svm"]
    head.click()
    assert column(page, 1) == ["svm", "mlp", "knn"]


def test_signs_and_bounds_sort_as_numbers(page: webdriver.Chrome, tmp_path: Path) -> None:
    cells = ["+3.1", "never", "\u22122.0", "-10", "\u2264 1", "1,000", "1e-3", "always"]
    table = Table("x", pd.DataFrame({"name": cells, "gain": cells}))
    show(page, make_report(sections=[Section("A", "B", [table])]), tmp_path)
    find_all(page, f"{TABLE} thead button")[1].click()
    assert column(page, 2) == ["-10", "\u22122.0", "1e-3", "\u2264 1", "+3.1", "1,000", "always", "never"]


@pytest.mark.parametrize("key", [Keys.ENTER, Keys.SPACE])
def test_tables_sort_by_the_keyboard(page: webdriver.Chrome, key: str) -> None:
    page.execute_script("document.querySelector('#section-1 .scroll').focus()")
    press(page, Keys.TAB, Keys.TAB, key)
    assert sorting(page) == [None, "ascending", None, None]
    assert column(page, 1) == ["knn", "svm", "mlp"]
    press(page, key)
    assert sorting(page) == [None, "descending", None, None]


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_theme_is_the_systems_until_it_is_changed(page: webdriver.Chrome, system: str) -> None:
    media(page, theme=system)
    page.refresh()
    colours = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}
    other = "dark" if system == "light" else "light"
    button = find(page, "#theme")
    for theme in (system, other, system):
        assert style(page, "body", "backgroundColor") == colours[theme]
        assert button.get_dom_attribute("aria-pressed") == ("true" if theme == "dark" else "false")
        assert button.accessible_name == "Dark theme"
        button.send_keys(Keys.ENTER)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(page: webdriver.Chrome, theme: str) -> None:
    media(page, theme=theme)
    page.refresh()
    page.execute_script("document.querySelectorAll('.fold').forEach((fold) => { fold.open = true; })")
    find(page, ".legend button").click()
    text = "h1, h2, h3, p, li, a, button, figcaption, th, td, code, dt, dd, output"
    assert page.execute_script(TOO_FAINT, text, "color", 4.5) == []
    assert page.execute_script(TOO_FAINT, ".plane use:not(.faded), li button use", "fill", 3) == []


def test_every_colour_of_a_map_stands_out(page: webdriver.Chrome, tmp_path: Path) -> None:
    drawn = make_map(class_names=[str(number) for number in range(70)])
    show(page, make_report(sections=[Section("A", "B", [drawn])]), tmp_path)
    fills = page.execute_script(
        "return [...document.querySelectorAll('li use')].map((dot) => getComputedStyle(dot).fill)"
    )
    assert len(set(fills)) == 10
    for theme in ("light", "dark"):
        media(page, theme=theme)
        assert page.execute_script(TOO_FAINT, "li use", "fill", 3) == []


def test_the_first_key_skips_to_the_content(page: webdriver.Chrome) -> None:
    press(page, Keys.TAB)
    link = page.switch_to.active_element
    assert link.text == "Skip to the content"
    assert link.rect["x"] >= 0
    press(page, Keys.ENTER)
    assert page.switch_to.active_element.get_dom_attribute("id") == "main"


def preview(page: webdriver.Chrome) -> str | None:
    """What is shown beside the map; the image's colour is checked to be that point's."""
    output = find(page, "output")
    if not output.is_displayed():
        return None
    text = str(find(page, "output span").text)
    pixel = page.execute_script(
        "const canvas = document.querySelector('output canvas');"
        "return [...canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data]"
    )
    assert abs(COLOURS[int(text.removeprefix("image "))] - pixel[:3]).max() <= 12
    return text


def test_the_map_shows_the_image_that_is_pointed_at(page: webdriver.Chrome) -> None:
    assert preview(page) is None
    for number in (4, 0, 5):
        actions(page).move_to_element(find_all(page, ".plane use")[number]).perform()
        assert preview(page) == f"image {number}"
    inside = page.execute_script(
        "const [one, other] = ['output', 'body'].map((name) => document.querySelector(name).getBoundingClientRect());"
        "return one.left >= other.left && one.right <= other.right"
    )
    assert inside
    actions(page).move_to_element(find(page, ".plane")).click().perform()  # its middle: far from all
    assert preview(page) is None
    actions(page).move_to_element(find_all(page, ".plane use")[1]).move_to_element(find(page, "h2")).perform()
    assert preview(page) is None


def test_the_map_can_be_walked_by_the_keyboard(page: webdriver.Chrome) -> None:
    find_all(page, ".legend button")[-1].send_keys(Keys.TAB)
    assert page.switch_to.active_element.get_dom_attribute("class") == "plane shown"
    assert preview(page) == "image 0"
    for key, shown in [
        (Keys.ARROW_RIGHT, 1),
        (Keys.ARROW_RIGHT, 2),
        (Keys.ARROW_RIGHT, 2),  # the edge
        (Keys.ARROW_DOWN, 5),
        (Keys.ARROW_LEFT, 4),
        (Keys.ARROW_UP, 1),
    ]:
        press(page, key)
        assert preview(page) == f"image {shown}"
    press(page, Keys.ESCAPE)
    assert preview(page) is None
    press(page, Keys.ARROW_DOWN)
    assert preview(page) == "image 4"
    press(page, Keys.TAB)
    assert preview(page) is None


def test_one_class_of_the_map_can_be_shown_alone(page: webdriver.Chrome) -> None:
    ant, bee, _ = find_all(page, ".legend button")
    ant.click()
    bee.click()
    assert [button.get_dom_attribute("aria-pressed") for button in (ant, bee)] == ["false", "true"]
    faded = [dot.get_dom_attribute("data-class") for dot in find_all(page, ".plane use.faded")]
    assert faded == ["0", "2", "0", "2"]
    assert float(style(page, ".faded", "opacity")) < 0.2
    actions(page).move_to_element(find_all(page, ".plane use")[0]).perform()
    assert preview(page) is None
    actions(page).move_to_element(find_all(page, ".plane use")[4]).perform()
    assert preview(page) == "image 4"
    bee.click()
    assert find_all(page, ".faded") == []


def test_a_class_without_points_cannot_be_chosen(page: webdriver.Chrome, tmp_path: Path) -> None:
    drawn = make_map(class_names=["ant", "bee", "cow", "dog"])
    show(page, make_report(sections=[Section("A", "B", [drawn])]), tmp_path)
    assert [button.is_enabled() for button in find_all(page, ".legend button")] == [True, True, True, False]


def test_two_maps_do_not_disturb_each_other(page: webdriver.Chrome, tmp_path: Path) -> None:
    show(page, make_report(sections=[Section("A", "B", [make_map(), make_map()])]), tmp_path)
    actions(page).move_to_element(find_all(page, ".plane use")[9]).perform()
    assert [output.is_displayed() for output in find_all(page, "output")] == [False, True]


def test_motion_only_where_it_is_wanted(page: webdriver.Chrome) -> None:
    assert style(page, "html", "scrollBehavior") == "auto"
    media(page, motion="no-preference")
    assert style(page, "html", "scrollBehavior") == "smooth"


def test_print_is_light_and_without_controls(page: webdriver.Chrome) -> None:
    find(page, "#theme").click()
    assert style(page, "body", "backgroundColor") == "rgb(20, 23, 27)"
    media(page, "print", theme="dark")
    assert style(page, "body", "backgroundColor") == "rgb(255, 255, 255)"
    assert not any(element.is_displayed() for element in find_all(page, "#theme, .menu, output, .screen"))
    assert find(page, "table").is_displayed()
    assert style(page, ".scroll", "overflowX") == "visible"


def shown(page: webdriver.Chrome) -> list[str]:
    """The captions of the thumbnails that are shown; the colour of each is checked."""
    script = (
        "return [...document.querySelectorAll('#explore > .tiles canvas')].map((canvas) => "
        "[...canvas.getContext('2d').getImageData(32, 32, 1, 1).data].slice(0, 3))"
    )
    captions = [tile.text for tile in find_all(page, "#explore > .tiles .tile")]
    numbers = [min(range(6), key=lambda k: abs(COLOURS[k] - pixel).max()) for pixel in page.execute_script(script)]
    labels = [DATA["classes"][DATA["labels"][number]] for number in numbers]
    assert [caption.partition(",")[0] for caption in captions] == labels
    return captions


def choose(page: webdriver.Chrome, selector: str, text: str) -> None:
    Select(find(page, selector)).select_by_visible_text(text)


SHOW = "#explore label:nth-of-type(3) select"


def test_two_runs_side_by_side(page: webdriver.Chrome) -> None:
    assert shown(page) == ["bee", "ant"]  # right by the svm, wrong by knn
    cells = [cell.text for cell in find_all(page, ".mcnemar td:not(:empty)")]
    assert cells == ["2", "3", "1", "1"]
    assert "p 0.625" in find(page, ".pair").text
    choose(page, SHOW, "A wrong, B right")
    assert shown(page) == ["cow, taken for ant", "bee, taken for ant"]
    choose(page, SHOW, "both wrong")
    assert shown(page) == []
    choose(page, SHOW, "all images")
    assert len(shown(page)) == 5
    assert "5 of 7 test images have a thumbnail" in find(page, ".status").text
    choose(page, "#explore label:nth-of-type(1) select", "knn")
    assert find_all(page, ".mcnemar") == []  # A and B are the same
    choose(page, "#explore label:nth-of-type(2) select", "svm")
    assert [cell.text for cell in find_all(page, ".mcnemar td:not(:empty)")] == ["2", "1", "3", "1"]


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_a_cell_of_the_matrix_shows_its_images(page: webdriver.Chrome, how: str) -> None:
    ant_as_cow = find(page, ".matrix tr[data-class='0'] td[data-predicted='2']")
    assert ant_as_cow.find_elements("css selector", "button") == []  # no image
    cell = find(page, ".matrix tr[data-class='0'] td[data-predicted='0'] button")
    assert cell.accessible_name == "80%, ant recognised: 8 images"
    if how == "mouse":
        cell.click()
    else:
        cell.send_keys(Keys.ENTER)
    assert shown(page) == ["ant", "ant"]
    assert "2 shown: ant recognised by svm, 8 images" in find(page, ".status").text


def test_a_row_of_frequent_mistakes_shows_its_images(page: webdriver.Chrome, tmp_path: Path) -> None:
    table = confusion_parts({"svm": np.diag([9] * 21) + np.eye(21, k=-1, dtype=int)}, [str(k) for k in range(21)])
    sections = [Section("A", "B", [*table, Explorer("C")])]
    show(page, make_report(sections=sections), tmp_path)
    row = find_all(page, "tr[data-run]")[0]
    assert row.get_dom_attribute("data-class") == "1"
    row.find_element("css selector", "button").click()
    assert shown(page) == ["bee, taken for ant"]


def test_a_picture_has_neighbours(page: webdriver.Chrome) -> None:
    choose(page, SHOW, "all images")
    find(page, "#explore .tile").send_keys(Keys.ENTER)
    view = find(page, ".detail-view")
    assert view.is_displayed()
    assert "ant/0.png" in view.text
    assert [line.text for line in view.find_elements("css selector", ".answers li")] == [
        "right: svm says ant", "right: knn says ant",
    ]  # fmt: skip
    assert [tile.text for tile in view.find_elements("css selector", ".tile")] == ["cow"]
    press(page, Keys.ENTER)  # the button to close it has the focus
    assert not view.is_displayed()


def test_a_lasso_selects_images(page: webdriver.Chrome) -> None:
    dots = find_all(page, ".plane use")
    page.execute_script("arguments[0].scrollIntoView({ block: 'center' })", dots[0])
    pen = actions(page).move_to_element_with_offset(dots[0], -12, -12).click_and_hold()
    for x, y in ((60, 0), (0, 60), (-55, 0)):
        pen = pen.move_by_offset(x, y)
    pen.release().perform()
    assert shown(page) == ["ant"]
    assert "in the lasso" in find(page, ".status").text
    find(page, "#explore .toolbar button").click()
    assert len(shown(page)) == 5
    assert find(page, ".lasso").get_dom_attribute("d") == ""


def test_a_click_on_the_map_shows_the_image(page: webdriver.Chrome) -> None:
    actions(page).move_to_element(find_all(page, ".plane use")[4]).click().perform()
    assert "bee/4.png" in find(page, ".detail-view").text


def test_filters_hide_what_belongs_to_others(page: webdriver.Chrome) -> None:
    find(page, "#ranking .all-rows").click()
    choose(page, "#filters label:nth-of-type(2) select", "knn")
    assert [row.is_displayed() for row in find_all(page, "#ranking tbody tr")] == [False, True]
    choose(page, "#filters label:nth-of-type(2) select", "all")
    choose(page, "#filters label:nth-of-type(1) select", "bee")
    assert [row.is_displayed() for row in find_all(page, ".matrix tbody tr")] == [False, False, True]
    choose(page, SHOW, "all images")
    assert shown(page) == ["bee", "bee, taken for ant"]


def test_a_hostile_name_is_text_in_the_explorer(browser: webdriver.Chrome, tmp_path: Path) -> None:
    for text in HOSTILE:
        show(browser, report_filled_with(text), tmp_path)
        choose(browser, SHOW, "all images")
        find(browser, "#explore .tile").send_keys(Keys.ENTER)
        assert browser.execute_script("return window.hacked") is None
        assert browser.get_log("browser") == []
