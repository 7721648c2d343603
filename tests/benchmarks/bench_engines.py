"""How fast is the frozen VGG16 here? Our engines, the whole pipeline, and what else could run it.

    python tests/benchmarks/bench_engines.py --sizes 32,96,224 --rounds 3 --out analysis/output/bench

Everything runs in this process on the same real images, one after the other in interleaved rounds;
the table shows medians. `pip install torch openvino onnxruntime` adds these to the comparison. The
weights are random: the time does not depend on them. FLOPs are those of the direct convolution, so
that an algorithm that needs fewer of them can exceed the processor's peak, which is measured between
the rounds as a product of two 4096 x 4096 float32 matrices.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import matplotlib.pyplot as plt
import numpy as np

from featurize import load_backbone, load_dataset
from featurize.core.environment import library_versions
from featurize.core.errors import FrozenbenchError
from featurize.engines.choice import ENGINES, REFERENCE, default_batch_size
from featurize.extraction import ExtractionOptions, Plan, carry_out, plan_extraction
from featurize.images import ImageDataset, Split
from featurize.images.resize import resized
from featurize.networks import Backbone, preprocessed

THREADS = joblib.cpu_count(only_physical_cores=True)
PASS_SECONDS, PIPELINE_SECONDS = 3.0, 20.0
"""About how long one measurement of the fastest engine, and of the pipeline with it, should take."""
BATCHES = (8, 16, 32, 64, 128, 256)
PIXELS_AT_ONCE = 256 * 64**2
"""Largest batch that is tried, in pixels."""

LABEL = {name: "TensorFlow, tf.function" if name == REFERENCE else f"engine {name}" for name in ENGINES}
END_TO_END = "end to end, into HDF5"
LIMITS = ("ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")
"""Environment variables that hold oneDNN, OpenBLAS and numba to older instructions."""
PACKAGES = ("tensorflow", "keras", "mnn", "numpy", "openvino", "onnxruntime", "torch")

Forward = Callable[[np.ndarray], object]
"""Runs uint8 images (n, size, size, 3) through the network."""


def keras_predict(network: Backbone) -> Forward:
    return lambda images: network.model.predict(
        preprocessed(images.astype(np.float32), network.preprocess), batch_size=32, verbose=0
    )


def onnx_file(network: Backbone, folder: Path) -> Path:
    from keras_to_onnx import to_onnx

    path = folder / "network.onnx"
    path.write_bytes(to_onnx(network.model, network.layers).SerializeToString())
    return path


def channels_first(images: np.ndarray, network: Backbone) -> np.ndarray:
    batch = preprocessed(images.astype(np.float32), network.preprocess)
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))


def openvino(network: Backbone, folder: Path) -> Forward:
    import openvino

    core = openvino.Core()
    # Without the hint it computes in bfloat16 where the processor can, with errors of a percent.
    settings = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(onnx_file(network, folder)), "CPU", settings).create_infer_request()
    return lambda images: request.infer([channels_first(images, network)])[0]


def onnxruntime(network: Backbone, folder: Path) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(onnx_file(network, folder), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": channels_first(images, network)})[0]


def torch(network: Backbone, folder: Path) -> Forward:
    import torch

    torch.set_num_threads(THREADS)
    steps: list[torch.nn.Module] = []
    for layer in network.model.layers[1:]:
        if not layer.weights:
            steps.append(torch.nn.MaxPool2d(2))
            continue
        kernel, bias = (torch.from_numpy(weight.numpy()) for weight in layer.weights)
        convolution = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
        convolution.weight.data, convolution.bias.data = kernel.permute(3, 2, 0, 1), bias
        steps += [convolution, torch.nn.ReLU(inplace=True)]
    model = torch.nn.Sequential(*steps).eval().to(memory_format=torch.channels_last)

    def run(images: np.ndarray) -> object:
        batch = preprocessed(images.astype(np.float32), network.preprocess)
        with torch.inference_mode():
            return model(torch.from_numpy(batch).permute(0, 3, 1, 2)).numpy()

    return run


def in_batches(run: Forward, images: np.ndarray, batch: int) -> list[object]:
    return [run(images[start : start + batch]) for start in range(0, len(images), batch)]


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def best_batch(run: Forward, images: np.ndarray) -> int:
    """The batch size with which a few images are fastest."""
    size = images.shape[1]
    rates = {}
    for batch in [batch for batch in BATCHES if batch * size**2 <= PIXELS_AT_ONCE] or BATCHES[:1]:
        some = images[np.arange(batch) % len(images)]
        run(some)
        rates[batch] = batch / min(seconds(lambda some=some: run(some)) for _ in range(2))
    return max(rates, key=lambda batch: rates[batch])


def gemm_peak() -> float:
    """GFLOP/s of a large matrix product, the best of three."""
    a = np.random.default_rng(0).random((4096, 4096), np.float32)
    return 2 * 4096**3 / min(seconds(lambda: a @ a) for _ in range(3)) / 1e9


def gflop_per_image(network: Backbone) -> float:
    """Multiplications and additions of the direct convolutions."""
    total, size = 0.0, network.image_size
    for layer in network.model.layers[1:]:
        if layer.weights:
            total += 2 * size**2 * float(np.prod(layer.weights[0].shape))
        else:
            size //= 2
    return total / 1e9


def contenders(network: Backbone, folder: Path) -> dict[str, Forward]:
    """What can run the network here, by name."""
    found: dict[str, Forward] = {}
    for name, (make, _) in ENGINES.items():
        try:
            found[LABEL[name]] = make(network)
        except FrozenbenchError as error:
            print(f"left out: {error}")
    found["Keras predict"] = keras_predict(network)
    for name, make_peer in (("OpenVINO", openvino), ("ONNX Runtime", onnxruntime), ("PyTorch channels_last", torch)):
        try:
            found[name] = make_peer(network, folder)
        except ImportError as error:
            print(f"left out: {name} ({error})")
    return found


def repeated(split: Split, count: int) -> Split:
    """The split's images over and over, `count` of them."""
    rows = np.arange(count) % len(split)
    return Split(split.images[rows], split.labels[rows], np.arange(count))


def pipeline(plan: Plan, folder: Path) -> None:
    """From the data set's images to a cache in a file."""
    path = folder / "x.h5"
    path.unlink(missing_ok=True)
    carry_out(dataclasses.replace(plan, path=path))


def compare(size: int, rounds: int, folder: Path) -> dict[str, object]:
    """Images per second of everything that can run the network on images of one size."""
    network = load_backbone("vgg16", weights="random", image_size=size)
    running = contenders(network, folder)
    sample = load_dataset("sample").splits["train"]
    images = resized(np.asarray(sample.images[: BATCHES[-1]]), size, "bicubic")
    batches = {name: best_batch(run, images) for name, run in running.items()}
    here = [name for name in ENGINES if LABEL[name] in running]
    engine = min(here, key=lambda name: seconds(lambda: running[LABEL[name]](images[:64])))
    batch = default_batch_size(size)
    rate = batch / seconds(lambda: running[LABEL[engine]](images[:batch]))
    images = resized(np.asarray(repeated(sample, round(PASS_SECONDS * rate)).images), size, "bicubic")
    dataset = ImageDataset(
        "sample", load_dataset("sample").class_names, {"train": repeated(sample, round(PIPELINE_SECONDS * rate))}
    )
    plan = plan_extraction(dataset, network, ExtractionOptions(engine=engine), out=folder / "x.h5")
    pipeline(plan, folder)  # compares with TensorFlow once
    work = {name: partial(in_batches, run, images, batches[name]) for name, run in running.items()}
    work[END_TO_END] = partial(pipeline, plan, folder)
    counts = {name: len(dataset.splits["train"]) if name == END_TO_END else len(images) for name in work}
    times: dict[str, list[float]] = {name: [] for name in work}
    peaks = [gemm_peak()]
    for number in range(rounds):
        for name, run in work.items():
            times[name].append(seconds(run))
        peaks.append(gemm_peak())
        print(f"{size} px: round {number + 1} of {rounds}", file=sys.stderr)
    peak, flop = statistics.median(peaks), gflop_per_image(network)
    rates = {name: counts[name] / statistics.median(values) for name, values in times.items()}
    return {
        "size": size,
        "images": len(images),
        "engine": engine,
        "gemm_peak_gflops": peak,
        "gflop_per_image": flop,
        "rows": [
            {
                "name": name,
                "batch": batches.get(name, plan.batch_size),
                "images_per_second": rate,
                "ratio_to_tensorflow": rate / rates[LABEL[REFERENCE]],
                "share_of_gemm_peak": rate * flop / peak,
                "seconds": times[name],
            }
            for name, rate in sorted(rates.items(), key=lambda item: -item[1])
        ],
        "end_to_end_to_engine": rates[END_TO_END] / rates[LABEL[engine]],
    }


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['size']} px, {result['images']} images, GEMM peak {result['gemm_peak_gflops']:.0f} GFLOP/s")
    print(f"{'':28}{'batch':>6}{'images/s':>10}{'/ TensorFlow':>14}{'/ GEMM peak':>13}")
    for row in result["rows"]:
        print(
            f"{row['name']:28}{row['batch']:>6}{row['images_per_second']:>10.1f}"
            f"{row['ratio_to_tensorflow']:>14.2f}{row['share_of_gemm_peak']:>13.2f}"
        )
    print(f"end to end / engine {result['engine']} alone: {result['end_to_end_to_engine']:.3f}")


def per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.1f}/s"


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Bars: images per second as a multiple of TensorFlow's, a panel for each size."""
    figure, panels = plt.subplots(
        1, len(results), figsize=(4.2 * len(results), 3.6), squeeze=False, layout="constrained"
    )
    for axes, result in zip(panels[0], results, strict=True):
        rows = result["rows"][::-1]
        ours = [row["name"].startswith(("engine", END_TO_END)) for row in rows]
        bars = axes.barh(
            [row["name"] for row in rows],
            [row["ratio_to_tensorflow"] for row in rows],
            color=["#0072B2" if own else "#999999" for own in ours],
        )
        axes.bar_label(bars, [per_second(row["images_per_second"]) for row in rows], padding=3, fontsize=8)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(title=f"{result['size']} x {result['size']} px", xlabel="images per second, TensorFlow = 1")
        axes.set_xlim(0, 1.3 * max(row["ratio_to_tensorflow"] for row in rows))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="32,96,224", help="image sizes, comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("analysis/output/bench"))
    arguments = parser.parse_args()
    results = []
    for size in arguments.sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results.append(compare(int(size), arguments.rounds, Path(folder)))
        show(results[-1])
    arguments.out.mkdir(parents=True, exist_ok=True)
    facts = {
        "machine": f"{platform.machine()}, {THREADS} cores",
        "environment": {name: os.environ[name] for name in LIMITS if name in os.environ},
        "versions": library_versions(PACKAGES),
        "results": results,
    }
    (arguments.out / "engines.json").write_text(json.dumps(facts, indent=1))
    plot(results, arguments.out / "engines.png")
    print(f"\n{arguments.out / 'engines.json'}\n{arguments.out / 'engines.png'}")


if __name__ == "__main__":
    main()
