"""What a cluster costs and what it stands.

    python tests/benchmarks/bench_cluster.py {efficiency,stragglers,kills,pair}

efficiency  workers that sleep instead of working: the share of their time that is work
stragglers  the same, where some workers are slow or hang
kills       an extraction whose workers are killed again and again: is the cache right, what was lost
pair        the same extraction by one process and on local:N, in turn
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

import dask
from distributed import Client, LocalCluster, WorkerPlugin, get_worker

from featurize import spread
from featurize.backbone import load_backbone
from featurize.cache import load_features
from featurize.datasets import load_dataset
from featurize.extract import carry_out, compute_here, plan_extraction
from featurize.shards import Shard
from featurize.spread import Done, HandOut, Range

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


def efficiency(workers: int, task_seconds: float, tasks: int, slow: int = 0, times: float = 1.0) -> None:
    """Print the share of the workers' time that is work, for so many tasks each."""
    spread.TASK_SECONDS = task_seconds
    rows = int(workers * tasks * task_seconds * ROWS_A_SECOND)
    with (
        dask.config.set(ALONE),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=False, protocol="tcp://", memory_limit=0, **LOOPBACK
        ) as cluster,
        Client(cluster) as client,
    ):
        ranges = HandOut(
            client, deque([Range("train", 0, rows)]), lambda task: (sleep, (task, slow, times)), ROWS_A_SECOND, rows
        )
        client.wait_for_workers(workers)
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
            plan_extraction(dataset, backbone, pool="grid2", engine="winograd", out=Path(folder) / name)
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
                carry_out(plans[1], compute=spread.over(cluster.scheduler_address))
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
    words += ["--image-size", "64"]
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
    parser.add_argument("what", choices=["efficiency", "stragglers", "kills", "pair"])
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0], help="of a task; between two kills")
    parser.add_argument("--tasks", type=int, default=6, help="for each worker")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--count", type=int, default=20, help="of kills; of rounds")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.what == "kills":
        kills(asked.data, asked.count, asked.seconds[0], asked.seed)
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
