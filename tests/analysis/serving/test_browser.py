"""The page in a real browser, on a real server: headless Chromium, driven by selenium."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headless import chromium, needs_chromium
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait
from tiny_pictures import save_pictures

from classify.predict import Classifier

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")
pytestmark = needs_chromium
PASTE = """
const data = new DataTransfer();
data.items.add(new File([new Uint8Array(arguments[0])], "pasted.png", { type: "image/png" }));
document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def size(browser: webdriver.Chrome, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def find(browser: webdriver.Chrome, selector: str) -> WebElement:
    return browser.find_element("css selector", selector)


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    found = [each for each in browser.find_elements("css selector", selector) if each.is_displayed()]
    return [each.text.splitlines()[0] for each in found]


def wait_for(browser: webdriver.Chrome, status: str) -> None:
    WebDriverWait(browser, 20).until(lambda page: find(page, "#status").text == status)


def wait_for_neighbours(browser: webdriver.Chrome, count: int) -> None:
    WebDriverWait(browser, 20).until(lambda page: len(page.find_elements("css selector", ".near li")) == count)


def opened(browser: webdriver.Chrome, address: str) -> webdriver.Chrome:
    for log in ("browser", "performance"):
        browser.get_log(log)
    size(browser, 1280, 900)
    browser.get(address)
    WebDriverWait(browser, 20).until(lambda page: find(page, "#run").text)
    return browser


def choose(browser: webdriver.Chrome, *paths: Path) -> None:
    find(browser, "#files").send_keys("\n".join(map(str, paths)))


def requested(browser: webdriver.Chrome) -> set[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    return {url for url in sent if not url.startswith(("data:", "blob:", "chrome"))}


def strange(classifier: Classifier) -> None:
    """Every picture is of no known class."""
    prediction = classifier.prediction

    def changed(*arguments: Any) -> Any:
        found = prediction(*arguments)
        object.__setattr__(found, "known", False)
        object.__setattr__(found, "strangeness", 0.987)
        return found

    classifier.prediction = changed


def test_pictures_are_classified(
    browser: webdriver.Chrome, serving: Any, run: Path, pictures: list[Path], tmp_path: Path
) -> None:
    address = serving()
    page = opened(browser, address)
    assert find(page, "#run").text.startswith(f"{run.name}: 3 classes of pictures; accuracy ")
    text = tmp_path / "text.png"
    text.write_text("no picture")
    choose(page, pictures[0], text, pictures[7])
    wait_for(page, "3 of 3 pictures done; 1 could not be classified")
    found = list(Classifier(run).predictions([pictures[0], pictures[7]], 5, 0.9))
    wait_for_neighbours(page, 10)
    labels = texts(page, ".label")
    assert labels[1].startswith("Not classified: no image of a format that is read here")
    for shown, each in zip((labels[0], labels[2]), found, strict=True):
        assert shown == f"{each.label} {100 * each.probability:.1f}%"
    whole = "any class, none can be excluded"
    sets = [whole if each.all_classes else " or ".join(each.set) for each in found]
    assert texts(page, ".set") == [f"Set (90%): {each}" for each in sets]
    assert texts(page, ".unknown") == []
    assert texts(page, ".name") == [pictures[0].name, "text.png", pictures[7].name]
    sheet = page.execute_script("return [...document.querySelectorAll('.near img')].map((image) => image.naturalWidth)")
    assert sheet == [8] * 10

    Select(find(page, "#coverage")).select_by_visible_text("80%")
    wait_for(page, "3 of 3 pictures done; 1 could not be classified")
    WebDriverWait(page, 20).until(lambda page: texts(page, ".set")[0].startswith("Set (80%): "))
    again = list(Classifier(run).predictions([pictures[0]], 5, 0.8))
    assert texts(page, ".set")[0].removeprefix("Set (80%): ") in (whole, " or ".join(again[0].set))
    assert {url.removeprefix(address).partition("?")[0] for url in requested(page)} == {
        "", "page.css", "page.js", "run", "predict", "nearest",
    }  # fmt: skip
    assert page.get_log("browser") == []


def test_dropped_and_pasted_pictures(browser: webdriver.Chrome, serving: Any, pictures: list[Path]) -> None:
    page = opened(browser, serving())
    folder = pictures[0].parent  # of five
    data = {"items": [], "files": [str(folder), str(pictures[7])], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 180, "data": data})
    wait_for(page, "6 of 6 pictures done")
    page.execute_script(PASTE, list(pictures[0].read_bytes()))
    wait_for(page, "7 of 7 pictures done")
    names = texts(page, ".name")
    assert names[0] == "pasted.png"  # the newest first
    assert sorted(names[1:]) == sorted([*(path.name for path in folder.iterdir()), pictures[7].name])
    wait_for_neighbours(page, 35)
    assert page.get_log("browser") == []


def test_a_folder_gives_its_pictures(browser: webdriver.Chrome, serving: Any, run: Path) -> None:
    page = opened(browser, serving())
    folder = run.parents[2] / "pictures" / "test"
    find(page, "#folder").send_keys(str(folder))
    wait_for(page, "15 of 15 pictures done")
    wait_for_neighbours(page, 12 * 5)  # the others on demand
    assert len(texts(page, ".more")) == 3
    find(page, ".more:not([hidden])").send_keys(Keys.ENTER)
    wait_for_neighbours(page, 13 * 5)


def test_by_keyboard(browser: webdriver.Chrome, serving: Any, pictures: list[Path]) -> None:
    page = opened(browser, serving())
    page.execute_script(
        "for (const id of ['files', 'folder']) document.getElementById(id).click = () => { window.asked = id; };"
    )
    visited = []
    for _ in range(4):
        ActionChains(page, duration=0).send_keys(Keys.TAB).perform()
        visited.append(page.switch_to.active_element.get_attribute("id"))
    assert visited == ["theme", "choose-files", "choose-folder", "coverage"]
    outline = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    find(page, "#choose-folder").send_keys(Keys.ENTER)
    assert page.execute_script("return window.asked") == "folder"
    choose(page, pictures[0])
    wait_for(page, "1 of 1 picture done")
    find(page, "#clear").send_keys(Keys.ENTER)
    assert find(page, "#status").text == ""
    assert page.switch_to.active_element.get_attribute("id") == "choose-files"


def test_a_picture_of_no_known_class(browser: webdriver.Chrome, serving: Any, pictures: list[Path]) -> None:
    page = opened(browser, serving(strange))
    choose(page, pictures[0])
    wait_for(page, "1 of 1 picture done")
    assert texts(page, ".unknown") == ["Perhaps none of these: stranger than 98% of the training images"]


def test_without_training_pictures(
    browser: webdriver.Chrome, serving: Any, pictures: list[Path], tmp_path: Path
) -> None:
    def move(classifier: Classifier) -> None:
        object.__setattr__(classifier.result, "cache", str(tmp_path / "gone.h5"))

    page = opened(browser, serving(move))
    choose(page, pictures[0])
    wait_for(page, "1 of 1 picture done")
    WebDriverWait(page, 20).until(lambda page: any(url.endswith("nearest") for url in requested(page)))
    choose(page, pictures[1])
    wait_for(page, "2 of 2 pictures done")
    assert texts(page, ".more") == []
    assert page.find_elements("css selector", ".near li") == []


def test_a_token_from_the_address_or_typed(browser: webdriver.Chrome, serving: Any, pictures: list[Path]) -> None:
    address = serving(token="secret")
    page = opened(browser, f"{address}#token=secret")
    assert page.current_url == address  # not to be seen over a shoulder
    choose(page, pictures[0])
    wait_for(page, "1 of 1 picture done")
    page.execute_script("sessionStorage.clear()")
    page.get(address)
    WebDriverWait(page, 20).until(lambda page: find(page, "#token").is_displayed())
    assert not find(page, "#drop").is_displayed()
    find(page, "#token").send_keys("wrong" + Keys.ENTER)
    find(page, "#token").clear()
    find(page, "#token").send_keys("secret" + Keys.ENTER)
    WebDriverWait(page, 20).until(lambda page: find(page, "#drop").is_displayed())
    assert "secret" not in "".join(requested(page))


def test_it_fits_and_can_be_read(browser: webdriver.Chrome, serving: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    long = save_pictures(tmp_path, random.integers(0, 256, (90, 200, 3), np.uint8))[0]
    long = long.rename(tmp_path / ("a-very-long-name" * 8 + ".png"))
    page = opened(browser, serving(strange))
    choose(page, long)
    wait_for(page, "1 of 1 picture done")
    wait_for_neighbours(page, 5)
    for theme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": theme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": features})
        background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[theme]
        for width in (1280, 390):
            size(page, width, 844)
            for address in ("", "docs"):
                if address:
                    page.get(page.current_url + address)
                wide = page.execute_script("return document.documentElement.scrollWidth")
                assert wide <= width, (theme, width, address)
                if address:
                    page.back()
                    WebDriverWait(page, 20).until(lambda page: find(page, "#drop").is_displayed())
