"""The images of a page: some test images with their place on the map, and the training images nearest to them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.figures import pictures
from classify.runs import RunResult
from featurize.cache import Features
from featurize.core.errors import DataError

MISTAKES = 800  # test images beside those of the map
TRAINING = 900  # training images
NEAREST = 4
EXAMPLES = 6  # of each class
CLASSES = 20  # with examples at most
QUERIES = 600  # test images whose neighbours are looked for, mistakes first
FEWEST_POINTS = 4  # of a map


@dataclass(frozen=True)
class Album:
    """The images of a page; test images come first.

    Attributes:
        ids: int64 (n,).
        labels: int64 (n,), 0..K-1.
        thumbnails: n images, uint8 RGB (height, width, 3).
        tested: number of test images among them.
        of: number of all test images.
        points: float (tested, 2), the places on the map; NaN for images that are not on it.
        near: for each test image the numbers of the training images with the nearest vectors; empty if they are not
            in the album.
        examples: numbers of some training images of each class.
        missing: why vectors or training images are missing; empty if they are not.
    """

    ids: np.ndarray
    labels: np.ndarray
    thumbnails: list[np.ndarray]
    tested: int
    of: int
    points: np.ndarray
    near: list[list[int]]
    examples: list[list[int]]
    missing: list[str]


def album(result: RunResult, predictions: Iterable[pd.DataFrame]) -> Album:
    """The images to show with a run: those of the map, more mistakes, their neighbours, and examples of each class.

    Args:
        result: of the best head; its images and vectors are read from where they were.
        predictions: of this head and of others whose mistakes are shown, the most important first; with the columns
            of `read_predictions`.

    Raises:
        DataError: the test images are gone or have changed.
    """
    tables = list(predictions)
    every = tables[0]["id"].to_numpy()
    of_map = every[pictures.map_rows(len(every))]
    ids = np.array(list(dict.fromkeys([*_mistakes(tables), *of_map.tolist()])), np.int64)
    thumbnails = list(pictures.test_images(result, ids))
    labels = tables[0].set_index("id")["label"].loc[ids].to_numpy(np.int64)
    tested = len(ids)
    points = np.full((tested, 2), np.nan)
    near: list[list[int]] = [[] for _ in range(tested)]
    examples: list[list[int]] = []
    missing = []
    try:
        test = pictures.features(result, "test")
        rows = _rows_of(test, ids)
        on_map = np.flatnonzero(np.isin(ids, of_map) & (rows >= 0))
        if len(on_map) >= FEWEST_POINTS:
            points[on_map] = pictures.embedding(test.x[rows[on_map]])
        train = pictures.features(result, "train")
        asked = np.flatnonzero(rows >= 0)[:QUERIES]
        found = pictures.nearest(train.x, test.x[rows[asked]], NEAREST)
        of_class = [np.flatnonzero(train.y == label)[:EXAMPLES].tolist() for label in np.unique(train.y)[:CLASSES]]
        wanted, complete = _training_rows(of_class, found)
        thumbnails += list(pictures.training_images(result, train.ids[wanted]))
        number = {row: tested + place for place, row in enumerate(wanted)}
        examples = [[number[row] for row in rows_of_class] for rows_of_class in of_class]
        for place, nearest in zip(asked[:complete].tolist(), found[:complete].tolist(), strict=True):
            near[place] = [number[row] for row in nearest]
        labels = np.concatenate([labels, train.y[wanted]])
        ids = np.concatenate([ids, train.ids[wanted]])
    except DataError as error:
        missing.append(str(error))
    return Album(
        ids=ids,
        labels=labels,
        thumbnails=thumbnails,
        tested=tested,
        of=len(every),
        points=points,
        near=near,
        examples=examples,
        missing=missing,
    )


def _mistakes(tables: list[pd.DataFrame]) -> list[int]:
    """Ids of mistakes, the most confident first, of one table after the other."""
    found: dict[int, None] = {}
    for table in tables:
        for image in pictures.most_confident_mistakes(table, MISTAKES)["id"].tolist():
            if len(found) < MISTAKES:
                found[image] = None
    return list(found)


def _rows_of(test: Features, ids: np.ndarray) -> np.ndarray:
    """The rows of images (n,) among the vectors; -1 for those that have none, as they were tested in another fold."""
    order = np.argsort(test.ids, kind="stable")
    rows = order[np.searchsorted(test.ids, ids, sorter=order).clip(max=len(test.ids) - 1)]
    return np.where(test.ids[rows] == ids, rows, -1)


def _training_rows(of_class: list[list[int]], found: np.ndarray) -> tuple[list[int], int]:
    """The training rows to show, and for how many test images all neighbours are among them."""
    wanted = dict.fromkeys(row for rows in of_class for row in rows)
    for complete, row in enumerate(found.tolist()):
        more = [each for each in row if each not in wanted]
        if len(wanted) + len(more) > TRAINING:
            return list(wanted), complete
        wanted |= dict.fromkeys(more)
    return list(wanted), len(found)
