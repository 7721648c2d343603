"""Trees boosted by the workers of a Dask cluster together, on rows that stay with them."""

import asyncio
import contextlib
import functools
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tiny_blocks import FEW_TREES, make_cache, make_wide_cache, set_block_rows

from classify.heads.registry import HEADS_IN_BLOCKS
from classify.heads.trees import BoostedTrees
from classify.large import boosting, memory
from classify.large.blocks import FeatureBlocks
from classify.large.memory import memory_needed
from classify.large.workers import Workers
from classify.runs.persist import HEAD, load_head, save_head
from classify.training import train
from classify.training.evaluate import FittedHead, evaluate_head, fit_head
from classify.training.job import Job
from classify.training.train import train_heads
from featurize.cache import load_features, read_info
from featurize.core.cluster import connected
from featurize.core.environment import library_versions
from featurize.core.errors import ClusterError, HeadError

distributed = pytest.importorskip("distributed")


@pytest.fixture
def client(client: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cluster that passes for one of many machines."""
    monkeypatch.setattr(Workers, "on_loopback", False)
    return client


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of 12 columns for the trees, in blocks of 70 rows."""
    monkeypatch.setattr("classify.heads.registry.PCA_COMPONENTS", 20)
    monkeypatch.setattr("classify.heads.registry.COMPONENTS_FOR_TREES", 9)
    set_block_rows(monkeypatch, 70, dim=40)
    return make_wide_cache(tmp_path / "wide.h5", 600, 40)


def fit(path: Path, client: Any = None, **options: Any) -> FittedHead:
    rows = FeatureBlocks.of(read_info(path), "train")
    options = {"settings": FEW_TREES, "class_weight": "balanced", "seed": 3, **options}
    return fit_head("xgboost", rows, client=client, **options)


TREES = next(iter(FEW_TREES)).removesuffix("n_estimators")
EXACT = FEW_TREES | {f"{TREES}{share}": 1.0 for share in ("subsample", "colsample_bynode")} | {f"{TREES}max_bin": 1024}
"""No lots, and a step for every value: several workers, each of which sorts its own rows, find other steps than one."""


@pytest.mark.parametrize("weight", [None, "balanced"])
def test_the_trees_are_those_of_this_process(weight: str | None, client: Any, wide: Path, tmp_path: Path) -> None:
    options: Any = {"settings": EXACT, "class_weight": weight}
    here, ours = fit(wide, **options), fit(wide, client, **options)
    test = load_features(wide, "test")
    np.testing.assert_allclose(ours.head.predict_proba(test.x), here.head.predict_proba(test.x), atol=2e-3)
    pairs = [(ours.head, here.head), *zip(ours.head, here.head, strict=True)]
    pairs += zip(ours.head[3].final_estimator_, here.head[3].final_estimator_, strict=True)
    pairs += [
        (each[0][3].final_estimator_[1].estimator_, each[1][3].final_estimator_[1].estimator_) for each in pairs[:1]
    ]
    for step, reference in pairs:
        assert type(step) is type(reference)
        assert vars(step).keys() == vars(reference).keys()
        assert str(step.get_params()) == str(reference.get_params())
    calibrated, expected = (each.head[3].final_estimator_[1] for each in (ours, here))
    np.testing.assert_array_equal(calibrated.classes_, expected.classes_)
    assert calibrated.temperature_ == pytest.approx(expected.temperature_, rel=5e-3)
    assert calibrated.temperature_ != 1
    assert calibrated.temperature_.dtype == np.float32
    assert ours.warnings == here.warnings == ()
    digest = save_head(ours.head, tmp_path / "head.skops")
    again = load_head(tmp_path / "head.skops", digest)
    np.testing.assert_array_equal(again.predict_proba(test.x), ours.head.predict_proba(test.x))


def test_as_good_as_here(client: Any, wide: Path) -> None:
    test = load_features(wide, "test")
    here, ours = (evaluate_head(each, test).metrics for each in (fit(wide), fit(wide, client)))
    assert ours.accuracy == pytest.approx(here.accuracy, abs=0.05)
    assert ours.log_loss == pytest.approx(here.log_loss, abs=0.05)


def test_two_classes(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 7)
    path = make_cache(tmp_path / "two.h5", 2)
    here, ours = (fit(path, where, settings=EXACT) for where in (None, client))
    x = load_features(path, "test").x
    np.testing.assert_allclose(ours.head.predict_proba(x), here.head.predict_proba(x), atol=2e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_parameters_are_those_of_a_fit(classes: int) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(300, 5)).astype(np.float32), np.arange(300) % classes
    expected = BoostedTrees(30, random_state=5).fit(x, y)
    ours = BoostedTrees(30, random_state=5)
    ours.classes_, ours.n_features_in_ = np.arange(classes), 5

    def boost(parameters: dict[str, Any], rounds: int) -> Any:
        import xgboost

        assert not {"n_jobs", "nthread"} & parameters.keys()
        matrix = xgboost.QuantileDMatrix(x, y, max_bin=parameters["max_bin"])
        return xgboost.train(parameters, matrix, rounds)

    np.testing.assert_array_equal(ours.fit_booster(boost).predict_proba(x), expected.predict_proba(x))


def gathered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What comes from the workers to this process."""
    found: list[Any] = []
    gather = distributed.Client._gather_remote

    async def spy(self: Any, *args: Any) -> Any:
        response = await gather(self, *args)
        found.extend(response.get("data", {}).values())
        return response

    monkeypatch.setattr(distributed.Client, "_gather_remote", spy)
    return found


def test_the_rows_stay_where_they_are(client: Any, wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = []
    boost = boosting._boost

    async def spy(client: Any, parameters: Any, rounds: int, data: Any, *more: Any) -> Any:
        assert data.shape == (600, 12)
        assert data.dtype == np.float32
        assert data.chunks[0] == (350, 250)
        persisted = client.persist(data)
        await distributed.wait(persisted)
        matrices.append(await client.who_has(client.futures_of(persisted)))
        return await boost(client, parameters, rounds, data, *more)

    monkeypatch.setattr(boosting, "_boost", spy)
    found = gathered(monkeypatch)
    fit(wide, client)
    shapes = {each.shape for each in found if isinstance(each, np.ndarray)}
    assert {columns for _, columns in shapes} == {3}  # scores
    assert sum(each.size for each in found if isinstance(each, np.ndarray)) == 3 * 120
    places = [sorted(address for [address] in matrix.values()) for matrix in matrices]
    assert places[0] == sorted(client.nthreads())
    assert places[1] == places[0]
    assert set(client.run(lambda: len(memory._blocks)).values()) == {0}
    # Where the cluster is this machine's own, they come here.
    monkeypatch.setattr(Workers, "on_loopback", True)
    fit(wide, client)
    assert 12 in {each.shape[1] for each in found if isinstance(each, np.ndarray)}


def test_nobody_else_reaches_a_cluster_of_this_machine(shared_client: Any, wide: Path) -> None:
    """XGBoost would have each worker listen on all interfaces."""
    heard, done = set(), threading.Event()

    def listen() -> None:
        while not done.wait(0.01):
            for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    heard.update(
                        link.laddr.ip for link in process.net_connections() if link.status == psutil.CONN_LISTEN
                    )

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        fit(wide, shared_client)
    finally:
        done.set()
        thread.join()
    assert heard == {"127.0.0.1"}
    assert Workers(shared_client).on_loopback


@pytest.mark.slow
def test_a_worker_that_is_killed(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workers, "on_loopback", False)
    monkeypatch.setattr(boosting, "PATIENCE", 0.5)
    boost = boosting._boost

    async def spy(client: Any, *args: Any) -> Any:
        pid = min((await client.run(os.getpid)).values())
        asyncio.get_running_loop().call_later(3, os.kill, pid, signal.SIGKILL)
        return await boost(client, *args)

    monkeypatch.setattr(boosting, "_boost", spy)
    message = r"^the workers could not boost the trees together \(.+\): all of them are needed to the end, and one was "
    versions = functools.partial(library_versions, ("frozenbench",))
    with connected("local:2", versions) as client, pytest.raises(ClusterError, match=message) as caught:
        fit(wide, client, settings={next(iter(FEW_TREES)): 1_000_000})
    assert "\n" not in str(caught.value)


class TestRuns:
    @pytest.fixture
    def jobs(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
        """Three that are too large for a worker, and one that is not."""
        set_block_rows(monkeypatch, 13)
        monkeypatch.setattr(train, "worker_memory", little_memory)
        info = read_info(cache)
        return [*(Job(name, info) for name in HEADS_IN_BLOCKS), Job("dummy", info, layers=("late",))]

    @pytest.mark.slow
    def test_what_is_too_large_for_a_worker_is_fitted_by_all(
        self, jobs: list[Job], client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        teams = []
        start = Workers.__init__

        def spy(self: Any, client: Any) -> None:
            teams.append(set(client.nthreads()))
            start(self, client)

        monkeypatch.setattr(Workers, "__init__", spy)
        found = {}
        for job in jobs:
            teams.clear()
            with distributed.get_task_stream(client) as tasks:
                there, stopped = train_heads([job], tmp_path / "there", client=client)
            assert stopped == []
            [found[job.model]] = there.items()
            if job.model == "dummy":
                assert (len(tasks.data), teams) == (1, [])
            else:
                assert teams
                assert {task["worker"] for task in tasks.data} == set(client.nthreads())
        for job in jobs:
            [(here_dir, here)] = train_heads([job], tmp_path / "here")[0].items()
            run_dir, result = found[job.model]
            assert run_dir.name == here_dir.name
            assert sorted(os.listdir(run_dir)) == sorted(os.listdir(here_dir))
            assert result.parameters.pop("blocks", 0) == (0 if job.model == "dummy" else 10)
            assert result.parameters == here.parameters
            assert result.accuracy == pytest.approx(here.accuracy, abs=0.1)
            assert (result.train_rows, result.test_rows, result.warnings) == (120, 60, here.warnings)
            head = load_head(run_dir / HEAD, result.head_sha256)
            assert head.predict_proba(np.zeros((1, result.dim), np.float32)).shape == (1, 3)

    def test_trees_for_which_even_all_workers_are_too_small(
        self, jobs: list[Job], client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        message = (
            r"xgboost in blocks of rows takes about 0.0 GB on each of 2 workers: use estimator "
            r"logreg,linear-svm,lda, or"
        )
        monkeypatch.setattr(train, "worker_memory", less_memory)
        with pytest.raises(HeadError, match=message):
            train_heads([job for job in jobs if job.model == "xgboost"], tmp_path, client=client)


def little_memory(dask_worker: Any) -> int:
    """Too little for 120 rows of 16 numbers; two of it are enough for what trees need of them."""
    return memory_needed(100, 16)


def less_memory(dask_worker: Any) -> int:
    return memory_needed(80, 16)
