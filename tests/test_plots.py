from pathlib import Path

import numpy as np
import pandas as pd
from test_tables import RUNS

from analysis import plots
from analysis.tables import comparison


def test_accuracy_draws_every_run_with_its_interval() -> None:
    table = comparison(RUNS)
    with plots.figure(6, 4) as (_, ax):
        assert plots.accuracy(table, ax) is ax
        points = {
            (container.get_label(), round(float(x), 1), round(float(y)))
            for container in ax.containers
            for x, y in zip(*container.lines[0].get_data(), strict=True)
        }
        heads = [label.get_text() for label in ax.get_yticklabels()]
        spans = np.concatenate(
            [np.array(segment)[:, 0] for box in ax.containers for segment in box.lines[2][0].get_segments()]
        )
    assert heads == ["svm", "logreg"]  # the best on top
    kind = "vgg16-imagenet-64px-block3_pool-grid2"
    assert points == {(kind, 71.5, 1), (kind, 69.0, 0), ("pixels-32px", 35.7, 1)}
    assert {round(float(value), 1) for value in spans} == {68.6, 74.2, 32.8, 38.7}


def test_confusion_is_in_percent_of_the_true_class() -> None:
    predictions = pd.DataFrame({"label": [0, 0, 0, 0, 1], "predicted": [0, 0, 0, 1, 0]})
    with plots.figure(5, 5) as (_, ax):
        assert plots.confusion(predictions, ["ant", "bee", "cow"], ax) is ax
        shares = ax.collections[0].get_array().reshape(3, 3)
        texts = [text.get_text() for text in ax.texts]
        names = [label.get_text() for label in ax.get_xticklabels()]
    np.testing.assert_allclose(shares, [[75, 25, 0], [100, 0, 0], [0, 0, 0]])
    assert texts == ["75", "25", "0", "100", "0", "0", "0", "0", "0"]
    assert names == ["ant", "bee", "cow"]


def test_the_same_figure_gives_the_same_files(tmp_path: Path) -> None:
    contents = []
    for folder in ("one", "two"):
        with plots.figure(6, 4) as (drawn, ax):
            plots.accuracy(comparison(RUNS), ax)
            paths = plots.save(drawn, tmp_path / folder / "accuracy-3.5")
        assert [path.name for path in paths] == ["accuracy-3.5.png", "accuracy-3.5.svg"]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"\x89PNG")
