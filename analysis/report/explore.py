"""The images behind the figures: mistakes, the map, nearest neighbours, and the data for the page's scripts."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.figures import pictures
from analysis.figures.album import FEWEST_POINTS, Album, album
from analysis.findings import TRANSFER, text
from analysis.frame import pair_counts
from analysis.report.captions import run_name
from analysis.report.content import Explorer, Part, PointMap, Tiles
from classify.runs import RunResult, read_predictions
from featurize.core.errors import DataError

MOST_RUNS = 30  # that can be compared with one another
MISTAKES = 18
WITH_NEIGHBOURS = 6
MAP_CAPTION = (
    "{:,} test images; images with similar vectors are near one another (50 principal components, then t-SNE). "
    "Distances between groups mean little."
)


class Exploration(NamedTuple):
    """The parts of a section, the thumbnails they refer to, the data for the scripts, and what is missing."""

    parts: list[Part]
    thumbnails: Sequence[np.ndarray]
    data: dict[str, Any]
    notes: list[str]
    album: Album | None


def explore(shown: pd.DataFrame, runs: Mapping[Path, RunResult], best: pd.Series) -> Exploration:
    """Everything that shows images, as far as images and vectors still exist.

    Args:
        shown: from `analysis.frame.headline`, best first.
        runs: by directory.
        best: the row whose mistakes and vectors are shown.
    """
    result = runs[Path(best["run_dir"])]
    rows = shown.head(MOST_RUNS)
    if best["run_dir"] not in set(rows["run_dir"]):
        rows = pd.concat([best.to_frame().T, rows.head(MOST_RUNS - 1)])
    predictions = {str(run_dir): read_predictions(Path(run_dir)) for run_dir in rows["run_dir"]}
    first = [best["run_dir"], *(run_dir for run_dir in predictions if run_dir != best["run_dir"])]
    try:
        found = album(result, [predictions[run_dir] for run_dir in first])
    except DataError as error:
        return _without_images(result, str(error))
    of_best = predictions[best["run_dir"]].set_index("id")
    captions = _captions(found, of_best, result.class_names)
    notes = [f"Some images are missing: {reason}" for reason in found.missing]
    parts: list[Part] = []
    wrong = of_best.loc[found.ids[: found.tested], "predicted"].to_numpy() != found.labels[: found.tested]
    if wrong.any():
        mistakes = [(image, captions[image]) for image in np.flatnonzero(wrong)[:MISTAKES].tolist()]
        parts.append(Tiles(f"The most confident mistakes of {run_name(best)}.", [("", mistakes)]))
    if on_map := _map(found, result.class_names, captions):
        parts.append(on_map)
    parts.append(Explorer("Two heads, A and B, on the same test images. A click on an image shows its neighbours."))
    if neighbours := _neighbours(found, result.class_names, captions):
        parts.append(neighbours)
    if found.tested < found.of:
        notes.append(
            f"{found.tested:,} of {found.of:,} test images have a thumbnail: confident mistakes and a random draw."
        )
    if len(shown) > len(rows):
        notes.append(f"The first {len(rows):,} of {len(shown):,} heads can be compared here.")
    return Exploration(
        parts, found.thumbnails, _data(rows, best["run_dir"], predictions, found, result, captions), notes, found
    )


def _without_images(result: RunResult, reason: str) -> Exploration:
    """The map alone, if the vectors still exist."""
    notes = [f"The images cannot be shown: {reason}"]
    try:
        test = pictures.features(result, "test")
    except DataError as error:
        return Exploration([], (), {}, [*notes, f"There is no map: {error}"], None)
    rows = pictures.map_rows(len(test.y))
    if len(rows) < FEWEST_POINTS:
        return Exploration([], (), {}, notes, None)
    labels = test.y[rows]
    captions = [result.class_names[label] for label in labels]
    points = pictures.embedding(test.x[rows])
    caption = MAP_CAPTION.format(len(rows))
    drawn = PointMap(points, labels, result.class_names, captions, [-1] * len(rows), caption)
    return Exploration([drawn], (), {}, notes, None)


def _captions(found: Album, of_best: pd.DataFrame, class_names: Sequence[str]) -> list[str]:
    """The class of each image of the album, and of a mistake of the best head what it is taken for."""
    predicted = of_best["predicted"].loc[found.ids[: found.tested]].to_numpy()
    captions = []
    for label, guess in zip(found.labels[: found.tested], predicted, strict=True):
        name = class_names[label]
        captions.append(name if guess in (label, -1) else f"{name}, taken for {class_names[guess]}")
    return captions + [class_names[label] for label in found.labels[found.tested :]]


def _map(found: Album, class_names: Sequence[str], captions: Sequence[str]) -> PointMap | None:
    on_map = np.flatnonzero(np.isfinite(found.points[:, 0])).tolist()
    if not on_map:
        return None
    return PointMap(
        points=found.points[on_map],
        labels=found.labels[on_map],
        class_names=class_names,
        captions=[captions[image] for image in on_map],
        images=on_map,
        caption=MAP_CAPTION.format(len(on_map)),
    )


def _neighbours(found: Album, class_names: Sequence[str], captions: Sequence[str]) -> Tiles | None:
    """Some test images with the training images that have the nearest vectors."""
    with_any = [image for image, near in enumerate(found.near) if near][:WITH_NEIGHBOURS]
    rows = []
    for image in with_any:
        near = [(other, class_names[found.labels[other]]) for other in found.near[image]]
        rows.append(("", [(image, f"test image: {captions[image]}"), *near]))
    caption = "Left: test images. Right of them: the training images with the nearest vectors (cosine)."
    return Tiles(caption, rows) if rows else None


def _data(
    rows: pd.DataFrame,
    best: str,
    predictions: Mapping[str, pd.DataFrame],
    found: Album,
    result: RunResult,
    captions: Sequence[str],
) -> dict[str, Any]:
    """What the scripts know: classes, runs, and of each image its class, its name, and what runs predict."""
    ids = found.ids[: found.tested]
    run_dirs = [str(run_dir) for run_dir in rows["run_dir"]]
    counts = pair_counts(predictions)
    pairs = {}
    for (a, one), (b, other) in itertools.combinations(enumerate(run_dirs), 2):
        pair = counts[one, other]
        pairs[f"{a}-{b}"] = [pair.both, pair.only_a, pair.only_b, pair.neither, text.p_value(pair.p)]
    paths = predictions[run_dirs[0]].set_index("id").get("path")
    names = captions[: found.tested] if paths is None else paths.loc[ids].tolist()
    return {
        "classes": list(result.class_names),
        "runs": [{"name": run_name(row)} for _, row in rows.iterrows()],
        "images": list(names),
        "labels": found.labels.tolist(),
        "near": found.near,
        "predicted": [predictions[run_dir].set_index("id")["predicted"].loc[ids].tolist() for run_dir in run_dirs],
        "pairs": pairs,
        "best": run_dirs.index(best),
        "control": next((place for place, kind in enumerate(rows["kind"]) if kind != TRANSFER), run_dirs.index(best)),
        "tested": found.tested,
        "of": found.of,
    }
