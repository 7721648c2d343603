from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from tiny_runs import make_result

from analysis.figures import charts as plots

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
).assign(train_rows=2000)
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
    with plots.figure(6, 4) as (_, ax):
        assert plots.accuracy(ROWS, ax) is ax
        heads = [label.get_text() for label in ax.get_yticklabels()]
        points = {
            (container.get_label(), round(float(x), 1), heads[round(float(y))])
            for container in ax.containers
            for x, y in zip(*container.lines[0].get_data(), strict=True)
        }
        bars = {container.get_label(): segments(container) for container in ax.containers}
        looks = looks_of([container.lines[0] for container in ax.containers], "color", "marker")
        assert legend_texts(ax.get_legend()) == [VGG, RANDOM, PIXELS, SCRATCH]
    assert heads == ["cnn", "svm", "logreg"]  # the best on top
    assert points == {
        (VGG, 71.5, "logreg"), (VGG, 69.0, "svm"), (RANDOM, 52.0, "svm"),
        (PIXELS, 35.7, "logreg"), (PIXELS, 40.0, "svm"), (SCRATCH, 65.0, "cnn"),
    }  # fmt: skip
    assert bars[VGG] == [[68.6, 74.2], [66.0, 72.0]]
    assert bars[SCRATCH] == [[62.0, 68.0]]
    assert len(looks) == len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == 4


def test_a_kind_of_features_has_one_colour_in_all_figures() -> None:
    colours = []
    for draw, table in ((plots.accuracy, ROWS), (plots.cost, ROWS.sample(frac=1, random_state=0))):
        with plots.figure(6, 4) as (_, ax):
            draw(table, ax)
            shown = {container.get_label().split(" on ")[-1]: container.lines[0] for container in ax.containers}
            colours.append({name: to_hex(line.get_color()) for name, line in shown.items()})
    assert colours[0] == colours[1]
    assert len(set(colours[0].values())) == 4


def test_confusion_is_in_percent_of_the_true_class() -> None:
    predictions = pd.DataFrame({"label": [0] * 300 + [1], "predicted": [0] * 224 + [1] * 75 + [2] + [0]})
    with plots.figure(5, 5) as (_, ax):
        assert plots.confusion(predictions, ["ant", "bee", "cow"], ax) is ax
        shares = ax.collections[0].get_array().reshape(3, 3)
        texts = [text.get_text() for text in ax.texts]
        names = [label.get_text() for label in ax.get_xticklabels()]
    np.testing.assert_allclose(shares, [[224 / 3, 25, 1 / 3], [100, 0, 0], [0, 0, 0]])
    assert texts == ["75", "25", "", "100", "", "", "", "", ""]
    assert names == ["ant", "bee", "cow"]


def test_confusion_frames_and_names_the_most_frequent_mistakes() -> None:
    predictions = pd.DataFrame({"label": [0, 0, 1, 1, 1, 2], "predicted": [0, 2, 2, 2, 1, 2]})
    with plots.figure(5, 5) as (_, ax):
        plots.confusion(predictions, ["ant", "bee", "cow"], ax, order=[2, 0, 1])
        assert [label.get_text() for label in ax.get_xticklabels()] == ["cow", "ant", "bee"]
        assert [label.get_text() for label in ax.get_yticklabels()] == ["cow", "ant", "bee"]
        shares = ax.collections[0].get_array().reshape(3, 3)
        assert {patch.get_xy() for patch in ax.patches} == {(0, 1), (0, 2)}  # column of cow; rows of ant and bee
        assert ax.get_xlabel() == "predicted\nmost often wrong: bee as cow (2); ant as cow (1)"
    np.testing.assert_allclose(shares, [[100, 0, 0], [50, 50, 0], [200 / 3, 0, 100 / 3]])


def test_a_confusion_matrix_without_mistakes_names_none() -> None:
    with plots.figure(5, 5) as (_, ax):
        plots.confusion(pd.DataFrame({"label": [0, 1], "predicted": [0, 1]}), ["ant", "bee"], ax)
        assert ax.get_xlabel() == "predicted"
        assert not ax.patches


def test_confused_classes_stand_side_by_side() -> None:
    counts = np.diag([90] * 6)
    for i, j, often in ((0, 5, 9), (5, 0, 9), (1, 3, 8), (3, 1, 8), (2, 4, 7), (4, 2, 7), (5, 3, 2)):
        counts[i, j] = often
    order = plots.class_order([counts, counts])
    assert sorted(order) == list(range(6))
    place = {k: order.index(k) for k in range(6)}
    assert all(abs(place[i] - place[j]) == 1 for i, j in ((0, 5), (1, 3), (2, 4), (5, 3)))
    assert order[0] < order[-1]


def test_one_order_serves_several_confusion_matrices() -> None:
    one, other = np.diag([90] * 4), np.diag([9000] * 4)
    one[[0, 2, 1, 3], [2, 0, 3, 1]] = 9
    other[[0, 1, 2, 3], [1, 0, 3, 2]] = 300  # more images, but a smaller share
    order = plots.class_order([one, other])
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset({0, 2}), frozenset({1, 3})}
    assert plots.class_order([np.eye(2, dtype=int)]) == [0, 1]
    assert sorted(plots.class_order([np.zeros((4, 4), int)])) == [0, 1, 2, 3]


def test_most_confused() -> None:
    predictions = pd.DataFrame({"label": [0, 0, 1, 1, 1, 2], "predicted": [0, 2, 2, 2, 1, 0]})
    names = ["ant", "bee", "cow"]
    assert plots.most_confused(predictions, names, 2) == [("bee", "cow", 2), ("ant", "cow", 1)]
    assert plots.most_confused(predictions, names, 9) == [("bee", "cow", 2), ("ant", "cow", 1), ("cow", "ant", 1)]


def test_recall_draws_every_class_that_has_images() -> None:
    one = make_result()  # ant 0.7, bee 0.72, no cow
    two = make_result(recall={"ant": [0.9, 0.8, 0.95], "bee": [0.1, 0.05, 0.2], "cow": [0.3, 0.3, 0.3]})
    with plots.figure(6, 4) as (_, ax):
        assert plots.recall({"logreg": one, "svm": two}, ax) is ax
        classes = [label.get_text() for label in ax.get_yticklabels()]
        found = {
            (box.get_label(), classes[round(float(y))]): round(float(x), 1)
            for box in ax.containers
            for x, y in zip(*box.lines[0].get_data(), strict=True)
        }
        assert segments(ax.containers[1]) == [[30.0, 30.0], [5.0, 20.0], [80.0, 95.0]]
        assert len(looks_of([box.lines[0] for box in ax.containers], "marker")) == 2
    assert classes == ["cow", "bee", "ant"]  # by the mean over runs, the best on top
    assert found == {
        ("logreg", "ant"): 70, ("logreg", "bee"): 72, ("svm", "ant"): 90, ("svm", "bee"): 10, ("svm", "cow"): 30,
    }  # fmt: skip


def test_reliability() -> None:
    bins = [{"rows": 10, "confidence": 0.4, "accuracy": 0.3}, {"rows": 10, "confidence": 0.9, "accuracy": 0.7}]
    runs = {
        "logreg": make_result(reliability=bins, ece=0.152),
        "dummy": make_result(reliability=None, ece=None),
        "svm": make_result(),
    }
    with plots.figure(6, 6) as (_, ax):
        assert plots.reliability(runs, ax) is ax
        diagonal, *lines = ax.get_lines()
        assert diagonal.get_xydata().tolist() == [[0, 0], [100, 100]]
        assert legend_texts(ax.get_legend())[1:] == ["logreg (ECE 15.2%)", "svm (ECE 4.2%)"]
        np.testing.assert_allclose(lines[0].get_xydata(), [[40, 30], [90, 70]])
        assert len(looks_of(lines, "marker")) == len(looks_of(lines, "linestyle")) == 2


def test_learning_curves_have_their_bands() -> None:
    with plots.figure(7, 5) as (drawn, ax):
        assert plots.learning_curves(CURVES, ax) is ax
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


@pytest.mark.parametrize("draw", [plots.cost, plots.learning_curves])
def test_both_legends_lie_inside_the_figure(draw: Any) -> None:
    table = ROWS if draw is plots.cost else CURVES
    with plots.figure(7.5, 5) as (drawn, ax):
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


def test_pareto() -> None:
    costs, values = np.array([1.0, 2, 2, 3, 4, 4]), np.array([5.0, 6, 7, 7, 9, 9])
    assert plots.pareto(costs, values).tolist() == [True, False, True, False, True, True]


def test_cost_counts_the_extraction_and_joins_the_front() -> None:
    with plots.figure(7, 5) as (_, ax):
        assert plots.cost(ROWS, ax) is ax
        points = {box.get_label(): box.lines[0].get_xydata()[0].tolist() for box in ax.containers}
        (front,) = [line for line in ax.get_lines() if line.get_label() == "Pareto front"]
        assert ax.get_xscale() == "log"
        bars = ax.containers[2].lines[2][0].get_segments()[0][:, 1].round(1).tolist()
        markers = {box.get_label().split(" on ")[0]: box.lines[0].get_marker() for box in ax.containers}
        fills = {box.get_label().split(" on ")[1]: box.lines[0].get_fillstyle() for box in ax.containers}
    assert points[f"logreg on {VGG}"] == [10, 71.5]  # 2 s + 2,000 x 4 ms
    assert points[f"cnn on {SCRATCH}"] == [302, 65]
    np.testing.assert_allclose(front.get_xydata(), [[5, 40], [10, 71.5]])
    assert bars == [68.6, 74.2]
    assert len(set(markers.values())) == 3
    assert len(set(fills.values())) == 4


@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_axis_of_seconds_has_numbers(count: int) -> None:
    table = ROWS.iloc[2 : 2 + count]  # 10 s; 10 and 12 s; 10 to 302 s
    with plots.figure(7, 5) as (drawn, ax):
        plots.cost(table, ax)
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
    with plots.empty_figure(10, 4) as drawn:
        axes = drawn.subplots(1, 2)
        assert plots.convergence(histories, *axes) == tuple(axes)
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


def test_long_names_leave_both_panels_their_width() -> None:
    history = {"loss": [2.0, 1.0], "accuracy": [0.4, 0.8], "seconds": [1.0, 2.0]}
    with plots.empty_figure(9, 4.5) as drawn:
        axes = drawn.subplots(1, 2)
        plots.convergence(
            {f"mlp on a network {number} with a very long name {40 * '-'}": history for number in range(5)}, *axes
        )
        drawn.draw_without_rendering()
        legend = drawn.legends[0].get_window_extent()
        texts = legend_texts(drawn.legends[0])
        widths = [ax.get_position().width for ax in axes]
        tops = [ax.get_window_extent().y1 for ax in axes]
        assert max(tops) < legend.y0
        assert 0 <= legend.x0 < legend.x1 <= drawn.bbox.x1
    assert texts[5:7] == ["training images", "90% of the final training accuracy"]  # no validation
    assert min(widths) > 0.38


def test_mistakes_are_a_grid_with_captions() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 5, 3), np.uint8)
    with plots.empty_figure(8.1, 3.2) as drawn:
        axes = plots.mistakes(images, [f"caption {n}" for n in range(8)], drawn)
        shown = [np.asarray(ax.get_images()[0].get_array()) for ax in axes]
        drawn.draw_without_rendering()
        places = [(round(ax.get_position().x0, 3), round(ax.get_position().y0, 3)) for ax in axes]
        assert [ax.get_xlabel() for ax in axes] == [f"caption {n}" for n in range(8)]
        assert sum(ax.axison for ax in drawn.axes) == 8  # the rest of the last row stays empty
    np.testing.assert_array_equal(shown, images)
    assert len({x for x, _ in places}) == 6
    assert places[6][0] == places[0][0]
    assert places[6][1] < places[0][1]


def test_neighbours_of_another_class_have_a_dashed_frame() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    nearest = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 4, 3), np.uint8)
    with plots.empty_figure(4, 2.4) as drawn:
        axes = plots.neighbours(images, [0, 1], nearest, np.array([[0, 1, 2], [1, 1, 0]]), ["ant", "bee", "cow"], drawn)
        shown = np.array([ax.get_images()[0].get_array() for ax in axes])
        captions = [ax.get_xlabel() for ax in axes]
        frames = [ax.spines["top"].get_linestyle() if ax.spines["top"].get_visible() else None for ax in axes]
    np.testing.assert_array_equal(shown[[0, 4]], images)
    np.testing.assert_array_equal(shown[[1, 2, 3, 5, 6, 7]], nearest.reshape(6, 4, 4, 3))
    assert captions == ["ant", "ant", "bee", "cow", "bee", "bee", "bee", "ant"]
    assert frames == [None, "-", "--", "--", None, "-", "-", "--"]


def test_the_map_shows_every_vector_and_names_every_class() -> None:
    random = np.random.default_rng(0)
    points = np.concatenate([random.normal(0, 1, (30, 2)), random.normal(20, 1, (10, 2)), [[500, 500]]])
    labels = np.array([0] * 30 + [2] * 11)
    with plots.figure(5, 5) as (_, ax):
        assert plots.vector_map(points, labels, ["ant", "bee", "cow"], ax) is ax
        groups = [np.asarray(group.get_offsets()) for group in ax.collections]
        names = {text.get_text(): np.array(text.get_position()) for text in ax.texts}
        markers = {str(group.get_paths()[0].vertices) for group in ax.collections}
        assert legend_texts(ax.get_legend()) == ["ant", "cow"]
    np.testing.assert_array_equal(groups[0], points[labels == 0])
    np.testing.assert_array_equal(groups[1], points[labels == 2])
    assert set(names) == {"ant", "cow"}  # there is no bee
    assert np.abs(names["ant"]).max() < 2
    assert np.abs(names["cow"] - 20).max() < 3  # among its like, whatever lies far away
    assert len(markers) == 2


def test_the_same_figure_gives_the_same_files(tmp_path: Path) -> None:
    contents = []
    for folder in ("one", "two"):
        with plots.figure(6, 4) as (drawn, ax):
            plots.accuracy(ROWS, ax)
            paths = plots.save(drawn, tmp_path / folder / "accuracy-3.5")
        assert [path.name for path in paths] == ["accuracy-3.5.png", "accuracy-3.5.svg"]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"\x89PNG")


def test_figures_stand_on_a_dark_page(tmp_path: Path) -> None:
    from PIL import Image

    with plots.figure(4, 3) as (drawn, ax):
        plots.cost(ROWS, ax)
        png, _ = plots.save(drawn, tmp_path / "cost")
    with Image.open(png) as image:
        assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
