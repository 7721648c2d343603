"""Where the heads' settings come from, and what the heads cost.

    python tests/benchmarks/bench_heads.py settings CACHE... [--rows 15000]
    python tests/benchmarks/bench_heads.py speed CACHE [--rows 40000]

`settings` measures each head's default and its neighbours by stratified 3-fold cross-validation on
rows of the training split; the test split is never read. `speed` times each head's fit and its
prediction of 10,000 rows, the RBF SVM against scikit-learn's, and a large matrix product, for scale.
"""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from classify.heads.registry import HEADS, Task, make_head
from classify.training.rows import stratified_subset
from classify.training.tuning import fold_scores
from featurize.cache import Features, load_features
from featurize.core.environment import blas_threads

JOBS = os.cpu_count() or 1
FOLDS = 3
HEAD = "temperaturecalibrated__estimator__"
TREES = "stackingclassifier__final_estimator__" + HEAD
PLAIN = {"functiontransformer__func": None}  # without the signed root
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "logreg": [{}, {"logisticregression__C": 0.003}, {"logisticregression__C": 0.03}, PLAIN],
    "svm": [{}, {HEAD + "C": 3.0}, {HEAD + "C": 30.0}, {HEAD + "width": 0.5}, {HEAD + "width": 2.0}, PLAIN],
    "linear-svm": [{}, {HEAD + "C": 3e-4}, {HEAD + "C": 3e-3}, PLAIN],
    "xgboost": [
        {},
        {TREES + "n_estimators": 150},
        {TREES + "max_depth": 6},
        {"pca__n_components": 128},
        PLAIN,
    ],
    "mlp": [
        {},
        {HEAD + "hidden": 768},
        {HEAD + "input_dropout": 0.4},
        {HEAD + "label_smoothing": 0.1},
        PLAIN,
    ],
}


def cross_validated(train: Features, heads: list[str]) -> Iterator[tuple[str, dict[str, Any], float, float, float]]:
    """Head, settings, accuracy 0..1 and log loss over all folds, and seconds."""
    task = Task.of(train, jobs=JOBS)
    parts = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(train.x, train.y))
    for name in heads:
        for settings in VARIANTS[name]:
            began = time.perf_counter()
            *_, (accuracy, loss) = fold_scores(name, settings, train, parts, task)
            yield name, settings, accuracy, loss, time.perf_counter() - began


def compare_settings(caches: list[Path], rows: int, heads: list[str]) -> None:
    """Print a row per head, setting and cache."""
    for cache in caches:
        train = stratified_subset(load_features(cache, "train"), rows, seed=0)
        print(f"\n{cache.stem}: {len(train.y):,} x {train.x.shape[1]:,}, {FOLDS} folds\n")
        print("| head | setting | accuracy % | log loss | s |\n|---|---|---|---|---|")
        for name, settings, accuracy, loss, seconds in cross_validated(train, heads):
            said = ", ".join(f"{key.rpartition('__')[2]} {value}" for key, value in settings.items()) or "default"
            print(f"| {name} | {said} | {100 * accuracy:.2f} | {loss:.4f} | {seconds:.0f} |", flush=True)


def gemm_gflops(size: int = 4096) -> float:
    """GFLOP/s of a float32 matrix product."""
    a = np.random.default_rng(0).random((size, size), np.float32)
    a @ a
    began = time.perf_counter()
    a @ a
    return 2 * size**3 / (time.perf_counter() - began) / 1e9


def compare_speed(cache: Path, rows: int, heads: list[str]) -> None:
    """Print what each head's fit and prediction take, and the RBF SVM's beside scikit-learn's."""
    train = stratified_subset(load_features(cache, "train"), rows, seed=0)
    test = np.resize(train.x, (10_000, train.x.shape[1]))
    print(f"{len(train.y):,} x {train.x.shape[1]:,}, {JOBS} threads, matrix product {gemm_gflops():.0f} GFLOP/s\n")
    print("| head | fit s | predict 10,000 s |\n|---|---|---|")
    for name in heads:
        head = make_head(name, Task.of(train, jobs=JOBS))
        began = time.perf_counter()
        head.fit(train.x, train.y)
        fitted = time.perf_counter()
        head.predict_proba(test)
        print(f"| {name} | {fitted - began:.1f} | {time.perf_counter() - fitted:.2f} |", flush=True)
    compare_svms(stratified_subset(train, 10_000, seed=0))


def compare_svms(train: Features) -> None:
    """Time both solvers on the same standardised rows, and measure both on a fifth held out."""
    from sklearn.svm import SVC

    from classify.heads.svm import RBFSVM

    x = make_head("svm", Task.of(train))[:2].fit_transform(train.x)
    cut = len(x) * 4 // 5
    order = np.random.default_rng(0).permutation(len(x))
    fitted, held = order[:cut], order[cut:]
    ours, theirs = RBFSVM(n_jobs=JOBS), SVC(C=RBFSVM().C, gamma=RBFSVM().width / x.shape[1], cache_size=1000)
    for name, machine in (("ours", ours), ("scikit-learn's", theirs)):
        began = time.perf_counter()
        machine.fit(x, train.y)
        print(f"SVM, {len(x):,} x {x.shape[1]:,}, {name}: {time.perf_counter() - began:.1f} s", flush=True)
    for name, machine in (("ours", ours), ("scikit-learn's", theirs)):
        accuracy = (machine.fit(x[fitted], train.y[fitted]).predict(x[held]) == train.y[held]).mean()
        print(f"SVM, accuracy on {len(held):,} rows held out, {name}: {100 * accuracy:.2f}%")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["settings", "speed"])
    parser.add_argument("caches", type=Path, nargs="+")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--heads", default="")
    arguments = parser.parse_args()
    chosen = arguments.heads.split(",") if arguments.heads else list(VARIANTS)
    assert set(chosen) <= set(HEADS)
    with blas_threads(JOBS):
        if arguments.what == "settings":
            compare_settings(arguments.caches, arguments.rows or 15_000, chosen)
        else:
            compare_speed(arguments.caches[0], arguments.rows or 40_000, chosen)
