"""The loop of stage 2: feature cache -> head -> evaluation -> run directory."""

import dataclasses
import hashlib
import json
import logging
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from classify.evaluate import Evaluation, fit_and_evaluate, plain_parameters
from classify.heads import Task, make_head
from classify.results import RunResult, write_run
from featurize.cache import CacheInfo, Features, library_versions, load_features
from featurize.errors import DataError

logger = logging.getLogger("frozenbench")
VERSIONS_OF = ("frozenbench", "scikit-learn", "scikit-learn-intelex", "xgboost", "keras", "tensorflow", "numpy")


def train_heads(
    names: Sequence[str],
    info: CacheInfo,
    runs: Path,
    layers: tuple[str, ...] = (),
    seed: int = 0,
    jobs: int = 1,
    *,
    force: bool = False,
) -> dict[Path, RunResult]:
    """Fit and evaluate heads on one cache and keep each as a run.

    Args:
        names: keys of `HEADS`.
        info: the cache, from `read_info`.
        runs: the folder of all runs.
        layers: use only these layers' columns; empty for all.
        seed: for whatever is random in a head.
        jobs: threads.
        force: run again what is already there.

    Returns:
        The result of each head by its run directory, reused ones included.

    Raises:
        FrozenbenchError: the features or a head cannot be used; runs finished before are kept.
    """
    used = layers or tuple(columns.name for columns in info.layers)
    splits: list[Features] = []
    results = {}
    for name in names:
        run_dir = runs / info.path.stem / f"{name}-{_run_hash(info, used, name, seed)}"
        if run_dir.exists() and not force:
            try:
                results[run_dir] = RunResult.read(run_dir)
                logger.info("%s on %s: already there", name, info.path.stem)
                continue
            except DataError as error:
                logger.warning("%s; running it again", error)
        splits = splits or [load_features(info.path, split, layers) for split in ("train", "test")]
        train, test = splits
        logger.info("%s on %s: %s x %s", name, info.path.stem, f"{len(train.y):,}", f"{train.x.shape[1]:,}")
        evaluation = fit_and_evaluate(name, train, test, seed=seed, jobs=jobs)
        for warning in evaluation.warnings:
            logger.warning("%s: %s", name, warning)
        result = _as_result(name, info, train, test, seed, used, evaluation)
        write_run(run_dir, result, _predictions_table(test, evaluation))
        results[run_dir] = result
    return results


def _run_hash(info: CacheInfo, layers: tuple[str, ...], name: str, seed: int) -> str:
    """Eight digits that stand for everything that makes a run what it is."""
    head = make_head(name, Task(info.rows["train"], info.dim, seed=seed))
    steps = [step for _, step in head.steps] if hasattr(head, "steps") else [head]
    settings = [[type(step).__name__, plain_parameters(step)] for step in steps]
    content = [info.spec.fingerprint, layers, name, seed, settings]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _as_result(
    name: str,
    info: CacheInfo,
    train: Features,
    test: Features,
    seed: int,
    layers: tuple[str, ...],
    evaluation: Evaluation,
) -> RunResult:
    """Everything that is to be remembered of a run."""
    return RunResult(
        model=name,
        features=info.path.stem,
        fingerprint=info.spec.fingerprint,
        spec=dataclasses.asdict(info.spec),
        dataset=info.dataset,
        weights=info.weights,
        class_names=list(info.class_names),
        layers=list(layers),
        dim=train.x.shape[1],
        train_rows=len(train.y),
        test_rows=len(test.y),
        test_digest=info.digests["test"],
        seed=seed,
        parameters=evaluation.parameters,
        **evaluation.metrics,  # type: ignore[arg-type]
        fit_seconds=evaluation.fit_seconds,
        predict_ms_per_image=evaluation.predict_ms_per_image,
        iterations=evaluation.iterations,
        converged=evaluation.converged,
        warnings=list(evaluation.warnings),
        versions=library_versions(VERSIONS_OF),
        machine=f"{os.cpu_count()} cores, {platform.machine()}",
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _predictions_table(test: Features, evaluation: Evaluation) -> Any:
    """A DataFrame with a row per test image: id, label, predicted, p_<class>."""
    import pandas as pd

    table = pd.DataFrame({"id": test.ids, "label": test.y, "predicted": evaluation.predicted})
    if evaluation.probabilities is not None:
        for column, name in enumerate(test.class_names):
            table[f"p_{name}"] = evaluation.probabilities[:, column]
    return table
