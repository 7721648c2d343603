"""Markers, percentages and titles, the same in all figures."""

import pytest

from analysis.figures import style
from analysis.figures.names import width_of


def test_a_head_has_one_marker_whatever_stands_beside_it() -> None:
    markers = [style.marker_of(name) for name in style.HEADS]
    assert len(set(markers)) == len(markers)
    assert not {"o", *style.OTHER_HEADS} & set(markers)
    assert style.marker_of("theirs:Head") == style.marker_of("theirs:Head") in style.OTHER_HEADS


@pytest.mark.parametrize(
    ("share", "images", "text"), [(0.7149, 999, "71%"), (0.7149, 1000, "71.5%"), (0.1, 10_000, "10.0%"), (1, 1, "100%")]
)
def test_percentages_have_a_decimal_from_a_thousand_images_on(share: float, images: int, text: str) -> None:
    assert style.percent(share, images) == text


def test_a_title_takes_as_many_lines_as_the_figure_needs() -> None:
    with style.empty_figure(4, 3) as drawn:
        style.title(drawn, "pets: accuracy of each head on \u732b and many more words than one line has room for")
        lines = drawn.get_suptitle().split("\n")
    assert len(lines) > 1
    assert max(width_of(line, style.TITLE_SIZE) for line in lines) < 4
    assert " ".join(lines).startswith("pets: accuracy of each head on ")
