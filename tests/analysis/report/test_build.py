import hashlib
import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_pictures import picture_folder
from tiny_runs import (
    CNN,
    PIXELS,
    PREDICTIONS,
    SPEC_OF_A_NETWORK,
    World,
    check_sentences,
    make_result,
    runs_with_controls,
    write_run,
)
from tinyhtml5.parser import HTMLParser

from analysis.audit import audit_folder
from analysis.audit.tables import SUMMARY, write_summary
from analysis.figures import pictures
from analysis.findings import Measure
from analysis.report import dataset as dataset_part
from analysis.report.build import large_number, write_reports
from classify.runs import CODES, load_runs, with_predictions
from classify.runs.results import PREDICTIONS as PREDICTIONS_FILE
from classify.training.train import Job, train_heads
from featurize.cache import load_features
from featurize.core.errors import DataError
from featurize.extraction import extract_features
from featurize.images import load_dataset
from featurize.networks.backbone import load_backbone

FIGURES = {"accuracy", "learning-curves", "cost", "convergence", "best-of-n", "confusion", "recall", "reliability"}
WITH_IMAGES = {"mistakes", "map", "neighbours"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return runs_with_controls(World(tmp_path))


def names(paths: list[Path]) -> set[str]:
    return {path.name.partition("-tiny-")[0] for path in paths if path.suffix == ".png"}


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_tables_figures_and_the_report(world: World, tmp_path: Path) -> None:
    summaries, written = write_reports(world.runs, [], tmp_path / "out")
    assert set(digests(tmp_path / "out")) == {path.relative_to(tmp_path / "out").as_posix() for path in written}
    assert names(written) == FIGURES
    assert all(path.with_suffix(".svg") in written for path in written if path.suffix == ".png")
    ((_, summary),) = summaries.items()
    assert len(summary) == 5
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert summary[0].startswith("The frozen network helps: its best head, mlp on vgg16-imagenet, reaches 70% accuracy")
    for claim in world.claims().values():
        assert claim.finding in summary
        assert f">{claim.title}</h2>" in page
    assert "The images cannot be shown: " in page
    markdown = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert f"**{summary[0]}**" in markdown
    assert all(f": {sentence}\n" in markdown for sentence in summary[1:])
    assert re.search(r"\| points of accuracy gained +\| \+15 +\| \+13 to \+17 +\| over cnn from scratch +\|", markdown)
    assert "| mlp    | vgg16-imagenet | 70 (67 to 73)" in markdown
    assert "mlp on vgg16-imagenet, as tested" in page
    assert "corrected for the choice among 6</" in page
    assert page.count("is the best of 6 heads") == 1
    assert "Against cnn from scratch on pixels, 3 of 3 classes gain beyond chance." in page


def test_every_sentence_is_short_and_said_once(world: World, tmp_path: Path) -> None:
    write_reports(world.runs, [], tmp_path / "out")
    document = HTMLParser(namespace_html_elements=False).parse((tmp_path / "out" / "report.html").read_bytes())
    said = []
    for path in ("header/p", "p[@class='answer']", "summary/span", "ul[@class='plain']/li", "ul[@class='notes']/li"):
        said += ["".join(element.itertext()) for element in document.iterfind(f".//{path}")]
    captions = [element.text.strip() for element in document.iterfind(".//figcaption")]
    assert len(said) > 30
    for text in [*said, *captions]:
        if not re.match("Some figures are missing|The images cannot be|There is no map|The sizes are", text):
            check_sentences(text)  # the others cite an error
    sentences = [sentence for text in said for sentence in re.split(r"(?<=\.)\s", text)]
    assert {sentence: count for sentence, count in Counter(sentences).items() if count > 1} == {}


def test_the_same_runs_give_the_same_bytes(world: World, tmp_path: Path) -> None:
    for out in ("one", "two"):
        write_reports(load_runs(tmp_path)[0], [], tmp_path / out)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_a_single_run_is_enough(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(0.7)
    summaries, written = write_reports(world.runs, [], tmp_path / "out")
    assert names(written) == FIGURES - {"convergence", "cost", "learning-curves", "best-of-n"}
    (sentences,) = summaries.values()
    assert sentences[0].startswith("The frozen network is not compared with a control; its best head, logreg on ")
    assert sentences[1] == "There is no run of a control."


def test_the_mistakes_are_those_of_the_frozen_network(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(0.7)
    world.add(0.9, **CNN)
    summaries, _ = write_reports(world.runs, [], tmp_path / "out")
    assert next(iter(summaries.values()))[0].startswith(
        "The frozen network does not help; its best head, logreg on vgg16-imagenet, reaches 70% accuracy"
    )
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "lists the wrong predictions of logreg on vgg16-imagenet" in page


def test_test_sets_stay_apart(world: World, tmp_path: Path) -> None:
    world.add(0.99, test_digest="ef" * 32, model="knn")
    summaries, written = write_reports(world.runs, [], tmp_path / "out")
    assert sorted(summaries) == ["tiny-abababab", "tiny-efefefef"]
    pages = {path.name: path.read_text("utf-8") for path in written if path.suffix == ".html"}
    assert sorted(pages) == ["report-tiny-abababab.html", "report-tiny-efefefef.html"]
    assert "knn on vgg16" not in pages["report-tiny-abababab.html"]
    assert "knn on vgg16" in pages["report-tiny-efefefef.html"]


def test_damaged_and_foreign_runs_are_skipped_and_named(world: World, tmp_path: Path) -> None:
    damaged, foreign, short = list(world.runs)[:3]
    content = (damaged / PREDICTIONS_FILE).read_bytes()
    (damaged / PREDICTIONS_FILE).write_bytes(content[: len(content) // 2])
    table = pd.read_parquet(foreign / PREDICTIONS_FILE)
    table.assign(predicted=table["label"]).to_parquet(foreign / PREDICTIONS_FILE)
    pd.read_parquet(short / PREDICTIONS_FILE).head(10).to_parquet(short / PREDICTIONS_FILE)
    usable, skipped = with_predictions(world.runs)
    assert [path for path, _ in skipped] == [damaged, foreign, short]
    assert set(usable) == set(world.runs) - {damaged, foreign, short}
    assert "100.00% of its 1,000 predictions are correct, expected" in skipped[1][1]
    write_reports(world.runs, [(Path("elsewhere/run"), "its result is damaged")], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    for name in (damaged.name, foreign.name, short.name, "elsewhere/run"):
        assert name in page
    csv = (tmp_path / "out" / "comparison.csv").read_text("utf-8")
    assert damaged.name not in csv


def test_no_run_can_be_used(tmp_path: Path) -> None:
    write_run(tmp_path / "tiny" / "logreg-1", make_result(test_rows=7), PREDICTIONS)
    with pytest.raises(DataError, match="no run can be used; .*logreg-1: .* of its 3 predictions"):
        write_reports(load_runs(tmp_path)[0], [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_that_could_not_be_read_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset(str(picture_folder(tmp_path / "pets")))
    info = extract_features(dataset, load_backbone("pixels", image_size=8)).info
    runs, _ = train_heads([Job("logreg", info)], tmp_path / "runs")
    write_reports(runs, [], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    for name in ("train/cats/004.png (train image)", "test/d\u00f6gs/003.png (test image)"):
        assert f"<bdi>{name}</bdi>: <bdi>cannot be read (" in page
    monkeypatch.setattr(dataset_part, "LISTED", 0)
    assert ("1 train images", f"to list them: frozenbench featurize info {info.path}") in dataset_part.skipped_images(
        runs
    )


def test_with_images_and_vectors(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = {"y_train": np.arange(60) % 3, "y_test": np.arange(40) % 3}
    images = {f"x{name[1:]}": random.integers(0, 256, (len(y), 8, 8, 3), np.uint8) for name, y in labels.items()}
    np.savez(tmp_path / "mine.npz", **images, **labels)
    dataset = load_dataset(str(tmp_path / "mine.npz"))
    info = extract_features(dataset, load_backbone("pixels", image_size=8)).info
    runs, _ = train_heads([Job("logreg", info)], tmp_path / "runs")
    _, written = write_reports(runs, [], tmp_path / "out")
    assert {path.name.partition("-mine")[0] for path in written if path.suffix == ".png"} >= WITH_IMAGES
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "data:image/webp;base64" in page
    assert "missing" not in page
    data = json.loads(re.search('<script type="application/json" id="data">(.*)</script>', page)[1])
    predictions = pd.read_parquet(next(iter(runs)) / PREDICTIONS_FILE).set_index("id")
    assert (data["tested"], data["of"], len(data["images"])) == (40, 40, 40)
    assert sorted(data["labels"][:40]) == sorted(predictions["label"])
    right = [label == guess for label, guess in zip(data["labels"], data["predicted"][0], strict=False)]
    assert sum(right) == (predictions["label"] == predictions["predicted"]).sum()
    assert right[0] is False  # mistakes come first
    assert all(40 <= other < len(data["labels"]) for near in data["near"] for other in near)
    assert [len(near) for near in data["near"]] == [4] * 40
    info.path.unlink()
    write_reports(runs, [], tmp_path / "again")
    page = (tmp_path / "again" / "report.html").read_text("utf-8")
    assert re.search(r"Some images are missing: \S+: no such feature cache", page)
    (tmp_path / "mine.npz").unlink()
    pictures._dataset.cache_clear()
    write_reports(runs, [], tmp_path / "last")
    page = (tmp_path / "last" / "report.html").read_text("utf-8")
    assert "The images cannot be shown: " in page
    assert "data:image/webp" not in page


def test_the_data_set_has_a_section(tmp_path: Path) -> None:
    dataset = load_dataset(str(picture_folder(tmp_path / "pets")))
    info = extract_features(dataset, load_backbone("pixels", image_size=8)).info
    runs, _ = train_heads([Job("logreg", info)], tmp_path / "runs")
    write_reports(runs, [], tmp_path / "out")
    document = HTMLParser(namespace_html_elements=False).parse((tmp_path / "out" / "report.html").read_bytes())
    (fold,) = (each for each in document.iter("details") if each.findtext("summary/h2") == "Data set")
    counts = [[cell.text for cell in row] for row in fold.iterfind(".//tbody/tr")]
    labels = np.bincount(load_features(info.path, "train").y)
    assert [(name, train) for name, train, _ in counts] == [
        (name, str(count)) for name, count in zip(info.class_names, labels, strict=True)
    ]
    facts = {
        each.findtext("dt"): "".join(each.find("dd").itertext())
        for each in fold.iter("div")
        if each.find("dt") is not None
    }
    assert facts["skipped files"] == "2"
    assert " wide, " in facts["sizes"]
    assert "cores" in facts["machine"]
    assert facts["suspected labels"].startswith("not looked for; frozenbench audit ")
    links = [link.get("href") for link in fold.iter("a")]
    assert links == ["mistakes.csv", "comparison.csv", "comparison.md", "comparison.tex", "../runs/"]
    assert all((tmp_path / "out" / link).exists() for link in links)


def test_how_far_accuracies_vary(world: World, tmp_path: Path) -> None:
    write_reports(world.runs, [], tmp_path / "one")
    page = (tmp_path / "one" / "report.html").read_text("utf-8")
    assert '<span class="finding unmeasured">Not measured: how far accuracies vary' in page
    assert re.search(r"<code>frozenbench classify --features \S+ --model mlp,cnn --repeats 5 --runs ", page)
    # Three seeds of a learning curve are as many draws, once it is known what they were drawn from.
    runs = {path: make_result(**{**vars(run), "drawn_from": 2000}) for path, run in world.runs.items()}
    _, written = write_reports(runs, [], tmp_path / "two")
    assert names(written) == FIGURES | {"spread"}
    page = (tmp_path / "two" / "report.html").read_text("utf-8")
    assert "mlp on vgg16-imagenet varies by " in page
    assert "It exceeds mlp on vgg16-random-0 by 25 points" in page
    assert "Not measured: how far" not in page


def test_findings_have_codes_and_can_be_ignored(world: World, tmp_path: Path) -> None:
    run_dir = Path(
        world.add(0.3, **PIXELS, model="knn", warnings=["FB001: classes are unequal", "of an earlier version"])
    )
    assert run_dir.exists()
    write_reports(world.runs, [(Path("elsewhere"), "damaged")], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Look at FB001, FB013." in page
    assert f"classes are unequal (1 of {len(world.runs)} runs)" in page
    assert CODES["FB001"].action in page.replace("&#39;", "'")
    write_reports(world.runs, [(Path("elsewhere"), "damaged")], tmp_path / "out", {"FB001", "FB013"})
    assert "FB0" not in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_the_mistakes_lead_to_their_files(tmp_path: Path) -> None:
    world = World(tmp_path)
    run_dir = Path(world.add(0.7))
    predictions = pd.read_parquet(run_dir / PREDICTIONS_FILE)
    wrong = predictions["predicted"] < 0
    predictions.loc[wrong, "predicted"] = (predictions.loc[wrong, "label"] + 1) % 3
    for name, share in (("ant", 0.5), ("bee", 0.3), ("cow", 0.2)):
        predictions[f"p_{name}"] = share + predictions["id"] / 10_000
    predictions.insert(1, "path", [f"cats/{number}.jpg" for number in predictions["id"]])
    predictions.to_parquet(run_dir / PREDICTIONS_FILE, index=False)
    _, written = write_reports(load_runs(tmp_path)[0], [], tmp_path / "out")
    assert tmp_path / "out" / "mistakes.csv" in written
    table = pd.read_csv(tmp_path / "out" / "mistakes.csv")
    assert list(table.columns) == ["path", "id", "true", "predicted", "probability"]
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    assert set(table["path"]) == set(wrong["path"])
    assert len(table) == len(wrong) == 300
    assert (table["true"] != table["predicted"]).all()
    assert table["probability"].is_monotonic_decreasing


def test_earlier_reports_are_put_aside(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report-old-12345678.html").write_text("old")
    (out / "mine.html").write_text("mine")
    write_reports(world.runs, [], out)
    assert (out / "earlier" / "report-old-12345678.html").read_text() == "old"
    assert sorted(path.name for path in out.glob("*.html")) == ["mine.html", "report.html"]


def test_several_networks_are_ranked(world: World, tmp_path: Path) -> None:
    write_reports(world.runs, [], tmp_path / "one")
    assert "Networks, ranked" not in (tmp_path / "one" / "report.html").read_text("utf-8")
    spec = {**SPEC_OF_A_NETWORK, "backbone": "resnet50"}
    world.add(0.8, features="tiny-resnet50-imagenet-64px", spec=spec, layers=["last"], cache="other.h5")
    write_reports(world.runs, [], tmp_path / "two")
    page = (tmp_path / "two" / "report.html").read_text("utf-8")
    ranking = page.partition("Networks, ranked by their best head.")[2].partition("</table>")[0]
    assert ranking.index("resnet50-imagenet") < ranking.index("vgg16-imagenet")


def test_a_figure_that_cannot_be_drawn_costs_itself_only(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such colour\nand more")

    for name in ("cost", "recall", "convergence"):
        monkeypatch.setattr(f"analysis.figures.charts.{name}", broken)
    _, written = write_reports(world.runs, [], tmp_path / "out")
    assert names(written) == FIGURES - {"cost", "recall", "convergence"}
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    for name in ("cost", "recall", "convergence"):
        assert f"Some figures are missing: {name}: no such colour" in page
        assert f"Some figures are missing: {name}: no such colour" in caplog.text
    assert "and more" not in page


def test_a_ratio_is_drawn_on_a_logarithmic_scale() -> None:
    number = large_number(Measure("times as fast", "to 70% accuracy", 4.0, 2.0, math.inf))
    assert number.scale == (math.log(2), math.log(4), math.inf, 0)
    assert (number.value, number.interval, number.no_difference) == ("4", "95% interval 2 or more", "1")
    points = large_number(Measure("points", "over cnn", 5.0, -10.0, 19.0, neutral=0.0))
    assert points.scale == (-10, 5, 19, 0)
    assert (points.value, points.interval) == ("+5", "95% interval -10 to +19")


def test_an_interval_that_is_open_at_both_ends_is_not_drawn() -> None:
    number = large_number(Measure("times as many images", "to 70% accuracy", 4.0, 0.0, math.inf))
    assert math.isnan(number.scale[0])
    assert math.isnan(number.scale[2])
    assert "95%" not in number.interval


def test_suspected_labels_are_counted_where_there_was_an_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROZENBENCH_DATA", str(tmp_path / "data"))
    world = World(tmp_path)
    run = world.runs[Path(world.add(0.7))]
    folder = audit_folder(Path(run.cache).stem)
    summary = {"fingerprint": run.fingerprint, "suspects": 12, "images": 1000}
    write_summary(folder / SUMMARY, summary)
    (folder / "suspects.csv").write_text("path\n")
    write_reports(world.runs, [], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    link = re.search('<a href="(.*?)">12 of 1,000 labels are suspected</a>', page)
    assert (tmp_path / "out" / link[1]).is_file()
    write_summary(folder / SUMMARY, {**summary, "fingerprint": "of another cache"})
    write_reports(world.runs, [], tmp_path / "out")
    assert "labels are suspected" not in (tmp_path / "out" / "report.html").read_text("utf-8")
