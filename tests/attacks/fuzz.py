"""Damage every kind of input at random and read it, in a process with little memory.

    python tests/attacks/fuzz.py --seconds 3600 --seed 0

A reader may succeed or raise a FrozenbenchError; another exception, a signal or a lack of memory is
a failure, and the input that made it is kept. A short form runs in the tests.
"""

import argparse
import hashlib
import io
import json
import logging
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # comes first: tests/featurize is not the package
from tiny_data import make_dataset, write_tiny_cache
from tiny_onnx import tiny_model

from classify.runs.results import RunResult
from featurize.cache import load_features
from featurize.cache.shards import Shards
from featurize.core.errors import FrozenbenchError
from featurize.images import cifar10
from featurize.images.cifar10 import load_cifar10_folder, read_cifar10_archive
from featurize.images.dataset import ImageDataset
from featurize.images.decode import FORMATS, read_image
from featurize.networks import load_backbone

MEMORY = 3 << 30
CHUNK_SECONDS = 60
INTERESTING = [0, 1, 127, 128, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content with a few bytes flipped, set, cut out, repeated or cut off."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        at, length = draw.randrange(len(data) + 1), draw.choice([1, 2, 4, 8, 64, 512])
        match draw.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at : at + 8] = draw.choice(INTERESTING).to_bytes(8, draw.choice(["little", "big"]))
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at : at + length] = draw.randbytes(length)
            case 5 if draw.random() < 0.2:
                del data[at:]
    return bytes(data)


def damaged_json(value: object, draw: random.Random) -> object:
    """The value with something inside replaced by something else."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(sorted(value))
        if draw.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: damaged_json(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [*value[:at], damaged_json(value[at], draw), *value[at + 1 :]]
    return draw.choice(
        [None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, float("nan"), "", "x" * 1000, [], {}, [[]], "../../x"]
    )


def resealed(content: bytes, draw: random.Random) -> bytes:
    """A cache with a damaged header and the right seal, as an attacker would make it."""
    first = content.split(b"\n", 1)[0]
    block = int(first.split()[-1])
    header = json.loads(content[:block].split(b"\n")[2])
    for _ in range(draw.choice([1, 1, 2, 5])):
        changed = damaged_json(header, draw)
        header = changed if isinstance(changed, dict) else header
    behind = (json.dumps(header).encode() + b"\n").ljust(block - len(first) - 66, b"\n") + content[block:]
    if draw.random() < 0.2:
        behind = damaged(behind, draw)
    return first + b"\n" + hashlib.sha256(behind).hexdigest().encode() + b"\n" + behind


def targets(folder: Path) -> dict[str, tuple[bytes, Callable[[bytes, random.Random], bytes], Callable[[Path], object]]]:
    """Name -> a good input, how to damage it, and what reads it from a path."""
    cache = write_tiny_cache(folder / "good.h5").read_bytes()
    split = make_dataset(6, 3).splits["train"]
    npz = io.BytesIO()
    (np.savez_compressed if sys.version_info.minor % 2 else np.savez)(
        npz,
        x_train=np.asarray(split.images),
        y_train=split.labels,
        x_test=np.asarray(split.images),
        y_test=split.labels,
    )
    batch = bytes(2 * cifar10.RECORD)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive:
        for name in (*cifar10.TRAIN_FILES, cifar10.TEST_FILE):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(batch)
            archive.addfile(member, io.BytesIO(batch))
    shards = Shards(folder / "shards", "plan", {"train": 30}, 4, "float32")
    shards.folder.mkdir()
    shards.resume()
    shards.add("train", 0, np.zeros((30, 4), np.float32))
    shard = (shards.folder / "train-000000000000.h5").read_bytes()

    def both(path: Path) -> None:
        for name in ("train", "test"):
            load_features(path, name)

    def bins(path: Path) -> None:
        for name in ("data_batch_1.bin", "test_batch.bin"):
            (path.parent / name).write_bytes(path.read_bytes())
        load_cifar10_folder(path.parent)

    def rows(path: Path) -> None:
        (shards.folder / "train-000000000000.h5").write_bytes(path.read_bytes())
        shards.resume()

    def result(path: Path) -> None:
        (folder / "run").mkdir(exist_ok=True)
        (folder / "run" / "result.json").write_bytes(path.read_bytes())
        RunResult.read(folder / "run")

    pictures = {}
    for kind in FORMATS:
        picture = io.BytesIO()
        Image.fromarray(np.asarray(split.images)[0]).save(picture, kind)
        pictures[kind] = (picture.getvalue(), damaged, lambda path: read_image(path, 8, 8))

    external = folder / "networks"
    external.mkdir()

    def network(path: Path) -> None:
        (external / "input.onnx").write_bytes(path.read_bytes())
        load_backbone(str(external / "input.onnx"), image_size=8, preprocess="none")

    return {
        **pictures,
        "onnx": (tiny_model().SerializeToString(), damaged, network),
        "cache": (cache, damaged, both),
        "sealed cache": (cache, resealed, both),
        "npz": (npz.getvalue(), damaged, ImageDataset.from_npz),
        "batch": (batch, damaged, bins),
        "tar": (tar.getvalue(), damaged, read_cifar10_archive),
        "shard": (shard, damaged, rows),
        "result": (b'{"model": "svm"}', damaged, result),
    }


def work(seconds: float, seed: int, keep: Path) -> None:
    """Damage and read until the time is over; print the counts as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.getLogger("frozenbench").setLevel(logging.CRITICAL)
    cifar10.BATCH = 2
    draw, began = random.Random(seed), time.monotonic()
    counts = {"read": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        choices = targets(folder)
        while time.monotonic() - began < seconds:
            content, damage, read = choices[draw.choice(list(choices))]
            keep.write_bytes(damage(content, draw))
            path = folder / "input.npz"
            path.write_bytes(keep.read_bytes())
            try:
                read(path)
                counts["read"] += 1
            except FrozenbenchError:
                counts["refused"] += 1
    print(json.dumps(counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        work(arguments.seconds, arguments.seed, arguments.child)
        return
    print(f"seed {arguments.seed}", flush=True)
    totals, left, number = {"read": 0, "refused": 0}, arguments.seconds, 0
    keep = Path(tempfile.mkdtemp()) / "input"
    while left > 0:
        seconds, seed = min(left, CHUNK_SECONDS), 1000 * arguments.seed + number
        words = [sys.executable, __file__, "--seconds", str(seconds), "--seed", str(seed), "--child", str(keep)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"FAILED with {done.returncode}, child seed {seed}; the input is {keep}\n{done.stderr[-3000:]}")
        for key, value in json.loads(done.stdout.splitlines()[-1]).items():
            totals[key] += value
        left, number = left - seconds, number + 1
    print(
        f"{sum(totals.values()):,} inputs in {arguments.seconds:.0f} s: {totals['refused']:,} refused, "
        f"{totals['read']:,} read, no other exception, no signal, memory below {MEMORY >> 30} GiB"
    )


if __name__ == "__main__":
    main()
