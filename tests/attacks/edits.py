"""Edit every field of the files that are read, as someone would who can compute a digest, and use the files.

    python tests/attacks/edits.py                   # every field, every value: an hour or more
    python tests/attacks/edits.py --some 200 --seed 1

A command may succeed, or end with one line and exit code 1 or 2. Anything else is a failure: the edit is printed, and
the exit code is 1. A short form runs in the tests.
"""

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # comes first: tests/featurize is not the package
from cache_bytes import header_of
from command_line import command_here
from tiny_data import make_dataset, write_tiny_cache

from featurize.cache import linked
from featurize.extraction import extract_features
from featurize.networks import load_backbone

NAMES = ["", "\ud800", "[/red]", "a\x1b[31m\x07b", "../../x", "a\0b", "$x_1^\\frac", "x" * 100_000]
NUMBERS = [-1, 0, 1, 2, 2**31, 2**63, 10**400, 0.5, 1e308, 5e-324, math.inf, -math.inf, math.nan]
OTHERS: list[Any] = [None, True, [], {}, [[]], [None], {"a": None}]
VALUES = [*NAMES, *NUMBERS, *OTHERS]
REMOVED = object()


def fields(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside of a JSON value; of a list only the first items."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from fields(value[key], (*path, key))
    if isinstance(value, list):
        for number in range(min(2, len(value))):
            yield from fields(value[number], (*path, number))


def edited(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy in which the item at `path` is another, or removed."""
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1 and new is REMOVED:
        del copied[path[0]]
    else:
        copied[path[0]] = edited(value[path[0]], path[1:], new)
    return copied


def renamed(value: Any, path: tuple[Any, ...], new: str) -> Any:
    """A copy in which the last key of `path` has another name."""
    if len(path) == 1:
        return {new if key == path[0] else key: item for key, item in value.items()}
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = renamed(value[path[0]], path[1:], new)
    return copied


def edits(record: Any) -> Iterator[tuple[str, Any]]:
    """Each edit of a JSON object: what it is, and the edited object."""
    for path in fields(record):
        where = ".".join(map(str, path))
        for new in VALUES:
            yield f"{where} = {str(new)[:40]!r}", edited(record, path, new)
        yield f"{where} removed", edited(record, path, REMOVED)
        if isinstance(path[-1], str):
            for name in ("[/red]", "\ud800"):
                yield f"{where} renamed to {name!r}", renamed(record, path, name)


Target = tuple[Any, Callable[[Any], None], list[list[str]]]


def cache_target(path: Path) -> Target:
    """A sealed cache."""
    whole = path.read_bytes()

    def put(header: Any) -> None:
        path.write_bytes(sealed(whole, header))

    commands = [["featurize", "info", str(path)], ["classify", "--features", str(path), "--model", "dummy", "--force"]]
    return header_of(path), put, commands


def sealed(cache: bytes, header: Any) -> bytes:
    """A cache with this header in place of its own, and the right seal; a header that is too long is cut."""
    first = cache.split(b"\n", 1)[0]
    block = int(first.split()[-1])
    room = block - len(first) - 66
    behind = (json.dumps(header).encode() + b"\n").ljust(room, b"\n")[:room] + cache[block:]
    return first + b"\n" + hashlib.sha256(behind).hexdigest().encode() + b"\n" + behind


def run_target(run_dir: Path, commands: list[list[str]]) -> Target:
    """The record of a run."""
    path = run_dir / "result.json"
    return json.loads(path.read_text()), lambda record: path.write_text(json.dumps(record)), commands


def attack(name: str, target: Target, some: int, draw: random.Random) -> tuple[int, list[str]]:
    """The number of cases, and the failures in words."""
    record, put, commands = target
    cases = list(edits(record))
    if some and some < len(cases):
        cases = draw.sample(cases, some)
    failures, ended = [], {0: 0, 1: 0, 2: 0}
    for what, changed in cases:
        put(changed)
        for command in commands:
            failure = outcome(command, ended)
            if failure:
                failures.append(f"{name}: {what}: {' '.join(command[:2])}: {failure}")
                print(failures[-1], flush=True)
    put(record)
    print(f"{name}: {len(cases)} edits, exit codes {ended}, {len(failures)} failures", flush=True)
    return len(cases), failures


def outcome(command: list[str], ended: dict[int, int]) -> str:
    """Run a command; what is wrong with how it ends, or nothing."""
    try:
        done = command_here(*command)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:100]!r} at {Path(where.filename).name}:{where.lineno}"
    if done.returncode not in ended:
        return f"exit code {done.returncode}"
    ended[done.returncode] += 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if len(errors) != bool(done.returncode):
        return f"{len(errors)} lines of errors: {done.stderr[-300:]!r}"
    if any(ord(letter) < 32 and letter != "\n" for letter in done.stdout + done.stderr):
        return "control characters are printed"
    return ""


def make_runs(folder: Path) -> Path:
    """Caches and runs in a data folder; returns the cache of pixels."""
    os.environ["FROZENBENCH_DATA"] = str(folder)
    write_tiny_cache(folder / "features" / "tiny-net.h5")
    pixels = folder / "features" / "tiny-pixels.h5"
    extract_features(make_dataset(), load_backbone("pixels", image_size=8), out=pixels)
    command_here("classify", "--features", str(pixels), "--model", "dummy,logreg")
    command_here("classify", "--features", "tiny-net", "--model", "logreg,mlp")
    return pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--some", type=int, default=0, help="this many edits of each file, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="one kind of file: cache, pixels, linked, result or analysis")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"seed {arguments.seed}", flush=True)
    draw = random.Random(arguments.seed)
    folder = Path(tempfile.mkdtemp())
    try:
        pixels = make_runs(folder)
        linked.LINKED_FROM = 0
        far = write_tiny_cache(folder / "features" / "tiny-linked.h5")
        [run_dir] = folder.glob("runs/tiny-pixels/logreg-*")
        picture = folder / "picture.png"
        Image.new("RGB", (8, 8)).save(picture)
        reading = [
            ["classify", "list"],
            ["classify", "list", "--json"],
            ["classify", "predict", str(run_dir), str(picture)],
        ]
        targets = {
            "cache": cache_target(folder / "features" / "tiny-net.h5"),
            "pixels": cache_target(pixels),
            "linked": cache_target(far),
            "result": run_target(run_dir, reading),
            "analysis": run_target(run_dir, [["analysis", "--out", str(folder / "report")]]),
        }
        failures = []
        for name, target in targets.items():
            if arguments.only in ("", name):
                failures += attack(name, target, arguments.some, draw)[1]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
