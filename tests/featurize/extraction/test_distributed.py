"""Stage 1 on a cluster of real processes: the same cache as without one, whatever happens to workers."""

import contextlib
import functools
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, Future, LocalCluster, get_worker
from tiny_data import content_of, make_dataset
from tiny_pictures import picture_folder
from upath import UPath

from featurize.cache import CacheWriter, load_features
from featurize.cache.existing import parts_folder
from featurize.cache.shards import Shard, Shards
from featurize.core.errors import BackboneError, ClusterError, UsageError
from featurize.extraction import distributed, extract_features, plan_extraction
from featurize.extraction import ranges as ranges_module
from featurize.extraction.distributed import on_cluster
from featurize.extraction.ranges import Range, RangeQueue, SchedulerGoneError
from featurize.extraction.worker import Done, ExtractionPlugin, compute_range
from featurize.images import ImageDataset, Split, load_dataset
from featurize.images.files import ImageFiles
from featurize.networks.backbone import load_backbone

PIXELS = load_backbone("pixels", image_size=8)


@contextlib.contextmanager
def two_workers() -> Iterator[LocalCluster]:
    """A cluster that starts a killed worker again, however often (see `featurize.core.cluster.connected`)."""
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with two_workers() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many ranges even for a few images."""
    monkeypatch.setattr(ranges_module, "LEAST_SHARE", 0.0)


def same_rows(one: Path, other: Path) -> bool:
    pairs = [(load_features(one, split), load_features(other, split)) for split in ("train", "test")]
    return all(
        a.x.tobytes() == b.x.tobytes() and a.y.tobytes() == b.y.tobytes() and a.ids.tobytes() == b.ids.tobytes()
        for a, b in pairs
    )


def test_the_same_cache(cluster: LocalCluster, tmp_path: Path) -> None:
    dataset, seen = make_dataset(500, 90), []
    alone = extract_features(dataset, PIXELS, out=tmp_path / "alone.h5", reuse=None).info
    info = extract_features(
        dataset,
        PIXELS,
        out=tmp_path / "x.h5",
        batch_size=8,
        compute=on_cluster(cluster.scheduler_address),
        progress=lambda *counts: seen.append(counts),
        reuse=None,
    ).info
    assert same_rows(info.path, alone.path)
    assert info.spec == alone.spec
    assert sorted(os.listdir(tmp_path)) == ["alone.h5", "x.h5"]
    assert info.device in (f"a cluster ({workers}) of CPU {platform.machine()}" for workers in (1, 2))
    assert seen[-1] == (590, 590)
    assert len(seen) > 4


@pytest.mark.slow
def test_a_network_on_workers(cluster: LocalCluster, tiny_network: Path, tmp_path: Path) -> None:
    network = load_backbone(str(tiny_network), layers=("early", "late"), image_size=12)
    dataset, options = make_dataset(70, 20), {"pool": "grid2", "batch_size": 8, "flip": True, "reuse": None}
    extract_features(dataset, network, out=tmp_path / "alone.h5", **options)
    extract_features(dataset, network, out=tmp_path / "x.h5", compute=on_cluster(cluster.scheduler_address), **options)
    for split in ("train", "test"):
        one, other = load_features(tmp_path / "alone.h5", split), load_features(tmp_path / "x.h5", split)
        np.testing.assert_allclose(one.x, other.x, rtol=1e-6, atol=1e-6)


def test_image_files_are_read_by_the_workers(cluster: LocalCluster, tmp_path: Path) -> None:
    dataset = load_dataset(str(picture_folder(tmp_path / "pictures")))
    alone = extract_features(dataset, PIXELS, out=tmp_path / "alone.h5", reuse=None).info
    info = extract_features(
        dataset, PIXELS, out=tmp_path / "x.h5", batch_size=4, compute=on_cluster(cluster.scheduler_address), reuse=None
    ).info
    assert same_rows(info.path, alone.path)
    assert info.skipped == alone.skipped
    assert sum(map(len, info.skipped.values()))


@pytest.mark.parametrize("cluster_first", [False, True])
def test_what_was_begun_elsewhere_is_finished(cluster: LocalCluster, tmp_path: Path, cluster_first: bool) -> None:
    """Shards are the same whoever writes them."""
    dataset = make_dataset(200, 40)
    ways = [None, on_cluster(cluster.scheduler_address)]
    first, second = ways[::-1] if cluster_first else ways

    def stop(done: int, total: int) -> None:
        if done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(dataset, PIXELS, out=tmp_path / "x.h5", batch_size=8, compute=first, progress=stop)
    result = extract_features(dataset, PIXELS, out=tmp_path / "x.h5", batch_size=8, compute=second)
    assert result.resumed_rows >= 100
    alone = extract_features(dataset, PIXELS, out=tmp_path / "alone.h5", reuse=None).info
    assert same_rows(result.info.path, alone.path)


def test_only_new_images_go_to_the_workers(cluster: LocalCluster, tmp_path: Path) -> None:
    old, new = make_dataset(200, 40), make_dataset(200, 40, seed=1)
    mixed = {}
    for name, split in new.splits.items():  # every other image is known
        pixels = np.asarray(split.images).copy()
        pixels[::2] = np.asarray(old.splits[name].images)[::2]
        mixed[name] = Split(pixels, split.labels, split.ids)
    dataset, path = ImageDataset("mixed", old.class_names, mixed), tmp_path / "x.h5"
    extract_features(old, PIXELS, out=tmp_path / "old.h5")
    compute = on_cluster(cluster.scheduler_address)

    def stop(done: int, total: int) -> None:
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(dataset, PIXELS, out=path, batch_size=8, compute=compute, progress=stop)
    result = extract_features(dataset, PIXELS, out=path, batch_size=8, compute=compute)
    assert result.taken_rows == 120
    assert result.resumed_rows >= 40
    assert result.resumed_rows + result.computed_rows == 120
    alone = extract_features(dataset, PIXELS, out=tmp_path / "alone.h5", reuse=None).info
    assert same_rows(path, alone.path)
    known = extract_features(dataset, PIXELS, out=tmp_path / "known.h5", compute=on_cluster("tcp://127.0.0.1:1"))
    assert known.taken_rows == 240  # without a cluster


@pytest.mark.parametrize("place", ["memory://bucket/{}", "file://{}/elsewhere", "{}/elsewhere"])
def test_shards_elsewhere(tmp_path: Path, place: str) -> None:
    from featurize.cli import shards_folder

    where = shards_folder(place.format(tmp_path))
    assert where is not None
    dataset = make_dataset(100, 20)

    def stop(done: int, total: int) -> None:
        if done >= 40:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"out": tmp_path / "x.h5", "batch_size": 8, "shards_at": where}
    with pytest.raises(KeyboardInterrupt):
        extract_features(dataset, PIXELS, progress=stop, **options)
    assert [path.name for path in (where / "x.h5.parts").glob("*.h5")] == ["train-000000000000.h5"]
    assert not list((tmp_path / "x.h5.parts").glob("*.h5"))
    assert extract_features(dataset, PIXELS, **options).resumed_rows == 40
    alone = extract_features(dataset, PIXELS, out=tmp_path / "alone.h5", reuse=None).info
    assert same_rows(tmp_path / "x.h5", alone.path)
    assert not list((where / "x.h5.parts").glob("*"))
    assert not (tmp_path / "x.h5.parts").exists()


def test_damage_in_a_remote_shard_is_noticed(tmp_path: Path) -> None:
    where = UPath("memory://other")
    shards = Shards(where, "plan", {"train": 20}, 4, "float32")
    shards.resume()
    shards.add("train", 0, np.ones((20, 4), np.float32))
    path = shards.path("train", 0)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert shards.resume() == 0


@pytest.mark.parametrize("name", ["nowhere://x", "s3://bucket-without-library"])
def test_a_place_that_cannot_be_reached(name: str) -> None:
    from featurize.cli import shards_folder

    with pytest.raises(UsageError, match=f"shards_at {name}"):
        shards_folder(name)


def plan_and_shards(tmp_path: Path, dataset: ImageDataset | None = None) -> tuple[Any, Shards]:
    plan = plan_extraction(dataset or make_dataset(), PIXELS, out=tmp_path / "x.h5")
    folder = parts_folder(plan.path)
    folder.mkdir()
    (folder / "plan.json").write_text(plan.spec.to_json())
    return plan, Shards(folder, plan.spec.fingerprint, {"train": 120, "test": 60}, 192, "float32")


def test_workers_that_do_not_see_the_folder(client: Client, tmp_path: Path) -> None:
    plan, shards = plan_and_shards(tmp_path)
    client.register_plugin(ExtractionPlugin(plan, shards))
    (shards.folder / "plan.json").write_text("that of another disk")
    with pytest.raises(ClusterError, match="the worker tcp.* does not see .*x.h5.parts, .*out.*shards_at URL"):
        client.register_plugin(ExtractionPlugin(plan, shards))
    (shards.folder / "plan.json").unlink()
    with pytest.raises(ClusterError, match="does not see"):
        client.register_plugin(ExtractionPlugin(plan, shards))


def test_workers_that_do_not_see_the_images(client: Client, tmp_path: Path) -> None:
    plan, shards = plan_and_shards(tmp_path, load_dataset(str(picture_folder(tmp_path / "pictures"))))
    plugin = ExtractionPlugin(plan, shards)
    plugin.roots = {tmp_path / "not there"}
    with pytest.raises(ClusterError, match="the worker tcp.* does not see .*not there, the folder of the images"):
        client.register_plugin(plugin)


def test_workers_of_another_version(client: Client, tmp_path: Path) -> None:
    plugin = ExtractionPlugin(*plan_and_shards(tmp_path))
    plugin.versions = {**plugin.versions, "pillow": "1.1"}
    with pytest.raises(
        ClusterError, match=r"the worker tcp.* has pillow .*, expected 1.1 as here; install the same versions"
    ):
        client.register_plugin(plugin)


def test_a_late_worker_of_another_version(tmp_path: Path) -> None:
    """Dask gives it work although it was not made ready; it does not do any."""
    plan, shards = plan_and_shards(tmp_path)
    plugin = ExtractionPlugin(plan, shards)
    with (
        LocalCluster(
            n_workers=0, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        plugin.versions = {**plugin.versions, "pillow": "1.1"}
        client.register_plugin(plugin)
        cluster.scale(1)
        part: Split = plan.dataset.splits["train"][:8]
        future = client.submit(compute_range, plugin.name, "train", part, 0, pure=False)
        with pytest.raises(ClusterError, match=r"has pillow .*, expected 1.1 as here; install the same versions there"):
            future.result()
    assert [path.name for path in shards.folder.iterdir()] == ["plan.json"]


def test_a_file_that_only_a_worker_cannot_read(cluster: LocalCluster, tmp_path: Path) -> None:
    """It would be left out of the cache for no good reason."""
    root = picture_folder(tmp_path / "pictures")
    dataset = load_dataset(str(root))
    split = dataset.splits["train"]
    good = next(row for row in range(len(split)) if not split.images[[row]].read(8, "bicubic", "crop")[1])
    done = Done("tcp://far:1", Shard(5, "", (good,)), 1.0, "CPU")
    with pytest.raises(ClusterError, match="the worker tcp://far:1 cannot read .*, which can be read here"):
        distributed._check_skipped(split, done)
    bad = next(row for row in range(len(split)) if split.images[[row]].read(8, "bicubic", "crop")[1])
    distributed._check_skipped(split, Done("tcp://far:1", Shard(5, "", (bad,)), 1.0, "CPU"))


def test_what_only_workers_cannot_read_ends_the_extraction(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(str(picture_folder(tmp_path / "pictures")))
    black = lambda self, size, *_: (np.zeros((len(self), size, size, 3), np.uint8), {})  # noqa: E731
    monkeypatch.setattr(ImageFiles, "read", black)  # of this process alone
    with pytest.raises(ClusterError, match="cannot read .*, which can be read here"):
        extract_features(dataset, PIXELS, out=tmp_path / "x.h5", compute=on_cluster(cluster.scheduler_address))
    assert not (tmp_path / "x.h5").exists()


def test_a_late_task_of_what_is_over_leaves_nothing(client: Client, tmp_path: Path) -> None:
    plan, shards = plan_and_shards(tmp_path)
    plugin = ExtractionPlugin(plan, shards)
    client.register_plugin(plugin)
    (shards.folder / "plan.json").unlink()
    part: Split = plan.dataset.splits["train"][:8]
    future = client.submit(compute_range, plugin.name, "train", part, 0, pure=False)
    with pytest.raises(ClusterError, match="no longer exists"):
        future.result()
    assert not list(shards.folder.iterdir())


# What the loop itself does, by tasks that sleep.


def sleep(task: Range, seconds: float) -> Done:
    time.sleep(seconds)
    return Done(get_worker().address, Shard(task.stop - task.start, "", ()), seconds, "CPU")


def fail(task: Range, error: Exception) -> Done:
    raise error


def kill(task: Range) -> Done:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hang_once(task: Range, folder: Path) -> Done:
    try:
        (folder / "hangs").touch(exist_ok=False)
    except FileExistsError:
        return sleep(task, 0.01)
    while not (folder / "is let go").exists():
        time.sleep(0.1)
    return sleep(task, 0)


def queue_of(client: Client, rows: int, call: Callable[[Range], Any], batch: int = 8, most: int = 1000) -> RangeQueue:
    """Ranges of two splits; `call` gives the function and the arguments of a task."""
    return make_queue(client, [Range("train", 0, rows), Range("test", 0, 30)], call, batch, most)


def make_queue(
    client: Client, missing: list[Range], call: Callable[[Range], Any], batch: int = 8, most: int = 8
) -> RangeQueue:
    def submit(task: Range, **options: Any) -> Future:
        function, arguments = call(task)
        return client.submit(function, *arguments, **options)

    return RangeQueue(client, missing, submit, batch, most)


def done_ranges(ranges: RangeQueue) -> list[Range]:
    return [task for found in ranges if found for task in found[:1]]


def covered(tasks: list[Range], split: str) -> list[int]:
    return sorted(row for task in tasks if task.split == split for row in range(task.start, task.stop))


def test_every_row_once_in_whole_batches(client: Client) -> None:
    tasks = done_ranges(queue_of(client, 1003, lambda task: (sleep, (task, 0.002 * (task.stop - task.start)))))
    assert covered(tasks, "train") == list(range(1003))
    assert covered(tasks, "test") == list(range(30))
    assert all(task.start % 8 == 0 for task in tasks)
    sizes = [task.stop - task.start for task in tasks if task.split == "train"]
    assert max(sizes[:2]) == 8  # a batch, to learn how long one takes
    assert max(sizes) > 100  # then more
    assert np.mean(sizes[-3:]) < max(sizes) / 2  # and fewer towards the end


def test_a_task_is_not_too_large(client: Client) -> None:
    tasks = done_ranges(queue_of(client, 1000, lambda task: (sleep, (task, 0.0)), most=40))
    assert max(task.stop - task.start for task in tasks) == 40


def test_very_many_images_do_not_make_very_many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges_module, "MOST_TASKS", 10)
    ranges = RangeQueue(None, [Range("train", 0, 8000)], None, 8, 10_000)  # type: ignore[arg-type]
    ranges.workers, ranges.rate = 1, 1e-9  # five seconds would make a batch each
    assert ranges._next() == Range("train", 0, 800)


def test_what_is_sent_of_an_image(tmp_path: Path) -> None:
    assert distributed._sent_bytes(make_dataset(size=8).splits["train"]) == 8 * 8 * 3
    assert distributed._sent_bytes(load_dataset(str(picture_folder(tmp_path / "pictures"))).splits["train"]) == 0


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (BackboneError("not finite"), BackboneError, "^not finite$"),
        (
            MemoryError(),
            ClusterError,
            "the workers that computed the t.* images 0 to 7 died, most likely for lack of mem",
        ),
        (
            ZeroDivisionError("by 0"),
            ClusterError,
            "images 0 to 7 could not be computed: ZeroDivisionError: by 0; finished",
        ),
    ],
)
def test_a_task_that_fails(client: Client, error: Exception, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        done_ranges(queue_of(client, 8, lambda task: (fail, (task, error))))


def test_killed_workers(cluster: LocalCluster, client: Client) -> None:
    """Whoever is killed, every range is done, and no finished one again."""
    calls: list[Range] = []

    def call(task: Range) -> Any:
        calls.append(task)
        return sleep, (task, 0.3)

    found, kills = [], 0
    for done in queue_of(client, 160, call, batch=8, most=8):
        if done:
            found.append(done[0])
            if len(found) in (5, 12):
                os.kill(cluster.workers[kills].process.pid, signal.SIGKILL)
                kills += 1
    assert kills == 2
    assert covered(found, "train") == list(range(160))
    assert len(calls) == len(set(calls)) == len(found)


def test_a_task_that_kills_its_workers(client: Client) -> None:
    with pytest.raises(
        ClusterError, match=r"train images 0 to 7 died, .* memory, which is limited to .* GB; give each"
    ):
        done_ranges(make_queue(client, [Range("train", 0, 8)], lambda task: (kill, (task,))))


def kill_or_sleep(task: Range, bad: Range) -> Any:
    return (kill, (task,)) if task == bad else (sleep, (task, 0.05))


@pytest.mark.slow
def test_a_task_that_kills_its_workers_among_others(client: Client) -> None:
    """It may be chance at first; in the end it is by itself, and named."""
    bad = Range("train", 16, 24)
    found = []
    with pytest.raises(ClusterError, match="train images 16 to 23 died"):
        for done in queue_of(
            client, 80, lambda task: (kill, (task,)) if task == bad else (sleep, (task, 0.05)), most=8
        ):
            found += [done[0]] if done else []
    assert bad not in found
    assert len(set(found)) == len(found) >= 5


def dies_often(task: Range, folder: Path) -> Done:
    for number in range(5):
        try:
            (folder / str(number)).touch(exist_ok=False)
        except FileExistsError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
    return sleep(task, 0.01)


@pytest.mark.slow
def test_workers_that_die_more_often_than_dask_allows(client: Client, tmp_path: Path) -> None:
    """They are done again: it was not the task."""
    bad = Range("train", 16, 24)
    tasks = done_ranges(
        queue_of(
            client, 80, lambda task: (dies_often, (task, tmp_path)) if task == bad else (sleep, (task, 0.05)), most=8
        )
    )
    assert covered(tasks, "train") == list(range(80))


def test_a_worker_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker does its range."""
    monkeypatch.setattr(ranges_module, "LEAST_LATE_SECONDS", 0.2)
    found = []
    with two_workers() as cluster, Client(cluster) as client:
        deadline = time.monotonic() + 60
        for done in queue_of(client, 64, lambda task: (hang_once, (task, tmp_path))):
            assert time.monotonic() < deadline
            found += [done[0]] if done else []
        (tmp_path / "is let go").touch()
    assert covered(found, "train") == list(range(64))


def test_interrupting_takes_back_what_has_not_begun(client: Client) -> None:
    ranges = queue_of(client, 800, lambda task: (sleep, (task, 0.2)), most=8)
    for _ in zip(range(3), ranges, strict=False):
        pass
    ranges.cancel()
    deadline = time.monotonic() + 20
    while any(client.processing().values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_client_that_has_lost_its_scheduler(client: Client) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as other:
        lost = Client(other)
        ranges = iter(queue_of(lost, 80, lambda task: (sleep, (task, 0.1)), most=8))
        next(ranges)
        lost.close()
        with pytest.raises(SchedulerGoneError):
            list(ranges)


def test_going_on_when_the_scheduler_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for again, and what was sealed meanwhile counts."""
    plan, shards = plan_and_shards(tmp_path)
    shards.resume()
    writer = CacheWriter(plan.path, plan.spec, content_of(plan.dataset), shards)
    noted, attempts = [], []

    def extract(client: object, plan: object, writer: CacheWriter, note: Callable[[int], None]) -> str:
        attempts.append(client)
        if len(attempts) == 1:
            writer.shards.write("train", 0, np.zeros((50, 192), np.float32))  # by a worker that could not tell
            raise SchedulerGoneError
        assert writer.missing("train") == [(50, 120)]
        return "two CPUs"

    @functools.wraps(distributed.connected)
    def connected(address: str, versions: object) -> Any:
        if len(attempts) == 1 and not noted[1:]:
            raise ClusterError("no scheduler answers")
        return contextlib.nullcontext(object())

    monkeypatch.setattr(distributed, "_extract", extract)
    monkeypatch.setattr(distributed, "connected", connected)
    assert on_cluster("tcp://far:1")(plan, writer, noted.append) == "two CPUs"
    assert noted == [50, 0]
    monkeypatch.setattr(distributed, "BACK_SECONDS", -1)
    attempts.clear()
    noted.clear()
    with pytest.raises(ClusterError, match="no scheduler answers"):
        on_cluster("tcp://far:1")(plan, writer, noted.append)
