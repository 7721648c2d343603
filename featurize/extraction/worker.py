"""What a worker of a cluster does for an extraction: load the network once, and write the shards of row ranges."""

import os
import threading
import time
from typing import NamedTuple

import numpy as np
from distributed import Worker, WorkerPlugin, get_worker

from featurize.cache import PLAN, Shard, Shards
from featurize.core.cluster import check_same
from featurize.core.environment import import_keras, library_versions, limit_threads
from featurize.core.errors import ClusterError
from featurize.extraction.extractor import (
    Extractor,
    device_of,
    recorded_backbone,
    recorded_extractor,
    vector_blocks,
)
from featurize.extraction.plan import Plan
from featurize.images import Split

PACKAGES = ("frozenbench", "tensorflow", "keras", "numba", "numpy", "openvino", "pillow", "distributed")
"""Packages whose versions must agree on all machines: they determine the vectors, or the messages of the cluster."""


RESUMES = "finished rows are saved, and the same command resumes"


class Done(NamedTuple):
    """A worker's report of a finished range: its address, the shard, the seconds it took, and its device."""

    worker: str
    shard: Shard
    seconds: float
    device: str


class ExtractionPlugin(WorkerPlugin):
    """A worker's part in one extraction.

    Args:
        plan: of the extraction.
        shards: that the workers write.
    """

    extractor: Extractor | None = None
    problem = ""

    def __init__(self, plan: Plan, shards: Shards) -> None:
        self.name = f"frozenbench-{plan.spec.fingerprint}"
        self.spec = plan.spec
        self.source = plan.backbone.source
        self.batch_size = plan.batch_size
        self.calibration = plan.engine.calibration
        self.shards = Shards(shards.folder.absolute(), shards.plan, shards.rows, shards.dim, shards.dtype)
        self.versions = library_versions(PACKAGES)
        roots = {split.images.root for split in plan.dataset.splits.values()}
        self.roots = {root for root in roots if root is not None}

    def setup(self, worker: Worker) -> None:
        """Check the worker's packages and folders; its first task loads the network.

        Raises:
            ClusterError: a package has another version, or the worker does not see a folder.
        """
        self.address = worker.address
        self.lock = threading.Lock()
        self.threads = worker.state.nthreads
        os.environ.setdefault("LOKY_MAX_CPU_COUNT", str(self.threads))  # the engines' number of threads
        try:
            self._check_environment()
        except ClusterError as error:
            self.problem = str(error)  # if the worker joins late, Dask only logs the error
            raise

    def teardown(self, worker: Worker) -> None:
        """Release the network."""
        self.extractor = None

    def compute(self, name: str, part: Split, start: int) -> Done:
        """Write the shard of some rows. A worker computes one range at a time, with all its threads.

        Raises:
            FrozenbenchError: the network cannot be loaded, a vector is not finite, or the shard cannot be written.
        """
        if self.problem:
            raise ClusterError(self.problem)
        with self.lock:
            if self.extractor is None:
                self.extractor = self._load()
                next(vector_blocks(self.extractor, name, part[: self.batch_size], self.batch_size))  # warms it up
            began = time.perf_counter()
            block = np.concatenate(list(vector_blocks(self.extractor, name, part, self.batch_size)))
            seconds = time.perf_counter() - began
        try:
            if not (self.shards.folder / PLAN).exists():  # a late task of a finished extraction leaves nothing behind
                raise ClusterError(f"{self.shards.folder} no longer exists")
            shard = self.shards.write(name, start, block)
        except OSError as error:
            raise ClusterError(
                f"the worker {self.address} cannot write to {self.shards.folder}: {error}; give it permission or "
                f"space; {RESUMES}"
            ) from error
        return Done(self.address, shard, seconds, device_of(self.spec.engine))

    def _check_environment(self) -> None:
        check_same(self.address, self.versions, library_versions(PACKAGES))
        folder = self.shards.folder
        try:
            shared = (folder / PLAN).read_text("utf-8") == self.spec.to_json()
        except OSError:
            shared = False
        if not shared:
            raise ClusterError(
                f"the worker {self.address} does not see {folder}, the folder of the shards; choose a folder that all "
                "machines have at the same path (--out), or a store that all of them reach (--shards URL)"
            )
        for root in self.roots:
            if not root.is_dir():
                raise ClusterError(
                    f"the worker {self.address} does not see {root}, the folder of the images; give it the folder at "
                    "the same path"
                )

    def _load(self) -> Extractor:
        if self.spec.engine:
            import_keras()
            limit_threads(self.threads)
        backbone = recorded_backbone(self.spec, self.source)
        extractor = recorded_extractor(backbone, self.spec, calibration=self.calibration)
        if extractor.engine.version != self.spec.engine_version:
            raise ClusterError(
                f"the worker {self.address} has {self.spec.engine} {extractor.engine.version}, expected "
                f"{self.spec.engine_version}; install the same version there"
            )
        return extractor


def compute_range(plugin: str, name: str, part: Split, start: int) -> Done:
    """A task: write the shard of some rows of a split, from row `start` on."""
    worker = get_worker()
    found = worker.plugins.get(plugin)
    if not isinstance(found, ExtractionPlugin):
        raise ClusterError(f"the worker {worker.address} is not prepared for the extraction; its own log says why")
    return found.compute(name, part, start)


def check_frozen(plugin: str, dask_worker: Worker) -> None:
    """Raise BackboneError if a worker's network is no longer the one that was loaded."""
    found = dask_worker.plugins.get(plugin)
    if isinstance(found, ExtractionPlugin) and found.extractor is not None:
        found.extractor.backbone.check_frozen()
