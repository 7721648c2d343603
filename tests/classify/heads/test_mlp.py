import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from estimator_checks import exceptions
from sklearn.utils.estimator_checks import estimator_checks_generator
from tiny_data import make_dataset, make_vectors

from classify.heads.mlp import MLPHead

DATASET = make_dataset(150, 60)
X, Y = make_vectors(DATASET.splits["train"]), DATASET.splits["train"].labels
X_TEST = make_vectors(DATASET.splits["test"], seed=1)


# Every fit builds a network, which takes a third of a second: checks with many fits are for `make test-all`.
MANY_FITS = {
    "check_classifier_data_not_an_array",
    "check_dict_unchanged",
    "check_estimators_dtypes",
    "check_estimators_overwrite_params",
    "check_f_contiguous_array_estimator",
    "check_fit2d_1feature",
    "check_fit_score_takes_y",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_pipeline_consistency",
    "check_positive_only_tag_during_fit",
    "check_readonly_memmap_input",
    "check_supervised_y_2d",
}


def contract(estimator: MLPHead) -> Iterator[Any]:
    """scikit-learn's checks of an estimator, those of `MANY_FITS` and of read-only input marked slow."""
    for _, check in estimator_checks_generator(estimator):
        name = check.func.__name__
        if name in exceptions(estimator):
            continue
        slow = name in MANY_FITS or "readonly_memmap" in check.keywords
        yield pytest.param(estimator, check, id=name, marks=pytest.mark.slow if slow else ())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "check"),
    list(contract(MLPHead(hidden=32, epochs=30, batch_size=16, learning_rate=1e-2, input_dropout=0.0))),
)
def test_the_estimator_contract_of_scikit_learn(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


def test_prediction_is_the_networks_own_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = MLPHead._build
    monkeypatch.setattr(MLPHead, "_build", lambda self, *args: built.append(build(self, *args)) or built[-1])
    head = MLPHead(hidden=16, epochs=3, random_state=0).fit(X, Y)
    logits = built[0](X_TEST, training=False).numpy()
    reference = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_proba(X_TEST), reference, rtol=1e-4)
    assert head.predict_proba(X_TEST).dtype == np.float32


def test_the_loss_falls_and_is_kept() -> None:
    head = MLPHead(hidden=16, epochs=12, learning_rate=1e-2, random_state=0).fit(X, Y)
    assert head.n_iter_ == 12
    assert {name: len(values) for name, values in head.history_.items()} == {"loss": 12, "accuracy": 12}
    assert head.history_["loss"][-1] < 0.8 * head.history_["loss"][0]
    assert 0 < head.history_["accuracy"][0] < head.history_["accuracy"][-1] <= 1


def test_training_leaves_the_global_generators_alone() -> None:
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    MLPHead(hidden=4, epochs=1, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_an_epochs_loss_is_that_of_all_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras' `train_on_batch` gives that of its batch."""
    per_batch = []
    build = MLPHead._build

    def recorded(*args: object) -> object:
        model = build(*args)
        step = model.train_on_batch
        model.train_on_batch = lambda x, *rest: per_batch.append([len(x), *step(x, *rest)]) or per_batch[-1][1:]
        return model

    monkeypatch.setattr(MLPHead, "_build", recorded)
    head = MLPHead(hidden=4, epochs=1, batch_size=40, random_state=0).fit(X, Y)
    rows, losses, accuracies = np.array(per_batch).T
    assert set(rows) == {37, 38}
    assert head.history_["loss"] == pytest.approx([(rows * losses).sum() / 150])
    assert 150 * head.history_["accuracy"][0] == pytest.approx(np.round(rows * accuracies).sum())


MIRROR = np.arange(X.shape[1])[::-1]


def test_mirrored_rows_are_trained_on() -> None:
    """Its own forward pass, without the mean over both sides, is as good on mirrored rows as on the others."""
    for mirror, learned in ((MIRROR, True), (None, False)):
        head = MLPHead(hidden=32, epochs=30, learning_rate=1e-2, mirror=mirror, random_state=0).fit(X, Y)
        head.mirror = None
        accuracy = (head.predict(X_TEST[:, MIRROR]) == DATASET.splits["test"].labels).mean()
        assert (accuracy > 0.75) == learned, accuracy


def test_a_row_and_its_mirrored_row_are_the_same_to_it() -> None:
    head = MLPHead(hidden=8, epochs=2, mirror=MIRROR, random_state=0).fit(X, Y)
    sides = head.predict_proba(X_TEST), head.predict_proba(X_TEST[:, MIRROR])
    np.testing.assert_allclose(*sides, rtol=1e-5)
    np.testing.assert_allclose(sides[0].sum(axis=1), 1, rtol=1e-5)
    head.mirror = None
    assert not np.allclose(sides[0], head.predict_proba(X_TEST), rtol=1e-2)


def test_with_a_mirror_an_epoch_has_each_row_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    build = MLPHead._build

    def recorded(*args: object) -> object:
        model = build(*args)
        step = model.train_on_batch
        model.train_on_batch = lambda x, y, w: seen.append((x, y)) or step(x, y, w)
        return model

    monkeypatch.setattr(MLPHead, "_build", recorded)
    MLPHead(hidden=2, epochs=1, batch_size=64, mirror=MIRROR, random_state=0).fit(X, Y)
    assert len(seen) == -(-2 * len(X) // 64)
    inputs, labels = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    both = np.concatenate([X, X[:, MIRROR]])
    order, expected = np.lexsort(inputs.T), np.lexsort(both.T)
    np.testing.assert_array_equal(inputs[order], both[expected])
    np.testing.assert_array_equal(labels.argmax(axis=1)[order], np.tile(Y, 2)[expected])
    assert (inputs[:16, 0] != both[:16, 0]).any()  # shuffled


def test_one_class_only() -> None:
    with pytest.raises(ValueError, match="one class only: 2"):
        MLPHead().fit(X, np.full(len(X), 2))


def test_a_fitted_head_needs_no_tensorflow() -> None:
    import subprocess
    import sys

    head = MLPHead(hidden=4, epochs=1, random_state=0).fit(X, Y)
    code = (
        "import pickle, sys; head, x, p = pickle.load(sys.stdin.buffer); import numpy as np;"
        "assert np.array_equal(head.predict_proba(x), p); assert 'tensorflow' not in sys.modules"
    )
    payload = pickle.dumps((head, X_TEST, head.predict_proba(X_TEST)))
    subprocess.run([sys.executable, "-c", code], input=payload, check=True)


@pytest.mark.slow
def test_the_threads_reach_tensorflow() -> None:
    import subprocess
    import sys

    code = (
        "import numpy as np, tensorflow as tf; from classify.heads.mlp import MLPHead;"
        "MLPHead(hidden=2, epochs=1, n_jobs=3).fit(np.eye(4, dtype='f'), [0, 1, 0, 1]);"
        "assert tf.config.threading.get_intra_op_parallelism_threads() == 3"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_balanced_weights_reach_the_loss() -> None:
    rows = np.concatenate([np.flatnonzero(Y == 0), np.flatnonzero(Y == 1)[:5], np.flatnonzero(Y == 2)[:5]])
    shares = [
        MLPHead(hidden=16, epochs=10, class_weight=weight, random_state=0)
        .fit(X[rows], Y[rows])
        .predict_proba(X_TEST)
        .mean(axis=0)
        for weight in (None, "balanced")
    ]
    assert shares[1][0] < 0.95 * shares[0][0]
