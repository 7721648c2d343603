"""Saved heads, and what belongs to them: skops files, each checked by its SHA-256 before anything parses it.

skops (https://skops.readthedocs.io/en/stable/persistence.html) stores arrays as .npy and everything
else as JSON, and builds only types on a list. Unlike a pickle, such a file cannot run code.
"""

import hashlib
import io
import logging
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featurize.core.errors import DataError, first_line

logger = logging.getLogger("frozenbench")
HEAD = "head.skops"
GUARANTEE = "guarantee.skops"
TRUSTED = (
    "classify.heads.calibration.TemperatureCalibrated",
    "classify.heads.cnn.ConvNet",
    "classify.heads.registry.clipped_log",
    "classify.heads.registry.signed_root",
    "classify.heads.registry.without_last",
    "classify.heads.lda.ShrinkageLDA",
    "classify.heads.mlp.MLPHead",
    "classify.heads.neighbours.Neighbours",
    "classify.heads.neighbours.votes",
    "classify.heads.svm.LinearSVM",
    "classify.heads.svm.RBFSVM",
    "classify.heads.trees.BoostedTrees",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.utils._bunch.Bunch",
)
"""Types that a file may build besides arrays, plain values and scikit-learn's estimators."""
IN_GUARANTEES = (
    "classify.guarantee.conformal.ConformalSets",
    "classify.guarantee.guarantee.Guarantee",
    "classify.guarantee.novelty.Novelty",
    "classify.guarantee.novelty.Space",
)
"""Further types that the file of a `Guarantee` may build."""
AGAIN = "train it again with frozenbench classify --force"


def save_head(head: Any, path: Path) -> str:
    """Save a fitted head, or the guarantee that belongs to one.

    The file is written in place: the caller creates the whole run directory under another name first.

    Args:
        head: a fitted pipeline whose state is arrays and plain values, or a `Guarantee`.
        path: path of the file.

    Returns:
        The file's SHA-256, hexadecimal.

    Raises:
        OSError: the disk is full or the folder cannot be written to.
    """
    import skops.io

    with path.open("wb") as file:
        skops.io.dump(head, file)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_own_head(head: Any, path: Path, trusted: Sequence[str], name: str) -> str:
    """Save a fitted head of the user's, if `load_head` can load it again.

    Args:
        head: a fitted pipeline.
        path: path of the file.
        trusted: as for `load_head`.
        name: of the head, for the message.

    Returns:
        The file's SHA-256, hexadecimal; empty if the head cannot be saved, which is logged.

    Raises:
        OSError: the disk is full or the folder cannot be written to.
    """
    try:
        digest = save_head(head, path)
        load_head(path, digest, trusted)
    except OSError:
        raise
    except Exception as error:  # what it holds can fail anywhere inside of skops
        path.unlink(missing_ok=True)
        logger.warning(
            "%s: the run has no saved head, because a saved head may not hold everything in this one (%s)",
            name, first_line(error.__cause__ or error),
        )  # fmt: skip
        return ""
    return digest


def load_head(path: Path, sha256: str, trusted: Sequence[str] = ()) -> Any:
    """Load a saved head; the bytes that are parsed are the ones whose digest was checked.

    Args:
        path: path of the file.
        sha256: the digest that `save_head` returned.
        trusted: types that the file may build besides `TRUSTED`: those of a head that the user names.

    Returns:
        A fitted pipeline with `classes_` and `predict_proba`.

    Raises:
        DataError: the file is missing, was changed, or does not hold a head.
    """
    from sklearn.pipeline import Pipeline

    return _loaded(path, sha256, Pipeline, trusted)


def load_guarantee(path: Path, sha256: str, kind: type) -> Any:
    """Load what `save_head` saved of a `Guarantee`.

    Args:
        path: path of the file.
        sha256: the digest that `save_head` returned.
        kind: the class `Guarantee`.

    Raises:
        DataError: the file is missing, was changed, or holds something else.
    """
    return _loaded(path, sha256, kind, IN_GUARANTEES)


def _loaded(path: Path, sha256: str, kind: type, trusted: Sequence[str]) -> Any:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {AGAIN}") from error
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(
            f"{path} is not the file that was saved: it has SHA-256 {digest}, expected {sha256 or '(none)'}; {AGAIN}"
        )
    import skops.io
    from sklearn.exceptions import InconsistentVersionWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InconsistentVersionWarning)
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as members:
                if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
                    raise ValueError("it is compressed and could unpack to any size")
            loaded = skops.io.loads(content, trusted=[*TRUSTED, *trusted])
            if not isinstance(loaded, kind):
                raise TypeError(f"it holds a {type(loaded).__name__}, expected a {kind.__name__}")
        except Exception as error:  # a foreign file can fail anywhere inside of skops
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise DataError(f"{path} cannot be loaded as a saved head ({reason}); {AGAIN}") from error
    for item in caught:
        if isinstance(item.message, InconsistentVersionWarning):
            logger.warning(
                "%s was saved with scikit-learn %s, this is %s: if its predictions differ, %s",
                path, item.message.original_sklearn_version, item.message.current_sklearn_version, AGAIN,
            )  # fmt: skip
            break
    return loaded
