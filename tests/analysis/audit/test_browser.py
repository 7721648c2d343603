"""The page of an audit in a real browser: keys, the button, and the table that featurize takes."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from headless import chromium, needs_chromium
from selenium import webdriver
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By
from tiny_pictures import write_picture

from analysis.audit.page import write_page
from analysis.audit.suspects import Rows, Suspects
from featurize.images import load_dataset

pytestmark = needs_chromium
PATHS = ['train/cat/a&b, "c".png', "train/cat/2.png", "train/dog/3.png", "test/cat/4.png", "test/dog/5.png"]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path / "profile") as driver:
        driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
        yield driver


def test_accepted_corrections_become_labels(browser: webdriver.Chrome, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for number, path in enumerate(PATHS):
        write_picture(folder / path, number)
    splits = np.array([path.partition("/")[0] for path in PATHS])
    labels = np.array([0, 0, 1, 0, 1])
    rows = Rows(splits, np.arange(5), labels, np.array([path.encode() for path in PATHS]), labels)
    chances = np.array([0.9, 0.1, 0.2, 0.8, 0.1])
    suspects = Suspects(chances, 1 - labels, chances, np.argsort(-chances, kind="stable"), 2, 0.1, [])
    page = write_page(tmp_path / "a.html", "photos", [], rows, suspects, ["cat", "dog"], None, with_splits=True)

    browser.get(page.as_uri())
    first, second = browser.find_elements(By.CSS_SELECTOR, ".suspect")
    assert not browser.find_element(By.ID, "save").is_enabled()
    first.send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element == second
    second.send_keys(Keys.ENTER)
    second.send_keys(Keys.ENTER)  # taken back
    first.send_keys(Keys.ENTER)
    assert browser.find_element(By.ID, "count").text == "1 label accepted."
    browser.find_element(By.ID, "save").click()
    table = tmp_path / "corrected.csv"
    for _ in range(100):
        if table.exists():
            break
        time.sleep(0.1)
    assert [entry["message"] for entry in browser.get_log("browser")] == []

    dataset = load_dataset(folder, labels=table)
    found = {}
    for name, split in dataset.splits.items():
        assert split.images.paths is not None
        for path, label in zip(split.images.paths.tolist(), split.labels.tolist(), strict=True):
            found[path.decode()] = (name, dataset.class_names[label])
    assert found == {
        PATHS[0]: ("train", "dog"),  # the accepted one
        PATHS[1]: ("train", "cat"),
        PATHS[2]: ("train", "dog"),
        PATHS[3]: ("test", "cat"),
        PATHS[4]: ("test", "dog"),
    }
