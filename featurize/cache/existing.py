"""What already lies at a cache's path: a finished cache, or an unfinished extraction in the folder beside it."""

import logging
from pathlib import Path

from featurize.cache.features import CacheInfo
from featurize.cache.reader import read_info
from featurize.cache.shards import LOCK, PLAN, discard
from featurize.cache.spec import ExtractionSpec, explain_difference
from featurize.core.errors import CacheError, CacheMismatchError
from featurize.core.files import locked

logger = logging.getLogger("frozenbench")


def finished_cache(path: Path, spec: ExtractionSpec, *, overwrite: bool = False) -> CacheInfo | None:
    """The description of the cache at `path` if it can be reused; None if it is to be made.

    Args:
        path: of the cache.
        spec: what determines the values.
        overwrite: make the cache again if it has another specification, cannot be read, or links to shards,
            each of which is checked then.

    Raises:
        CacheMismatchError: the cache has another specification; the message names the first field that differs.
        CacheError: the file is not a feature cache.
    """
    if not path.exists():
        return None
    try:
        info = read_info(path)
        if info.spec != spec:
            raise CacheMismatchError(explain_difference(str(path), info.spec, spec))
    except CacheError:
        if overwrite:
            return None
        raise
    return None if overwrite and info.shards else info


def recorded_spec(path: Path) -> ExtractionSpec | None:
    """The specification of the cache at `path`, or of its unfinished extraction; None if neither exists."""
    try:
        return read_info(path).spec if path.exists() else read_plan(parts_folder(path))
    except (CacheError, OSError):  # reported when the cache is used
        return None


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
