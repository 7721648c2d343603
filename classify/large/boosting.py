"""Trees boosted by all workers of a Dask cluster together, on rows that stay where they were made (`xgboost.dask`)."""

import asyncio
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import compute_sample_weight

from classify.heads.calibration import TemperatureCalibrated, class_scores
from classify.heads.trees import BoostedTrees
from classify.large import blocks
from classify.large.blocks import Workers
from featurize.core.errors import ClusterError


class HeldRows:
    """Rows (n, columns), float32, each share of them on the worker that made it.

    Args:
        workers: all workers of the cluster. Nobody else is to give them tasks while they boost trees.
        shares: Dask's futures of the shares' rows, which are done.
        heights: rows of each share.
        columns: of all.
    """

    def __init__(self, workers: Workers, shares: list[Any], heights: list[int], columns: int) -> None:
        self.workers = workers
        self.shares = shares
        self.heights = heights
        self.columns = columns

    def fit(self, machine: TemperatureCalibrated, targets: np.ndarray) -> None:
        """Fit calibrated trees in place, as their own `fit` would on the rows and these targets (n,), 0..K-1.

        The rows that are held out for the temperature are those of memory. They have a weight of zero
        instead of being left out, so that the others need not be copied.

        Raises:
            ClusterError: a worker was lost.
        """
        machine.classes_, machine.n_features_in_ = np.unique(targets), self.columns
        machine.estimator_ = self._trees(machine.estimator, targets, np.arange(len(targets)))
        machine.temperature_ = machine.held_out_temperature(
            targets,
            lambda fitted, held_out: self._scores(self._trees(machine.estimator, targets, fitted), held_out),
        )

    def _trees(self, unfitted: BoostedTrees, targets: np.ndarray, rows: np.ndarray) -> BoostedTrees:
        """Some fitted on some of the rows."""
        trees = clone(unfitted)
        trees.classes_, trees.n_features_in_ = np.unique(targets), self.columns
        weights = np.zeros(len(targets), np.float32)
        weights[rows] = compute_sample_weight(trees.class_weight, targets[rows])
        return trees.fit_booster(lambda parameters, rounds: self._boosted(parameters, rounds, targets, weights))

    def _boosted(self, parameters: dict[str, Any], rounds: int, targets: np.ndarray, weights: np.ndarray) -> Any:
        """XGBoost's booster, of as many threads as each worker has."""
        from distributed import CancelledError, KilledWorker
        from xgboost.core import XGBoostError

        client = self.workers.client
        data = _array(self.shares, self.heights, self.columns)
        label, weight = (_array(self._beside(each), self.heights) for each in (targets, weights))
        try:
            return client.sync(_boost, client, parameters, rounds, data, label, weight)
        except (XGBoostError, KilledWorker, CancelledError, RuntimeError, ValueError, AssertionError) as error:
            # There is no one error for a worker that is gone: each of these is what it may lead to.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ClusterError(
                f"the workers could not boost the trees together ({reason}): all of them are needed to the end, and "
                "one was lost, most often for want of memory; look at their logs, give them more (dask worker "
                "--memory-limit), and run the same command again"
            ) from error

    def _beside(self, numbers: np.ndarray) -> list[Any]:
        """Numbers of the rows (n,), each share's with its rows, so that XGBoost leaves the rows where they are."""
        client = self.workers.client
        places = client.who_has(self.shares)
        futures = [
            client.submit(_itself, part, workers=places[rows.key], allow_other_workers=True, pure=False)
            for rows, part in zip(self.shares, self._parts(numbers), strict=True)
        ]
        self.workers.wait(futures)
        return futures

    def _scores(self, trees: BoostedTrees, rows: np.ndarray) -> np.ndarray:
        """The scores of some rows, ascending, (m, K)."""
        wanted = np.zeros(sum(self.heights), bool)
        wanted[rows] = True
        client, sent = self.workers.client, self.workers.send(trees)
        futures = [
            client.submit(_scores_of, share, part, sent, pure=False)
            for share, part in zip(self.shares, self._parts(wanted), strict=True)
            if part.any()
        ]
        self.workers.wait(futures)
        return np.concatenate(client.gather(futures))

    def _parts(self, numbers: np.ndarray) -> list[np.ndarray]:
        return np.split(numbers, np.cumsum(self.heights)[:-1])


async def _boost(client: Any, parameters: dict[str, Any], rounds: int, data: Any, label: Any, weight: Any) -> Any:
    """`xgboost.dask.train`, which would wait without an end for a worker that keeps silent."""
    from distributed.comm.addressing import get_address_host
    from xgboost import dask
    from xgboost.collective import Config

    matrix = await dask.DaskQuantileDMatrix(client, data, label, weight=weight, max_bin=parameters["max_bin"])
    # XGBoost would guess an interface for the tracker, which runs beside the scheduler: it is to be the scheduler's.
    scheduler = await client.scheduler.identity()
    there = Config(tracker_host_ip=get_address_host(scheduler["address"]))
    training = asyncio.ensure_future(dask.train(client, parameters, matrix, rounds, coll_cfg=there))
    try:
        while not (await asyncio.wait([training], timeout=blocks.PATIENCE))[0]:
            if lost := set(matrix.worker_map) - set(await client.nthreads()):
                raise RuntimeError(f"{min(lost)} is gone")
    finally:
        training.cancel()
    return training.result()["booster"]


def _array(futures: list[Any], heights: list[int], *columns: int) -> Any:
    """A Dask array of shares, of known shapes."""
    from dask import array

    return array.concatenate(
        [
            array.from_delayed(future, (height, *columns), np.float32)
            for future, height in zip(futures, heights, strict=True)
        ]
    )


def _itself(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(np.float32)


def _scores_of(share: np.ndarray, wanted: np.ndarray, trees: BoostedTrees) -> np.ndarray:
    return class_scores(trees, share[wanted])
