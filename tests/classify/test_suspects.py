"""Training without suspected labels, or with less weight for them."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_failed, command_here
from tiny_audits import planted_cache
from tiny_blocks import set_block_rows
from tiny_data import write_tiny_cache

from classify.heads import HEADS, Task, make_head
from classify.large import memory_needed
from classify.runs import RunResult
from classify.suspects import DROPPED, WEIGHTED, read_suspects
from classify.training import Job, train_heads
from classify.training.evaluate import fit_head
from classify.training.folds import all_rows, cross_validate
from classify.training.rows import training_rows
from featurize.cache import CacheInfo, load_features, read_info
from featurize.core.errors import HeadError, UsageError
from featurize.extraction import extract_features
from featurize.images import load_dataset
from featurize.networks import load_backbone

COLUMNS = ["path", "id", "split", "label", "suggested", "probability", "margin", "rank", "kind"]


def write_table(file: Path, info: CacheInfo, rows: dict[str, dict[int, float]]) -> Path:
    """suspects.csv with some rows of each split, by their numbers: the probabilities that their labels are wrong."""
    with file.open("w", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(COLUMNS)
        for split, chosen in rows.items():
            features = load_features(info.path, split)
            for rank, (row, wrong) in enumerate(chosen.items(), start=1):
                label = info.class_names[features.y[row]]
                table.writerow(["", features.ids[row], split, label, "bee", wrong, 0.5, rank, "label"])
    return file


@pytest.fixture
def info(cache: Path) -> CacheInfo:
    return read_info(cache)


@pytest.fixture
def table(info: CacheInfo, tmp_path: Path) -> Path:
    return write_table(tmp_path / "suspects.csv", info, {"train": {3: 0.9, 7: 0.5, 50: 1.0}, "test": {1: 0.8}})


def job(info: CacheInfo, table: Path, handling: str = DROPPED, **options: object) -> Job:
    return Job("logreg", info, suspects=read_suspects(table, info, handling), **options)  # type: ignore[arg-type]


def test_training_rows_are_dropped_and_test_rows_are_not(info: CacheInfo, table: Path, tmp_path: Path) -> None:
    whole = load_features(info.path, "train")
    expected = np.delete(np.arange(120), [3, 7, 50])
    rows = training_rows(job(info, table))
    np.testing.assert_array_equal(rows.ids, whole.ids[expected])
    [x] = rows.matrices()
    np.testing.assert_array_equal(x, whole.x[expected])
    [(run_dir, result)] = train_heads([job(info, table)], tmp_path)[0].items()
    assert (result.train_rows, result.test_rows) == (117, 60)
    assert (result.suspects, result.suspects_rows, result.suspects_file) == ("dropped", 3, str(table))
    assert RunResult.read(run_dir) == result
    card = (run_dir / "README.md").read_text()
    assert f"3 training images in {table} were left out" in card


def test_a_subset_loses_its_own_suspects(info: CacheInfo, table: Path) -> None:
    whole = training_rows(Job("logreg", info, rows=60))
    left = training_rows(job(info, table, rows=60))
    suspected = load_features(info.path, "train").ids[[3, 7, 50]]
    assert set(left.ids) == set(whole.ids) - set(suspected)
    assert len(whole.ids) - len(left.ids) > 0


def test_blocks_drop_and_weigh_as_memory_does(info: CacheInfo, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = training_rows(job(info, table))
    set_block_rows(monkeypatch, 13)
    for name in ("logreg", "linear-svm"):
        tolerance = "logisticregression__tol" if name == "logreg" else "temperaturecalibrated__estimator__tol"
        for handling in (DROPPED, WEIGHTED):
            large = dataclasses.replace(job(info, table, handling), model=name, memory=memory_needed(50, 16))
            small = dataclasses.replace(large, memory=None)
            parts, whole = training_rows(large), training_rows(small)
            if handling == DROPPED:
                np.testing.assert_array_equal(parts.ids, in_memory.ids)
            ours = fit_head(name, parts, settings={tolerance: 1e-6}, suspects=large.suspects)
            expected = fit_head(name, whole, settings={tolerance: 1e-6}, suspects=small.suspects)
            assert ours.parameters["blocks"] > 1
            x = load_features(info.path, "test").x
            np.testing.assert_allclose(ours.head.predict_proba(x), expected.head.predict_proba(x), atol=1e-3)


@pytest.mark.parametrize("name", ["logreg", "svm", "linear-svm", "lda"])
def test_a_weight_of_zero_is_as_good_as_no_row(name: str) -> None:
    """Up to the folds of a temperature, in which the row still counts: so classes are compared, not probabilities."""
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 40)
    x = (random.normal(size=(120, 4)) + 2 * np.eye(3, 4)[y]).astype(np.float32)
    wrong = y.copy()
    wrong[:30] = 2
    weights = np.where(np.arange(120) < 30, 0, 1)
    head = make_head(name, Task(120, 4))
    step = head.steps[-1][0]
    weighted = make_head(name, Task(120, 4)).fit(x, wrong, **{f"{step}__sample_weight": weights})
    without = make_head(name, Task(90, 4))
    without[:-1].fit(x, wrong)  # the scaling does not weigh rows
    without[-1].fit(without[:-1].transform(x[30:]), wrong[30:])
    plain = make_head(name, Task(120, 4)).fit(x, wrong)
    assert (weighted.predict(x) == without.predict(x)).mean() > 0.97
    assert (plain.predict(x) == without.predict(x)).mean() < 0.95


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_networks_weigh_rows(name: str) -> None:
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], 60)
    x = (random.normal(size=(120, 12)) * 20 + 100 + 100 * y[:, None]).astype(np.float32)
    wrong = np.where(np.arange(120) < 40, 1, y)
    head = make_head(name, Task(120, 12, image=(2, 2, 3)))[-1]
    head = getattr(head, "estimator", head).set_params(epochs=60, random_state=0)
    scaled = x if name == "cnn" else (x - x.mean(axis=0)) / x.std(axis=0)
    right = {}
    for weight in (0.01, 1.0):
        fitted = head.fit(scaled, wrong, sample_weight=np.where(np.arange(120) < 40, weight, 1.0))
        right[weight] = float((fitted.predict(scaled) == y).mean())
    assert right[0.01] > 0.9 > 0.8 > right[1.0]


@pytest.mark.parametrize("name", ["knn", "xgboost", "stack"])
def test_heads_without_weights_say_so(name: str, info: CacheInfo, table: Path) -> None:
    train = load_features(info.path, "train")
    suspects = read_suspects(table, info, WEIGHTED)
    with pytest.raises(HeadError, match=f"{name} takes no weights of single images; use drop_suspects {table}"):
        fit_head(name, train, suspects=suspects)
    assert fit_head("knn", train, suspects=read_suspects(table, info, DROPPED))


def test_every_other_head_takes_weights(info: CacheInfo, table: Path) -> None:
    suspects = read_suspects(table, info, WEIGHTED)
    train = load_features(info.path, "train")
    for name in set(HEADS) - {"knn", "xgboost", "stack", "cnn", "mlp"}:
        plain, weighted = fit_head(name, train), fit_head(name, train, suspects=suspects)
        assert (plain.head.predict_proba(train.x) != weighted.head.predict_proba(train.x)).any(), name


def test_weights_are_the_probabilities_of_right_labels(info: CacheInfo, table: Path) -> None:
    whole = load_features(info.path, "train")
    suspects = read_suspects(table, info, WEIGHTED)
    assert suspects.kept(whole.ids).all()
    weights = suspects.weights(whole.ids)
    assert weights is not None
    np.testing.assert_allclose(weights[[3, 7, 50]], [0.1, 0.5, 0])
    assert np.delete(weights, [3, 7, 50]).min() == 1
    shuffled = np.random.default_rng(0).permutation(120)
    np.testing.assert_array_equal(suspects.weights(whole.ids[shuffled]), weights[shuffled])


def test_other_suspects_are_another_run(info: CacheInfo, table: Path, tmp_path: Path) -> None:
    fewer = write_table(tmp_path / "fewer.csv", info, {"train": {3: 0.9, 7: 0.5}})
    other_numbers = write_table(tmp_path / "numbers.csv", info, {"train": {3: 0.8, 7: 0.5, 50: 1.0}})
    names = {Job("logreg", info).name}
    for file, handling in [(table, DROPPED), (table, WEIGHTED), (fewer, DROPPED), (other_numbers, WEIGHTED)]:
        names.add(job(info, file, handling).name)
    assert len(names) == 5
    assert job(info, other_numbers).name == job(info, table).name  # the same images are dropped


@pytest.fixture
def photos(tmp_path: Path) -> CacheInfo:
    from PIL import Image

    random = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("green", 1)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(9):
            pixels = random.integers(0, 150, (6, 8, 3), np.uint8)
            pixels[..., channel] += 60
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    dataset = load_dataset(tmp_path / "photos", folds=3)
    return extract_features(dataset, load_backbone("pixels", image_size=4), out=tmp_path / "photos.h5").info


def write_lines(file: Path, *lines: str) -> Path:
    file.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return file


def test_in_folds_suspects_are_tested_but_not_trained_on(photos: CacheInfo, tmp_path: Path) -> None:
    rows = all_rows(Job("logreg", photos))
    chosen = rows.ids[[2, 11]]
    everything = {}
    from featurize.cache import read_labels, read_paths

    for split in photos.rows:
        labels, ids, _ = read_labels(photos.path, split)
        paths = read_paths(photos.path, split)
        assert paths is not None
        for number, label, path in zip(ids.tolist(), labels.tolist(), paths.tolist(), strict=True):
            name = photos.class_names[label]
            everything[number] = f"{path.decode()},{number},{split},{name},blue,0.9,0.5,1,label"
    table = write_lines(tmp_path / "suspects.csv", *(everything[number] for number in chosen))
    asked = job(photos, table)
    found = cross_validate(asked)
    np.testing.assert_array_equal(found.rows.ids, rows.ids)
    for fold in range(3):
        left = rows.select((rows.folds != fold) & ~np.isin(rows.ids, chosen))  # type: ignore[operator]
        expected = fit_head("logreg", left).head.predict_proba(rows.x[rows.folds == fold])
        np.testing.assert_allclose(found.evaluation.probabilities[rows.folds == fold], expected, atol=1e-5)


def test_a_search_sees_no_dropped_row(info: CacheInfo, table: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    [result] = train_heads([job(info, table, trials=1)], tmp_path)[0].values()
    assert (result.tuned, result.train_rows) == (1, 117)


def test_an_audit_of_the_same_images_will_do(table: Path, tmp_path: Path) -> None:
    other = read_info(write_tiny_cache(tmp_path / "other-net.h5", noise=2))
    assert len(read_suspects(table, other, DROPPED).ids) == 3


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (",0,train,bee,ant,0.9,0.5,1,label", "line 2 names image 0 of the split train with the label bee, which"),
        ("ants/1.png,0,train,ant,bee,0.9,0.5,1,label", "line 2 names ants/1.png of the split train"),
        (",999,train,ant,bee,0.9,0.5,1,label", "line 2 names image 999"),
        (",0,dev,ant,bee,0.9,0.5,1,label", "line 2 names image 0 of the split dev"),
        (",0,train,ant,bee,1.5,0.5,1,label", "line 2 cannot be used .the probability 1.5 is not within 0 and 1"),
        (",zero,train,ant,bee,0.9,0.5,1,label", "line 2 cannot be used .*zero.*expected suspects.csv of frozenbench"),
        (",0,train", "line 2 cannot be used"),
    ],
)
def test_tables_of_other_caches(line: str, problem: str, info: CacheInfo, tmp_path: Path) -> None:
    train = load_features(info.path, "train")
    line = line.replace(",0,", f",{train.ids[0]},")
    problem = problem.replace("image 0", f"image {train.ids[0]}")
    with pytest.raises(UsageError, match=problem) as caught:
        read_suspects(write_lines(tmp_path / "suspects.csv", line), info, DROPPED)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables(info: CacheInfo, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent.csv: line 1 cannot be used .*No such file"):
        read_suspects(tmp_path / "absent.csv", info, DROPPED)
    (tmp_path / "labels.csv").write_text("path,label\na.png,ant\n")
    with pytest.raises(UsageError, match="it has no column id"):
        read_suspects(tmp_path / "labels.csv", info, DROPPED)


def test_a_class_must_be_left(info: CacheInfo, tmp_path: Path) -> None:
    ants = np.flatnonzero(load_features(info.path, "train").y == 0)
    table = write_table(tmp_path / "all.csv", info, {"train": dict.fromkeys(ants.tolist(), 0.9)})
    with pytest.raises(UsageError, match="names every training image of ant; use a table of fewer images"):
        read_suspects(table, info, DROPPED)
    assert len(read_suspects(table, info, WEIGHTED).ids) == len(ants)


def test_from_the_audit_to_the_report(data_folder: Path) -> None:
    """Labels that were exchanged on purpose: without them, the head is right more often, and the report says so."""
    cache = planted_cache(data_folder / "features" / "planted.h5", train=300, wrong=100)
    assert command_here("analysis", "audit", str(cache)).returncode == 0
    table = data_folder / "audits" / "planted" / "suspects.csv"
    words = ["classify", "--features", str(cache), "--model", "lda", "--json"]
    plain = json.loads(command_here(*words).stdout)["runs"][0]
    dropped = json.loads(command_here(*words, "--drop-suspects", str(table)).stdout)["runs"][0]
    weighted = json.loads(command_here(*words, "--weight-suspects", str(table)).stdout)["runs"][0]
    assert dropped["train_rows"] == 300 - dropped["suspects_rows"]
    assert (plain["suspects"], dropped["suspects"], weighted["suspects"]) == (None, "dropped", "weighted")
    listed = command_here("classify", "list").stdout
    assert "suspects" in listed
    assert "dropped" in listed
    assert command_here("analysis", "--out", str(data_folder / "report")).returncode == 0
    page = (data_folder / "report" / "report.html").read_text()
    assert "Suspected labels" in page
    assert re.search(r"What (dropping|weighting) suspects changed: [+-]\d", page)
    trained = [
        f"--model lda{option}" for option in ("</", f" --drop-suspects {table}<", f" --weight-suspects {table}<")
    ]
    assert page.index(f"frozenbench audit {cache}<") < min(page.index(words) for words in trained)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--drop-suspects", "a.csv", "--weight-suspects", "a.csv"], "expected one of them"),
        (["--weight-suspects", "a.csv", "--tune", "2"], "--tune: a search gives all images the same weight"),
        (["--drop-suspects", "a.csv"], "a.csv: line 1 cannot be used"),
    ],
)
@pytest.mark.usefixtures("cache")
def test_wrong_usage(options: list[str], problem: str) -> None:
    assert_failed(command_here("classify", "--model", "logreg", *options), 2, problem)
