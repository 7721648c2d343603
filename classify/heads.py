"""The heads: name -> how to build it for features of a given shape.

Every head is a scikit-learn classifier with its scaling inside, so that nothing is ever fitted on
anything but the training split. The settings were chosen on the last 5,000 of 40,000 CIFAR-10
training images, for two kinds of frozen features (VGG16 block3_pool, MobileNetV2).
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurize.errors import UsageError, suggestion

logger = logging.getLogger("frozenbench")

MAX_ITERATIONS = 1000
PCA_COMPONENTS = 256


@dataclass(frozen=True)
class Task:
    """What a head is built for: `rows` x `dim` training features, a seed and a number of threads."""

    rows: int
    dim: int
    seed: int = 0
    jobs: int = 1


def logreg(task: Task) -> Any:
    """Multinomial logistic regression, the linear probe; C = 0.01 on standardised features."""
    from sklearn.linear_model import LogisticRegression

    return _standardised(LogisticRegression(C=0.01, max_iter=MAX_ITERATIONS))


def svm(task: Task) -> Any:
    """SVM with an RBF kernel, C = 10, gamma = 1/d.

    oneDAL's solver (https://uxlfoundation.github.io/scikit-learn-intelex/) where it is installed:
    the same optimum as libsvm's, in a fraction of its time.
    """
    settings: dict[str, Any] = {"C": 10.0, "gamma": "auto", "cache_size": 1000}
    try:
        from sklearnex.svm import SVC

        settings["n_jobs"] = task.jobs
    except ImportError:
        from sklearn.svm import SVC

        if task.rows > 10_000:
            _say_that_the_svm_is_slow()
    return _standardised(SVC(**settings))


def linear_svm(task: Task) -> Any:
    """Linear SVM (squared hinge, primal), C = 0.001."""
    from sklearn.svm import LinearSVC

    return _standardised(LinearSVC(C=0.001, dual=False, max_iter=MAX_ITERATIONS, random_state=task.seed))


def xgboost(task: Task) -> Any:
    """Gradient-boosted trees on the first principal components.

    Trees split on one feature at a time, so their time grows with the length of the vector, while
    neighbouring features of a network say much the same.
    """
    from sklearn.decomposition import PCA
    from xgboost import XGBClassifier

    components = min(PCA_COMPONENTS, task.dim, task.rows)
    trees = XGBClassifier(
        n_estimators=400,
        learning_rate=0.15,
        max_depth=4,
        max_bin=32,
        subsample=0.8,
        colsample_bynode=0.125,
        tree_method="hist",
        n_jobs=task.jobs,
        random_state=task.seed,
    )
    return _standardised(PCA(components, random_state=task.seed), trees)


def mlp(task: Task) -> Any:
    """One hidden layer of 1,024 ReLU with dropout, trained with Keras."""
    from classify.mlp import MLPHead

    return _standardised(MLPHead(random_state=task.seed))


def knn(task: Task) -> Any:
    """The vote of the 20 nearest neighbours."""
    from sklearn.neighbors import KNeighborsClassifier

    return _standardised(KNeighborsClassifier(n_neighbors=20, n_jobs=task.jobs))


def dummy(task: Task) -> Any:
    """The most frequent class, whatever the features: what any head must beat."""
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior", random_state=task.seed)


HEADS: dict[str, Callable[[Task], Any]] = {
    "logreg": logreg,
    "svm": svm,
    "linear-svm": linear_svm,
    "xgboost": xgboost,
    "mlp": mlp,
    "knn": knn,
    "dummy": dummy,
}
ALL = ("logreg", "svm", "xgboost", "mlp")


def head_names(models: str) -> list[str]:
    """The heads named in a comma-separated list; `all` stands for those of `ALL`.

    Raises:
        UsageError: an unknown name, or none.
    """
    names: list[str] = []
    for name in filter(None, (part.strip() for part in models.split(","))):
        if name not in (*HEADS, "all"):
            raise UsageError(f"--model {name}: no such head; {suggestion(name, [*HEADS, 'all'])}")
        names += [new for new in (ALL if name == "all" else [name]) if new not in names]
    if not names:
        raise UsageError(f"--model names no head; {suggestion('', [*HEADS, 'all'])}")
    return names


def make_head(name: str, task: Task) -> Any:
    """An unfitted scikit-learn classifier.

    Raises:
        UsageError: no such head.
    """
    return HEADS[head_names(name)[0]](task)


@functools.cache
def _say_that_the_svm_is_slow() -> None:
    logger.warning(
        "svm: scikit-learn's own solver takes many minutes on this many images; "
        "where there are wheels of it, pip install scikit-learn-intelex brings a faster one"
    )


def signed_root(x: np.ndarray) -> np.ndarray:
    """The square root of each value's size, with its sign; float32 stays float32.

    ReLU features have long tails that a linear rescaling leaves as they are (Arandjelovic and
    Zisserman, Three things everyone should know to improve object retrieval, 2012). Measured: up to
    1.3 points more for the SVM and the MLP, no change beyond 0.3 points for logistic regression.
    """
    return np.copysign(np.sqrt(np.abs(x)), x)


def _standardised(*steps: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    return make_pipeline(FunctionTransformer(signed_root), StandardScaler(), *steps)
