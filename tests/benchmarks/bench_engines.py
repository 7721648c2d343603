"""How fast is the frozen VGG16 here? Our engines, the whole pipeline, and what else could run it.

    python tests/benchmarks/bench_engines.py --sizes 32,96,224 --precision all --out analysis/output/bench

Everything runs in this process on the same real images, one after the other in interleaved rounds; the table shows
medians. `--precision all` adds bfloat16 and int8, each beside what its users get: OpenVINO at its default precision and
quantised by NNCF, ONNX Runtime quantised by its own tool, TensorFlow with `mixed_bfloat16`, PyTorch in bfloat16.
`pip install torch nncf onnx onnxruntime` adds these to the comparison; what is missing is named.

The weights are random: the time does not depend on them. FLOPs are those of the direct convolution, so that an
algorithm that needs fewer of them can exceed the processor's peak, which is measured between the rounds as a product of
two 4096 x 4096 float32 matrices. Results of other sizes and numbers of threads stay in the JSON file.
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
from featurize.core.environment import import_keras, library_versions, limit_threads, processor_name
from featurize.core.errors import FrozenbenchError
from featurize.engines import tensorflow_engine
from featurize.engines.choice import ENGINES, REFERENCE, WINOGRAD, choose_engine, default_batch_size
from featurize.extraction import ExtractionOptions, Plan, carry_out, plan_extraction
from featurize.images import ImageDataset, Split
from featurize.images.resize import resized
from featurize.networks import Backbone, preprocessed
from featurize.runtimes import import_openvino

PASS_SECONDS, PIPELINE_SECONDS = 1.5, 20.0
"""About how long one measurement of an engine, and of the pipeline, should take."""
BATCHES = (8, 16, 32, 64, 128, 256)
PIXELS_AT_ONCE = 256 * 64**2
"""Largest batch that is tried, in pixels."""

PRECISIONS = ("float32", "bfloat16", "int8")
TENSORFLOW = "TensorFlow, tf.function"
OURS = f"engine {WINOGRAD}"
END_TO_END = "end to end, into HDF5"
CALIBRATION_IMAGES = 128
LIMITS = ("ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")
"""Environment variables that hold oneDNN, OpenBLAS and numba to older instructions."""
PACKAGES = ("tensorflow", "keras", "numpy", "openvino", "nncf", "onnx", "onnxruntime", "torch")

Forward = Callable[[np.ndarray], object]
"""Runs uint8 images (n, size, size, 3) through the network."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be run: a network, images for calibration, a folder for files, and the number of threads."""

    network: Backbone
    calibration: np.ndarray
    folder: Path
    threads: int

    def prepared(self, images: np.ndarray) -> np.ndarray:
        """Preprocessed images (n, 3, size, size)."""
        batch = preprocessed(images.astype(np.float32), self.network.preprocess)
        return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))

    def onnx_file(self) -> Path:
        """The network as an ONNX file."""
        sys.path.append(str(Path(__file__).parents[1]))
        from keras_to_onnx import to_onnx

        path = self.folder / "network.onnx"
        if not path.exists():
            path.write_bytes(to_onnx(self.network.model, self.network.layers).SerializeToString())
        return path


def ours(task: Task, name: str, precision: str) -> Forward:
    """One of our engines, which is made and checked on its first images."""
    return choose_engine(
        task.network, name, task.calibration, precision=precision, calibration=task.calibration, remember=False
    ).run


def keras_predict(task: Task) -> Forward:
    network = task.network
    return lambda images: network.model.predict(
        preprocessed(images.astype(np.float32), network.preprocess), batch_size=32, verbose=0
    )


def mixed_bfloat16(task: Task) -> Forward:
    """TensorFlow as users get bfloat16: by Keras' policy."""
    keras = import_keras()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = load_backbone("vgg16", weights="random", image_size=task.network.image_size)
    finally:
        keras.config.set_dtype_policy("float32")
    return tensorflow_engine(network)


def openvino_by_default(task: Task) -> Forward:
    """OpenVINO without a hint: in bfloat16, where the processor can."""
    return compiled_by_default(task, import_openvino().Core().read_model(task.onnx_file()))


def openvino_int8(task: Task) -> Forward:
    model = import_openvino().Core().read_model(task.onnx_file())
    import nncf

    images = task.prepared(task.calibration)
    samples = nncf.Dataset([images[row : row + 1] for row in range(len(images))])
    return compiled_by_default(task, nncf.quantize(model, samples, subset_size=len(images)))


def compiled_by_default(task: Task, model: Any) -> Forward:
    settings = {"INFERENCE_NUM_THREADS": task.threads}
    request = import_openvino().Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda images: request.infer([task.prepared(images)])[0]


def onnx_runtime(task: Task) -> Forward:
    return onnx_session(task, task.onnx_file())


def onnx_runtime_int8(task: Task) -> Forward:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(task.prepared(task.calibration))

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {"images": image[np.newaxis]}

    quantized = task.folder / "quantized.onnx"
    quantize_static(task.onnx_file(), quantized, Reader(), per_channel=True)
    return onnx_session(task, quantized)


def onnx_session(task: Task, file: Path) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": task.prepared(images)})[0]


def torch(task: Task, precision: str) -> Forward:
    import torch

    torch.set_num_threads(task.threads)
    dtype = getattr(torch, precision)
    steps: list[torch.nn.Module] = []
    for layer in task.network.model.layers[1:]:
        if not layer.weights:
            steps.append(torch.nn.MaxPool2d(2))
            continue
        kernel, bias = (torch.from_numpy(weight.numpy()) for weight in layer.weights)
        convolution = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
        convolution.weight.data, convolution.bias.data = kernel.permute(3, 2, 0, 1), bias
        steps += [convolution, torch.nn.ReLU(inplace=True)]
    model = torch.nn.Sequential(*steps).eval().to(dtype=dtype, memory_format=torch.channels_last)

    def run(images: np.ndarray) -> object:
        batch = preprocessed(images.astype(np.float32), task.network.preprocess)
        with torch.inference_mode():
            return model(torch.from_numpy(batch).permute(0, 3, 1, 2).to(dtype)).float().numpy()

    return run


PEERS: dict[str, dict[str, Callable[[Task], Forward]]] = {
    "float32": {
        "Keras predict": keras_predict,
        "ONNX Runtime": onnx_runtime,
        "PyTorch channels_last": partial(torch, precision="float32"),
    },
    "bfloat16": {
        "OpenVINO, its default": openvino_by_default,
        "TensorFlow, mixed_bfloat16": mixed_bfloat16,
        "PyTorch channels_last": partial(torch, precision="bfloat16"),
    },
    "int8": {"OpenVINO, NNCF": openvino_int8, "ONNX Runtime, quantize_static": onnx_runtime_int8},
}
"""What others can run, by precision and name. OpenVINO in float32 is one of our engines."""


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


def contenders(task: Task, precisions: list[str]) -> tuple[dict[tuple[str, str], Forward], dict[str, str]]:
    """What can run the network here, by precision and name; and what cannot, with the reasons."""
    makers: dict[tuple[str, str], Callable[[], Forward]] = {}
    for precision in precisions:
        engines = ENGINES if precision == "float32" else [WINOGRAD]
        for name in engines:
            label = TENSORFLOW if name == REFERENCE else f"engine {name}"
            makers[precision, label] = partial(ours, task, name, precision)
        for name, make in PEERS[precision].items():
            makers[precision, name] = partial(make, task)
    found, missing = {}, {}
    for key, make in makers.items():
        try:
            found[key] = make()
            found[key](task.calibration[:8])
        except (FrozenbenchError, ImportError) as error:
            missing[", ".join(reversed(key))] = str(error)
    return found, missing


def repeated(split: Split, count: int) -> Split:
    """The split's images over and over, `count` of them."""
    rows = np.arange(count) % len(split)
    return Split(split.images[rows], split.labels[rows], np.arange(count))


def pipeline(plan: Plan, folder: Path) -> None:
    """From the data set's images to a cache in a file."""
    path = folder / "x.h5"
    path.unlink(missing_ok=True)
    carry_out(dataclasses.replace(plan, path=path))


def compare(size: int, rounds: int, folder: Path, precisions: list[str], threads: int) -> dict[str, Any]:
    """Images per second of everything that can run the network on images of one size."""
    network = load_backbone("vgg16", weights="random", image_size=size)
    sample = load_dataset("sample").splits["train"]
    images = resized(np.asarray(sample.images[: BATCHES[-1]]), size, "bicubic")
    task = Task(network, images[:CALIBRATION_IMAGES], folder, threads)
    running, missing = contenders(task, precisions)
    batches = {key: best_batch(run, images) for key, run in running.items()}
    work, counts = {}, {}
    for key, run in running.items():
        batch = batches[key]
        some = images[np.arange(batch) % len(images)]
        repeats = max(1, round(PASS_SECONDS / seconds(partial(run, some))))
        work[key] = partial(in_batches, run, np.concatenate([some] * repeats), batch)
        counts[key] = batch * repeats
    if precisions == ["float32"]:
        key = ("float32", END_TO_END)
        rate = default_batch_size(size) / seconds(partial(running["float32", OURS], images[: default_batch_size(size)]))
        part = repeated(sample, round(PIPELINE_SECONDS * rate))
        dataset = ImageDataset("sample", load_dataset("sample").class_names, {"train": part})
        plan = plan_extraction(dataset, network, ExtractionOptions(engine=WINOGRAD), out=folder / "x.h5")
        pipeline(plan, folder)  # compares with TensorFlow once
        work[key], counts[key], batches[key] = partial(pipeline, plan, folder), len(part), plan.batch_size
    times: dict[tuple[str, str], list[float]] = {key: [] for key in work}
    peaks = [gemm_peak()]
    for number in range(rounds):
        for key, run in work.items():
            times[key].append(seconds(run))
        peaks.append(gemm_peak())
        print(f"{size} px: round {number + 1} of {rounds}", file=sys.stderr)
    peak, flop = statistics.median(peaks), gflop_per_image(network)
    rates = {key: counts[key] / statistics.median(values) for key, values in times.items()}
    rows = []
    for (precision, name), rate in rates.items():
        row = {
            "precision": precision,
            "name": name,
            "batch": batches[precision, name],
            "images_per_second": rate,
            "share_of_gemm_peak": rate * flop / peak,
            "seconds": times[precision, name],
            "images": counts[precision, name],
        }
        if ("float32", TENSORFLOW) in rates:
            row["ratio_to_tensorflow"] = rate / rates["float32", TENSORFLOW]
        if (precision, OURS) in rates:
            row["winograd_to_this"] = rates[precision, OURS] / rate
        rows.append(row)
    return {
        "size": size,
        "threads": threads,
        "gemm_peak_gflops": peak,
        "gflop_per_image": flop,
        "rows": sorted(rows, key=lambda row: (PRECISIONS.index(row["precision"]), -row["images_per_second"])),
        "not_measured": missing,
    }


def show(result: dict[str, Any]) -> None:
    peak = result["gemm_peak_gflops"]
    print(f"\n{result['size']} px, {result['threads']} threads, GEMM peak {peak:.0f} GFLOP/s")
    print(f"{'':10}{'':30}{'batch':>6}{'images/s':>10}{'/ TensorFlow':>14}{'winograd / it':>15}{'/ GEMM peak':>13}")
    for row in result["rows"]:
        ratios = [row.get("ratio_to_tensorflow", np.nan), row.get("winograd_to_this", np.nan)]
        print(
            f"{row['precision']:10}{row['name']:30}{row['batch']:>6}{row['images_per_second']:>10.1f}"
            f"{ratios[0]:>14.2f}{ratios[1]:>15.2f}{row['share_of_gemm_peak']:>13.2f}"
        )
    for name, reason in result["not_measured"].items():
        print(f"not measured: {name} ({reason})")


def per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.1f}/s"


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Bars: images per second as a multiple of TensorFlow's in float32, a column for a size, a row for threads."""
    sizes = sorted({result["size"] for result in results})
    counts = sorted({result["threads"] for result in results})
    height = 1.2 + 0.24 * max(len(result["rows"]) for result in results)
    shape = {"figsize": (5.2 * len(sizes), height * len(counts)), "squeeze": False, "layout": "constrained"}
    figure, panels = plt.subplots(len(counts), len(sizes), **shape)
    for axes in panels.flat:
        axes.set_visible(False)
    for result in results:
        axes = panels[counts.index(result["threads"]), sizes.index(result["size"])]
        axes.set_visible(True)
        rows = result["rows"][::-1]
        own = [row["name"].startswith(("engine", END_TO_END)) for row in rows]
        rates = [row.get("ratio_to_tensorflow", row["images_per_second"]) for row in rows]
        bars = axes.barh(
            [f"{row['name']}, {row['precision']}" for row in rows],
            rates,
            color=["#0072B2" if mine else "#999999" for mine in own],
        )
        axes.bar_label(bars, [per_second(row["images_per_second"]) for row in rows], padding=3, fontsize=8)
        axes.axvline(1, color="black", linewidth=0.8)
        threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
        axes.set(
            title=f"{result['size']} x {result['size']} px, {threads}",
            xlabel="times TensorFlow's float32",
        )
        axes.set_xlim(0, 1.3 * max(rates))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def earlier(path: Path, now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results in a JSON file, without those that were measured again."""
    if not path.exists():
        return []
    again = {(result["size"], result["threads"]) for result in now}
    before = json.loads(path.read_text())["results"]
    return [result for result in before if (result["size"], result["threads"]) not in again]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="32,96,224", help="image sizes, comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="float32", choices=[*PRECISIONS, "all"])
    parser.add_argument("--threads", type=int, help="number of threads; all physical cores by default")
    parser.add_argument("--out", type=Path, default=Path("analysis/output/bench"))
    arguments = parser.parse_args()
    if arguments.threads:
        os.environ["LOKY_MAX_CPU_COUNT"] = str(arguments.threads)  # the engines' number of threads
    threads = joblib.cpu_count(only_physical_cores=True)
    import_keras()
    limit_threads(threads)
    precisions = list(PRECISIONS) if arguments.precision == "all" else [arguments.precision]
    results = []
    for size in arguments.sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results.append(compare(int(size), arguments.rounds, Path(folder), precisions, threads))
        show(results[-1])
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "engines.json"
    results = sorted(earlier(path, results) + results, key=lambda result: (result["threads"], result["size"]))
    facts = {
        "machine": f"{platform.machine()}, {processor_name()}",
        "environment": {name: os.environ[name] for name in LIMITS if name in os.environ},
        "versions": library_versions(PACKAGES),
        "results": results,
    }
    path.write_text(json.dumps(facts, indent=1))
    plot(results, arguments.out / "engines.png")
    print(f"\n{path}\n{arguments.out / 'engines.png'}")


if __name__ == "__main__":
    main()
