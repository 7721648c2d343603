import threading

import numpy as np
import pytest

from analysis.serving.batches import Batches


class Network:
    """Doubles images once it may, and notes how many it gets at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.started, self.may_go = threading.Event(), threading.Event()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.started.set()
        assert self.may_go.wait(10)
        self.sizes.append(len(images))
        if (images == 13).any():
            raise ValueError("an unlucky image")
        return 2 * images


@pytest.fixture
def network() -> Network:
    return Network()


def images(*values: int) -> np.ndarray:
    return np.array(values).reshape(-1, 1)


def test_what_waits_is_gathered_up_to_the_largest_batch(network: Network) -> None:
    batches = Batches(network, 5)
    first = batches.submit(images(1), np.copy)
    assert network.started.wait(10)
    others = [batches.submit(images(*range(start, start + 2)), np.copy) for start in (2, 4, 6, 8)]
    network.may_go.set()
    assert [job.result(10).ravel().tolist() for job in (first, *others)] == [[2], [4, 6], [8, 10], [12, 14], [16, 18]]
    assert network.sizes == [1, 4, 4]
    batches.close()


def test_more_than_a_batch_in_one_request(network: Network) -> None:
    batches = Batches(network, 2)
    network.may_go.set()
    assert len(batches.submit(images(1, 2, 3), np.copy).result(10)) == 3
    batches.close()


def test_an_image_that_fails_spoils_its_own_request_only(network: Network) -> None:
    batches = Batches(network, 9)
    first = batches.submit(images(1), np.copy)
    assert network.started.wait(10)
    good, bad, last = (batches.submit(images(value), np.copy) for value in (2, 13, 4))
    network.may_go.set()
    assert [job.result(10).item() for job in (first, good, last)] == [2, 4, 8]
    with pytest.raises(ValueError, match="unlucky"):
        bad.result(10)
    assert batches.alive
    batches.close()


def test_what_is_made_of_the_vectors_fails_alone(network: Network) -> None:
    batches = Batches(network, 9)
    network.may_go.set()
    with pytest.raises(ZeroDivisionError):
        batches.submit(images(1), lambda _: 1 // 0).result(10)
    assert batches.submit(images(1), np.copy).result(10).item() == 2
    batches.close()


def test_what_waits_at_the_end_is_done(network: Network) -> None:
    batches = Batches(network, 1)
    jobs = [batches.submit(images(value), np.copy) for value in (1, 2, 3)]
    network.may_go.set()
    batches.close()
    assert [job.result(0).item() for job in jobs] == [2, 4, 6]
    assert not batches.alive
