"""Look up a million images in another cache, and copy the vectors of those that it holds.

    python tests/benchmarks/bench_growth.py --rows 1000000 --dim 8

Prints seconds, CPU seconds and the peak of memory of each step, and ends with exit code 1 if a vector is wrong.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from featurize.cache import CacheContent, Columns, ExtractionSpec, SplitRecords, load_features, open_writer, taken_rows

SPEC = ExtractionSpec(
    "0" * 64, "net", "ab" * 32, ("x",), "avg", 8, "bicubic", "crop", False, "none", "float32", "tensorflow", "0"
)
FACTS = {"seconds": 1.0, "images_per_second": 1.0, "device": "CPU", "source": {}}
BLOCK = 10_000  # rows


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print what the block costs."""
    wall, processor = time.perf_counter(), time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    seconds = f"{time.perf_counter() - wall:.1f} s, {time.process_time() - processor:.1f} s CPU"
    print(f"{name}: {seconds}, peak {peak:,.0f} MB", flush=True)


def content(digests: np.ndarray, dim: int) -> CacheContent:
    """Everything beside the vectors of images with these digests."""
    rows = np.arange(len(digests))
    return CacheContent(
        "large", ("a", "b"), "", (Columns("x", 0, (dim,)),), {"train": SplitRecords(rows % 2, rows, "", sha256=digests)}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--new", type=int, default=1_000)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    random = np.random.default_rng(asked.seed)
    known = random.integers(0, 256, (asked.rows, 32), np.uint8)
    order = random.permutation(asked.rows)
    wanted, new = known[order], np.sort(random.choice(asked.rows, asked.new, replace=False))
    wanted[new] = random.integers(0, 256, (asked.new, 32), np.uint8)
    spec = replace(SPEC, dataset_digest="1" * 64)
    with tempfile.TemporaryDirectory() as folder:
        old, path = Path(folder) / "old.h5", Path(folder) / "new.h5"
        with step("the old cache"), open_writer(old, SPEC, content(known, asked.dim)) as writer:
            with writer.append("train", 0) as rows:
                for start in range(0, asked.rows, BLOCK):
                    numbers = np.arange(start, min(start + BLOCK, asked.rows), dtype=np.float32)
                    rows.add(np.repeat(numbers[:, np.newaxis], asked.dim, axis=1))
            writer.commit(**FACTS)
        with ExitStack() as stack:
            with step("look-up, with the seal and every vector checked"):
                taken = stack.enter_context(taken_rows(path, spec, {"train": wanted}))
            print(taken.in_words)
            with step("growth"), open_writer(path, spec, content(wanted, asked.dim), taken=taken) as writer:
                with writer.append("train", 0) as rows:
                    rows.add(np.full((asked.new, asked.dim), -1, np.float32))
                writer.commit(**FACTS)
        expected = order.astype(np.float32)
        expected[new] = -1
        if (load_features(path, "train").x != expected[:, np.newaxis]).any():
            raise SystemExit("FAILED: a vector is wrong")


if __name__ == "__main__":
    main()
