"""Saved heads made to do harm, by someone who also wrote their digest into the run: nothing is executed."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from classify.heads.registry import signed_root
from classify.runs.persist import load_head
from featurize.core.errors import DataError

MARK = "mark"


class Harm:
    def __init__(self) -> None:
        self.mark = MARK

    def __reduce__(self) -> tuple:
        return open, (MARK, "w")

    def __setstate__(self, state: dict) -> None:
        Path(MARK).touch()


def a_function_of_os() -> bytes:
    return skops.io.dumps(make_pipeline(FunctionTransformer(os.system), LogisticRegression()))


def a_function_of_ours() -> bytes:
    return skops.io.dumps(make_pipeline(FunctionTransformer(skops.io.load), LogisticRegression()))


def a_method() -> bytes:
    return skops.io.dumps(make_pipeline(FunctionTransformer(Path(MARK).touch), LogisticRegression()))


def a_type_of_its_own() -> bytes:
    return skops.io.dumps(make_pipeline(FunctionTransformer(signed_root), Harm()))


def a_pickle() -> bytes:
    return pickle.dumps(Harm())


def another_object() -> bytes:
    return skops.io.dumps({"model": LogisticRegression()})


def a_lone_estimator() -> bytes:
    return skops.io.dumps(LogisticRegression())


def good() -> bytes:
    head = make_pipeline(FunctionTransformer(signed_root), LogisticRegression())
    return skops.io.dumps(head.fit(np.eye(4), [0, 1, 0, 1]))


def changed(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A good head whose members went through `change`."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good())) as source, zipfile.ZipFile(made, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return made.getvalue()


def pickled_arrays() -> bytes:
    array = io.BytesIO()
    np.save(array, np.array([Harm()], object), allow_pickle=True)
    return changed(lambda name, content: array.getvalue() if name.endswith(".npy") else content)


def a_function_for_a_type() -> bytes:
    """The name of a trusted function's class and module is exchanged in the text."""
    return changed(
        lambda name, content: content.replace(b'"signed_root"', b'"system"').replace(
            b'"classify.heads.registry"', b'"os"'
        )
    )


def a_foreign_loader() -> bytes:
    return changed(lambda name, content: content.replace(b'"FunctionNode"', b'"OperatorFuncNode"'))


def deep_text() -> bytes:
    return changed(lambda name, content: content if name != "schema.json" else b"[" * 100_000)


def another_protocol() -> bytes:
    return changed(lambda name, content: content.replace(b'"protocol": ', b'"protocol": 9'))


def a_bomb() -> bytes:
    bomb = bytes(1 << 28)
    return changed(
        lambda name, content: content if name == "schema.json" else bomb if len(content) > 200 else content,
        compression=zipfile.ZIP_DEFLATED,
    )


def a_shape_bomb() -> bytes:
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f8", "fortran_order": False, "shape": (1 << 45,)})
    return changed(lambda name, content: array.getvalue() if name.endswith(".npy") else content)


def a_file_elsewhere() -> bytes:
    def change(name: str, content: bytes) -> bytes:
        if name != "schema.json":
            return content
        schema = json.loads(content)
        return json.dumps(renamed(schema, "/etc/passwd")).encode()

    return changed(change)


def renamed(node: Any, file: str) -> Any:
    if isinstance(node, dict):
        return {key: file if key == "file" else renamed(value, file) for key, value in node.items()}
    return [renamed(value, file) for value in node] if isinstance(node, list) else node


HOSTILE = [
    a_function_of_os,
    a_function_of_ours,
    a_method,
    a_type_of_its_own,
    a_pickle,
    another_object,
    a_lone_estimator,
    pickled_arrays,
    a_function_for_a_type,
    a_foreign_loader,
    deep_text,
    another_protocol,
    a_bomb,
    a_shape_bomb,
    a_file_elsewhere,
]


@pytest.mark.parametrize("make", HOSTILE)
def test_nothing_is_executed(make: Callable[[], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "head.skops"
    path.write_bytes(make())
    with pytest.raises(DataError, match="cannot be loaded as a saved head") as error:
        load_head(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert "\n" not in str(error.value)
    assert os.listdir() == ["head.skops"]


def test_the_unharmed_head_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "head.skops").write_bytes(changed(lambda name, content: content))
    digest = hashlib.sha256((tmp_path / "head.skops").read_bytes()).hexdigest()
    assert load_head(tmp_path / "head.skops", digest).predict([[1, 0, 0, 0]]) == [0]


LOAD = """
import hashlib, resource, sys
from pathlib import Path
import skops.io, sklearn.pipeline
from classify.runs.persist import load_head
from featurize.core.errors import DataError
digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in map(Path, sys.argv[1:])}
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
for path, digest in digests.items():
    try:
        load_head(path, digest)
    except DataError as error:
        print(error)
"""


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    bombs = (a_bomb, a_shape_bomb, deep_text)
    for make in bombs:
        (tmp_path / make.__name__).write_bytes(make())
    paths = [str(tmp_path / make.__name__) for make in bombs]
    done = subprocess.run([sys.executable, "-c", LOAD, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cannot be loaded as a saved head") == len(bombs)
