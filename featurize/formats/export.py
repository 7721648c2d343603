"""A cache written as a file of another program; nothing is left of a file that cannot be finished."""

import shutil
from collections.abc import Callable
from pathlib import Path

from featurize.core.errors import UsageError, suggestion
from featurize.core.files import sync, temporary_folder, write_whole, written_whole
from featurize.formats.arrays import write_npz, write_safetensors
from featurize.formats.projector import CONFIGURATION, write_projector
from featurize.formats.rows import CacheRows
from featurize.formats.tables import csv_metadata, csv_metadata_path, write_arrow, write_csv, write_parquet

WRITERS: dict[str, Callable[[CacheRows, Path], None]] = {
    "parquet": write_parquet,
    "npz": write_npz,
    "safetensors": write_safetensors,
    "arrow": write_arrow,
    "csv": write_csv,
}
"""Suffix of a file -> what writes it."""
PROJECTOR = "projector"
KINDS = [*WRITERS, PROJECTOR]


def export_features(cache: Path | str, to: Path | str, *, kind: str = "", overwrite: bool = False) -> list[Path]:
    """Write the vectors of a cache, and what belongs to them, as a file of another program.

    Labels, class names, ids, splits, paths, groups and folds go with the vectors. The file's own metadata holds the
    specification and its fingerprint. The rows go through memory a block at a time.

    Args:
        cache: the path of a cache.
        to: the file to write; for `projector`, the folder to make.
        kind: one of `KINDS`; by the suffix of the file if empty.
        overwrite: replace an existing file, or a folder that the projector's files are in.

    Returns:
        The files that were written.

    Raises:
        UsageError: an unknown kind or suffix, or `to` exists.
        CacheError: the cache is damaged.
        OSError: the folder cannot be written to, or the disk is full.
    """
    to = Path(to)
    kind = kind or to.suffix.removeprefix(".")
    if kind not in KINDS:
        raise UsageError(f"--to {to}: expected a file with the suffix {', '.join(WRITERS)}; {suggestion(kind, KINDS)}")
    if to.exists() and not overwrite:
        raise UsageError(f"--to {to}: it exists; choose another name, or replace it with --overwrite")
    is_projector = to.is_dir() and (to / CONFIGURATION).is_file()
    if to.exists() and (not is_projector if kind == PROJECTOR else to.is_dir()):
        raise UsageError(f"--to {to}: it is no earlier export, so --overwrite does not replace it; choose another name")
    rows = CacheRows(Path(cache))
    if kind == PROJECTOR:
        return _export_folder(rows, to)
    with written_whole(to) as temporary:
        WRITERS[kind](rows, temporary)
    if kind != "csv":
        return [to]
    write_whole(csv_metadata_path(to), csv_metadata(rows, to.name))
    return [to, csv_metadata_path(to)]


def _export_folder(rows: CacheRows, folder: Path) -> list[Path]:
    """Write the projector's folder under a temporary name, and rename it."""
    with temporary_folder(folder) as temporary:
        write_projector(rows, temporary)
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
        sync(folder.parent)
    return sorted(folder.iterdir())
