"""Disturb extractions and damage caches, and compare what is left with undisturbed ones.

    python tests/faults/crash.py all                        # the full figures, about a quarter of an hour
    python tests/faults/crash.py kill --times 1000 --seed 0
    python tests/faults/crash.py kill-growing --times 100   # while known vectors are copied and others computed
    python tests/faults/crash.py kill-real --times 20       # VGG16's kernels on real images
    python tests/faults/crash.py interrupt --times 200
    python tests/faults/crash.py race --times 100
    python tests/faults/crash.py flip --times 10000
    python tests/faults/crash.py cut --times 1000

Short forms run in the tests. Each prints its seed and a line of figures, and ends with exit code 1 at
the first difference.
"""

import argparse
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from featurize.cache import load_features, read_info, shards
from featurize.cache.shards import Shards
from featurize.core.console import run_command_line
from featurize.core.errors import CacheError
from featurize.extraction import extract_features  # imported once, before the forks
from featurize.images import ImageDataset, Split
from featurize.networks.backbone import load_backbone

ROOT = Path(__file__).parent.parent.parent
BATCH = 16
FULL_SECONDS = 0.35  # what an undisturbed extraction takes here, about


def dataset() -> ImageDataset:
    generator = np.random.default_rng(1)
    splits = {
        name: Split(generator.integers(0, 256, (count, 8, 8, 3), np.uint8), np.arange(count) % 3, np.arange(count))
        for name, count in (("train", 1200), ("test", 300))
    }
    return ImageDataset("crash", ("a", "b", "c"), splits)


DATA = dataset()
FEWER = replace(DATA, splits={name: split[::-1][::2] for name, split in DATA.splits.items()})


def extraction(path: Path, images: ImageDataset = DATA, reuse: tuple[()] | None = None) -> None:
    """An extraction that takes a third of a second and writes shards all the time."""
    shards.SHARD_SECONDS = 0.004

    def slowly(done: int, total: int) -> None:
        time.sleep(0.003)

    pixels = load_backbone("pixels", image_size=8)
    extract_features(images, pixels, out=path, batch_size=BATCH, progress=slowly, reuse=reuse)


def child(path: Path, reuse: tuple[()] | None = None) -> int:
    """Start an extraction in a process of its own; returns its id."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started us may ignore it
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        run_command_line(lambda **_: extraction(path, reuse=reuse))
    except SystemExit as end:
        os._exit(int(end.code or 0))
    finally:
        os._exit(70)


def status(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def content(path: Path) -> list[bytes]:
    """Features, labels and ids of both splits, as bytes."""
    splits = [load_features(path, name) for name in ("train", "test")]
    return [array.tobytes() for split in splits for array in (split.x, split.y, split.ids)]


def expect(truth: object, message: str) -> None:
    if not truth:
        sys.exit(f"FAILED: {message}")


def kill(times: int, seed: int, folder: Path) -> None:
    extraction(folder / "whole.h5")
    reference, draw = content(folder / "whole.h5"), random.Random(seed)
    killed = finished = 0
    path = folder / "killed.h5"
    while killed < times:
        process = child(path)
        time.sleep(draw.uniform(0, FULL_SECONDS * 0.6))
        os.kill(process, signal.SIGKILL)
        ended_by_us = status(process) == -signal.SIGKILL
        killed += ended_by_us
        if path.exists():  # whatever has the final name is whole
            expect(content(path) == reference, f"kill {killed}: another content")
            expect(status(child(path)) == 0, "a finished cache was not taken up again")
            expect(len(os.listdir(folder)) == 2, f"debris was left: {os.listdir(folder)}")
            path.unlink()
            finished += 1
    expect(status(child(path)) == 0, "the last extraction failed")
    expect(content(path) == reference, "the last cache has another content")
    print(f"{killed} kills, {finished + 1} caches finished in spite of them, 0 differ")


def kill_growing(times: int, seed: int, folder: Path) -> None:
    extraction(folder / "whole" / "x.h5")
    extraction(folder / "old" / "x.h5", FEWER)
    reference, draw = content(folder / "whole" / "x.h5"), random.Random(seed)
    path = folder / "x.h5"
    old = (folder / "old" / "x.h5").read_bytes()
    path.write_bytes(old)
    killed = finished = 0
    while killed < times:
        process = child(path, reuse=())
        time.sleep(draw.uniform(0, FULL_SECONDS))
        os.kill(process, signal.SIGKILL)
        killed += status(process) == -signal.SIGKILL
        if path.read_bytes() != old:
            expect(content(path) == reference, f"kill {killed}: another content")
            expect(status(child(path, reuse=())) == 0, "a finished cache was not taken up again")
            expect(len(os.listdir(folder)) == 3, f"debris was left: {os.listdir(folder)}")
            path.write_bytes(old)
            finished += 1
    expect(status(child(path, reuse=())) == 0, "the last extraction failed")
    expect(content(path) == reference, "the last cache has another content")
    taken = sum(sum(entry["rows"].values()) for entry in read_info(path).taken)
    expect(taken == 750, f"{taken} vectors were taken, expected 750")
    print(f"{killed} kills, {finished + 1} caches grew in spite of them, 0 differ")


def interrupt(times: int, seed: int, folder: Path) -> None:
    extraction(folder / "whole.h5")
    reference, draw = content(folder / "whole.h5"), random.Random(seed)
    attempts = interrupted = kept = 0
    path = folder / "interrupted.h5"
    while interrupted < times:
        attempts += 1
        expect(attempts < 10 * times, "Ctrl-C does not interrupt")
        process = child(path)
        parts = path.with_name(path.name + ".parts")
        deadline = time.monotonic() + 10
        while not parts.exists() and not path.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(draw.uniform(0.01, FULL_SECONDS * 0.6))
        os.kill(process, signal.SIGINT)
        code = status(process)
        expect(code in (0, 130), f"exit code {code}")
        expect(not list(folder.rglob("*.tmp")), "a temporary file was left")
        if code == 130:
            interrupted += 1
            kept += bool(list(parts.glob("*.h5")))
        if path.exists():
            expect(content(path) == reference, "another content")
            path.unlink()
    print(f"{interrupted} times Ctrl-C, exit code 130 each time, no temporary file, {kept} with finished work kept")


def race(times: int, seed: int, folder: Path) -> None:
    extraction(folder / "whole.h5")
    reference, draw = content(folder / "whole.h5"), random.Random(seed)
    for _number in range(times):
        path = folder / "raced.h5"
        first = child(path)
        time.sleep(draw.uniform(0, FULL_SECONDS / 2))
        second = child(path)
        victim = draw.random() < 0.3
        if victim:  # a dead process's lock does not block
            time.sleep(draw.uniform(0, 0.1))
            os.kill(first, signal.SIGKILL)
        codes = [status(first), status(second)]
        expect(codes[1] == 0 and codes[0] in ((0, -9) if victim else (0,)), f"exit codes {codes}")
        expect(content(path) == reference, "another content")
        expect(len(os.listdir(folder)) == 2, "debris was left")
        path.unlink()
    print(f"{times} of {times} pairs ended with one right cache")


def kill_real(times: int, seed: int, folder: Path) -> None:
    draw = random.Random(seed)

    def command(path: Path) -> list[str]:
        what = "--data sample --train 1500 --test 500 --layers block2_pool --pool grid2 --image-size 64"
        return [
            sys.executable,
            "-m",
            "featurize",
            *what.split(),
            "--engine",
            "tensorflow",
            "--no-reuse",
            "--out",
            str(path),
        ]

    began = time.monotonic()
    subprocess.run(command(folder / "whole.h5"), cwd=ROOT, check=True, capture_output=True)
    seconds, reference = time.monotonic() - began, content(folder / "whole.h5")
    killed = finished = 0
    path = folder / "killed.h5"
    while killed < times:
        with subprocess.Popen(command(path), cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            time.sleep(draw.uniform(0.4, 0.9) * seconds)
            killed += process.poll() is None
            process.kill()
        if path.exists():
            expect(content(path) == reference, "another content")
            path.unlink()
            finished += 1
    subprocess.run(command(path), cwd=ROOT, check=True, capture_output=True)
    expect(content(path) == reference, "another content")
    print(f"{killed} kills of the real backbone, {finished + 1} caches finished in spite of them, 0 differ")


def damage(times: int, folder: Path, change: Callable[[bytearray], None]) -> int:
    """Damage a cache or a shard of it, in turn; returns how many were noticed before a number was used."""
    path, shards = folder / "whole.h5", Shards(folder / "shards", "plan", {"train": 300}, 16, "float32")
    extraction(path)
    shards.folder.mkdir()
    shards.resume()
    shards.add("train", 0, np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32))
    shard = shards.folder / "train-000000000000.h5"
    whole = {path: path.read_bytes(), shard: shard.read_bytes()}
    noticed = 0
    logging.getLogger("frozenbench").setLevel(logging.CRITICAL)
    for number in range(times):
        target = shard if number % 4 == 0 else path
        content = bytearray(whole[target])
        change(content)
        target.write_bytes(content)
        if target is shard:
            noticed += shards.resume() == 0
        else:
            try:
                load_features(path, "train")
            except CacheError as error:
                noticed += str(path) in str(error) and "--overwrite" in str(error)
    return noticed


def flip(times: int, seed: int, folder: Path) -> None:
    draw = random.Random(seed)

    def change(content: bytearray) -> None:
        bit = draw.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8

    noticed = damage(times, folder, change)
    expect(noticed == times, f"{times - noticed} flipped bits went unnoticed")
    print(f"{noticed} of {times} flipped bits noticed")


def cut(times: int, seed: int, folder: Path) -> None:
    draw = random.Random(seed)

    def change(content: bytearray) -> None:
        del content[draw.randrange(len(content)) :]

    noticed = damage(times, folder, change)
    expect(noticed == times, f"{times - noticed} truncations went unnoticed")
    print(f"{noticed} of {times} truncations noticed")


FULL = {kill: 1000, kill_growing: 100, kill_real: 20, interrupt: 200, race: 100, flip: 10_000, cut: 1_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {function.__name__.replace("_", "-"): function for function in FULL}
    parser.add_argument("what", choices=[*known, "all"])
    parser.add_argument("--times", type=int, help="by default the full number")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    for name, function in known.items():
        if arguments.what in (name, "all"):
            folder = Path(tempfile.mkdtemp())
            try:
                function(arguments.times or FULL[function], arguments.seed, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
