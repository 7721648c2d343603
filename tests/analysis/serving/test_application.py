import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from command_line import command_here
from PIL import Image

from classify.predict import Classifier
from featurize.core.errors import BackboneError

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from analysis.serving.application import PAGES, TEMPLATES
from analysis.serving.guard import POLICY, Limits


def upload(address: str, *paths: Path, **options: Any) -> requests.Response:
    return requests.post(address, files=[("file", (str(path), path.read_bytes())) for path in paths], **options)


def predicted(run: Path, *words: str) -> str:
    """What `classify predict --json` prints."""
    return command_here("classify", "predict", str(run), *words, "--json").stdout.removesuffix("\n")


def test_answers_are_those_of_predict(serving: Any, run: Path, pictures: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "text \u00e9.png"
    text.write_text("no picture")
    address = serving() + "predict"
    files = [pictures[3], text, *pictures[:2]]
    answer = upload(address, *files, params={"coverage": 0.8, "top": 2})
    assert answer.text == predicted(run, *map(str, files), "--coverage", "0.8", "--top", "2")
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.json()["skipped"]) == 1
    assert "set" in answer.json()["predictions"][0]
    assert upload(address, pictures[0]).text == predicted(run, str(pictures[0]))
    assert upload(address, text).text == predicted(run, str(text))


def test_more_files_than_a_batch(serving: Any, run: Path, pictures: list[Path]) -> None:
    def small(classifier: Classifier) -> None:
        classifier.batch_size = 2

    answer = upload(serving(small) + "predict", *pictures[:5]).json()
    assert [each["file"] for each in answer["predictions"]] == list(map(str, pictures[:5]))
    whole = json.loads(predicted(run, *map(str, pictures[:5])))["predictions"]
    for found, expected in zip(answer["predictions"], whole, strict=True):
        assert found["probability"] == pytest.approx(expected["probability"], abs=1e-6)


def test_wrong_options(serving: Any, pictures: list[Path]) -> None:
    address = serving() + "predict"
    for query, message in (
        ("top=0", "top 0: expected a whole number from 1 on"),
        ("top=x", "top x: expected a whole number from 1 on"),
        ("coverage=x", "coverage x: expected a share, such as 0.9"),
        ("coverage=1.5", "coverage 1.5: expected a share above 0 and below 1, such as 0.9"),
        ("coverage=nan", "coverage nan: expected a share above 0 and below 1, such as 0.9"),
        ("covrage=0.9", "covrage: expected top or coverage"),
    ):
        answer = upload(f"{address}?{query}", pictures[0])
        assert (answer.status_code, answer.json()) == (400, {"error": message})


def test_a_failing_network_fails_its_request_only(
    serving: Any, pictures: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = [ZeroDivisionError("a mistake"), BackboneError("a value is not finite")]

    def broken(classifier: Classifier) -> None:
        vectors = classifier.vectors

        def fail_twice(images: np.ndarray) -> np.ndarray:
            if errors:
                raise errors.pop()
            return vectors(images)

        classifier.vectors = fail_twice

    address = serving(broken)
    answer = upload(address + "predict", pictures[0])
    assert (answer.status_code, answer.json()) == (500, {"error": "a value is not finite"})
    answer = upload(address + "predict", pictures[0])
    assert (answer.status_code, answer.json()) == (500, {"error": "the server failed"})
    assert upload(address + "predict", pictures[0]).status_code == 200
    assert caplog.messages == [
        "a request failed: a value is not finite", "a request to /predict failed: ZeroDivisionError: a mistake",
    ]  # fmt: skip
    assert requests.get(address + "healthz").json() == {"status": "ok"}


# The nearest training pictures.


def test_a_training_picture_is_nearest_to_itself(serving: Any, run: Path, tmp_path: Path) -> None:
    path = run.parents[2] / "pictures" / "train" / "bee" / "7.png"
    text = tmp_path / "text.png"
    text.write_text("no picture")
    answer = upload(serving() + "nearest", text, path).json()
    [found] = answer["pictures"]
    assert found["file"] == str(path)
    assert len(found["nearest"]) == 5
    first = found["nearest"][0]
    assert (first["label"], first["file"]) == ("bee", "train/bee/7.png")
    content = base64.b64decode(first["picture"].removeprefix("data:image/png;base64,"))
    shown = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(shown, Classifier(run).read(path))
    assert [each["file"] for each in answer["skipped"]] == [str(text)]


def test_training_pictures_that_are_gone(serving: Any, run: Path, pictures: list[Path], tmp_path: Path) -> None:
    def move(classifier: Classifier) -> None:
        object.__setattr__(classifier.result, "cache", str(tmp_path / "gone.h5"))

    answer = upload(serving(move) + "nearest", pictures[0])
    assert answer.status_code == 404
    assert "gone.h5: no such feature cache" in answer.json()["error"]

    def change(classifier: Classifier) -> None:
        shutil.copytree(run.parents[2] / "pictures" / "test", tmp_path / "other" / "test")
        shutil.copytree(run.parents[2] / "pictures" / "test", tmp_path / "other" / "train")
        object.__setattr__(classifier.result, "source", {**classifier.result.source, "data": str(tmp_path / "other")})

    answer = upload(serving(change) + "nearest", pictures[0])
    assert answer.status_code == 404
    assert "they are not those of the run" in answer.json()["error"]


def test_training_vectors_that_are_too_many(
    serving: Any, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.serving.nearest.MOST_BYTES", 1000)
    answer = upload(serving() + "nearest", pictures[0])
    assert answer.json() == {"error": "the 60 training vectors are too many to search"}


# The pages, and what they promise.


def test_pages_load_nothing_from_elsewhere(serving: Any) -> None:
    address = serving(token="secret")
    for path, (name, kind) in PAGES.items():
        answer = requests.get(address + path.lstrip("/"))
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
        assert (TEMPLATES / name).read_text() in answer.text
        elsewhere = set(re.findall(r"(?:https?:)?//[\w.]+", re.sub("^ *//.*|; //.*", "", answer.text, flags=re.M)))
        assert elsewhere <= {"http://127.0.0.1"}, name  # in an example


def test_openapi_says_what_there_is(serving: Any, pictures: list[Path]) -> None:
    address = serving()
    described = json.loads((TEMPLATES / "openapi.json").read_text())
    schemas = described["components"]["schemas"]
    for path, operations in described["paths"].items():
        for method in ("get", "post"):
            answer = requests.request(method, address + path.lstrip("/"))
            assert (answer.status_code == 405) == (method not in operations), path
    run = requests.get(address + "run").json()
    assert set(schemas["Run"]["properties"]) == set(run)
    assert run["limits"] == {
        name: getattr(Limits(), name) for name in schemas["Run"]["properties"]["limits"]["required"]
    }
    assert run["class_names"] == ["ant", "bee", "cow"]
    answer = upload(address + "predict?coverage=0.8", *pictures[:2]).json()
    assert set(answer) == set(schemas["Predictions"]["properties"])
    for each in answer["predictions"]:
        assert set(schemas["Prediction"]["required"]) <= set(each) <= set(schemas["Prediction"]["properties"])
    found = upload(address + "nearest", pictures[0]).json()
    assert set(found) == set(schemas["Nearest"]["properties"])
    text = (TEMPLATES / "docs.html").read_text()
    statuses = {status for operations in described["paths"].values() for each in operations.values()
                for status in each["responses"]}  # fmt: skip
    assert {status for status in statuses if status != "200"} <= set(re.findall(r"\b[45]\d\d\b", text))
    assert all(path in text for path in described["paths"])


def test_an_address_that_there_is_not(serving: Any) -> None:
    answer = requests.get(serving() + "nothing")
    assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})
