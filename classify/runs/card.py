"""The model card of a run, its README.md: what it is, what it is worth, and where that ends.

After Mitchell et al., Model Cards for Model Reporting, 2019.
"""

from collections.abc import Iterable
from typing import Any

from classify.runs.persist import HEAD
from classify.runs.results import RESULT, RunResult

CARD = "README.md"
USE = [
    "    python -m classify predict RUN IMAGE...",
    f"RUN is this directory. `{HEAD}` is loaded without pickle, and only if its SHA-256 is the one in `{RESULT}`.",
]


def model_card(result: RunResult) -> str:
    """The card as Markdown, from the run's record alone."""
    spec, bounds = result.spec, _interval(result.accuracy_low, result.accuracy_high)
    network = f"features of a frozen network ({spec['backbone']}, {result.weights} weights)"
    made_of = network if spec["weights_digest"] else "the pixels themselves"
    parts = [
        f"# {result.model} on {_cell(result.features)}",
        f"A classifier of images into {len(result.class_names)} classes: the head `{result.model}`, trained on "
        f"{made_of}. It is right for {_percent(result.accuracy)} of {result.test_rows:,} test images (95% interval "
        f"{bounds}).",
        "## Use",
        *(USE if result.head_sha256 else ["The head itself was not kept: train it again."]),
        "## Data",
        _table(
            ("", ""),
            {
                "data set": result.dataset,
                "classes": ", ".join(result.class_names),
                "training images": f"{result.train_rows:,}",
                "test images": f"{result.test_rows:,}",
                "SHA-256 of the test images, labels and ids": result.test_digest,
            }.items(),
        ),
        "## Features",
        _table(
            ("", ""),
            {
                "backbone": spec["backbone"],
                "weights": result.weights,
                "SHA-256 of the weights": spec["weights_digest"] or "(none)",
                "layers": ", ".join(result.layers),
                "pooling": spec["pool"],
                "vector": f"{result.dim:,} x {spec['dtype']}",
                "images": f"resized to {spec['image_size']} x {spec['image_size']} pixels, {spec['resize']}",
                "preprocessing": spec["preprocess"],
                "mirror image averaged in": "yes" if spec["flip"] else "no",
                "engine": f"{spec['engine']} {spec['engine_version']}".strip() or "(none)",
                "fingerprint": result.fingerprint,
            }.items(),
        ),
        "## Head",
        _table(
            ("setting", "value"),
            {
                **result.parameters,
                "seed": result.seed,
                "class weight": result.class_weight or "none",
                "tuned": f"by {result.tuned} trials on the training images" if result.tuned else "no: default settings",
                "iterations": "-" if result.iterations is None else f"{result.iterations:,}",
                "converged": {None: "-", True: "yes", False: "no"}[result.converged],
            }.items(),
        ),
        "## Results on the test images",
        _table(
            ("", "value", "95% interval"),
            [
                ("accuracy", _percent(result.accuracy), bounds),
                ("macro F1", _percent(result.macro_f1), _interval(result.macro_f1_low, result.macro_f1_high)),
                ("log loss", f"{result.log_loss:.3f}", ""),
                ("Brier score", f"{result.brier:.3f}", ""),
                ("expected calibration error", _percent(result.ece), ""),
            ],
        ),
        "The share of each class's test images that is found (recall):",
        _table(
            ("class", "images", "recall", "95% interval"),
            [
                (name, f"{result.support[name]:,}", *((_percent(found[0]), _interval(*found[1:])) if found else "--"))
                for name, found in result.recall.items()
            ],
        ),
        "Test images by the probability of their predicted class, and the share of them that is right (calibration):",
        _table(
            ("images", "mean probability", "right"),
            [
                (f"{part['rows']:,}", _percent(part["confidence"]), _percent(part["accuracy"]))
                for part in result.reliability
            ],
        ),
        "## Cost",
        f"The fit took {result.fit_seconds:.1f} s, the prediction {result.predict_ms_per_image:.3f} ms per image once "
        f"its features are there, on a machine of {result.machine}.",
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(result)),
        "## Versions",
        _table(("", ""), result.versions.items()),
        f"Finished {result.finished}.",
    ]
    return "\n\n".join(parts) + "\n"


def _limits(result: RunResult) -> list[str]:
    limits = [
        "The figures hold for images made as the test images were. Others (another camera, size, framing or style) are "
        "recognised less well, and the probabilities do not say so.",
        "Every image is given one of the classes above, whatever it shows.",
        "The intervals cover the choice of the test images, not that of the training images or the seed.",
        f"Heads measured on these test images by then, this one included: {result.test_opened}. The best of many is "
        "chosen a little by luck.",
    ]
    if shape := result.source.get("image_shape"):
        limits.append(
            f"`predict` first brings an image to {shape[0]} x {shape[1]} pixels, the size of the training images "
            f"(aspect: {result.spec['aspect']}): nothing finer is seen."
        )
    if result.dataset == "cifar10-partial":
        limits.insert(
            0,
            f"Trained on {result.train_rows:,} of CIFAR-10's 50,000 training images and measured on "
            f"{result.test_rows:,} of its 10,000 test images: not comparable with published results.",
        )
    if result.converged is False:
        limits.append("The solver stopped before it had converged.")
    return limits + [f"Warning of the fit: {' '.join(warning.split())}" for warning in result.warnings]


def _table(heading: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    """A value on one line, without the characters that end a cell or begin an HTML tag."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _interval(low: float, high: float) -> str:
    return f"{_percent(low)} to {_percent(high)}"
