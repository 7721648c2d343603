import dataclasses
import functools
import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
import skops.io
from slow_cases import mark_slow
from tiny_data import make_dataset, make_vectors

from classify.heads.registry import HEADS, Task, make_head
from classify.runs.persist import AGAIN, TRUSTED, load_head, save_head
from featurize.core.errors import DataError

pytestmark = pytest.mark.usefixtures("one_fold")
DATASET = make_dataset(120, 60)
X, Y = make_vectors(DATASET.splits["train"]), DATASET.splits["train"].labels
X_TEST = make_vectors(DATASET.splits["test"], seed=1)
TASK = Task(*X.shape, seed=3)


@functools.cache
def fitted(name: str) -> Any:
    task = dataclasses.replace(TASK, image=(4, 4, 1))  # only the cnn looks at it
    return make_head(name, task).fit(X, Y)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "head.skops"
    return path, save_head(fitted("logreg"), path)


@pytest.mark.parametrize("name", mark_slow(HEADS, "cnn", "stack"))
def test_every_head_comes_back_the_same(name: str, tmp_path: Path) -> None:
    head, path = fitted(name), tmp_path / "head.skops"
    digest = save_head(head, path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert os.listdir(tmp_path) == ["head.skops"]
    loaded = load_head(path, digest)
    np.testing.assert_array_equal(loaded.predict_proba(X_TEST), head.predict_proba(X_TEST))
    np.testing.assert_array_equal(loaded.predict(X_TEST), head.predict(X_TEST))
    np.testing.assert_array_equal(loaded.classes_, head.classes_)


def test_an_mlp_with_a_mirror_comes_back_the_same(tmp_path: Path) -> None:
    head, path = make_head("mlp", dataclasses.replace(TASK, mirror=np.arange(16)[::-1])).fit(X, Y), tmp_path / "h"
    loaded = load_head(path, save_head(head, path))
    np.testing.assert_array_equal(loaded[-1].estimator.mirror, np.arange(16)[::-1])
    np.testing.assert_array_equal(loaded.predict_proba(X_TEST), head.predict_proba(X_TEST))


@pytest.mark.slow
def test_nothing_is_trusted_that_no_head_needs(tmp_path: Path) -> None:
    needed = set()
    for name in HEADS:
        save_head(fitted(name), tmp_path / "head.skops")
        needed |= set(skops.io.get_untrusted_types(file=tmp_path / "head.skops"))
    assert needed == set(TRUSTED)


def test_an_ordinary_skops_file(saved: tuple[Path, str]) -> None:
    assert type(skops.io.load(saved[0], trusted=["classify.heads.registry.signed_root"])).__name__ == "Pipeline"


def refused(path: Path, sha256: str, *parts: str) -> None:
    with pytest.raises(DataError) as error:
        load_head(path, sha256)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(path), AGAIN, *parts):
        assert part in message


@pytest.mark.parametrize("offset", [0, 100, -100, -1])
def test_a_changed_byte(saved: tuple[Path, str], offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skops.io, "loads", lambda *_, **__: pytest.fail("parsed"))
    path, digest = saved
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    refused(path, digest, "it has SHA-256", f"expected {digest}")


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_a_cut_file(saved: tuple[Path, str], share: float) -> None:
    path, digest = saved
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(path, digest, "it has SHA-256")


def test_no_file(saved: tuple[Path, str], tmp_path: Path) -> None:
    refused(tmp_path / "other.skops", saved[1], "No such file")
    refused(tmp_path, saved[1], "Is a directory")
    refused(saved[0], "", "expected (none)")


def test_a_pickle_by_that_name(saved: tuple[Path, str]) -> None:
    path, digest = saved
    path.write_bytes(pickle.dumps(fitted("logreg")))
    refused(path, digest, "it has SHA-256")


def test_another_version_of_scikit_learn_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    head, path = fitted("logreg"), tmp_path / "head.skops"
    with monkeypatch.context() as patch:
        patch.setattr("sklearn.base.__version__", "1.8.0")
        digest = save_head(head, path)
    loaded = load_head(path, digest)
    np.testing.assert_array_equal(loaded.predict_proba(X_TEST), head.predict_proba(X_TEST))
    (record,) = caplog.records
    assert f"{path} was saved with scikit-learn 1.8.0, this is {sklearn.__version__}: " in record.getMessage()


def test_what_is_parsed_is_what_was_hashed(saved: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = saved
    reads = []
    read_bytes = Path.read_bytes

    def read_once(self: Path) -> bytes:
        reads.append(self)
        content = read_bytes(self)
        self.write_bytes(b"something else")
        return content

    monkeypatch.setattr(Path, "read_bytes", read_once)
    load_head(path, digest)
    assert reads == [path]
