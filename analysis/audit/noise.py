"""Which labels are suspected: the true class as a hidden variable behind the image and its label.

The joint distribution of true and given labels is the idea of confident learning (Northcutt, Jiang and Chuang,
Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70, 2021). Here it is not counted with thresholds but
estimated by maximum likelihood (EM, as in Dawid and Skene, Applied Statistics 28, 1979), which gives each label a
probability of being wrong. These probabilities rank the labels, choose the cut, and say how precise the list is.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

ROWS_TO_FIT = 30_000
STEPS = 100
CALIBRATION_STEPS = 2  # of L-BFGS in each step of EM
RIGHT_LABELS = 50.0  # invented rows of each class with the right label, so that few rows do not make much noise
TOLERANCE = 1e-6  # of the log-likelihood of a row
LEAST_NOISE = 1e-4  # share of a class with the label of another
# Measured on CIFAR-10 with planted and with human mistakes, see docs/audit.md.
HARD_IMAGES = 0.2  # right labels that are listed, per square of the share of images that the head gets wrong
DOUBTED = 0.5  # share of the right labels that the model expects in a list which are there beside those
IMAGES_TO_ESTIMATE = 5_000
SHARE_TO_ESTIMATE = 0.01  # of the images: with fewer suspects, hard images with right labels may be most of them


@dataclass(frozen=True)
class Noise:
    """How labels come about: softmax(slope * scores + offsets) is the true class, whose row of `labels` is the label.

    Attributes:
        slope: of the scores.
        offsets: of the classes, (K,).
        labels: the probability of each label (columns) for each true class (rows), (K, K).
    """

    slope: float
    offsets: np.ndarray
    labels: np.ndarray

    def classes(self, scores: np.ndarray) -> np.ndarray:
        """The probabilities of the true class, from the image alone, float64 (n, K)."""
        return np.asarray(softmax(self.slope * scores + self.offsets, axis=1))

    def true_classes(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The probabilities of the true class, from the image and its label (n,), float64 (n, K)."""
        joint = self.classes(scores) * self.labels[:, labels].T
        return joint / joint.sum(axis=1, keepdims=True)


def estimate_noise(scores: np.ndarray, labels: np.ndarray, seed: int = 0) -> Noise:
    """Estimate the noise by maximum likelihood, on at most `ROWS_TO_FIT` rows.

    Args:
        scores: of held-out rows, (n, K).
        labels: (n,), 0..K-1.
        seed: of the draw of rows.
    """
    classes = scores.shape[1]
    rows = np.random.default_rng(seed).permutation(len(labels))[:ROWS_TO_FIT]
    scores, labels = scores[rows].astype(np.float64), labels[rows]
    given = np.eye(classes)[labels]
    start = np.full((classes, classes), 0.1 / (classes - 1))
    np.fill_diagonal(start, 0.9)
    noise = Noise(1.0, np.zeros(classes), start)
    before = -np.inf
    for _ in range(STEPS):
        joint = noise.classes(scores) * noise.labels[:, labels].T
        likelihood = float(np.log(joint.sum(axis=1)).mean())
        if likelihood - before < TOLERANCE:
            break
        before = likelihood
        responsible = joint / joint.sum(axis=1, keepdims=True)
        table = responsible.T @ given + LEAST_NOISE + RIGHT_LABELS * np.eye(classes)
        slope, offsets = calibrated(scores, responsible, noise)
        noise = Noise(slope, offsets, table / table.sum(axis=1, keepdims=True))
    return noise


def calibrated(scores: np.ndarray, targets: np.ndarray, start: Noise) -> tuple[float, np.ndarray]:
    """A few steps towards the slope and the offsets with the lowest cross-entropy to the targets (n, K)."""
    rows = len(scores)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logs = log_softmax(parameters[0] * scores + parameters[1:], axis=1)
        slope = (np.exp(logs) - targets) / rows
        gradient = np.concatenate([[np.sum(slope * scores)], slope.sum(axis=0)])
        return -float(np.sum(targets * logs)) / rows, gradient

    first = np.concatenate([[start.slope], start.offsets])
    found = minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": CALIBRATION_STEPS}).x
    return float(found[0]), found[1:]


def list_precision(listed: np.ndarray, images: int, mistakes: float) -> float | None:
    """The share of listed labels that are wrong, within about 10 points; None if the data do not tell.

    The model of the noise takes labels for wrong that lie far from what a head expects. Of mistakes made at random, it
    expects too many, because hard images with right labels look the same. Of people's mistakes it expects too few,
    because people err on hard images. Labels and vectors alone cannot tell one from the other. The estimate lies
    between the two.

    Args:
        listed: the probabilities that the listed labels are wrong, (m,).
        images: number of all images.
        mistakes: the share of them that a head is expected to get wrong, 0..1.
    """
    if images < IMAGES_TO_ESTIMATE or len(listed) < SHARE_TO_ESTIMATE * images:
        return None
    right = HARD_IMAGES * mistakes**2 * images + DOUBTED * float(np.sum(1 - listed))
    return max(0.0, 1 - right / len(listed))


def best_cut(wrong: np.ndarray) -> np.ndarray:
    """The rows, most suspected first, whose list has the highest expected F1.

    Args:
        wrong: the probability of each label being wrong, (n,).
    """
    order = np.argsort(-wrong, kind="stable")
    found = np.cumsum(wrong[order])
    listed = np.arange(1, len(wrong) + 1)
    f1 = 2 * found / (listed + wrong.sum())
    return order[: int(f1.argmax()) + 1]
