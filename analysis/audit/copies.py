"""Pictures that are there twice: equal pixels, and near copies, which are shifted, mirrored or saved again.

Candidates are nearest neighbours, in the space of the vectors and among mirrored outlines. The pixels decide.
"""

from dataclasses import dataclass

import numpy as np

from analysis.audit.pictures import OUTLINE_SIZE, Pictures
from analysis.audit.suspects import Rows

NEIGHBOURS = 3
BLOCK = 2_048
WIDE = 16_384  # columns of a block of similarities
SAMPLE = 2_000
COARSE = 8  # pixels: the side of the pictures that are compared with all others
LEAST_COARSE = 0.8  # correlation of such pictures, below which a pair is not looked at
LEAST_SIMILARITY = 0.8  # correlation of the outlines' gradients, from which a pair is one of copies
SAME_VECTOR = 0.9999  # cosine, if there are no pictures


@dataclass(frozen=True)
class Copies:
    """Pairs of pictures, the most similar first.

    Attributes:
        pairs: the numbers of their rows, int64 (m, 2), the smaller one first.
        kinds: `exact`, `near` or `mirrored`, or `vector` if only the vectors are known, (m,).
        similarity: correlation of the pictures' gradients, or cosine of the vectors, -1..1, (m,).
    """

    pairs: np.ndarray
    kinds: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.pairs)

    def across(self, rows: Rows) -> np.ndarray:
        """Which pairs are in two splits: a leak, (m,)."""
        return np.asarray(rows.splits[self.pairs[:, 0]] != rows.splits[self.pairs[:, 1]])

    def conflicting(self, rows: Rows) -> np.ndarray:
        """Which pairs have different labels, (m,)."""
        return np.asarray(rows.labels[self.pairs[:, 0]] != rows.labels[self.pairs[:, 1]])


def find_copies(components: np.ndarray, pictures: Pictures | None) -> Copies:
    """The copies among pictures.

    Args:
        components: of the vectors, float32 (n, c).
        pictures: None if they are gone; then only equal vectors are found.
    """
    vectors = unit(components)
    neighbours, cosines = nearest(vectors, vectors, NEIGHBOURS)
    if pictures is None:
        pairs, first = _distinct(neighbours, cosines >= SAME_VECTOR)
        return _sorted(pairs, np.full(len(pairs), "vector"), cosines.ravel()[first])
    # Half of the pictures have a nearest neighbour that is less similar than this one; copies are more similar.
    usual = np.median(cosines[:SAMPLE, 0])
    candidates, _ = _distinct(neighbours, cosines >= usual)
    coarse = coarse_outlines(pictures.outlines)
    small = unit(coarse.reshape(len(coarse), -1))
    flipped = unit(coarse[:, :, ::-1].reshape(len(coarse), -1))
    mirrored, cosines = nearest(flipped, small, 1)
    more, _ = _distinct(mirrored, cosines >= LEAST_COARSE)
    exact = equal_pixels(pictures.digests)
    candidates = np.unique(np.concatenate([candidates, more]), axis=0)
    similarity, is_mirrored = compare(pictures.outlines, coarse, candidates)
    kept = similarity >= LEAST_SIMILARITY
    found = np.concatenate([exact, candidates[kept]])
    kinds = np.concatenate([np.full(len(exact), "exact"), np.where(is_mirrored[kept], "mirrored", "near")])
    values = np.concatenate([np.ones(len(exact)), similarity[kept]])
    # Pixels that are equal are no near copies: the first of equal pairs is the exact one.
    _, first = np.unique(found, axis=0, return_index=True)
    same = pictures.digests[found[first, 0]] == pictures.digests[found[first, 1]]
    first = first[(kinds[first] == "exact") | ~same]
    return _sorted(found[first], kinds[first], values[first])


def equal_pixels(digests: np.ndarray) -> np.ndarray:
    """Each picture with the first one that has the same digest (n,), int64 (m, 2)."""
    _, first, number = np.unique(digests, return_index=True, return_inverse=True)
    rows = np.flatnonzero(first[number] != np.arange(len(digests)))
    return np.stack([first[number[rows]], rows], axis=1)


def nearest(queries: np.ndarray, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other rows by cosine, in blocks: only a block of similarities is in memory.

    Args:
        queries: unit vectors, float32 (n, c); the i-th is never its own neighbour.
        vectors: unit vectors, float32 (n, c).
        count: of neighbours.

    Returns:
        Their numbers, int64 (n, count), and cosines, float32 (n, count), the nearest first.
    """
    rows = len(queries)
    count = min(count, rows - 1)
    numbers = np.zeros((rows, count), np.int64)
    cosines = np.full((rows, count), -np.inf, np.float32)
    for start in range(0, rows, BLOCK):
        block = slice(start, min(start + BLOCK, rows))
        for left in range(0, rows, WIDE):
            similar = queries[block] @ vectors[left : left + WIDE].T
            own = np.arange(block.start, block.stop)
            own = own[(own >= left) & (own < left + WIDE)]
            similar[own - start, own - left] = -np.inf
            _keep_best(numbers[block], cosines[block], similar, left)
    return numbers, cosines


def _keep_best(numbers: np.ndarray, cosines: np.ndarray, similar: np.ndarray, left: int) -> None:
    """Merge new similarities (b, w), of the rows from `left` on, into the best (b, k), in place."""
    count = min(numbers.shape[1], similar.shape[1])
    for _ in range(count):
        column = similar.argmax(axis=1)
        rows = np.arange(len(similar))
        value = similar[rows, column]
        better = np.flatnonzero(value > cosines[:, -1])
        if not len(better):
            return
        similar[rows, column] = -np.inf
        cosines[better, -1] = value[better]
        numbers[better, -1] = left + column[better]
        order = np.argsort(-cosines[better], axis=1, kind="stable")
        cosines[better] = np.take_along_axis(cosines[better], order, axis=1)
        numbers[better] = np.take_along_axis(numbers[better], order, axis=1)


def compare(outlines: np.ndarray, coarse: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest correlation of the gradients of two pictures, one of them mirrored or not and shifted by a pixel.

    Gradients show where things are, and neither brightness nor a sky that many pictures share.

    Args:
        outlines: uint8 (n, 32, 32).
        coarse: the same pictures, float32 (n, 8, 8).
        pairs: the numbers of two pictures each, (m, 2).

    Returns:
        The correlation, -1..1, (m,), and whether it is that of the mirrored picture, (m,).
    """
    best = np.full(len(pairs), -1.0)
    is_mirrored = np.zeros(len(pairs), bool)
    small = coarse.reshape(len(coarse), -1)
    flipped = coarse[:, :, ::-1].reshape(len(coarse), -1)
    for start in range(0, len(pairs), BLOCK):
        part = pairs[start : start + BLOCK]
        for mirrored, other in ((False, small), (True, flipped)):
            likely = start + np.flatnonzero(correlation(small[part[:, 0]], other[part[:, 1]]) >= LEAST_COARSE)
            one, two = (outlines[pairs[likely, side]].astype(np.float32) for side in (0, 1))
            found = shifted_similarity(one, two[:, :, ::-1] if mirrored else two)
            better = found > best[likely]
            best[likely[better]] = found[better]
            is_mirrored[likely[better]] = mirrored
    return best, is_mirrored


def shifted_similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The highest correlation of the gradients of pictures (m, 32, 32) over shifts by up to a pixel, (m,)."""
    best = np.full(len(one), -1.0)
    inner = OUTLINE_SIZE - 2
    middle = gradients(one[:, 1:-1, 1:-1])
    for down in range(3):
        for right in range(3):
            moved = gradients(other[:, down : down + inner, right : right + inner])
            best = np.maximum(best, correlation(middle, moved))
    return best


def gradients(pictures: np.ndarray) -> np.ndarray:
    """The horizontal and the vertical differences of pictures (m, s, s), (m, 2 (s - 2)^2)."""
    across = pictures[:, 1:-1, 2:] - pictures[:, 1:-1, :-2]
    down = pictures[:, 2:, 1:-1] - pictures[:, :-2, 1:-1]
    both = np.stack([across, down], axis=1)
    return both.reshape(len(both), int(np.prod(both.shape[1:])))


def correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The correlation of the rows of two matrices (m, d), (m,); 0 of a constant row."""
    return np.asarray(np.einsum("md,md->m", unit(one), unit(other)))


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors (n, d) less their mean, scaled to length one; constant vectors become zero."""
    centred = x - x.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(length, 1e-6))


def coarse_outlines(outlines: np.ndarray) -> np.ndarray:
    """Pictures (n, 32, 32) at 8 x 8, float32."""
    step = OUTLINE_SIZE // COARSE
    return outlines.reshape(len(outlines), COARSE, step, COARSE, step).mean(axis=(2, 4), dtype=np.float32)


def _distinct(neighbours: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of rows and neighbours (n, k) that are kept, each once; and where each stands first."""
    rows = np.repeat(np.arange(len(neighbours)), neighbours.shape[1])
    pairs = np.sort(np.stack([rows, neighbours.ravel()], axis=1), axis=1)
    at = np.flatnonzero(kept.ravel())
    distinct, first = np.unique(pairs[at], axis=0, return_index=True)
    return distinct, at[first]


def _sorted(pairs: np.ndarray, kinds: np.ndarray, similarity: np.ndarray) -> Copies:
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -similarity))
    return Copies(pairs[order], kinds[order], similarity[order])
