from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.legend import Legend
from tiny_runs import make_result

from analysis.figures import charts
from analysis.figures.style import Chance, empty_figure, figure, marker_of, save

VGG, RANDOM, PIXELS = "vgg16-imagenet-64px-block3_pool-grid2", "vgg16-random-0-64px-block3_pool-grid2", "pixels-32px"
COLUMNS = ["kind", "features", "model", "accuracy", "accuracy_low", "accuracy_high", "fit_seconds",
           "extraction_seconds"]  # fmt: skip
ROWS = pd.DataFrame(
    [
        ["pixels", PIXELS, "svm", 0.40, 0.37, 0.43, 3.0, 0.001],
        ["pixels", PIXELS, "logreg", 0.357, 0.328, 0.387, 8.0, 0.001],
        ["pretrained", VGG, "logreg", 0.715, 0.686, 0.742, 2.0, 0.004],
        ["pretrained", VGG, "svm", 0.69, 0.66, 0.72, 4.0, 0.004],
        ["scratch", PIXELS, "cnn", 0.65, 0.62, 0.68, 300.0, 0.001],
        ["random", RANDOM, "svm", 0.52, 0.49, 0.55, 4.0, 0.004],
    ],
    columns=COLUMNS,
).assign(train_rows=2000, tuned=0, class_weight="none", suspects="none")
SCRATCH = f"{PIXELS}, trained from scratch"
CURVES = pd.DataFrame(
    [
        ["svm on vgg16", "pretrained", "svm", VGG, 1000, 0.65, 0.62, 0.68, 3],
        ["svm on vgg16", "pretrained", "svm", VGG, 100, 0.5, 0.46, 0.54, 3],
        ["svm on vgg16", "pretrained", "svm", VGG, 40000, 0.8, 0.79, 0.81, 1],
        ["cnn from scratch", "scratch", "cnn", PIXELS, 100, 0.2, 0.15, 0.25, 3],
        ["cnn from scratch", "scratch", "cnn", PIXELS, 40000, 0.82, 0.81, 0.83, 1],
        ["svm on pixels", "pixels", "svm", PIXELS, 100, 0.25, 0.2, 0.3, 3],
        ["svm on pixels", "pixels", "svm", PIXELS, 105, 0.26, 0.2, 0.3, 3],
    ],
    columns=["approach", "kind", "model", "features", "train_rows", "accuracy", "low", "high", "seeds"],
)


def legend_texts(legend: Any) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def looks_of(artists: list[Any], *properties: str) -> set[tuple[Any, ...]]:
    return {tuple(getattr(artist, f"get_{name}")() for name in properties) for artist in artists}


def segments(container: Any) -> list[list[float]]:
    """The ends of the bars along x, of an errorbar container."""
    return [np.array(segment)[:, 0].round(1).tolist() for segment in container.lines[2][0].get_segments()]


def test_accuracy_draws_every_run_with_its_interval() -> None:
    with figure(6, 4) as (_, ax):
        assert charts.accuracy(ROWS, ax) is ax
        heads = [label.get_text() for label in ax.get_yticklabels()]
        points = {
            (container.get_label(), round(float(x), 1), heads[round(float(y))])
            for container in ax.containers
            for x, y in zip(*container.lines[0].get_data(), strict=True)
        }
        bars: dict[str, list[list[float]]] = {}
        for container in ax.containers:
            bars.setdefault(container.get_label(), []).extend(segments(container))
        looks = looks_of([container.lines[0] for container in ax.containers], "color", "fillstyle")
        markers = {heads[round(float(box.lines[0].get_ydata()[0]))]: box.lines[0].get_marker() for box in ax.containers}
        assert legend_texts(ax.get_legend()) == [VGG, RANDOM, PIXELS, SCRATCH]
    assert heads == ["cnn", "svm", "logreg"]  # the best on top
    assert points == {
        (VGG, 71.5, "logreg"), (VGG, 69.0, "svm"), (RANDOM, 52.0, "svm"),
        (PIXELS, 35.7, "logreg"), (PIXELS, 40.0, "svm"), (SCRATCH, 65.0, "cnn"),
    }  # fmt: skip
    assert bars[VGG] == [[68.6, 74.2], [66.0, 72.0]]
    assert bars[SCRATCH] == [[62.0, 68.0]]
    assert len(looks) == len({colour for colour, _ in looks}) == len({fill for _, fill in looks}) == 4
    assert markers == {name: marker_of(name) for name in heads}


def test_a_tuned_head_has_a_line_of_its_own() -> None:
    rows = pd.concat([ROWS.iloc[[3]], ROWS.iloc[[3]].assign(tuned=20, accuracy=0.8)])
    with figure(6, 4) as (_, ax):
        charts.accuracy(rows, ax)
        assert [label.get_text() for label in ax.get_yticklabels()] == ["svm", "svm (tuned)"]
        markers = {box.lines[0].get_marker() for box in ax.containers}
    assert markers == {marker_of("svm")}


def test_no_percentage_above_a_hundred_is_on_the_axis() -> None:
    with figure(6, 4) as (drawn, ax):
        charts.recall({"svm": make_result(recall={"ant": [1, 1, 1], "bee": [1, 1, 1]})}, ax)
        drawn.draw_without_rendering()
        low, high = ax.get_xlim()
        assert all(tick <= 100 for tick in ax.get_xticks() if low <= tick <= high)


def test_a_kind_of_features_has_one_colour_in_all_figures() -> None:
    colours = []
    for draw, table in ((charts.accuracy, ROWS), (charts.cost, ROWS.sample(frac=1, random_state=0))):
        with figure(6, 4) as (_, ax):
            draw(table, ax)
            shown = {container.get_label().split(" on ")[-1]: container.lines[0] for container in ax.containers}
            colours.append({name: to_hex(line.get_color()) for name, line in shown.items()})
    assert colours[0] == colours[1]
    assert len(set(colours[0].values())) == 4


def test_recall_draws_every_class_that_has_images() -> None:
    one = make_result()  # ant 0.7, bee 0.72, no cow
    two = make_result(model="svm", recall={"ant": [0.9, 0.8, 0.95], "bee": [0.1, 0.05, 0.2], "cow": [0.3, 0.3, 0.3]})
    with figure(6, 4) as (_, ax):
        assert charts.recall({"logreg": one, "svm": two}, ax) == []
        classes = [label.get_text() for label in ax.get_yticklabels()]
        found = {
            (box.get_label(), classes[round(float(y))]): round(float(x), 1)
            for box in ax.containers
            for x, y in zip(*box.lines[0].get_data(), strict=True)
        }
        assert sorted(segments(ax.containers[1])) == [[5.0, 20.0], [30.0, 30.0], [80.0, 95.0]]
        assert len(looks_of([box.lines[0] for box in ax.containers], "marker")) == 2
    assert classes == ["cow", "bee", "ant"]  # by the mean over runs, the best on top
    assert found == {
        ("logreg", "ant"): 70, ("logreg", "bee"): 72, ("svm", "ant"): 90, ("svm", "bee"): 10, ("svm", "cow"): 30,
    }  # fmt: skip


def test_reliability() -> None:
    bins = [{"rows": 10, "confidence": 0.4, "accuracy": 0.3}, {"rows": 10, "confidence": 0.9, "accuracy": 0.7}]
    runs = {
        "logreg": make_result(reliability=bins, ece=0.152),
        "svm": make_result(model="svm"),
    }
    with figure(6, 6) as (_, ax):
        assert charts.reliability(runs, ax) is ax
        diagonal, *lines = ax.get_lines()
        assert diagonal.get_xydata().tolist() == [[0, 0], [100, 100]]
        assert legend_texts(ax.get_legend())[1:] == ["logreg (ECE 15.2%)", "svm (ECE 4.2%)"]
        np.testing.assert_allclose(lines[0].get_xydata(), [[40, 30], [90, 70]])
        assert len(looks_of(lines, "marker")) == len(looks_of(lines, "linestyle")) == 2


def test_learning_curves_have_their_bands() -> None:
    with figure(7, 5) as (drawn, ax):
        assert charts.learning_curves(CURVES, ax) is ax
        lines = {line.get_label(): line for line in ax.get_lines()}
        bands = {to_hex(band.get_facecolor()[0]): band.get_paths()[0].vertices for band in ax.collections}
        drawn.draw_without_rendering()
        ticks = [label.get_text() for label in ax.get_xticklabels()]
        heads = legend_texts(ax.get_legend())
        assert ax.get_xscale() == "log"
    assert set(lines) == set(CURVES["approach"])
    np.testing.assert_allclose(lines["svm on vgg16"].get_xydata(), [[100, 50], [1000, 65], [40000, 80]])
    band = bands[to_hex(lines["svm on vgg16"].get_color())]
    for corner in ([100, 46], [100, 54], [1000, 62], [1000, 68], [40000, 79], [40000, 81]):
        assert np.isclose(band, corner).all(axis=1).any()
    assert ticks == ["105", "1,000", "40,000"]  # 100 would meet 105
    assert len(looks_of(list(lines.values()), "linestyle")) == 3  # of features
    assert lines["svm on vgg16"].get_marker() == lines["svm on pixels"].get_marker() != "None"
    assert lines["svm on vgg16"].get_marker() != lines["cnn from scratch"].get_marker()
    assert heads == ["cnn", "svm"]


@pytest.mark.parametrize("draw", [charts.cost, charts.learning_curves])
def test_both_legends_lie_inside_the_figure(draw: Any) -> None:
    table = ROWS if draw is charts.cost else CURVES
    with figure(7.5, 5) as (drawn, ax):
        draw(table, ax)
        drawn.draw_without_rendering()
        legends = [child for child in ax.get_children() if type(child).__name__ == "Legend"]
        boxes = [legend.get_window_extent() for legend in legends]
    assert {text for legend in legends for text in legend_texts(legend)} >= {VGG, SCRATCH, "svm", "cnn"}
    assert len(boxes) == 2
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= drawn.bbox.x1
        assert box.y1 <= drawn.bbox.y1


def test_cost_counts_the_extraction_and_shows_the_best_within_a_time() -> None:
    best = {"best control": pd.DataFrame({"seconds": [5.0, 10.0], "accuracy": [0.4, 0.7]})}
    with figure(7, 5) as (_, ax):
        assert charts.cost(ROWS, ax, best=best) is ax
        points = {box.get_label(): box.lines[0].get_xydata()[0].tolist() for box in ax.containers}
        (front,) = [line for line in ax.get_lines() if line.get_label() == "best control"]
        assert ax.get_xscale() == "log"
        bars = ax.containers[2].lines[2][0].get_segments()[0][:, 1].round(1).tolist()
        markers = {box.get_label().split(" on ")[0]: box.lines[0].get_marker() for box in ax.containers}
        fills = {box.get_label().split(" on ")[1]: box.lines[0].get_fillstyle() for box in ax.containers}
    assert points[f"logreg on {VGG}"] == [10, 71.5]  # 2 s + 2,000 x 4 ms
    assert points[f"cnn on {SCRATCH}"] == [302, 65]
    np.testing.assert_allclose(front.get_xydata(), [[5, 40], [10, 70], [302, 70]])  # as far as the slowest run
    assert bars == [68.6, 74.2]
    assert len(set(markers.values())) == 3
    assert len(set(fills.values())) == 4


@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_axis_of_seconds_has_numbers(count: int) -> None:
    table = ROWS.iloc[2 : 2 + count]  # 10 s; 10 and 12 s; 10 to 302 s
    with figure(7, 5) as (drawn, ax):
        charts.cost(table, ax)
        drawn.draw_without_rendering()
        low, high = ax.get_xlim()
        shown = [label.get_text() for label in ax.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert len(shown) >= 2
    assert all(float(text.replace(",", "")) for text in shown)


def test_convergence_marks_where_it_is_nearly_done() -> None:
    histories = {
        "cnn": {
            "loss": [2.0, 1.5, 1.0, 0.9], "accuracy": [0.2, 0.5, 0.73, 0.8],
            "validation_accuracy": [0.1, 0.4, 0.5, 0.6], "seconds": [1.0, 2.0, 3.0, 4.0],
        },
        "mlp": {"loss": [1.0, 0.5], "accuracy": [0.85, 0.9], "seconds": [1.0, 2.0]},
    }  # fmt: skip
    with empty_figure(10, 4) as drawn:
        axes = drawn.subplots(1, 2)
        assert charts.convergence(histories, *axes) == tuple(axes)
        losses = {line.get_label(): line.get_xydata().tolist() for line in axes[0].get_lines()}
        cnn, validation, mlp = axes[1].get_lines()
        (legend,) = drawn.legends
        assert legend_texts(legend) == [
            "cnn", "mlp", " ", "training images", "validation images", "90% of the final training accuracy",
        ]  # fmt: skip
    assert losses == {"cnn": [[1, 2.0], [2, 1.5], [3, 1.0], [4, 0.9]], "mlp": [[1, 1.0], [2, 0.5]]}
    np.testing.assert_allclose(cnn.get_ydata(), [20, 50, 73, 80])
    np.testing.assert_allclose(validation.get_ydata(), [10, 40, 50, 60])
    assert [line.get_markevery() for line in (cnn, mlp)] == [[2], [0]]  # 90% of 80 is 72
    assert validation.get_marker() == "None"
    assert cnn.get_linestyle() != mlp.get_linestyle()
    assert validation.get_color() == cnn.get_color() != mlp.get_color()


def test_a_network_without_validation_images_has_no_line_for_them() -> None:
    history = {"loss": [1.0, 0.5], "accuracy": [0.85, 0.9], "validation_accuracy": []}
    with empty_figure(10, 4) as drawn:
        axes = drawn.subplots(1, 2)
        charts.convergence({"cnn": history}, *axes)
        assert len(axes[1].get_lines()) == 1
        assert "validation images" not in legend_texts(drawn.legends[0])


def test_long_names_leave_both_panels_their_width() -> None:
    history = {"loss": [2.0, 1.0], "accuracy": [0.4, 0.8], "seconds": [1.0, 2.0]}
    with empty_figure(9, 4.5) as drawn:
        axes = drawn.subplots(1, 2)
        charts.convergence(
            {f"mlp on a network {number} with a very long name {40 * '-'}": history for number in range(5)}, *axes
        )
        drawn.draw_without_rendering()
        legend = drawn.legends[0].get_window_extent()
        texts = legend_texts(drawn.legends[0])
        widths = [ax.get_position().width for ax in axes]
        bottoms = [ax.get_window_extent().y0 for ax in axes]
        assert min(bottoms) > legend.y1
        assert 0 <= legend.x0 < legend.x1 <= drawn.bbox.x1
    assert texts[5:7] == ["training images", "90% of the final training accuracy"]  # no validation
    assert min(widths) > 0.38


def test_the_same_figure_gives_the_same_files(tmp_path: Path) -> None:
    contents = []
    for folder in ("one", "two"):
        with figure(6, 4) as (drawn, ax):
            charts.accuracy(ROWS, ax)
            paths = save(drawn, tmp_path / folder / "accuracy-3.5")
        assert [path.name for path in paths] == ["accuracy-3.5.png", "accuracy-3.5.svg"]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"\x89PNG")


def test_figures_stand_on_a_dark_page(tmp_path: Path) -> None:
    from PIL import Image

    with figure(4, 3) as (drawn, ax):
        charts.cost(ROWS, ax)
        png, _ = save(drawn, tmp_path / "cost")
    with Image.open(png) as image:
        assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


def test_recall_of_many_classes_shows_the_lowest_and_the_highest() -> None:
    recall = {f"class {k}": [k / 100, k / 100, k / 100] for k in range(100)}
    with figure(8, 9) as (_, ax):
        left_out = charts.recall({"svm": make_result(recall=recall)}, ax, most=8)
        shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == [*(f"class {k}" for k in range(6)), "(92 more)", "class 98", "class 99"]
    assert left_out == [f"class {k}" for k in range(6, 98)]


def test_a_line_for_chance() -> None:
    runs = {"svm": make_result(model="svm")}
    for draw, shown in (
        (charts.accuracy, ROWS), (charts.learning_curves, CURVES), (charts.cost, ROWS), (charts.reliability, runs),
    ):  # fmt: skip
        with figure(7, 5) as (_, ax):
            draw(shown, ax, chance=Chance(0.25, 100))
            texts = [text for legend in ax.findobj(Legend) for text in legend_texts(legend)]
            lines = [line for line in ax.get_lines() if line.get_label() == "chance (25%)"]
        assert "chance (25%)" in texts
        data = lines[0].get_xdata() if draw is charts.accuracy else lines[0].get_ydata()
        assert set(data) == {25}
        low, high = ax.get_xlim() if draw is charts.accuracy else ax.get_ylim()
        assert low < 25 < high


def test_the_accuracies_of_a_training_have_a_line_for_chance() -> None:
    with empty_figure(10, 4) as drawn:
        loss_ax, accuracy_ax = drawn.subplots(1, 2)
        history = {"loss": [1.0, 0.5], "accuracy": [0.85, 0.9]}
        charts.convergence({"cnn": history}, loss_ax, accuracy_ax, chance=Chance(0.1, 10_000))
        assert "chance (10.0%)" in legend_texts(drawn.legends[0])
        assert set(map(str, loss_ax.get_lines())) == {"Line2D(cnn)"}
        assert set(accuracy_ax.get_lines()[-1].get_ydata()) == {10}


def test_heads_on_the_same_features_have_shades_of_one_colour() -> None:
    looks = {name: {"color": (0.2, 0.4, 0.6), "linestyle": "-"} for name in ("svm", "mlp")}
    runs = {name: make_result(model=name) for name in looks}
    with figure(6, 6) as (_, ax):
        charts.reliability(runs, ax, looks)
        svm, mlp = ax.get_lines()[1:]
    assert sum(svm.get_color()) < sum((0.2, 0.4, 0.6)) < sum(mlp.get_color())
    assert svm.get_color()[0] < svm.get_color()[1] < svm.get_color()[2]  # still blue
    assert svm.get_linestyle() != mlp.get_linestyle()
    assert (svm.get_marker(), mlp.get_marker()) == (marker_of("svm"), marker_of("mlp"))
    with figure(6, 6) as (_, ax):
        charts.reliability({"svm": runs["svm"]}, ax, looks)
        assert ax.get_lines()[1].get_color() == (0.2, 0.4, 0.6)


LONG_NAMES = ["W" * 100, "x" * 99 + "a", "x" * 99 + "b", "\u732b" * 60, "American Staffordshire Terrier and more of it"]


def test_long_names_leave_the_axes_half_of_the_width() -> None:
    recall = {name: [0.5, 0.4, 0.6] for name in LONG_NAMES}
    long = {name: f"{'long_name_of_a_feature_cache_' * 5}{number}" for number, name in enumerate([VGG, PIXELS])}
    rows, curves = ROWS.replace({"features": long}), CURVES.replace({"features": long})
    for draw, shown in (
        (charts.recall, {f"svm on {long[VGG]}": make_result(model="svm", recall=recall)}),
        (charts.accuracy, rows), (charts.learning_curves, curves), (charts.cost, rows),
    ):  # fmt: skip
        with figure(8, 5.4) as (drawn, ax):
            draw(shown, ax)
            drawn.draw_without_rendering()
            assert ax.get_position().width > 0.5
            for legend in ax.findobj(Legend):
                box = legend.get_window_extent()
                assert 0 <= box.x0 < box.x1 <= drawn.bbox.x1
                assert len(set(legend_texts(legend))) == len(legend_texts(legend))
