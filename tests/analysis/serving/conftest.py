"""A run on the pixels of small picture files, and servers of it on the loopback interface."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import command_here
from tiny_pictures import write_picture

from classify.predict import Classifier

CLASSES = ("ant", "bee", "cow")
Serving = Callable[..., str]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its pictures are in the folder `pictures` beside it."""
    folder = tmp_path_factory.mktemp("serving")
    for split, count in (("train", 20), ("test", 5)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                write_picture(folder / "pictures" / split / name / f"{number}.png", 100 * label + number)
    cache = str(folder / "tiny.h5")
    pictures = str(folder / "pictures")
    made = command_here(
        "featurize", "--data", pictures, "--backbone", "pixels", "--image-size", "8", "--out", cache, "--quiet"
    )
    assert made.returncode == 0, made.stderr
    words = ["classify", "--features", cache, "--model", "logreg", "--runs", str(folder / "runs"), "--quiet"]
    assert command_here(*words).returncode == 0
    [run] = folder.glob("runs/*/logreg-*")
    return run


@pytest.fixture
def pictures(run: Path) -> list[Path]:
    """The test pictures."""
    return sorted((run.parents[2] / "pictures" / "test").rglob("*.png"))


@contextmanager
def served(run: Path, change: Callable[[Classifier], object] | None, options: dict[str, Any]) -> Iterator[str]:
    from analysis.serving.application import Service
    from analysis.serving.server import listening, make_server

    classifier = Classifier(run)
    if change:
        change(classifier)
    service = Service(classifier, "127.0.0.1", **options)
    server = make_server(service)
    listener = listening("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        service.close()


@pytest.fixture
def serving(run: Path) -> Iterator[Serving]:
    """Starts a server and returns its address; `change` gets the classifier, and options go to `Service`."""
    with ExitStack() as servers:
        yield lambda change=None, **options: servers.enter_context(served(run, change, options))
