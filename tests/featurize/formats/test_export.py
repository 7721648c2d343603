"""Caches written as files of other programs, and read back with these programs' own libraries."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.csv
import pyarrow.parquet
import pytest
from command_line import assert_failed, command_here
from safetensors import safe_open
from tiny_data import CLASSES, make_dataset, write_tiny_cache
from tiny_pictures import write_picture

from featurize import export_features, load_backbone, load_dataset, load_features, read_info
from featurize.core.errors import UsageError
from featurize.extraction import extract_features
from featurize.formats import rows

KINDS = ("parquet", "npz", "safetensors", "arrow", "csv")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows at a time, so that every file is written in several blocks."""
    monkeypatch.setattr(rows, "BLOCK_BYTES", 7 * 16 * 4)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A cache of image files, with groups and folds; one name is not UTF-8, and one class has a comma."""
    root = tmp_path / "photos"
    for number in range(8):
        write_picture(root / "cats, big" / f"{number % 4}-{number}.png", number)
        write_picture(root / "d\u00f6gs" / f"{number % 4}-{number}.png", 100 + number)
    write_picture(root / "cats, big" / "0-n\udcff.png", 99)
    dataset = load_dataset(root, folds=2, groups="/([0-9])")
    backbone = load_backbone("pixels", image_size=2)
    return extract_features(dataset, backbone, out=tmp_path / "photos.h5", dtype="float16").info.path


def table_of(cache: Path) -> pd.DataFrame:
    """What a table must hold: a row for each vector, train first."""
    parts = []
    for split in ("train", "test"):
        features = load_features(cache, split)
        part = pd.DataFrame({"id": features.ids, "split": split, "class_id": features.y})
        part["label"] = [features.class_names[label] for label in features.y]
        part["vector"] = list(features.x)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def assert_same_rows(found: pd.DataFrame, cache: Path) -> None:
    expected = table_of(cache)
    for name in ("id", "split", "class_id", "label"):
        assert found[name].tolist() == expected[name].tolist(), name
    vectors = np.stack(found["vector"].tolist()).astype(np.float32)
    assert vectors.tobytes() == np.stack(expected["vector"].tolist()).tobytes()


def test_pandas_reads_parquet_bit_for_bit(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.parquet"
    assert export_features(cache, file) == [file]
    table = pd.read_parquet(file)
    assert list(table.columns) == ["id", "split", "label", "class_id", "vector"]
    assert_same_rows(table, cache)
    assert pyarrow.parquet.ParquetFile(file).num_row_groups > 10  # written in blocks
    metadata = json.loads(pyarrow.parquet.read_schema(file).metadata[b"frozenbench"])
    assert metadata["fingerprint"] == read_info(cache).spec.fingerprint
    assert metadata["spec"]["backbone"] == "tinynet"
    assert metadata["class_names"] == list(CLASSES)


def test_pandas_reads_csv_bit_for_bit(cache: Path, tmp_path: Path) -> None:
    written = export_features(cache, tmp_path / "tiny.csv")
    assert written == [tmp_path / "tiny.csv", tmp_path / "tiny.csv-metadata.json"]
    table = pd.read_csv(written[0], dtype={f"vector_{number}": np.float32 for number in range(16)})
    table["vector"] = list(table[[f"vector_{number}" for number in range(16)]].to_numpy())
    assert_same_rows(table, cache)
    beside = json.loads(written[1].read_text())
    assert beside["url"] == "tiny.csv"
    assert beside["notes"][0]["frozenbench"]["fingerprint"] == read_info(cache).spec.fingerprint


def test_pandas_reads_arrow_bit_for_bit(cache: Path, tmp_path: Path) -> None:
    export_features(cache, tmp_path / "tiny.arrow")
    assert_same_rows(pd.read_feather(tmp_path / "tiny.arrow"), cache)


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv"])
def test_polars_reads_tables_bit_for_bit(cache: Path, tmp_path: Path, kind: str) -> None:
    polars = pytest.importorskip("polars")
    file = tmp_path / f"tiny.{kind}"
    export_features(cache, file)
    if kind == "csv":
        numbers = [f"vector_{number}" for number in range(16)]
        table = polars.read_csv(file, schema_overrides=dict.fromkeys(numbers, polars.Float32))
        table = table.with_columns(polars.concat_list(numbers).alias("vector"))
    else:
        table = {"parquet": polars.read_parquet, "arrow": polars.read_ipc}[kind](file)
        assert table["vector"].dtype == polars.Array(polars.Float32, 16)
    columns = {name: table[name].to_list() for name in ("id", "split", "class_id", "label", "vector")}
    assert_same_rows(pd.DataFrame(columns), cache)


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv"])
def test_datasets_loads_tables_bit_for_bit(cache: Path, tmp_path: Path, kind: str) -> None:
    datasets = pytest.importorskip("datasets", reason="the library datasets of Hugging Face is not installed")
    export_features(cache, tmp_path / f"tiny.{kind}")
    loaded = datasets.load_dataset(
        kind, data_files=str(tmp_path / f"tiny.{kind}"), split="train", cache_dir=str(tmp_path / "datasets")
    )
    table = loaded.to_pandas()
    if kind == "csv":
        numbers = table[[f"vector_{number}" for number in range(16)]].to_numpy()
        table["vector"] = list(numbers.astype(np.float32))
    assert_same_rows(table, cache)


def test_numpy_loads_npz_without_pickle(cache: Path, tmp_path: Path) -> None:
    export_features(cache, tmp_path / "tiny.npz")
    with np.load(tmp_path / "tiny.npz", allow_pickle=False) as arrays:
        assert arrays["class_names"].tolist() == list(CLASSES)
        assert json.loads(str(arrays["frozenbench"]))["fingerprint"] == read_info(cache).spec.fingerprint
        for split in ("train", "test"):
            features = load_features(cache, split)
            assert arrays[f"x_{split}"].dtype == np.float32
            assert arrays[f"x_{split}"].tobytes() == features.x.tobytes()
            assert (arrays[f"y_{split}"] == features.y).all()
            assert (arrays[f"ids_{split}"] == features.ids).all()


def test_safetensors_opens_its_file(cache: Path, tmp_path: Path) -> None:
    export_features(cache, tmp_path / "tiny.safetensors")
    with safe_open(tmp_path / "tiny.safetensors", framework="numpy") as tensors:
        assert json.loads(tensors.metadata()["frozenbench"])["class_names"] == list(CLASSES)
        for split in ("train", "test"):
            features = load_features(cache, split)
            assert tensors.get_tensor(f"x_{split}").tobytes() == features.x.tobytes()
            assert (tensors.get_tensor(f"y_{split}") == features.y).all()


@pytest.mark.parametrize("kind", KINDS)
def test_paths_groups_folds_and_float16(photos: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"out.{kind}"
    export_features(photos, file)
    features = load_features(photos, "test")
    if kind in ("npz", "safetensors"):
        with np.load(file) if kind == "npz" else safe_open(file, framework="numpy") as opened:
            names = opened.files if kind == "npz" else opened.keys()
            arrays = {name: opened[name] if kind == "npz" else opened.get_tensor(name) for name in names}
        assert arrays["x_test"].dtype == np.float16
        found = {name: arrays[f"{name}_test"].tolist() for name in ("groups", "folds")}
        paths = arrays["paths_test"]
        if kind == "safetensors":
            paths = np.char.decode(paths.view(f"S{paths.shape[1]}")[:, 0], "utf-8")
        paths = paths.tolist()
    else:
        read = {"parquet": pd.read_parquet, "arrow": pd.read_feather, "csv": pd.read_csv}[kind]
        table = read(file)
        table = table[table["split"] == "test"]
        found = {"groups": table["group"].tolist(), "folds": table["fold"].tolist()}
        paths = table["path"].tolist()
        assert table["label"].isin(["cats, big", "d\u00f6gs"]).all()
    assert features.groups is not None
    assert features.folds is not None
    assert found == {"groups": features.groups.tolist(), "folds": features.folds.tolist()}
    assert all("/" in path for path in paths)
    everything = file.read_bytes() if kind != "parquet" else "".join(pd.read_parquet(file)["path"]).encode()
    if kind == "npz":
        everything = everything.replace(b"\0\0\0", b"")
    assert b"n\\xff.png" in everything  # the byte that is not UTF-8


def test_the_projector_folder(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "atlas"
    written = export_features(cache, folder, kind="projector")
    assert [path.name for path in written] == [
        "frozenbench.json",
        "metadata.tsv",
        "projector_config.pbtxt",
        "vectors.tsv",
    ]
    vectors = np.loadtxt(folder / "vectors.tsv", delimiter="\t", dtype=np.float32)
    table = pd.read_csv(folder / "metadata.tsv", sep="\t")
    table["class_id"] = [CLASSES.index(label) for label in table["label"]]
    table["vector"] = list(vectors)
    assert_same_rows(table, cache)
    assert 'tensor_path: "vectors.tsv"' in (folder / "projector_config.pbtxt").read_text()
    with pytest.raises(UsageError, match="it exists"):
        export_features(cache, folder, kind="projector")
    export_features(cache, folder, kind="projector", overwrite=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "photo").write_text("mine")
    with pytest.raises(UsageError, match="no earlier export"):
        export_features(cache, tmp_path / "precious", kind="projector", overwrite=True)
    assert (tmp_path / "precious" / "photo").exists()


def test_what_the_command_refuses(cache: Path, tmp_path: Path) -> None:
    words = ["featurize", "export", str(cache)]
    done = command_here(*words, "--to", str(tmp_path / "tiny.parket"))
    assert_failed(done, 2, "tiny.parket", "did you mean parquet?")
    (tmp_path / "there.npz").write_text("mine")
    done = command_here(*words, "--to", str(tmp_path / "there.npz"))
    assert_failed(done, 2, "there.npz: it exists", "--overwrite")
    assert (tmp_path / "there.npz").read_text() == "mine"
    done = command_here(*words, str(tmp_path / "x.csv"), "--to", str(tmp_path / "y.csv"))
    assert_failed(done, 2, "expected the name of a format")
    done = command_here(*words, "--to", "arrow", "--json")
    assert json.loads(done.stdout) == {"written": [str(cache.with_suffix(".arrow"))]}
    done = command_here(*words, str(tmp_path / "table"), "--to", "parquet")
    assert done.stdout == f"wrote {tmp_path / 'table'}\n"
    cache.write_bytes(cache.read_bytes()[:-1] + b"?")
    done = command_here(*words, "--to", str(tmp_path / "new.npz"))
    assert_failed(done, 1, "does not match its seal")
    assert not (tmp_path / "new.npz").exists()


@pytest.mark.parametrize("kind", [*KINDS, "projector"])
def test_a_failure_leaves_nothing_behind(
    cache: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows.CacheRows.blocks

    def failing(self: rows.CacheRows, split: str) -> object:
        for number, block in enumerate(whole(self, split)):
            if number == 3:
                raise OSError(28, "No space left on device")
            yield block

    monkeypatch.setattr(rows.CacheRows, "blocks", failing)
    folder = tmp_path / "exports"
    with pytest.raises(OSError, match="No space"):
        export_features(cache, folder / f"tiny.{kind}", kind=kind)
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_cache_goes_through_little_memory(tmp_path: Path, kind: str) -> None:
    """200 MB of vectors; the process may grow by less than half of that."""
    cache = write_tiny_cache(tmp_path / "large.h5", dataset=make_dataset(2_000_000, 1_000_000, size=1))
    script = f"""
import resource
from featurize import export_features, read_info
import pyarrow.parquet, pyarrow.csv
read_info({str(cache)!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export_features({str(cache)!r}, {str(tmp_path / "large")!r}, kind={kind!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150_000, kind
