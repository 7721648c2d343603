import itertools

import numpy as np

from analysis.figures import gallery
from analysis.figures.style import empty_figure, figure


def test_mistakes_are_a_grid_with_captions() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 5, 3), np.uint8)
    with empty_figure(8.1, 3.2) as drawn:
        axes = gallery.mistakes(images, [f"caption {n}" for n in range(8)], drawn)
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
    with empty_figure(4, 2.4) as drawn:
        axes = gallery.neighbours(
            images, [0, 1], nearest, np.array([[0, 1, 2], [1, 1, 0]]), ["ant", "bee", "cow"], drawn
        )
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
    with figure(5, 5) as (_, ax):
        assert gallery.vector_map(points, labels, ["ant", "bee", "cow"], ax) is ax
        groups = [np.asarray(group.get_offsets()) for group in ax.collections]
        names = {text.get_text(): np.array(text.get_position()) for text in ax.texts}
        markers = {str(group.get_paths()[0].vertices) for group in ax.collections}
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ant", "cow"]
    np.testing.assert_array_equal(groups[0], points[labels == 0])
    np.testing.assert_array_equal(groups[1], points[labels == 2])
    assert set(names) == {"ant", "cow"}  # there is no bee
    assert np.abs(names["ant"]).max() < 2
    assert np.abs(names["cow"] - 20).max() < 3  # among its like, whatever lies far away
    assert len(markers) == 2


def test_the_map_of_many_classes_names_the_largest() -> None:
    labels = np.repeat(np.arange(30), np.arange(1, 31))
    points = np.random.default_rng(0).normal(0, 1, (len(labels), 2))
    with figure(5, 5) as (_, ax):
        gallery.vector_map(points, labels, [f"class {number}" for number in range(30)], ax)
        assert {text.get_text() for text in ax.texts} == {f"class {number}" for number in range(22, 30)}
        assert ax.get_legend() is None


def test_long_names_stay_below_their_images() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    nearest = np.zeros((2, 6, 4, 4, 3), np.uint8)
    class_names = ["American Staffordshire Terrier", "W" * 100]
    with empty_figure(8.1, 3.1) as drawn:
        axes = gallery.neighbours(images, [0, 1], nearest, np.zeros((2, 6), int), class_names, drawn)
        drawn.draw_without_rendering()
        boxes = [ax.xaxis.label.get_window_extent() for ax in axes[:7]]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
