from pathlib import Path

import pandas as pd
import pytest
from test_results import make_result

from analysis.tables import COLUMNS, comparison, markdown, transfer_gain, write_comparison

PIXELS = {
    "features": "tiny-pixels-32px",
    "spec": {"backbone": "pixels", "image_size": 32},
    "weights": "none",
    "dim": 3072,
}
RUNS = {
    Path("runs/b/svm-1"): make_result(model="svm", accuracy=0.69, log_loss=None, ece=None, converged=None),
    Path("runs/b/logreg-1"): make_result(),
    Path("runs/a/logreg-2"): make_result(
        **PIXELS, accuracy=0.357, accuracy_low=0.328, accuracy_high=0.387, converged=False
    ),
}
GOLDEN = """\
# Comparison

## tiny: 1,000 test images

| features | head | train images | accuracy % (95% interval) | macro F1 % | log loss | ECE % | fit s | \
predict ms/image | vector |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| vgg16-imagenet-64px-block3_pool-grid2 | logreg | 2,000 | 71.5 (68.6 to 74.2) | 71.4 | 0.850 | 4.2 | 1.5 | \
0.010 | 1,024 |
| vgg16-imagenet-64px-block3_pool-grid2 | svm | 2,000 | 69.0 (68.6 to 74.2) | 71.4 | - | - | 1.5 | 0.010 | 1,024 |
| pixels-32px | logreg (not converged) | 2,000 | 35.7 (32.8 to 38.7) | 71.4 | 0.850 | 4.2 | 1.5 | 0.010 | 3,072 |

### What the features are worth: the same head on raw pixels

| head | features | accuracy % | on raw pixels % | gain, points |
| --- | --- | --- | --- | --- |
| logreg | vgg16-imagenet-64px-block3_pool-grid2 | 71.5 | 35.7 | +35.8 |
"""


def test_comparison_is_ordered_best_first() -> None:
    table = comparison(RUNS)
    assert list(table.columns) == COLUMNS
    assert list(table["accuracy"]) == [0.715, 0.69, 0.357]
    assert list(table["run_dir"]) == ["runs/b/logreg-1", "runs/b/svm-1", "runs/a/logreg-2"]
    assert list(table["backbone"]) == ["vgg16", "vgg16", "pixels"]


def test_markdown() -> None:
    assert markdown(comparison(RUNS)) == GOLDEN


def test_gain_compares_like_with_like() -> None:
    runs = {
        **RUNS,
        Path("runs/a/svm-3"): make_result(model="svm", **PIXELS, accuracy=0.415, train_rows=500),
        Path("runs/a/logreg-4"): make_result(**PIXELS, accuracy=0.30),
    }
    gain = transfer_gain(comparison(runs))
    assert list(gain["model"]) == ["logreg"]  # the SVM's control saw fewer images
    assert gain["pixels"][0] == 0.357  # the control's best run
    assert gain["gain"][0] == pytest.approx(0.358)
    assert len(transfer_gain(comparison({Path("a"): make_result()}))) == 0


def test_other_test_images_stand_apart() -> None:
    other = make_result(**PIXELS, test_digest="cd" * 32, test_rows=500)
    text = markdown(comparison({Path("a"): make_result(), Path("b"): other}))
    assert text.count("\n## ") == 2
    assert "What the features are worth" not in text


def test_files(tmp_path: Path) -> None:
    csv, md = write_comparison(comparison(RUNS), tmp_path / "out")
    assert md.read_text() == GOLDEN
    again = pd.read_csv(csv)
    assert list(again.columns) == COLUMNS
    assert again["accuracy"].tolist() == [0.715, 0.69, 0.357]
    assert again["log_loss"].isna().tolist() == [False, True, False]


def test_a_bar_in_a_name_does_not_break_the_table() -> None:
    text = markdown(comparison({Path("a"): make_result(features="tiny-a|b")}))
    assert "| a\\|b |" in text
