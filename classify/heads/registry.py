"""The heads: name -> how to build it for features of a given shape.

Every head is a scikit-learn pipeline with its scaling inside, so that nothing is ever fitted on
anything but the training rows it is given, and has `predict_proba`. Why the settings are what they
are is measured in HEADS.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from classify.large import FeatureBlocks
from featurize.cache import Features
from featurize.core.errors import HeadError, UsageError, suggestion

MAX_ITERATIONS = 1000
FOLDS = 3
PCA_COMPONENTS = 512  # for the discriminants
COLUMNS_FOR_TREES = 128
ROWS_FOR_TEMPERATURE = 10_000  # of the heads whose fit would take too long twice


@dataclass(frozen=True)
class Task:
    """What a head is built for: `rows` x `dim` training features, a seed, a number of threads, class weights.

    `class_weight` is `balanced`, which gives every class the same weight however many rows it has, or None.
    `mirror` is that of the features. `image` is the shape (rows, columns, channels) of features that are
    the pixels of an image.
    """

    rows: int
    dim: int
    seed: int = 0
    jobs: int = 1
    class_weight: str | None = None
    mirror: np.ndarray | None = None
    image: tuple[int, ...] | None = None

    @classmethod
    def of(cls, train: Features | FeatureBlocks, seed: int = 0, jobs: int = 1, class_weight: str | None = None) -> Self:
        """The task that these training features set."""
        dim = train.dim if isinstance(train, FeatureBlocks) else train.x.shape[1]
        return cls(len(train.y), dim, seed, jobs, class_weight, train.mirror, train.image)


def logreg(task: Task) -> Any:
    """Multinomial logistic regression, the linear probe."""
    from sklearn.linear_model import LogisticRegression

    return _standardised(LogisticRegression(C=0.01, class_weight=task.class_weight, tol=3e-4, max_iter=MAX_ITERATIONS))


def svm(task: Task) -> Any:
    """SVM with an RBF kernel."""
    from classify.heads.svm import RBFSVM

    machine = RBFSVM(class_weight=task.class_weight, n_jobs=task.jobs)
    return _standardised(_calibrated(machine, task, max_rows=ROWS_FOR_TEMPERATURE))


def linear_svm(task: Task) -> Any:
    """Linear SVM, one against the rest, with the squared hinge loss."""
    from classify.heads.svm import LinearSVM

    return _standardised(_calibrated(LinearSVM(class_weight=task.class_weight, max_iter=MAX_ITERATIONS), task))


def xgboost(task: Task) -> Any:
    """Gradient-boosted trees on linear discriminants and the first principal components.

    Trees split on one feature at a time: they see no slanted border, and their time grows with the
    length of the vector. The discriminants are the slanted borders; for the training rows they are
    fitted on the folds that a row is not in, as they would be too sure of their own rows.
    """
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.ensemble import StackingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    from classify.heads.trees import BoostedTrees

    trees = BoostedTrees(class_weight=task.class_weight, n_jobs=task.jobs, random_state=task.seed)
    first = FunctionTransformer(leading, kw_args={"columns": COLUMNS_FOR_TREES})
    discriminants = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return _standardised(
        PCA(min(PCA_COMPONENTS, task.dim, task.rows), random_state=task.seed),
        StackingClassifier(
            [("lda", discriminants)],
            make_pipeline(first, _calibrated(trees, task)),
            cv=_folds(task),
            passthrough=True,
        ),
    )


def mlp(task: Task) -> Any:
    """A hidden layer of ReLU with dropout, trained with Keras; on mirrored images too, where their vectors are known.

    These are worth a longer training and stronger smoothing of the labels, which only a temperature from
    as many images sets right.
    """
    from classify.heads.mlp import MLPHead

    network = MLPHead(class_weight=task.class_weight, n_jobs=task.jobs, random_state=task.seed)
    if task.mirror is None:
        return _standardised(_calibrated(network, task, max_rows=ROWS_FOR_TEMPERATURE))
    network.set_params(mirror=task.mirror, hidden=1024, label_smoothing=0.1, epochs=20)
    return _standardised(_calibrated(network, task))


def knn(task: Task) -> Any:
    """The vote of the 20 nearest neighbours."""
    from classify.heads.neighbours import Neighbours

    return _standardised(Neighbours(20, class_weight=task.class_weight, n_jobs=task.jobs))


def cnn(task: Task) -> Any:
    """A small convolutional network, trained from scratch on the images themselves: what transfer learning must beat.

    Raises:
        HeadError: the features are no pixels.
    """
    from sklearn.pipeline import make_pipeline

    from classify.heads.cnn import ConvNet

    if task.image is None:
        raise HeadError(
            "cnn is trained on images, but these features are a network's vectors; make a file of the images with "
            "python -m featurize --backbone pixels, and name it with --features"
        )
    return make_pipeline(ConvNet(task.image, class_weight=task.class_weight, n_jobs=task.jobs, random_state=task.seed))


def dummy(task: Task) -> Any:
    """The training rows' shares of the classes, whatever the features: what any head must beat."""
    from sklearn.dummy import DummyClassifier

    return _standardised(DummyClassifier(strategy="prior"))


def stack(task: Task) -> Any:
    """Logistic regression on what the heads of `ALL` say of rows they were not trained on (Wolpert, 1992)."""
    from sklearn.ensemble import StackingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    blender = LogisticRegression(C=0.1, class_weight=task.class_weight, max_iter=MAX_ITERATIONS)
    return make_pipeline(
        StackingClassifier(
            [(name, HEADS[name](task)) for name in ALL],
            make_pipeline(FunctionTransformer(clipped_log), blender),
            cv=_folds(task),
            stack_method="predict_proba",
        )
    )


HEADS: dict[str, Callable[[Task], Any]] = {
    "logreg": logreg,
    "svm": svm,
    "linear-svm": linear_svm,
    "xgboost": xgboost,
    "mlp": mlp,
    "knn": knn,
    "cnn": cnn,
    "dummy": dummy,
    "stack": stack,
}
ALL = ("logreg", "svm", "xgboost", "mlp")
FOLDED = ("xgboost", "stack")
"""Heads that need a row of each class in each of `FOLDS` folds."""
HEADS_IN_BLOCKS = ("logreg", "linear-svm", "xgboost")
"""Heads that can be fitted on features larger than memory (classify/out_of_core.py)."""


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


def signed_root(x: np.ndarray) -> np.ndarray:
    """The square root of each value's size, with its sign; float32 stays float32.

    ReLU features have long tails that a linear rescaling leaves as they are (Arandjelovic and
    Zisserman, Three things everyone should know to improve object retrieval, 2012).
    """
    return np.copysign(np.sqrt(np.abs(x)), x)


def leading(x: np.ndarray, columns: int) -> np.ndarray:
    """The first columns."""
    return x[:, :columns]


def clipped_log(probabilities: np.ndarray) -> np.ndarray:
    """The logarithm of probabilities, none below one in a million."""
    return np.log(np.clip(probabilities, 1e-6, None))


def _calibrated(classifier: Any, task: Task, max_rows: int | None = None) -> Any:
    """Neither margins are probabilities, nor what a flexible classifier says of few rows it has learned by heart."""
    from classify.heads.calibration import TemperatureCalibrated

    return TemperatureCalibrated(classifier, max_rows, task.seed)


def _folds(task: Task) -> Any:
    from sklearn.model_selection import StratifiedKFold

    return StratifiedKFold(FOLDS, shuffle=True, random_state=task.seed)


def _standardised(*steps: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    return make_pipeline(FunctionTransformer(signed_root), StandardScaler(), *steps)
