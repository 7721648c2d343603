"""The registry of heads: each name with the function that builds the head.

A head is a scikit-learn pipeline with `predict_proba`. Its scaling is part of the pipeline, so that
everything is fitted on the head's own training rows only.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from classify.heads.own import class_name, imported, is_own, own_head
from featurize.cache import FeatureRows
from featurize.core.errors import HeadError, UsageError, suggestion

MAX_ITERATIONS = 1000
FOLDS = 3
PCA_COMPONENTS = 512  # input of the discriminants
COMPONENTS_FOR_TREES = 118  # beside the probabilities
ROWS_FOR_A_ROUND = 20  # of boosting
LEAST_ROUNDS, MOST_ROUNDS = 10, 600
ROWS_FOR_THREADS = 4_000  # of the trees
ROWS_FOR_TEMPERATURE = 10_000  # limits the second fit of the slow heads


@dataclass(frozen=True)
class Task:
    """What a head is built for.

    Attributes:
        rows: number of training rows.
        dim: length of a feature vector.
        seed: seed of everything random.
        jobs: number of threads.
        class_weight: `balanced` (all classes weigh the same, whatever their number of rows), or None.
        mirror: the permutation of the columns that mirrors the image, (dim,), or None.
        image: shape (height, width, channels) of features that are an image's pixels, or None.
    """

    rows: int
    dim: int
    seed: int = 0
    jobs: int = 1
    class_weight: str | None = None
    mirror: np.ndarray | None = None
    image: tuple[int, ...] | None = None

    @classmethod
    def of(cls, train: FeatureRows, seed: int = 0, jobs: int = 1, class_weight: str | None = None) -> Self:
        """The task for these training features."""
        return cls(len(train.y), train.dim, seed, jobs, class_weight, train.mirror, train.image)


def logreg(task: Task) -> Any:
    """Multinomial logistic regression: the linear probe (Alain and Bengio, 2016)."""
    from sklearn.linear_model import LogisticRegression

    return _standardised(LogisticRegression(C=0.01, class_weight=task.class_weight, tol=3e-4, max_iter=MAX_ITERATIONS))


def svm(task: Task) -> Any:
    """A support vector machine with an RBF kernel (Cortes and Vapnik, Support-Vector Networks, 1995)."""
    from classify.heads.svm import RBFSVM

    machine = RBFSVM(class_weight=task.class_weight, n_jobs=task.jobs)
    return _standardised(_calibrated(machine, task, max_rows=ROWS_FOR_TEMPERATURE))


def linear_svm(task: Task) -> Any:
    """A linear SVM, one against the rest, with the squared hinge loss (Fan et al., LIBLINEAR, 2008)."""
    from classify.heads.svm import LinearSVM

    return _standardised(_calibrated(LinearSVM(class_weight=task.class_weight, max_iter=MAX_ITERATIONS), task))


def xgboost(task: Task) -> Any:
    """Gradient-boosted trees (Chen and Guestrin, 2016) that start from linear discriminants.

    A tree splits on one feature at a time: it cannot draw an oblique boundary, and its training time
    grows with the length of the vector. So the trees see the leading principal components and the
    probabilities by linear discriminants, and boosting starts from the latter. Each training row gets
    those fitted on the folds without it, because they would be overconfident on their own rows.

    With few rows, most of what the trees add is noise: the number of rounds grows with the rows.
    """
    from sklearn.decomposition import PCA
    from sklearn.ensemble import StackingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    from classify.heads.lda import ShrinkageLDA
    from classify.heads.trees import BoostedTrees

    # On fewer rows, threads wait longer than they work, and on a busy machine many times as long (measured).
    threads = task.jobs if task.rows >= ROWS_FOR_THREADS else 1
    trees = BoostedTrees(
        n_estimators=min(max(task.rows // ROWS_FOR_A_ROUND, LEAST_ROUNDS), MOST_ROUNDS),
        starts_from_probabilities=True,
        class_weight=task.class_weight,
        n_jobs=threads,
        random_state=task.seed,
    )
    components = min(PCA_COMPONENTS, task.dim, task.rows)
    unseen = max(0, components - COMPONENTS_FOR_TREES)
    return _standardised(
        PCA(components, random_state=task.seed),
        StackingClassifier(
            [("lda", ShrinkageLDA(class_weight=task.class_weight, random_state=task.seed))],
            make_pipeline(FunctionTransformer(without_last, kw_args={"columns": unseen}), _calibrated(trees, task)),
            cv=_folds(task),
            passthrough=True,
        ),
    )


def lda(task: Task) -> Any:
    """Linear discriminants (Fisher, 1936) with a shrunk covariance, in closed form."""
    from classify.heads.lda import ShrinkageLDA

    return _standardised(ShrinkageLDA(class_weight=task.class_weight, random_state=task.seed))


def mlp(task: Task) -> Any:
    """A perceptron with one hidden layer and dropout (Srivastava et al., 2014), trained with Keras.

    If the features of the mirror images are known, it trains on them too. That pays for more epochs and
    stronger label smoothing, which in turn needs a temperature fitted on all rows.
    """
    from classify.heads.mlp import MLPHead

    network = MLPHead(class_weight=task.class_weight, n_jobs=task.jobs, random_state=task.seed)
    if task.mirror is None:
        return _standardised(_calibrated(network, task, max_rows=ROWS_FOR_TEMPERATURE))
    network.set_params(mirror=task.mirror, hidden=1024, label_smoothing=0.1, epochs=20)
    return _standardised(_calibrated(network, task))


def knn(task: Task) -> Any:
    """The weighted vote of the 20 nearest neighbours, or of all rows if there are fewer (Cover and Hart, 1967)."""
    from classify.heads.neighbours import Neighbours

    return _standardised(Neighbours(min(20, task.rows), class_weight=task.class_weight, n_jobs=task.jobs))


def cnn(task: Task) -> Any:
    """A small convolutional network (see `ConvNet`) trained from scratch: the control for transfer learning.

    Raises:
        HeadError: the features are not pixels.
    """
    from sklearn.pipeline import make_pipeline

    from classify.heads.cnn import ConvNet

    if task.image is None:
        raise HeadError(
            "cnn is trained on images, but these features are a network's vectors; make a cache of the images with "
            "frozenbench featurize --backbone pixels, then pass it with --features"
        )
    return make_pipeline(ConvNet(task.image, class_weight=task.class_weight, n_jobs=task.jobs, random_state=task.seed))


def dummy(task: Task) -> Any:
    """The class frequencies of the training rows, whatever the features: the baseline of every head."""
    from sklearn.dummy import DummyClassifier

    return _standardised(DummyClassifier(strategy="prior"))


def stack(task: Task) -> Any:
    """Logistic regression on the out-of-fold probabilities of the heads in `STACKED` (Wolpert, 1992)."""
    from sklearn.ensemble import StackingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    # Each head is fitted on folds, too: its PCA cannot have more components than a fold has rows.
    task = dataclasses.replace(task, rows=task.rows * (FOLDS - 1) // FOLDS)
    blender = LogisticRegression(C=0.1, class_weight=task.class_weight, max_iter=MAX_ITERATIONS)
    return make_pipeline(
        StackingClassifier(
            [(name, HEADS[name](task)) for name in STACKED],
            make_pipeline(FunctionTransformer(clipped_log), blender),
            cv=_folds(task),
            stack_method="predict_proba",
        )
    )


HEADS: dict[str, Callable[[Task], Any]] = {
    "logreg": logreg,
    "svm": svm,
    "linear-svm": linear_svm,
    "lda": lda,
    "xgboost": xgboost,
    "mlp": mlp,
    "knn": knn,
    "cnn": cnn,
    "dummy": dummy,
    "stack": stack,
}
ALL = ("logreg", "lda", "svm", "xgboost", "mlp")
STACKED = ("logreg", "svm", "xgboost", "mlp")
FOLDED = ("xgboost", "stack")
"""Heads that need at least `FOLDS` training rows of each class."""
HEADS_IN_BLOCKS = ("logreg", "linear-svm", "lda", "xgboost")
"""Heads that can be fitted on features larger than memory, see `classify.large`."""


def head_names(models: str) -> list[str]:
    """The heads in a comma-separated list, each once; `all` stands for the heads in `ALL`.

    Raises:
        UsageError: a name is unknown, or the list is empty.
    """
    known = [*HEADS, "all"]
    names: list[str] = []
    for name in filter(None, (part.strip() for part in models.split(","))):
        if name not in known:
            raise UsageError(f"--model {name}: no such head; {suggestion(name, known)}")
        names += ALL if name == "all" else [name]
    if not names:
        raise UsageError(f"--model names no head; {suggestion('', known)}")
    return list(dict.fromkeys(names))


def make_head(estimator: Any, task: Task) -> Any:
    """An unfitted head, a scikit-learn pipeline.

    Args:
        estimator: a key of `HEADS`, `module:Class`, or an unfitted classifier, see `classify.heads.own`.
        task: what the head is for.

    Raises:
        UsageError: there is no head of this name, or the classifier cannot be a head.
        HeadError: the task asks for something that the head cannot do.
    """
    if isinstance(estimator, str) and not is_own(estimator):
        return HEADS[head_names(estimator)[0]](task)
    classifier = imported(estimator) if isinstance(estimator, str) else estimator
    return own_head(classifier, task.seed, task.class_weight)


def estimator_name(estimator: Any) -> str:
    """What runs and messages call a head: a key of `HEADS`, or the class of a classifier of the user's.

    Of `module:Class` it is the class, or `module.Class` if one of our heads has that name.
    """
    if not isinstance(estimator, str):
        return class_name(estimator)
    module, _, attribute = estimator.rpartition(":")
    return estimator.replace(":", ".") if module and attribute in HEADS else attribute


def signed_root(x: np.ndarray) -> np.ndarray:
    """The square root of each absolute value, with the value's sign; float32 stays float32.

    It shortens the long tails of ReLU features, which linear scaling does not (Arandjelovic and
    Zisserman, Three things everyone should know to improve object retrieval, 2012).
    """
    return np.copysign(np.sqrt(np.abs(x)), x)


def without_last(x: np.ndarray, columns: int) -> np.ndarray:
    """All but the last `columns` columns."""
    return x[:, : x.shape[1] - columns]


def clipped_log(probabilities: np.ndarray) -> np.ndarray:
    """The logarithm of probabilities, which are raised to one in a million at least."""
    return np.log(np.clip(probabilities, 1e-6, None))


def _calibrated(classifier: Any, task: Task, max_rows: int | None = None) -> Any:
    """Wraps a classifier in temperature calibration."""
    from classify.heads.calibration import TemperatureCalibrated

    return TemperatureCalibrated(classifier, max_rows, task.seed)


def _folds(task: Task) -> Any:
    """The folds of a head that is fitted on the predictions of others."""
    from sklearn.model_selection import StratifiedKFold

    return StratifiedKFold(FOLDS, shuffle=True, random_state=task.seed)


def _standardised(*steps: Any) -> Any:
    """A pipeline of the steps behind `signed_root` and scaling to zero mean and unit variance."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    return make_pipeline(FunctionTransformer(signed_root), StandardScaler(), *steps)
