"""Trees that all workers of a Dask cluster boost together, on rows that stay where they are (`xgboost.dask`)."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import compute_sample_weight

from classify.heads.calibration import TemperatureCalibrated, class_scores
from classify.heads.trees import BoostedTrees
from classify.large.workers import PATIENCE, Workers
from featurize.core.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Future


class RowsOnWorkers:
    """Rows (n, dim), float32, each share on the worker that computed it.

    Args:
        workers: all workers of the cluster, which must have no other tasks while they boost trees.
        shares: finished futures of the shares' rows.
        heights: the number of rows in each share.
        dim: length of a row.
    """

    def __init__(self, workers: Workers, shares: list["Future"], heights: list[int], dim: int) -> None:
        self.workers = workers
        self.shares = shares
        self.heights = heights
        self.dim = dim

    def fit(self, machine: TemperatureCalibrated, targets: np.ndarray) -> None:
        """Fit calibrated trees in place, as their own `fit` would on these rows and targets (n,), 0..K-1.

        The temperature comes from the same held-out rows as in memory.

        Raises:
            ClusterError: a worker was lost.
        """

        def held_out_scores(fitted: np.ndarray, held_out: np.ndarray) -> np.ndarray:
            return self._scores(self._trees(machine.estimator, targets, fitted), held_out)

        machine.classes_, machine.n_features_in_ = np.unique(targets), self.dim
        machine.estimator_ = self._trees(machine.estimator, targets, np.arange(len(targets)))
        machine.calibrate(targets, held_out_scores)

    def _trees(self, unfitted: BoostedTrees, targets: np.ndarray, rows: np.ndarray) -> BoostedTrees:
        """Trees fitted on some of the rows. The others have a weight of zero, so that no rows are copied."""

        def boost(parameters: dict[str, Any], rounds: int) -> Any:
            return self._boosted(trees, parameters, rounds, targets, weights)

        trees = clone(unfitted)
        trees.classes_, trees.n_features_in_ = np.unique(targets), self.dim
        weights = np.zeros(len(targets), np.float32)
        weights[rows] = compute_sample_weight(trees.class_weight, targets[rows])
        return trees.fit_booster(boost)

    def _boosted(
        self, trees: BoostedTrees, parameters: dict[str, Any], rounds: int, targets: np.ndarray, weights: np.ndarray
    ) -> Any:
        """XGBoost's booster, trained with all threads of every worker."""
        from distributed import CancelledError, KilledWorker
        from xgboost.core import XGBoostError

        client = self.workers.client
        data = _dask_array(self.shares, self.heights, self.dim)
        label = _dask_array(self._beside_rows(targets), self.heights)
        weight = _dask_array(self._beside_rows(weights), self.heights)
        start = self._starts(trees)
        try:
            return client.sync(_boost, client, parameters, rounds, data, label, weight, start)
        except (XGBoostError, KilledWorker, CancelledError, RuntimeError, ValueError, AssertionError) as error:
            # A lost worker leads to any of these.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ClusterError(
                f"the workers could not boost the trees together ({reason}): all of them are needed to the end, and "
                "one was lost, most often for want of memory; look at their logs, give them more (dask worker "
                "--memory-limit), and run the same command again"
            ) from error

    def _beside_rows(self, numbers: np.ndarray) -> list["Future"]:
        """Futures of numbers (n,), each share's on the worker with its rows, so that XGBoost moves no rows."""
        return self._beside(_as_float32, [(part,) for part in self._parts(numbers)])

    def _starts(self, trees: BoostedTrees) -> Any:
        """The scores from which boosting starts, as a Dask array beside the rows; None if it starts from nothing."""
        if not trees.starts_from_probabilities:
            return None
        sent = self.workers.send(trees)
        starts = self._beside(_start_of, [(rows, sent) for rows in self.shares])
        classes = len(trees.classes_)
        return _dask_array(starts, self.heights, *([classes] if classes > 2 else []))

    def _beside(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list["Future"]:
        """Futures of the function's results for each share, computed on the worker that has the share."""
        client = self.workers.client
        owners = client.who_has(self.shares)
        futures = []
        for rows, given in zip(self.shares, arguments, strict=True):
            futures.append(
                client.submit(function, *given, workers=owners[rows.key], allow_other_workers=True, pure=False)
            )
        return self.workers.finished(futures)

    def _scores(self, trees: BoostedTrees, rows: np.ndarray) -> np.ndarray:
        """The class scores of some rows, ascending, (m, K)."""
        wanted = np.zeros(sum(self.heights), bool)
        wanted[rows] = True
        client, sent = self.workers.client, self.workers.send(trees)
        futures = []
        for share, part in zip(self.shares, self._parts(wanted), strict=True):
            if part.any():
                futures.append(client.submit(_scores_of, share, part, sent, pure=False))
        return np.concatenate(client.gather(self.workers.finished(futures)))

    def _parts(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The numbers of each share's rows."""
        return np.split(numbers, np.cumsum(self.heights)[:-1])


async def _boost(
    client: Any, parameters: dict[str, Any], rounds: int, data: Any, label: Any, weight: Any, start: Any
) -> Any:
    """`xgboost.dask.train`, which by itself would wait for ever for a worker that is gone."""
    from distributed.comm.addressing import get_address_host
    from xgboost import dask
    from xgboost.collective import Config

    matrix = await dask.DaskQuantileDMatrix(
        client, data, label, weight=weight, base_margin=start, max_bin=parameters["max_bin"]
    )
    # XGBoost's tracker runs beside the scheduler and would guess a network interface: it gets the scheduler's.
    scheduler = await client.scheduler.identity()
    tracker = Config(tracker_host_ip=get_address_host(scheduler["address"]))
    training = asyncio.ensure_future(dask.train(client, parameters, matrix, rounds, coll_cfg=tracker))
    try:
        while not (await asyncio.wait([training], timeout=PATIENCE))[0]:
            if lost := set(matrix.worker_map) - set(await client.nthreads()):
                raise RuntimeError(f"{min(lost)} is gone")
    finally:
        training.cancel()
    return training.result()["booster"]


def _dask_array(futures: list["Future"], heights: list[int], *dim: int) -> Any:
    """The shares as one Dask array of known shape."""
    from dask import array

    parts = []
    for future, height in zip(futures, heights, strict=True):
        parts.append(array.from_delayed(future, (height, *dim), np.float32))
    return array.concatenate(parts)


def _as_float32(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(np.float32)


def _start_of(rows: np.ndarray, trees: BoostedTrees) -> np.ndarray | None:
    return trees.start(rows)


def _scores_of(rows: np.ndarray, wanted: np.ndarray, trees: BoostedTrees) -> np.ndarray:
    return class_scores(trees, rows[wanted])
