"""Heads and trials on real worker processes of a local Dask cluster."""

import dataclasses
import functools
import itertools
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_data import make_dataset, write_tiny_cache

from classify.runs.predictions import read_predictions
from classify.runs.results import RunResult
from classify.training import distributed as on_workers
from classify.training import train
from classify.training.distributed import run_on_workers
from classify.training.job import VERSIONS_OF, Job
from classify.training.train import train_heads
from featurize.cache import read_info
from featurize.core.cluster import check_workers, connected
from featurize.core.environment import library_versions
from featurize.core.errors import ClusterError, HeadError, UsageError

distributed = pytest.importorskip("distributed")
VERSIONS = functools.partial(library_versions, VERSIONS_OF)
WORKERS, THREADS = 2, 2


@contextmanager
def cluster(workers: int, threads: int) -> Iterator[Any]:
    """`--cluster local:<workers>` on a machine of workers x threads cores."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "cpu_count", lambda: workers * threads)
            client = stack.enter_context(connected(f"local:{workers}", VERSIONS))
        yield client


@pytest.fixture(scope="module")
def shared_client() -> Iterator[Any]:
    with cluster(WORKERS, THREADS) as client:
        yield client


@pytest.fixture
def client(shared_client: Any) -> Any:
    """With all its workers, whatever the test before did to them."""
    shared_client.wait_for_workers(WORKERS, timeout=60)
    return shared_client


@pytest.fixture
def job(cache: Path) -> Job:
    return Job("logreg", read_info(cache), threads=THREADS)


def same_runs(here: dict[Path, RunResult], there: dict[Path, RunResult]) -> None:
    assert [path.name for path in here] == [path.name for path in there]
    for (left, a), (right, b) in zip(here.items(), there.items(), strict=True):
        assert RunResult.read(right) == b
        assert sorted(os.listdir(left)) == sorted(os.listdir(right))
        assert a.parameters == b.parameters
        one, two = read_predictions(left), read_predictions(right)
        np.testing.assert_array_equal(one["predicted"], two["predicted"])
        np.testing.assert_allclose(one["p_ant"], two["p_ant"], atol=1e-4)


def test_the_same_runs_as_without_a_cluster(
    client: Any, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "frozenbench")
    monkeypatch.chdir(tmp_path)  # where the workers are not
    info = dataclasses.replace(job.info, path=Path(os.path.relpath(job.info.path)))
    jobs = [dataclasses.replace(job, model=model, info=info) for model in ("svm", "logreg", "dummy")]
    here, _ = train_heads(jobs, Path("here"))
    caplog.clear()
    with distributed.get_task_stream(client) as tasks:
        there, stopped = train_heads(jobs, Path("there"), client=client)
    same_runs(here, there)
    assert stopped == []
    # One task per head: what joblib does inside a head stays there, with the features.
    assert len(tasks.data) == len(jobs)
    assert sorted(result.test_opened for result in there.values()) == [1, 2, 3]
    assert sorted(record.getMessage() for record in caplog.records if record.name == "frozenbench") == [
        f"{model} on tiny-net: 120 x 16" for model in ("dummy", "logreg", "svm")
    ]
    caplog.clear()
    assert train_heads(jobs, Path("there"), client=client)[0] == there
    assert caplog.text.count("already there") == 3


def test_no_features_are_sent(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = read_info(write_tiny_cache(tmp_path / "large.h5", dataset=make_dataset(20_000, 60)))  # 1.3 MB of features
    sizes = []
    submit = distributed.Client.submit

    def spy(self: Any, *args: Any, **more: Any) -> Any:
        sizes.append(len(pickle.dumps((args, more))))
        return submit(self, *args, **more)

    monkeypatch.setattr(distributed.Client, "submit", spy)
    train_heads([Job("logreg", info, trials=2), Job("dummy", info)], tmp_path / "runs", client=client)
    assert len(sizes) == 4
    assert max(sizes) < 50_000


@dataclasses.dataclass(frozen=True)
class Nap:
    seconds: float
    threads: int = 1
    title: str = "a nap"


def nap(nap: Nap) -> tuple[int, int, float, float]:
    began = time.time()
    time.sleep(nap.seconds)
    return os.getpid(), nap.threads, began, time.time()


def overlap(naps: list[tuple[int, int, float, float]]) -> bool:
    spans = sorted(nap[2:] for nap in naps)
    return any(end > start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_head_at_a_time_on_each_worker_with_its_threads(client: Any) -> None:
    calls = {number: (Nap(2.0 if number == 0 else 0.1),) for number in range(8)}
    naps = dict(run_on_workers(client, nap, calls))
    assert {threads for _, threads, _, _ in naps.values()} == {THREADS}
    slow = naps[0][0]
    others = {pid for number, (pid, *_) in naps.items() if number}
    assert len(others | {slow}) == WORKERS
    assert others != {slow}
    for pid in others | {slow}:
        assert not overlap([nap for nap in naps.values() if nap[0] == pid])
    # The worker that is free takes the rest, however many threads the other one has.
    assert [pid for pid, *_ in naps.values()].count(slow) == 1
    assert list(naps)[-1] == 0  # what is done first comes first


def test_two_heads_that_meet_on_a_worker_take_turns(client: Any) -> None:
    worker = min(client.nthreads())
    futures = [
        client.submit(on_workers._on_worker, nap, logging.INFO, VERSIONS(), Nap(0.3), workers=[worker], pure=False)
        for _ in range(3)
    ]
    assert not overlap(client.gather(futures))


def test_nothing_to_do(client: Any) -> None:
    assert dict(run_on_workers(client, nap, {})) == {}


def die_once(job: Job, run_dir: Path, **more: Any) -> RunResult | str:
    """The death of the process in the middle of a fit, the first time."""
    marker = run_dir.parent / "died"
    if not marker.exists():
        marker.touch()
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()
        time.sleep(60)
    return train.train_head(job, run_dir, **more)


def test_a_worker_that_has_come_with_other_versions(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_workers, "library_versions", lambda packages: {"python": "3", "numpy": "9.9"})
    with pytest.raises(ClusterError, match=r"the worker tcp.* has python 3\.\d+\.\d+, expected 3 as here"):
        dict(run_on_workers(client, nap, {0: (Nap(0),)}))


def test_a_head_whose_worker_was_killed_is_trained_again(
    client: Any, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = train_heads([job], tmp_path / "here")
    (tmp_path / "there" / "tiny-net").mkdir(parents=True)
    monkeypatch.setattr(train, "train_head", functools.partial(die_once))
    there, _ = train_heads([job], tmp_path / "there", client=client)
    assert (tmp_path / "there" / "tiny-net" / "died").exists()
    same_runs(here, there)


def fail_after_the_other(job: Job, run_dir: Path, **more: Any) -> RunResult | str:
    """As seed 0, a good head; as seed 1, one that fails; as seed 2, one that takes its worker along."""
    if job.seed:
        while not any(path.name.startswith(job.model) for path in run_dir.parent.glob("*")):
            time.sleep(0.05)
        if job.seed == 2:
            os._exit(1)
        raise HeadError("no such luck")
    return train.train_head(job, run_dir, **more)


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (1, r"no such luck"),
        (
            2,
            r"logreg on tiny-net ended every worker that it ran on, 1 in all, the last one tcp://127.0.0.1:\d+: most "
            r"likely memory ran out; each may use \d+\.\d GiB; use fewer rows \(a smaller train_size\)",
        ),
    ],
)
def test_a_head_that_fails(
    seed: int, message: str, client: Any, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "train_head", functools.partial(fail_after_the_other))
    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 0)
    jobs = [dataclasses.replace(job, seed=each) for each in (seed, 0)]
    with pytest.raises(HeadError, match=f"^{message}") as caught:
        train_heads(jobs, tmp_path, client=client)
    assert "\n" not in str(caught.value)
    assert RunResult.read(tmp_path / "tiny-net" / job.name).seed == 0  # what was finished is kept


def test_an_error_of_a_worker_is_the_same_as_here(client: Any, job: Job, tmp_path: Path) -> None:
    messages = set()
    for where in (None, client):
        with pytest.raises(HeadError) as caught:
            train_heads([dataclasses.replace(job, rows=2)], tmp_path / "runs", client=where)
        messages.add(str(caught.value))
    [message] = messages
    assert message.startswith("the training rows hold no image of ant: every class needs some; ")


def test_a_cache_that_is_not_on_the_workers(
    client: Any, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_workers, "_seal", lambda path: b"another")  # here only
    with pytest.raises(ClusterError, match=r"^the worker tcp://\S+ has another file under the name /.*tiny-net.h5; .*"):
        train_heads([job], tmp_path / "runs", client=client)
    job.info.path.unlink()
    with pytest.raises(
        ClusterError, match=r"cannot read /.*tiny-net.h5 \(No such file or directory\); .* see features"
    ):
        train_heads([job], tmp_path / "runs", client=client)


def test_runs_that_are_not_shared(client: Any, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def here_only(path: Path) -> Iterator[Path]:
        yield path.with_name("made-here-only")

    monkeypatch.setattr(on_workers, "temporary_folder", here_only)
    with pytest.raises(ClusterError, match=r"cannot write to /.*/runs \(No such file or directory\); .* see .* runs"):
        train_heads([job], tmp_path / "runs", client=client)


def test_nothing_is_left_in_the_folder_of_runs(client: Any, tmp_path: Path) -> None:
    on_workers.check_shared(client, [], tmp_path / "runs", children=True)
    assert os.listdir(tmp_path / "runs") == []


def pretended() -> dict[str, str]:
    return {**VERSIONS(), **({"scikit-learn": "0.1"} if "PRETEND" in os.environ else {})}


def test_another_version_on_a_worker(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_workers(client, "local:2", pretended)
    monkeypatch.setenv("PRETEND", "1")
    with pytest.raises(ClusterError, match=r"^the worker tcp://\S+ has scikit-learn \d\S+, expected 0.1 as here"):
        check_workers(client, "local:2", pretended)


def test_a_limit_on_a_cluster(client: Any, job: Job, tmp_path: Path) -> None:
    plain, _ = train_heads([job], tmp_path / "here")
    kept, stopped = train_heads([job], tmp_path / "there", client=client, time_limit=120)
    same_runs(plain, kept)
    assert stopped == []
    # Shorter than a process needs to start.
    none, stopped = train_heads([job], tmp_path / "none", client=client, time_limit=0.01)
    assert none == {}
    [line] = stopped
    assert line.startswith("logreg on tiny-net was stopped after 0.01 seconds")


def yes() -> bool:
    return True


def test_workers_that_may_start_no_process(
    client: Any, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_workers, "_is_daemonic", yes)
    train_heads([job], tmp_path, client=client)
    with pytest.raises(UsageError, match=r"^time_limit: the worker tcp://\S+ may not start the process"):
        train_heads([job], tmp_path, client=client, time_limit=120)


@pytest.mark.slow
def test_trials_on_a_cluster(
    client: Any, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("optuna")
    from tiny_studies import comparable_trials

    caplog.set_level(logging.INFO, "frozenbench")
    search = dataclasses.replace(job, trials=9)
    numbers = []
    measure = train._measure_on_workers

    def spy(*args: Any) -> Iterator[Any]:
        for trial in measure(*args):
            numbers.append(trial.number)
            yield trial

    monkeypatch.setattr(train, "_measure_on_workers", spy)
    there, _ = train_heads([search], tmp_path / "there", client=client)
    assert numbers == list(range(9))
    lines = [record.getMessage() for record in caplog.records if "trial" in record.getMessage()]
    assert [line.split(":")[1] for line in lines] == [f" trial {number} of 9" for number in range(1, 10)]
    # The same as the same waves here, and as an interrupted search that resumes.
    here, _ = train_heads([dataclasses.replace(search, wave=WORKERS)], tmp_path / "here")
    same_runs(here, there)
    train_heads([dataclasses.replace(search, trials=5)], tmp_path / "again", client=client)
    again, _ = train_heads([search], tmp_path / "again", client=client)
    same_runs(here, again)
    [study] = (tmp_path / "here" / "tiny-net").glob("*.study")
    for folder in ("there", "again"):
        assert comparable_trials(tmp_path / folder / "tiny-net" / study.name) == comparable_trials(study)
    # Another study, and another run, than that of one trial after another; which is what a limit makes.
    alone, _ = train_heads([search], tmp_path / "alone")
    assert {path.name for path in alone} != {path.name for path in here}
    limited, _ = train_heads([search], tmp_path / "limited", client=client, time_limit=120)
    same_runs(alone, limited)


def where(job: Nap) -> int:
    return os.getpid()


@pytest.mark.slow
def test_a_single_worker_with_a_single_thread(job: Job, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from tiny_studies import comparable_trials

    search = dataclasses.replace(job, trials=8)
    here, _ = train_heads([search], tmp_path / "here")
    with cluster(1, 1) as client:
        assert dict(run_on_workers(client, where, {0: (Nap(0),)}))[0] != os.getpid()
        there, _ = train_heads([search], tmp_path / "there", client=client)
    same_runs(here, there)
    studies = [sorted((tmp_path / name / "tiny-net").glob("*.study")) for name in ("here", "there")]
    assert [path.name for path in studies[0]] == [path.name for path in studies[1]]
    assert comparable_trials(studies[0][0]) == comparable_trials(studies[1][0])


def napping(job: Job, run_dir: Path, **more: Any) -> str:
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    (run_dir.parent / "began").touch()
    time.sleep(60)
    return ""


@pytest.mark.slow
def test_a_cluster_that_was_there_before(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def started(name: str, *options: str) -> subprocess.Popen:
        words = [sys.executable, "-m", f"distributed.cli.dask_{name}", "--scheduler-file", str(tmp_path / "file")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        quiet = subprocess.DEVNULL
        return subprocess.Popen([*words, *options], cwd=tmp_path, env=environment, stdout=quiet, stderr=quiet)

    with ExitStack() as stack:
        scheduler = stack.enter_context(started("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"))
        stack.callback(scheduler.kill)
        while not (tmp_path / "file").exists():
            time.sleep(0.1)
        worker = stack.enter_context(started("worker", "--nthreads", "2", "--no-dashboard", "--death-timeout", "60"))
        stack.callback(worker.terminate)
        address = json.loads((tmp_path / "file").read_text())["address"]
        with connected(address, VERSIONS) as client:
            there, _ = train_heads([job], tmp_path / "there", client=client)
            same_runs(train_heads([dataclasses.replace(job, threads=2)], tmp_path / "here")[0], there)
            with pytest.raises(UsageError, match=r"^time_limit: the worker tcp://\S+ may not start the process"):
                train_heads([job], tmp_path / "limited", client=client, time_limit=120)

            def stop() -> None:
                while not (tmp_path / "lost" / "tiny-net" / "began").exists():
                    time.sleep(0.05)
                scheduler.kill()

            monkeypatch.setattr(train, "train_head", functools.partial(napping))
            thread = threading.Thread(target=stop)
            thread.start()
            with pytest.raises(ClusterError, match=r"^the cluster's scheduler is gone; finished runs are saved"):
                train_heads([job], tmp_path / "lost", client=client)
            thread.join()
    assert capfd.readouterr().err == ""
