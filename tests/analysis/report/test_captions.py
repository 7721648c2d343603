"""The figures of a report: their titles, and one look for the same features and the same head."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from tiny_runs import PIXELS, World, make_predictions, make_result, runs_with_controls, write_run

from analysis.figures import pictures, style
from analysis.frame import comparison
from analysis.report.build import write_reports
from analysis.report.captions import FigureFolder, curves_figures, mistakes_figure
from classify.runs import load_runs

MANY = 21


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures that are saved, by their name; nothing is written but an empty PNG file."""
    saved: dict[str, Figure] = {}
    save = style.save

    def keep(figure: Figure, stem: Path) -> list[Path]:
        saved[stem.name.partition("-tiny")[0]] = figure
        return save(figure, stem)

    monkeypatch.setattr(style, "save", keep)
    return saved


def folder_of(world: World) -> FigureFolder:
    rows = world.table()
    return FigureFolder(world.folder / "figures", "tiny-abababab", rows, 0.5)


def texts(figure: Figure) -> list[str]:
    legends = [*figure.legends, *figure.findobj(Legend)]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def world_of_many_classes(folder: Path, **changes: Any) -> World:
    """Two runs on many classes, of which the last ones are hard."""
    world = World(folder)
    names = [f"class number {number}" for number in range(MANY)]
    recall = {name: [number / MANY, 0, 1] for number, name in enumerate(names)}
    world.add(0.7, class_names=names, recall=recall, **changes)
    world.add(0.4, class_names=names, recall=recall, **{**PIXELS, **changes})
    return world


def test_every_figure_has_a_title_with_the_data_set(world: World, drawn: dict[str, Figure]) -> None:
    write_reports(runs_with_controls(world).runs, [], world.folder / "out")
    titles = {name: figure.get_suptitle() for name, figure in drawn.items()}
    assert set(titles) == {
        "accuracy", "learning-curves", "cost", "convergence", "best-of-n", "confusion", "recall", "reliability",
    }  # fmt: skip
    assert len(set(titles.values())) == len(titles)
    assert all(title.startswith("tiny: ") for title in titles.values())


def test_chance_is_drawn_with_every_accuracy(world: World, drawn: dict[str, Figure]) -> None:
    write_reports(runs_with_controls(world).runs, [], world.folder / "out")
    for name in ("accuracy", "learning-curves", "cost", "convergence", "reliability"):
        assert "chance (50.0%)" in texts(drawn[name]), name


def test_features_have_one_colour_in_all_figures(world: World, drawn: dict[str, Figure]) -> None:
    world.add(
        0.9, model="knn", features="tiny-another-network", class_names=list("abcd")
    )  # the first of the features in the legend
    write_reports(runs_with_controls(world).runs, [], world.folder / "out")
    looks = folder_of(world).looks
    colour = {name: to_hex(look["color"]) for name, look in looks.items()}
    marked = {
        name: {to_hex(line.get_color()) for line in drawn[name].findobj() if getattr(line, "get_marker", None)}
        for name in drawn
    }
    assert colour["vgg16-imagenet"] not in marked["reliability"]  # the best head is on the other network
    assert colour["tiny-another-network".removeprefix("tiny-")] in marked["reliability"]
    for name in ("accuracy", "learning-curves", "cost", "convergence"):
        assert {colour["vgg16-imagenet"], colour["pixels, trained from scratch"]} <= marked[name], name
    assert {colour["another-network"], colour["pixels, trained from scratch"]} <= marked["recall"]


def test_a_head_has_one_marker_in_all_figures(world: World, drawn: dict[str, Figure]) -> None:
    write_reports(runs_with_controls(world).runs, [], world.folder / "out")
    for name in ("accuracy", "learning-curves", "cost", "convergence", "recall"):
        markers = {line.get_marker() for line in drawn[name].findobj() if hasattr(line, "get_marker")}
        assert style.marker_of("mlp") in markers, name
        assert style.marker_of("cnn") in markers, name
    (line,) = [line for line in drawn["reliability"].axes[0].get_lines() if line.get_label().startswith("mlp (ECE")]
    assert line.get_marker() == style.marker_of("mlp")


def test_many_classes_have_pairs_and_the_extremes_of_recall(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    world = world_of_many_classes(tmp_path)
    predictions = make_predictions(np.arange(1000) < 700)
    predictions["predicted"] = predictions["predicted"].where(predictions["predicted"] >= 0, 20)
    for run_dir, result in world.runs.items():
        write_run(run_dir, make_result(**{**vars(result), "accuracy": 0.7}), predictions)
    write_reports(load_runs(tmp_path)[0], [], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert len(drawn["confusion"].axes) == 2  # one below the other, without scales of colours
    first, second = (ax.get_position() for ax in drawn["confusion"].axes)
    assert first.y0 > second.y1
    assert "class number 0\ntaken for class number 20" in [
        label.get_text() for label in drawn["confusion"].axes[0].get_yticklabels()
    ]
    labels = [label.get_text() for label in drawn["recall"].axes[0].get_yticklabels()]
    assert labels[0] == "class number 0"
    assert labels[-1] == "class number 20"
    assert "(1 more)" in labels
    assert "All 21 rows" in page  # of the table of recalls
    assert "The most frequent mistakes of logreg on vgg16-imagenet." in page
    assert "21 classes" in drawn["recall"].get_suptitle()


def test_only_heads_with_several_sizes_have_a_learning_curve(world: World, drawn: dict[str, Figure]) -> None:
    for size in (100, 1000):
        world.add(0.5 + size / 10_000, model="logreg", train_rows=size)
    world.add(0.9, model="svm")  # the best head, with one size
    (picture,) = curves_figures(world.table(), folder_of(world))
    assert picture.alt == "Learning curves of logreg on vgg16-imagenet."
    labels = {line.get_label() for line in drawn["learning-curves"].axes[0].get_lines()}
    assert labels == {"logreg on vgg16-imagenet", "chance (50.0%)"}


def test_without_several_sizes_there_is_no_learning_curve(world: World) -> None:
    world.add(0.9, model="svm")
    assert curves_figures(world.table(), folder_of(world)) == []


def test_mistakes_have_their_names_and_files(
    world: World, drawn: dict[str, Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    class_names = ["American Staffordshire Terrier and more", "cat", "dog"]
    run_dir = Path(world.add(0.9, class_names=class_names))
    predictions = make_predictions(np.arange(1000) < 999)
    predictions["predicted"] = predictions["predicted"].where(predictions["predicted"] >= 0, 1)
    files = [f"cats/a photo with a long name {number:04}.jpg" for number in range(1000)]
    world.runs[run_dir] = result = make_result(class_names=class_names)
    write_run(run_dir, result, predictions.assign(path=files, p_a=0.9, p_b=0.05, p_c=0.05))
    monkeypatch.setattr(pictures, "test_images", lambda _, ids: np.zeros((len(ids), 4, 4, 3), np.uint8))
    mistakes_figure(world.table().iloc[0], result, folder_of(world))
    lines = drawn["mistakes"].axes[0].get_xlabel().split("\n")
    assert lines[0].startswith("American Staff")
    assert lines[0].endswith("\u2026")
    assert lines[1:3] == ["taken for (90.0%)", "cat"]
    assert lines[3].startswith("a photo")
    assert lines[3].endswith("0999.jpg")


def test_hostile_names_cost_no_figure_and_no_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["\u732b", "[red]", "$5\nbill", "W" * 100]
    recall = {name: [0.5, 0.4, 0.6] for name in names}
    world = World(tmp_path)
    for changes in ({}, PIXELS):
        world.add(0.6, class_names=names, recall=recall, dataset="\u82b1 $x$ " + "y" * 100, **changes)
    _, written = write_reports(world.runs, [], tmp_path / "out")
    assert sum(path.suffix == ".png" for path in written) == 6
    assert [str(warning.message) for warning in recwarn] == []
    assert "cannot" not in caplog.text
    assert "confusion" not in caplog.text


def test_looks_come_from_all_rows_of_the_test_set(world: World) -> None:
    rows = comparison(runs_with_controls(world).runs)
    folder = FigureFolder(world.folder, "tiny-abababab", rows, 0.25)
    assert folder.chance == (0.25, 1000)
    assert folder.runs["mlp on pixels"]["color"] == folder.looks["pixels"]["color"]
    assert folder.runs["cnn from scratch on pixels"]["color"] == folder.looks["pixels, trained from scratch"]["color"]
