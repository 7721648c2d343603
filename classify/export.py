"""One thread runs the network for the images of all waiting requests at once."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Finish = Callable[[np.ndarray], Any]
"""What is made of the vectors of a request, (n, d), in the thread."""


@dataclass(frozen=True)
class _Job:
    images: np.ndarray
    finish: Finish
    result: Future[Any] = field(default_factory=Future)


class Batches:
    """Images that wait for the network.

    While the thread computes a batch, the next one gathers. Nobody waits for others to come.

    Args:
        vectors: uint8 (n, h, w, 3) -> (n, d); called by one thread.
        largest: the number of images in a batch.
    """

    def __init__(self, vectors: Callable[[np.ndarray], np.ndarray], largest: int) -> None:
        self.vectors = vectors
        self.largest = largest
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def submit(self, images: np.ndarray, finish: Finish) -> Future[Any]:
        """Queue images, uint8 (n, h, w, 3); the result is that of `finish`, or what `vectors` or `finish` raised."""
        job = _Job(images, finish)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        return job.result

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread after the jobs that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            self._run(jobs)

    def _next(self) -> list[_Job]:
        """The oldest jobs, as many as fit into a batch; none if there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            jobs: list[_Job] = []
            count = 0
            while self._waiting and (not jobs or count + len(self._waiting[0].images) <= self.largest):
                jobs.append(self._waiting.popleft())
                count += len(jobs[-1].images)
            return jobs

    def _run(self, jobs: list[_Job]) -> None:
        try:
            vectors = self.vectors(np.concatenate([job.images for job in jobs]))
        except Exception as error:  # whatever it is, its requests get it, and the thread goes on
            if len(jobs) == 1:
                jobs[0].result.set_exception(error)
                return
            for job in jobs:  # one image may have spoilt it for all
                self._run([job])
            return
        start = 0
        for job in jobs:
            stop = start + len(job.images)
            try:
                job.result.set_result(job.finish(vectors[start:stop]))
            except Exception as error:
                job.result.set_exception(error)
            start = stop
