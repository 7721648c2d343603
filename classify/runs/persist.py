"""Saved heads: one skops file each, checked by its SHA-256 before anything parses it.

skops (https://skops.readthedocs.io/en/stable/persistence.html) keeps arrays as .npy and all else as
JSON, and builds nothing but types on a list, so that no file can run code as a pickle can.
"""

import hashlib
import io
import logging
import re
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

from featurize.core.errors import DataError

logger = logging.getLogger("frozenbench")
HEAD = "head.skops"
TRUSTED = (
    "classify.heads.calibration.TemperatureCalibrated",
    "classify.heads.cnn.ConvNet",
    "classify.heads.registry.clipped_log",
    "classify.heads.registry.leading",
    "classify.heads.registry.signed_root",
    "classify.heads.mlp.MLPHead",
    "classify.heads.neighbours.Neighbours",
    "classify.heads.svm.LinearSVM",
    "classify.heads.svm.RBFSVM",
    "classify.heads.trees.BoostedTrees",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.utils._bunch.Bunch",
)
"""What a file may build besides arrays, plain values and scikit-learn's estimators."""
AGAIN = "train it again with python -m classify --force"


def save_head(head: Any, path: Path) -> str:
    """Save a fitted head; the same head gives the same bytes.

    The file is written in place: the caller makes the whole run directory under another name.

    Args:
        head: a fitted pipeline, its state arrays and plain values.
        path: of the file.

    Returns:
        The file's SHA-256, hexadecimal.

    Raises:
        OSError: the disk is full or the folder cannot be written to.
    """
    import skops.io

    with tempfile.TemporaryFile(dir=path.parent) as raw:
        skops.io.dump(head, raw)
        _without_traces(raw, path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_traces(raw: Any, path: Path) -> None:
    """Copy a skops file without its times, and with running numbers for the addresses that tell its objects apart."""
    numbers: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        return found[1] + numbers.setdefault(found[2], str(len(numbers) + 1)) + found[3]

    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(path, "w") as target:
        schema = re.sub(r'("__id__": )(\d+)()', number, source.read("schema.json").decode())
        schema = re.sub(r'("file": ")(\d+)(\.npy")', number, schema)
        target.writestr(zipfile.ZipInfo("schema.json"), schema)
        for name in source.namelist():
            if name != "schema.json":
                target.writestr(zipfile.ZipInfo(re.sub(r"()(\d+)(\.npy)", number, name)), source.read(name))


def load_head(path: Path, sha256: str) -> Any:
    """Load a saved head: the bytes that are parsed are the ones whose digest was checked.

    Args:
        path: of the file.
        sha256: what `save_head` returned.

    Returns:
        A fitted pipeline with `classes_` and `predict_proba`.

    Raises:
        DataError: there is no such file, it is another one, or it holds something else than a head.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {AGAIN}") from error
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(
            f"{path} is not the head that was saved: it has SHA-256 {digest}, expected {sha256 or '(none)'}; {AGAIN}"
        )
    import skops.io
    from sklearn.exceptions import InconsistentVersionWarning
    from sklearn.pipeline import Pipeline

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InconsistentVersionWarning)
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as members:
                if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
                    raise ValueError("it is compressed, and might unpack to any size")
            head = skops.io.loads(content, trusted=TRUSTED)
            if not isinstance(head, Pipeline):
                raise TypeError(f"it holds a {type(head).__name__}, expected a Pipeline")
        except Exception as error:  # whatever is wrong inside a foreign file, it is the file that is wrong
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise DataError(f"{path} cannot be loaded as a saved head ({reason}); {AGAIN}") from error
    for item in caught:
        if isinstance(item.message, InconsistentVersionWarning):
            logger.warning(
                "%s was saved with scikit-learn %s, this is %s: should it predict otherwise, %s",
                path, item.message.original_sklearn_version, item.message.current_sklearn_version, AGAIN,
            )  # fmt: skip
            break
    return head
