"""What a cluster costs and what it stands.

    python tests/benchmarks/bench_cluster.py {efficiency,stragglers,overhead,simulate,links,kills,pair}

efficiency  workers that sleep instead of working: the share of their time that is work
stragglers  the same, where some workers are slow or hang
overhead    the cluster's own time for a task, by tasks that do nothing
simulate    what an extraction would take on many more workers, by the overhead and the rates given
links       a cache that links to very many shards: seconds to make it, to open it, and its size
kills       an extraction whose workers are killed again and again: is the cache right, what was lost
pair        the same extraction by one process and on local:N, in turn
"""

import argparse
import heapq
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Future, LocalCluster, WorkerPlugin, get_worker

from featurize.cache import linked, load_features, open_writer, read_info
from featurize.cache.shards import Shard
from featurize.extraction import ExtractionOptions, carry_out, compute_here, plan_extraction
from featurize.extraction import ranges as ranges_module
from featurize.extraction.distributed import on_cluster
from featurize.extraction.ranges import Range, RangeQueue
from featurize.extraction.worker import Done
from featurize.images import load_dataset
from featurize.networks.backbone import load_backbone

ROWS_A_SECOND = 100
ALONE = {
    # What every worker does for itself, and hundreds in one process would do in the way of the rest.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
}
LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}


def sleep(task: Range, slow: int, times: float) -> Done:
    """Take as long as a worker of `ROWS_A_SECOND` would; the first `slow` workers take so many times as long."""
    rows = task.stop - task.start
    worker = get_worker()
    seconds = rows / ROWS_A_SECOND * (times if int(worker.name) < slow else 1)
    time.sleep(seconds)
    return Done(worker.address, Shard(rows, "", ()), seconds, "CPU")


@contextmanager
def sleepers(workers: int) -> Iterator[Client]:
    """So many workers in this process, which are good for nothing but sleeping."""
    with (
        dask.config.set(ALONE),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=False, protocol="tcp://", memory_limit=0, **LOOPBACK
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(workers)
        yield client


def efficiency(workers: int, task_seconds: float, tasks: int, slow: int = 0, times: float = 1.0) -> None:
    """Print the share of the workers' time that is work, for so many tasks each."""
    ranges_module.TASK_SECONDS = task_seconds
    rows = int(workers * tasks * task_seconds * ROWS_A_SECOND)
    with sleepers(workers) as client:

        def submit(task: Range, **options: Any) -> Future:
            return client.submit(sleep, task, slow, times, **options)

        ranges = RangeQueue(client, [Range("train", 0, rows)], submit, ROWS_A_SECOND, rows)
        began, count = time.monotonic(), 0
        for found in ranges:
            count += found is not None
        wall = time.monotonic() - began
        ranges.cancel()
    ideal = rows / ROWS_A_SECOND / (workers - slow + slow / times)
    print(
        f"{workers} workers ({slow} of them {times:g} times as slow), tasks of {task_seconds:g} s: {count} tasks, "
        f"{wall:.1f} s, ideal {ideal:.1f} s, efficiency {ideal / wall:.3f}",
        flush=True,
    )


def overhead(workers: int, tasks: int) -> None:
    """Print the time that client, scheduler and workers together take for a task that does nothing."""
    with sleepers(workers) as client:

        def submit(task: Range, **options: Any) -> Future:
            return client.submit(sleep, task, 0, 1.0, **options)

        ranges = RangeQueue(client, [Range("train", 0, tasks)], submit, 1, 1)
        ranges_module.AHEAD = 20
        ranges.rate = 1e-9  # a row a task
        with patched_sleep():
            began = time.monotonic()
            count = sum(found is not None for found in ranges)
            wall = time.monotonic() - began
    print(f"{workers} workers: {count} tasks that do nothing, {1000 * wall / count:.2f} ms each", flush=True)


@contextmanager
def patched_sleep() -> Iterator[None]:
    """Nobody sleeps."""
    before, time.sleep = time.sleep, lambda seconds: None
    try:
        yield
    finally:
        time.sleep = before


@dataclass(frozen=True)
class Circumstances:
    """What a simulated extraction meets.

    Attributes:
        rows: images.
        rate: images a second that one worker computes.
        batch: images per forward pass.
        overhead: seconds of the scheduler and the client for a task, one after another.
        slow: share of the workers that are slow.
        times: how many times as slow they are.
        deaths: of a worker in an hour.
        restart: seconds from a death until the next one has loaded the network.
    """

    rows: int
    rate: float
    batch: int = 128
    overhead: float = 0.005
    slow: float = 0.05
    times: float = 5.0
    deaths: float = 0.05
    restart: float = 60.0


def simulate(workers: int, given: Circumstances, seed: int = 0) -> tuple[float, float, int, float]:
    """Seconds, what they would be without any loss, tasks and seconds lost, by the very rule that hands ranges out."""
    dice = random.Random(seed)
    ranges = RangeQueue(None, [Range("train", 0, given.rows)], None, given.batch, given.rows)  # type: ignore[arg-type]
    ranges.workers, ranges.rate = workers, given.rate
    pace = [given.rate / (given.times if dice.random() < given.slow else 1) for _ in range(workers)]
    free = [(given.restart, worker) for worker in range(workers)]  # all load the network first
    asked = [0.0] * workers  # when each began the task before, and asked for this one
    clerk, tasks, lost, end = 0.0, 0, 0.0, 0.0  # the clerk is the scheduler: when it has time again
    late = ranges_module.LATE * ranges_module.TASK_SECONDS  # after which another worker begins with the same
    while ranges.todo:
        ready, worker = heapq.heappop(free)
        clerk = max(clerk, asked[worker]) + given.overhead
        start, task = max(ready, clerk), ranges._next()
        rows = task.stop - task.start
        seconds, tasks = rows / pace[worker], tasks + 1
        death = dice.expovariate(given.deaths / 3600)
        if death < seconds:
            lost += death
            ranges.todo.appendleft(task)
            heapq.heappush(free, (start + death + given.restart, worker))
            continue
        asked[worker] = start
        heapq.heappush(free, (start + seconds, worker))
        end = max(end, start + min(seconds, late + rows / given.rate))
    return end, given.rows / sum(pace), tasks, lost


def show_simulation() -> None:
    """Print a table for 100 million images, by the rates of docs/speed.md and docs/scaling.md."""
    print("| images a second of a worker | workers | hours | efficiency | tasks | lost to deaths |")
    for rate, batch in ((13.5, 8), (262.0, 128), (2000.0, 256)):
        for workers in (8, 64, 256, 1024):
            seconds, ideal, tasks, lost = simulate(workers, Circumstances(100_000_000, rate, batch))
            print(
                f"| {rate:g} | {workers:,} | {seconds / 3600:.2f} | {ideal / seconds:.2f} | {tasks:,} | "
                f"{lost / 60:.0f} min |",
                flush=True,
            )


def links(count: int) -> None:
    """Print what it takes to link a cache to so many shards, and to open it."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tiny_data import FACTS, content_of, make_dataset, make_spec, make_vectors

    linked.LINKED_FROM = 0
    dataset = make_dataset(count, 10)
    vectors = {name: make_vectors(split) for name, split in dataset.splits.items()}
    with tempfile.TemporaryDirectory() as folder:
        path, spec = Path(folder) / "x.h5", make_spec(dataset)
        with open_writer(path, spec, content_of(dataset)) as writer:
            shards = writer.shards
            for row in range(count):
                shards.add("train", row, vectors["train"][row : row + 1])
            shards.add("test", 0, vectors["test"])
            began = time.monotonic()
            shards.resume()
            resumed, began = time.monotonic() - began, time.monotonic()
            writer.commit(**FACTS)
            made, began = time.monotonic() - began, time.monotonic()
        read_info(path)
        opened = time.monotonic() - began
        print(
            f"{count:,} shards: looked through in {resumed:.1f} s (and their bytes), linked in {made:.1f} s, opened in "
            f"{opened:.1f} s; the file has {path.stat().st_size / count:.0f} bytes a shard"
        )


class Diary(WorkerPlugin):
    """Writes down when a task begins on a worker, and when it ends."""

    name = "diary"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, worker: object) -> None:
        """Begin a page of its own for each process."""
        self.page = self.folder / f"{os.getpid()}"

    def transition(self, key: str, start: str, finish: str, **_: object) -> None:
        """Note the time of what concerns us."""
        if finish in ("executing", "memory"):
            with self.page.open("a") as file:
                file.write(f"{time.time()} {finish} {key}\n")


def kills(data: str, count: int, every: float, seed: int) -> None:
    """Kill workers again and again while they work, and compare with an extraction in peace."""
    backbone = load_backbone("vgg16", layers=("block3_pool",), image_size=64)
    dataset = load_dataset(data)
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages"
        pages.mkdir()
        plans = [
            plan_extraction(
                dataset, backbone, ExtractionOptions(pool="grid2", engine="winograd"), out=Path(folder) / name
            )
            for name in ("peace.h5", "war.h5")
        ]
        carry_out(plans[0], compute=compute_here)
        dice, deaths, over = random.Random(seed), [], threading.Event()
        with LocalCluster(n_workers=2, threads_per_worker=1, **LOOPBACK) as cluster:

            def kill() -> None:
                while len(deaths) < count and not over.wait(dice.uniform(0.5, 1.5) * every):
                    nanny = dice.choice(list(cluster.workers.values()))
                    if nanny.process and nanny.process.pid:
                        deaths.append((time.time(), nanny.process.pid))
                        os.kill(nanny.process.pid, signal.SIGKILL)

            with Client(cluster) as client:
                client.register_plugin(Diary(pages))
                killer = threading.Thread(target=kill)
                killer.start()
                began = time.monotonic()
                carry_out(plans[1], compute=on_cluster(cluster.scheduler_address), reuse=None)
                wall = time.monotonic() - began
                over.set()
                killer.join()
        same = all(
            load_features(plans[0].path, split).x.tobytes() == load_features(plans[1].path, split).x.tobytes()
            and load_features(plans[0].path, split).ids.tobytes() == load_features(plans[1].path, split).ids.tobytes()
            for split in ("train", "test")
        )
        lost, finished, lasted = [], [], []
        for death, pid in deaths:
            begun: dict[str, float] = {}
            page = pages / str(pid)
            for line in page.read_text().splitlines() if page.exists() else []:
                when, what, key = line.split()
                if what == "executing":
                    begun[key] = float(when)
                elif key in begun:
                    finished.append(key)
                    lasted.append(float(when) - begun.pop(key))
            lost.append([death - when for when in begun.values()])
        for page in pages.iterdir():
            finished += [line.split()[2] for line in page.read_text().splitlines() if line.split()[1] == "memory"]
        print(
            f"{len(deaths)} kills in {wall:.0f} s: {'the same bytes' if same else 'ANOTHER CACHE'}; most tasks that "
            f"a kill interrupted: {max(map(len, lost))}; {sum(map(sum, lost)):.1f} s of work lost, of a kill at most "
            f"{max(map(sum, lost)):.1f} s; the longest finished task took {max(lasted):.1f} s"
        )
        if not same:
            raise SystemExit(1)


def pair(data: str, workers: int, rounds: int) -> None:
    """Run both commands in turn and print the ratio of their seconds."""
    words = [sys.executable, "-m", "featurize", "--data", data, "--layers", "block3_pool", "--pool", "grid2"]
    words += ["--image-size", "64", "--no-reuse"]
    seconds: dict[str, list[float]] = {"one process": [], f"local:{workers}": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for name, took in seconds.items():
                more = ["--cluster", name] if ":" in name else []
                began = time.monotonic()
                subprocess.run(
                    [*words, *more, "--out", f"{folder}/{number}-{name}.h5"], check=True, stdout=subprocess.DEVNULL
                )
                took.append(time.monotonic() - began)
                print(f"{name}: {took[-1]:.1f} s", flush=True)
    one, other = seconds.values()
    print("ratios:", ", ".join(f"{b / a:.3f}" for a, b in zip(one, other, strict=True)))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["efficiency", "stragglers", "overhead", "simulate", "links", "kills", "pair"])
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0], help="of a task; between two kills")
    parser.add_argument("--tasks", type=int, default=6, help="for each worker")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--count", type=int, default=20, help="of kills; of rounds")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.what == "kills":
        kills(asked.data, asked.count, asked.seconds[0], asked.seed)
    elif asked.what == "simulate":
        show_simulation()
    elif asked.what == "links":
        links(asked.count)
    elif asked.what == "overhead":
        for workers in asked.workers:
            overhead(workers, 100 * asked.tasks)
    elif asked.what == "pair":
        pair(asked.data, asked.workers[0], asked.count)
    else:
        for workers in asked.workers:
            for seconds in asked.seconds:
                if asked.what == "efficiency":
                    efficiency(workers, seconds, asked.tasks)
                else:
                    efficiency(workers, seconds, asked.tasks, slow=max(1, workers // 16), times=5)


if __name__ == "__main__":
    main()
