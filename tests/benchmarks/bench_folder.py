"""What class folders of image files cost.

    python tests/benchmarks/bench_folder.py start [--files 200000]    from nothing to the first batch
    python tests/benchmarks/bench_folder.py speed [--rounds 20]       PNG files against CIFAR-10's binary files

`start` writes small PNG files of 100 classes and measures the seconds until the first batch is ready,
and the most memory taken by then. `speed` runs VGG16's first three blocks at 96 px over the same real
images from both layouts, in turns, and compares wall-clock and processor time.
"""

import argparse
import resource
import struct
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from featurize import ImageDataset, load_backbone, load_dataset
from featurize.extraction import Plan, plan_extraction
from featurize.extraction.extractor import vector_blocks

CLASSES = 100


def write_tiny_pngs(folder: Path, count: int) -> None:
    """So many different PNG files of 8 x 8 pixels, a folder for each class."""
    random = np.random.default_rng(0)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    for number in range(count):
        if number < CLASSES:
            (folder / f"class {number:03}").mkdir(parents=True)
        rows = np.zeros((8, 25), np.uint8)  # a filter byte, then 8 x 3
        rows[:, 1:] = random.integers(0, 256, (8, 24), np.uint8)
        content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + chunk(b"IEND", b"")
        (folder / f"class {number % CLASSES:03}" / f"{number:07}.png").write_bytes(content)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def measure_start(files: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_pngs(Path(folder), files)
        wall, cpu = time.perf_counter(), time.process_time()
        dataset = load_dataset(folder)
        print(
            f"listed, hashed, split: {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} s of processor"
        )
        plan = plan_extraction(dataset, load_backbone("pixels", image_size=96))
        next(vector_blocks(plan, "train", dataset.splits["train"], plan.batch_size))
        print(
            f"first batch:           {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} s of processor"
        )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"most memory:           {memory:,.0f} MiB, libraries included")


def write_layouts(sample: ImageDataset, folder: Path) -> None:
    """The sample's training images as PNG files and as CIFAR-10's binary records."""
    from PIL import Image

    split = sample.splits["train"]
    for number, (image, label) in enumerate(zip(np.asarray(split.images), split.labels, strict=True)):
        for part in ("train", "test") if number < 1000 else ("train",):
            path = folder / "files" / part / sample.class_names[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    planes = np.asarray(split.images).transpose(0, 3, 1, 2).reshape(len(split), -1)
    (folder / "records").mkdir()
    for name in ("data_batch_1.bin", "test_batch.bin"):
        records = np.concatenate([split.labels[:, None].astype(np.uint8), planes], axis=1)
        (folder / "records" / name).write_bytes(records.tobytes())


def measure_speed(rounds: int, images: int) -> None:
    backbone = load_backbone("vgg16", layers=("block3_pool",), image_size=96)
    with tempfile.TemporaryDirectory() as folder:
        write_layouts(load_dataset("sample"), Path(folder))
        plans = {
            name: plan_extraction(load_dataset(f"{folder}/{name}").first(train=images), backbone, pool="grid2")
            for name in ("files", "records")
        }
        print(", ".join(f"{name}: engine {plan.engine.name}" for name, plan in plans.items()))
        ratios = []
        for number in range(rounds + 1):
            taken = {name: seconds(plans[name]) for name in sorted(plans, reverse=number % 2 == 1)}
            ratios.append(taken["files"] / taken["records"])
            print(
                f"{number} (wall, processor): files {taken['files'].round(2)} s, records {taken['records'].round(2)} s"
            )
    wall, cpu = np.median(ratios[1:], axis=0)  # the first round compiles and fills caches
    print(f"files take {wall:.2f} times as long as records, and {cpu:.2f} times the processor time (medians)")


def seconds(plan: Plan) -> np.ndarray:
    """Wall-clock and processor seconds of one pass over the training images."""
    began = np.array([time.perf_counter(), time.process_time()])
    for _ in vector_blocks(plan, "train", plan.dataset.splits["train"], plan.batch_size):
        pass
    return np.array([time.perf_counter(), time.process_time()]) - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("start", "speed"))
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images", type=int, default=256)
    options = parser.parse_args()
    measure_start(options.files) if options.what == "start" else measure_speed(options.rounds, options.images)
