"""Caches of vectors that were made elsewhere."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from command_line import assert_failed, command_here
from safetensors.numpy import save_file
from tiny_data import CLASSES, LAYERS, write_tiny_cache

from classify import fit_and_evaluate
from featurize import export_features, import_features, load_features, read_info
from featurize.cache import read_paths
from featurize.core.errors import DataError, UsageError
from featurize.formats import archives, columnar
from featurize.images import recorded_dataset
from featurize.images.splitting import split_by_content
from featurize.verify import verify

KINDS = ("parquet", "npz", "safetensors", "arrow", "csv")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows at a time."""
    for module in (archives, columnar):
        monkeypatch.setattr(module, "BLOCK_BYTES", 7 * 16 * 4)


def foreign_table(rows: int = 60, dim: int = 5) -> pd.DataFrame:
    """A table of another program: vectors of two classes that differ, names of files, no split."""
    random = np.random.default_rng(3)
    labels = np.arange(rows) % 2
    vectors = random.normal(size=(rows, dim)) + 3 * labels[:, np.newaxis]
    return pd.DataFrame(
        {
            "label": np.array(["owl", "elk"])[labels],
            "vector": list(vectors.astype(np.float32)),
            "path": [f"{number}.png" for number in range(rows)],
        }
    )


def save(table: pd.DataFrame, file: Path) -> Path:
    """Save a table as its suffix says."""
    if file.suffix == ".parquet":
        table.to_parquet(file)
    elif file.suffix == ".arrow":
        table.to_feather(file)
    elif file.suffix == ".csv":
        wide = pd.DataFrame(np.stack(table["vector"]), index=table.index).add_prefix("vector_")
        pd.concat([table.drop(columns="vector"), wide], axis=1).to_csv(file, index=False)
    else:
        arrays = {"x": np.stack(table["vector"]), "y": table["label"].to_numpy().astype(str)}
        arrays["paths"] = table["path"].to_numpy().astype(str)
        if file.suffix == ".safetensors":
            for name in ("y", "paths"):
                encoded = np.char.encode(arrays[name], "utf-8")
                arrays[name] = encoded.view(np.uint8).reshape(len(encoded), -1)
            save_file(arrays, file)
        else:
            np.savez(file, **arrays)
    return file


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flip", [False, True])
def test_there_and_back_again(cache: Path, tmp_path: Path, kind: str, flip: bool) -> None:
    """Vectors, labels, ids, layers and the results of a head are those of the cache."""
    cache = write_tiny_cache(tmp_path / "tiny.h5", flip=flip)
    export_features(cache, tmp_path / f"tiny.{kind}")
    done = import_features(tmp_path / f"tiny.{kind}", "elsewhere", out=tmp_path / "back.h5")
    assert not done.reused
    assert (done.info.layers, done.info.class_names, done.info.dataset) == (LAYERS, CLASSES, "tiny")
    assert (done.info.spec.flip, done.info.spec.image_size, done.info.spec.pool) == (flip, 8, "avg")
    loaded = []
    for path in (cache, done.info.path):
        loaded.append({split: load_features(path, split) for split in ("train", "test")})
    for split in ("train", "test"):
        before, after = loaded[0][split], loaded[1][split]
        assert before.x.tobytes() == after.x.tobytes()
        assert (before.y == after.y).all()
        assert (before.ids == after.ids).all()
    results = [fit_and_evaluate("logreg", each["train"], each["test"]).metrics for each in loaded]
    assert results[0] == results[1]
    assert verify(done.info.path) == []
    assert import_features(tmp_path / f"tiny.{kind}", "elsewhere", out=tmp_path / "back.h5").reused


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_program(tmp_path: Path, data_folder: Path, kind: str) -> None:
    """Without a split the content of the vectors decides, and not the order of the rows."""
    table = foreign_table()
    info = import_features(save(table, tmp_path / f"birds.{kind}"), "dinov3").info
    assert info.path == data_folder / "features" / "birds-dinov3.h5"
    assert info.rows == {"train": 48, "test": 12}
    assert info.class_names == ("elk", "owl")
    assert (info.spec.backbone, info.weights, info.dim) == ("dinov3", "imported", 5)
    test = load_features(info.path, "test")
    paths = read_paths(info.path, "test")
    assert paths is not None
    for row, path in zip(test.x, paths.tolist(), strict=True):
        [expected] = table.loc[table["path"] == path.decode(), "vector"]
        assert row.tobytes() == expected.tobytes()
    mixed = table.sample(frac=1, random_state=0).reset_index(drop=True)
    again = import_features(save(mixed, tmp_path / f"mixed.{kind}"), "dinov3").info
    again_paths = read_paths(again.path, "test")
    assert again_paths is not None
    assert set(again_paths.tolist()) == set(paths.tolist())


def test_the_split_by_content_is_that_of_class_folders(tmp_path: Path) -> None:
    import hashlib

    table = foreign_table(40)
    info = import_features(save(table, tmp_path / "birds.parquet"), "net", test_fraction=0.5).info
    content = [hashlib.sha256(vector.tobytes()).digest() for vector in table["vector"]]
    order = np.array(sorted(range(40), key=lambda row: content[row]))
    digests = np.frombuffer(b"".join(sorted(content)), np.uint8).reshape(40, 32)
    labels = (table["label"] == "owl").to_numpy().astype(np.int64)
    is_test = split_by_content(digests, labels[order], 0.5)
    assert load_features(info.path, "test").ids.tolist() == sorted(order[is_test].tolist())


def test_named_columns_splits_and_groups(tmp_path: Path) -> None:
    table = foreign_table(60)
    table["kind"] = np.arange(60) % 2 + 7
    table["fold_of"] = np.where(np.arange(60) < 40, "Train", "val")
    table["number"] = 100 + np.arange(60)
    table["patient"] = [f"p{row // 4}" for row in range(60)]
    table = table.rename(columns={"vector": "embedding"})
    table.to_parquet(tmp_path / "birds.parquet")
    names = {"vector": "embedding", "label": "kind", "split": "fold_of", "id": "number", "group": "patient"}
    info = import_features(tmp_path / "birds.parquet", "net", out=tmp_path / "a.h5", **names).info
    assert info.class_names == ("7", "8")
    test = load_features(info.path, "test")
    assert test.ids.tolist() == list(range(140, 160))
    assert test.groups is not None
    assert len(np.unique(test.groups)) == 5
    del names["split"]
    info = import_features(tmp_path / "birds.parquet", "net", out=tmp_path / "b.h5", **names).info
    groups = [load_features(info.path, split).groups for split in ("train", "test")]
    assert groups[0] is not None
    assert groups[1] is not None
    assert set(groups[0].tolist()).isdisjoint(groups[1].tolist())


def test_folds_come_back(tmp_path: Path) -> None:
    table = foreign_table(60)
    table["fold"] = np.arange(60) % 3
    info = import_features(save(table, tmp_path / "birds.parquet"), "net").info
    assert (info.folds, info.rows) == (3, {"train": 40, "test": 20})


def test_arrays_of_a_keras_data_set(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {"x_train": random.normal(size=(20, 4)), "y_train": np.arange(20)[:, np.newaxis] % 2}
    arrays |= {"x_test": random.normal(size=(6, 4)), "y_test": np.arange(6)[:, np.newaxis] % 2}
    arrays["x_test"] = np.asfortranarray(arrays["x_test"])
    np.savez_compressed(tmp_path / "birds.npz", class_names=np.array(["elk", "owl"]), **arrays)
    info = import_features(tmp_path / "birds.npz", "net").info
    assert (info.rows, info.class_names) == ({"train": 20, "test": 6}, ("elk", "owl"))
    assert (load_features(info.path, "test").x == arrays["x_test"].astype(np.float32)).all()


def test_labels_of_digits_are_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    table = foreign_table(60)
    table["label"] = np.arange(60) % 12
    info = import_features(save(table, tmp_path / "birds.csv"), "net").info
    assert info.class_names == tuple(map(str, range(12)))
    train = load_features(info.path, "train")
    assert (train.y == train.ids % 12).all()


def test_a_stream_and_dictionaries(tmp_path: Path) -> None:
    """The format in which `datasets` keeps its files, with large lists, views and categories."""
    table = pyarrow.Table.from_pandas(foreign_table().astype({"label": "category"}))
    lists = table["vector"].cast(pyarrow.large_list(pyarrow.float64()))
    table = table.set_column(table.column_names.index("vector"), "vector", lists)
    with pyarrow.ipc.new_stream(tmp_path / "birds.arrow", table.schema) as writer:
        writer.write_table(table, 13)
    assert import_features(tmp_path / "birds.arrow", "net").info.rows == {"train": 48, "test": 12}


def broken(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        return save(change(foreign_table()), folder / "bad.parquet")

    return write


def with_cell(column: str, row: int, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.at[row, column] = value
        return table

    return change


def npz(**arrays: np.ndarray) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "bad.npz", **arrays)
        return folder / "bad.npz"

    return write


def lying_npz(folder: Path) -> Path:
    """An array whose header claims 400 TB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**14, 1)})
    with zipfile.ZipFile(folder / "bad.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.writestr("y.npy", header.getvalue())
    return folder / "bad.npz"


def zip_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", content)
        archive.writestr("y.npy", content)
    return file.getvalue()


def text(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def unknown_label(folder: Path) -> Path:
    """An export of ours whose labels were changed by hand."""
    export_features(write_tiny_cache(folder / "tiny.h5"), folder / "tiny.parquet")
    table = pyarrow.parquet.read_table(folder / "tiny.parquet")
    labels = table["label"].to_pylist()
    labels[5] = "aunt"
    changed = table.set_column(table.column_names.index("label"), "label", [labels])
    pyarrow.parquet.write_table(changed, folder / "tiny.parquet")
    return folder / "tiny.parquet"


X, Y = np.ones((6, 3)), np.arange(6) % 2
OBJECTS = np.array([{"a": 1}] * 6, dtype=object)
BAD = {
    "no such column": (broken(lambda table: table.rename(columns={"vector": "vectors"})), UsageError,
                       "has no column vector; did you mean vectors?"),
    "not a number": (broken(with_cell("vector", 7, [0, 1, np.nan, 3, 4])), DataError, "vector of row 7"),
    "infinite": (broken(with_cell("vector", 9, [0, 1, np.inf, 3, 4])), DataError, "vector of row 9"),
    "too large": (broken(with_cell("vector", 9, [0, 1, 1e300, 3, 4])), DataError, "vector of row 9"),
    "ragged": (broken(with_cell("vector", 9, [1.0, 2.0])), DataError, "differ in length: 5 numbers, and 2 numbers"),
    "no vector": (broken(with_cell("vector", 9, None)), DataError, "differ in length: 5 numbers, and none"),
    "no label": (broken(with_cell("label", 3, None)), DataError, "label is empty in row 3"),
    "labels of fractions": (broken(lambda table: table.assign(label=0.5)), DataError, "label holds double"),
    "text": (broken(lambda table: table.assign(vector="x")), DataError, "expected lists of numbers or numbers"),
    "unknown split": (broken(lambda table: table.assign(split="dev")), DataError, "the split dev is unknown"),
    "one split": (broken(lambda table: table.assign(split="train")), DataError, "all rows are in the split train"),
    "one class": (broken(lambda table: table.assign(label="owl")), DataError, "all rows have the label owl"),
    "an id twice": (broken(lambda table: table.assign(id=4)), DataError, "the id 4 occurs twice"),
    "untrained class": (broken(lambda table: table.assign(split=table["label"].map({"owl": "test", "elk": "train"}))),
                        DataError, "no training row has the label owl"),
    "no rows": (broken(lambda table: table[:0]), DataError, "has no rows"),
    "unknown label": (unknown_label, DataError, "the label aunt, which is not one of its class names; did you mean an"),
    "not parquet": (text("bad.parquet", b"PAR1 no"), DataError, "cannot be read as parquet"),
    "not arrow": (text("bad.arrow", b"ARROW1"), DataError, "cannot be read as arrow"),
    "not safetensors": (text("bad.safetensors", b"\xff" * 20), DataError, "cannot be read as plain arrays"),
    "not npz": (text("bad.npz", b"PK\3\4 no"), DataError, "cannot be read as plain arrays"),
    "empty csv": (text("bad.csv", b""), DataError, "cannot be read as csv"),
    "csv of text": (text("bad.csv", b"label,vector_0\na,x\nb,y\n"), DataError, "cannot be read as csv"),
    "csv column twice": (text("bad.csv", b"label,label,vector_0\na,a,1\n"), DataError, "has the column label twice"),
    "unknown suffix": (text("bad.pt", b"x"), UsageError, "unknown suffix"),
    "objects": (npz(x=OBJECTS, y=Y), DataError, "holds Python objects, which only a pickle can store"),
    "object labels": (npz(x=X, y=OBJECTS), DataError, "holds Python objects"),
    "a pickle": (text("bad.npz", pickle.dumps(OBJECTS)), DataError, "cannot be read as plain arrays"),
    "lengths": (npz(x=X, y=Y[:5]), DataError, "y has 5 rows for the 6 vectors of x"),
    "lengths of splits": (npz(x_train=X, x_test=X[:, :2], y_train=Y, y_test=Y), DataError, "differ in length: 3 in"),
    "a header that does not end": (text("bad.npz", zip_of(b"\x93NUMPY\1\0\x10\0{'descr': (\n\n\n\n")), DataError,
                                   "cannot be read as plain arrays"),
    "a label of two lines": (broken(lambda table: table.assign(split="a\nb")), DataError, "the split a b is unknown"),
    "no array": (npz(x=X, z=Y), UsageError, "has no column y; known: x, z"),
    "images": (npz(x=np.ones((6, 3, 3)), y=Y), DataError, "expected numbers (n, d)"),
    "absurd header": (lying_npz, DataError, "does not match its shape"),
    "no test file": (npz(x_train=X, y_train=Y), UsageError, "has no column x"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(tmp_path: Path, data_folder: Path, name: str) -> None:
    write, error, message = BAD[name]
    with pytest.raises(error) as caught:
        import_features(write(tmp_path), "net")
    assert message in caught.value.with_options
    assert "\n" not in caught.value.with_options
    assert not (data_folder / "features").exists()


def test_the_commands_and_what_they_refuse(cache: Path, tmp_path: Path) -> None:
    file = save(foreign_table(), tmp_path / "birds.parquet")
    done = command_here("featurize", "import", str(file), "--name", "net", "--json")
    facts = json.loads(done.stdout)
    assert (facts["engine"], facts["dim"], facts["reused"]) == ("imported", 5, False)
    shown = command_here("featurize", "import", str(file), "--name", "net").stdout
    assert shown.startswith(f"reused: {facts['path']}\n")
    assert f"backbone     net, imported from {file}\n" in shown
    for words, message in (
        (["--name", "a/b"], "expected a name without slashes"),
        (["--name", "net", "--vector", "vektor"], "has no column vektor; did you mean vector?"),
        (["--name", "net", "--test-fraction", "2"], "--test-fraction 2"),
    ):
        assert_failed(command_here("featurize", "import", str(file), *words), 2, message)
    other = save(foreign_table(30), tmp_path / "other.parquet")
    done = command_here("featurize", "import", str(other), "--name", "net", "--out", facts["path"])
    assert_failed(done, 1, "was made with", "--overwrite")


def test_what_cannot_be_done_with_imported_vectors(tmp_path: Path) -> None:
    """Heads, predictions and a check of the vectors, on the command line."""
    file = save(foreign_table(), tmp_path / "birds.parquet")
    cache = import_features(file, "net").info
    done = command_here("classify", "--model", "logreg", "--json")
    [run] = json.loads(done.stdout)["runs"]
    assert run["accuracy"] > 0.5
    (tmp_path / "bird.png").write_bytes(b"")
    done = command_here("classify", "predict", run["run_dir"], str(tmp_path / "bird.png"))
    assert_failed(done, 1, f"vectors of net were imported from {file}: frozenbench cannot make such vectors")
    done = command_here("featurize", "verify", str(cache.path), "--recompute", "3")
    assert_failed(done, 1, f"the vectors were imported from {file}")
    with pytest.raises(DataError, match="their images are not known"):
        recorded_dataset(cache.source)
    done = command_here("analysis", "--out", str(tmp_path / "report"))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report" / "report.html").read_text()
    assert f"frozenbench featurize import {file} --name net --out {cache.path}" in page


def test_an_interrupted_import_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if its shards have other sizes by then."""
    file = save(foreign_table(), tmp_path / "birds.npz")
    path = tmp_path / "birds.h5"
    monkeypatch.setattr("featurize.cache.shards.SHARD_BYTES", 1)

    def stop(done: int, total: int) -> None:
        if done > 0.7 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_features(file, "net", out=path, progress=stop)
    assert not path.exists()
    assert len(list(path.with_name("birds.h5.parts").glob("train-*.h5"))) > 1
    monkeypatch.setattr(archives, "BLOCK_BYTES", 1 << 20)
    import_features(file, "net", out=path)
    whole = import_features(file, "net", out=tmp_path / "whole.h5").info
    assert not path.with_name("birds.h5.parts").exists()
    for split in ("train", "test"):
        assert load_features(path, split).x.tobytes() == load_features(whole.path, split).x.tobytes()
    assert read_info(path).spec == whole.spec
