"""What already lies at a cache's path: a finished cache, or an unfinished extraction in the folder beside it."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from featurize.cache.features import CacheInfo
from featurize.cache.format import glance, read_array
from featurize.cache.header import parse_header
from featurize.cache.reader import features_folder, read_info
from featurize.cache.shards import LOCK, PLAN, discard
from featurize.cache.spec import LATER, ExtractionSpec, explain_difference
from featurize.core.environment import library_versions
from featurize.core.errors import CacheError, CacheMismatchError, UsageError
from featurize.core.files import locked

logger = logging.getLogger("frozenbench")


def finished_cache(
    path: Path, spec: ExtractionSpec, *, overwrite: bool = False, grow: bool = False
) -> CacheInfo | None:
    """The description of the cache at `path` if it can be reused; None if it is to be made.

    Args:
        path: of the cache.
        spec: what determines the values.
        overwrite: make the cache again if it has another specification, cannot be read, or links to shards,
            each of which is checked then.
        grow: make the cache again if it has the same specification but for the data.

    Raises:
        CacheMismatchError: the cache has another specification; the message names the first field that differs.
        CacheError: the file is not a feature cache.
    """
    if not path.exists():
        return None
    try:
        info = read_info(path)
        if grow and info.spec != spec and info.spec.is_same_network(spec):
            return None
        if info.spec != spec:
            raise CacheMismatchError(explain_difference(str(path), info.spec, spec))
    except CacheError:
        if overwrite:
            return None
        raise
    return None if overwrite and info.shards else info


def matching_cache(
    paths: Iterable[Path], spec: Mapping[str, Any], source: Mapping[str, Any], packages: Sequence[str]
) -> CacheInfo | None:
    """The first cache that was asked for in the same way, whose network therefore need not be loaded to compare it.

    Args:
        paths: where to look.
        spec: fields of the specification.
        source: fields of the record of where images and network come from.
        packages: whose versions must still be those of the cache.
    """
    wanted = {"spec": spec, "source": source, "versions": library_versions(packages)}
    for path in paths:
        header = glance(path)
        if not isinstance(header, dict) or not all(isinstance(header.get(part), dict) for part in wanted):
            continue
        found = {part: header[part] for part in wanted}
        found["spec"] = {**LATER, **found["spec"]}
        if all(found[part].get(name) == value for part, facts in wanted.items() for name, value in facts.items()):
            with suppress(CacheError):  # reported when the network is loaded and the cache is used
                return read_info(path)
    return None


def recorded_names(info: CacheInfo) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """The ids, int64 (n,), and the names of the image files, bytes (n,) or None, of each split.

    For a cache that has just been described: its seal is not checked again.
    """
    header = parse_header(info.path, glance(info.path), info.path.stat().st_size)
    names = {}
    with info.path.open("rb") as file:
        for split, rows in info.rows.items():
            offsets, width = header.arrays[split], header.path_bytes[split]
            ids = read_array(file, offsets["ids"], 0, rows, 1, np.dtype("<i8"))
            paths = read_array(file, offsets["paths"], 0, rows, 1, np.dtype(f"S{width}")) if width else None
            names[split] = ids, paths
    return names


def recorded_spec(path: Path) -> ExtractionSpec | None:
    """The specification of the cache at `path`, or of its unfinished extraction; None if neither exists."""
    try:
        return read_info(path).spec if path.exists() else read_plan(parts_folder(path))
    except (CacheError, OSError):  # reported when the cache is used
        return None


def find_cache(name: Path | str) -> Path:
    """The path of a cache.

    Args:
        name: the path, or the beginning of the name of one cache in the data folder.

    Returns:
        The path as given if no cache there has a name that begins like this.

    Raises:
        UsageError: several caches have names that begin like this.
    """
    if Path(name).exists() or Path(name).name != str(name):
        return Path(name)
    found = sorted(path for path in features_folder().glob("*.h5") if path.name.startswith(str(name)))
    if len(found) > 1:
        some = ", ".join(path.stem for path in found[:5]) + (", ..." if len(found) > 5 else "")
        raise UsageError(f"{name}: {len(found)} caches have names that begin like this ({some}); name one of them")
    return found[0] if found else Path(name)


def parts_folder(path: Path) -> Path:
    """The folder of the unfinished extraction of the cache at `path`."""
    return path.with_name(path.name + ".parts")


def read_plan(folder: Path) -> ExtractionSpec | None:
    """The specification of the unfinished extraction in a folder; None if there is nothing to resume."""
    plan = folder / PLAN
    try:
        return ExtractionSpec.from_json(plan.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        logger.warning("%s is damaged or from another version; the unfinished extraction starts again", plan)
        return None


def discard_leftovers(path: Path, spec: ExtractionSpec) -> None:
    """Remove the shards of a process that was killed after it had named its cache."""
    folder = parts_folder(path)
    if folder.exists() and (read_plan(folder) == spec or not any(folder.glob("*.h5"))):
        with locked(folder / LOCK):
            discard(folder)
