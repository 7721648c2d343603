from pathlib import Path

import pandas as pd
import pytest
from tiny_runs import PIXELS, RUNS, make_result, write_runs

from analysis.frame import COLUMNS, comparison, epoch_near_end, headline, pair_counts, training_cost, with_groups
from classify import load_runs
from featurize.core.errors import DataError


def test_comparison_is_ordered_best_first() -> None:
    table = comparison(RUNS)
    assert list(table.columns) == COLUMNS
    assert list(table["accuracy"]) == [0.715, 0.69, 0.357]
    assert list(table["run_dir"]) == ["runs/b/logreg-1", "runs/b/svm-1", "runs/a/logreg-2"]
    assert list(table["backbone"]) == ["vgg16", "vgg16", "pixels"]


def test_loaded_runs_need_not_be_taken_apart(tmp_path: Path) -> None:
    written = write_runs(tmp_path, RUNS)
    loaded = load_runs(tmp_path / "runs")
    assert set(loaded.runs) == set(written)
    assert comparison(loaded).equals(comparison(loaded.runs))
    assert len(comparison(loaded)) == 3


def test_kinds() -> None:
    runs = {
        Path("a"): make_result(layers=["block1_pool", "block3_pool"]),
        Path("b"): make_result(weights="random (seed 0)", class_weight="balanced"),
        Path("c"): make_result(**PIXELS),
        Path("d"): make_result(**PIXELS, model="cnn"),
    }
    table = comparison(runs).set_index("run_dir")
    assert table["kind"].to_dict() == {"a": "pretrained", "b": "random", "c": "pixels", "d": "scratch"}
    assert table["class_weight"].to_dict() == {"a": "none", "b": "balanced", "c": "none", "d": "none"}
    assert table["layers"]["a"] == "block1_pool+block3_pool"


def test_features_have_their_whole_name_where_the_short_one_says_too_little() -> None:
    names = ("vgg16-imagenet-64px-block3_pool-grid2", "vgg16-imagenet-96px-block3_pool-avg", "mine")
    runs = {Path(name): make_result(features=f"tiny-{name}") for name in names}
    assert set(comparison(runs)["features"]) == set(names)
    assert comparison({Path("a"): make_result(features=f"tiny-{names[0]}")})["features"][0] == "vgg16-imagenet"
    assert comparison({Path("a"): make_result(features="tiny-vgg16-imagenetx")})["features"][0] == "vgg16-imagenetx"


def test_one_name_for_several_vectors_is_told_apart() -> None:
    name = "vgg16-imagenet"
    runs = {Path("a"): make_result(), Path("b"): make_result(fingerprint="ab" * 32), Path("c"): make_result(**PIXELS)}
    assert set(comparison(runs)["features"]) == {f"{name} (ffffff)", f"{name} (ababab)", "pixels"}
    runs = {Path("a"): make_result(), Path("b"): make_result(layers=["block2_pool"])}
    assert set(comparison(runs)["features"]) == {f"{name} (block3_pool)", f"{name} (block2_pool)"}
    assert set(comparison({Path("a"): make_result(), Path("b"): make_result(seed=1)})["features"]) == {name}


def test_headline_shows_each_head_once() -> None:
    results = {
        "few": make_result(train_rows=100, accuracy=0.9),
        "seed-1": make_result(seed=1, accuracy=0.8),
        "seed-0": make_result(accuracy=0.7),
        "tuned-5": make_result(tuned=5, seed=0),
        "tuned-9": make_result(tuned=9, seed=3),
        "balanced": make_result(class_weight="balanced"),
        "svm": make_result(model="svm", train_rows=100, seed=2),
        "pixels": make_result(**PIXELS),
        "other images": make_result(test_digest="cd" * 32, train_rows=7),
    }
    table = comparison({Path(name): result for name, result in results.items()})
    shown = headline(table)
    assert set(shown["run_dir"]) == {"seed-0", "tuned-9", "balanced", "svm", "pixels", "other images"}
    assert list(shown.columns) == COLUMNS
    assert list(shown.index) == list(range(6))
    first = shown[shown["test_set"] == "tiny-abababab"]["accuracy"]
    assert list(first) == sorted(first, reverse=True)


def test_groups_by_the_predictions(tmp_path: Path) -> None:
    rows = comparison(write_runs(tmp_path, RUNS))
    grouped = with_groups(rows)
    assert list(grouped["group"]) == ["a", "a", "b"]  # 310 against 285 of the images that one of the two gets right
    assert list(grouped.columns) == [*COLUMNS, "group"]
    assert list(with_groups(rows.iloc[:1])["group"]) == ["a"]
    (tmp_path / "runs/b/svm-1/predictions.parquet").unlink()
    with pytest.raises(DataError, match="svm-1/predictions.parquet cannot be used"):
        with_groups(rows)


def test_the_training_cost_includes_the_extraction_of_all_training_images() -> None:
    rows = training_cost(comparison({Path("a"): make_result(fit_seconds=1.5, extraction_seconds=0.002)}))
    assert rows[["fit_seconds", "extraction_seconds", "seconds"]].values.tolist() == [[1.5, 4.0, 5.5]]


def test_the_epoch_near_the_end() -> None:
    assert epoch_near_end([0.3, 0.71, 0.73, 0.8]) == 3  # 90% of 0.8 is 0.72
    assert epoch_near_end([0.9, 0.5, 0.5]) == 1
    assert epoch_near_end([0.5]) == 1


def test_pair_counts() -> None:
    predictions = {
        "a": pd.DataFrame({"id": [1, 2, 3, 4, 5, 6], "label": 0, "predicted": [0, 0, 0, 0, 1, 1]}),
        "b": pd.DataFrame({"id": [1, 2, 3, 4, 5, 6], "label": 0, "predicted": [1, 1, 1, 0, 0, 1]}),
    }
    found = pair_counts(predictions)
    assert found["a", "b"] == (1, 3, 1, 1, 0.625)
    assert found["b", "a"] == (1, 1, 3, 1, 0.625)
    assert found["a", "a"] == (4, 0, 0, 2, 1)
