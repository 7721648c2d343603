"""The addresses of the server and what they answer."""

import asyncio
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.datastructures import QueryParams, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import analysis
from analysis.page import BASE_STYLE
from analysis.serving.batches import Batches, Finish
from analysis.serving.guard import Guard, Limits, error_response
from analysis.serving.nearest import NearestPictures
from classify.predict import Classifier, Prediction, Skipped, answer
from featurize.core.errors import DataError, FrozenbenchError, UsageError, with_parameters

logger = logging.getLogger("frozenbench")
TEMPLATES = Path(__file__).parent / "templates"
PAGES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/docs": ("docs.html", "text/html"),
    "/openapi.json": ("openapi.json", "application/json"),
}
"""Address -> file and type. They are the same for every run, so they need no token."""
HEALTH = "/healthz"
DECODERS = min(8, os.cpu_count() or 1)  # threads
TOO_MANY_FILES = "Too many files"  # how the message of Starlette's parser begins


class Service:
    """A run that answers requests.

    Args:
        classifier: its network and head.
        host: the name or address that the server listens on.
        token: that requests must carry; empty for none.
        limits: of requests.
    """

    def __init__(self, classifier: Classifier, host: str, token: str = "", limits: Limits | None = None) -> None:
        self.classifier = classifier
        self.limits = limits or Limits()
        self.nearest_pictures = NearestPictures(classifier.result)
        self.batches = Batches(classifier.vectors, classifier.batch_size)
        self.threads = ThreadPoolExecutor(DECODERS)
        routes = [
            *(Route(address, _page(*named)) for address, named in PAGES.items()),
            Route(HEALTH, self.health),
            Route("/run", self.run),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/nearest", self.nearest, methods=["POST"]),
        ]
        handlers: Any = {
            HTTPException: lambda _, error: error_response(error),
            FrozenbenchError: _failed,
            ClientDisconnect: lambda *_: Response(status_code=400),  # nobody reads it
            Exception: _unexpected,
        }
        app = Starlette(routes=routes, exception_handlers=handlers)
        self.app = Guard(app, self.limits, host, token, [*PAGES, HEALTH])

    def close(self) -> None:
        """End the threads after the images that wait."""
        self.batches.close()
        self.threads.shutdown()

    async def health(self, _: Request) -> Response:
        """Whether the thread of the network runs."""
        if not self.batches.alive:
            return JSONResponse({"status": "the thread of the network has ended"}, 503)
        return JSONResponse({"status": "ok"})

    async def run(self, _: Request) -> Response:
        """What the page and programs need to know of the run."""
        result, guarantee = self.classifier.result, self.classifier.guarantee
        names = ("model", "features", "dataset", "class_names", "test_rows")
        return JSONResponse(
            {
                "run": self.classifier.run_dir.name,
                **{name: getattr(result, name) for name in (*names, "accuracy", "accuracy_low", "accuracy_high")},
                "highest_coverage": guarantee.sets.highest_coverage if guarantee.sets else None,
                "tells_strange_images": guarantee.novelty is not None,
                "limits": asdict(self.limits),
                "version": analysis.__version__,
            }
        )

    async def predict(self, request: Request) -> Response:
        """Classify pictures; the object is that of `frozenbench classify predict --json`."""
        top, coverage = self._options(request.query_params)
        classifier = self.classifier
        found: list[Prediction | Skipped] = []
        async for names, images in self._blocks(request):
            judged = iter(await self._vectors(images, classifier.judged))
            for name, image in zip(names, images, strict=True):
                if isinstance(image, Skipped):
                    found.append(image)
                else:
                    probabilities, distance = next(judged)
                    found.append(classifier.prediction(name, probabilities, distance, top, coverage))
        return Response(json.dumps(answer(found)), media_type="application/json")

    async def nearest(self, request: Request) -> Response:
        """The nearest training pictures of pictures."""
        found, skipped = [], []
        async for names, images in self._blocks(request):
            vectors = await self._vectors(images, np.copy)
            neighbours: Any = iter(())
            if len(vectors):
                neighbours = iter(await self._in_thread(self.nearest_pictures.of, vectors))
            for name, image in zip(names, images, strict=True):
                if isinstance(image, Skipped):
                    skipped.append(asdict(image))
                else:
                    found.append({"file": name, "nearest": next(neighbours)})
        return JSONResponse({"pictures": found, "skipped": skipped})

    def _options(self, given: QueryParams) -> tuple[int, float | None]:
        """The numbers of classes and the coverage that a request asks for.

        Raises:
            UsageError: they are not numbers, or the run cannot give sets of this coverage.
        """
        if unknown := set(given) - {"top", "coverage"}:
            raise UsageError(f"{min(unknown)}: expected top or coverage")
        top = given.get("top", "5")
        if not re.fullmatch("[1-9][0-9]{0,8}", top):
            raise UsageError(f"top {top}: expected a whole number from 1 on")
        try:
            coverage = float(given["coverage"]) if "coverage" in given else None
        except ValueError as error:
            raise UsageError(f"coverage {given['coverage']}: expected a share, such as 0.9") from error
        self.classifier.check_coverage(coverage)
        return int(top), coverage

    async def _blocks(self, request: Request) -> AsyncIterator[tuple[list[str], list[np.ndarray | Skipped]]]:
        """The names and images of the files in a request, as many at once as `predict` takes."""
        async with self._files(request) as files:
            for start in range(0, len(files), self.classifier.batch_size):
                block = files[start : start + self.classifier.batch_size]
                images = await asyncio.gather(*(self._in_thread(self._read, file) for file in block))
                yield [str(file.filename) for file in block], list(images)

    @asynccontextmanager
    async def _files(self, request: Request) -> AsyncIterator[list[UploadFile]]:
        """The files in a request.

        Raises:
            HTTPException: it has none, too many, or something else.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "multipart/form-data":
            raise HTTPException(415, "expected files as multipart/form-data, as curl -F file=@picture.jpg sends them")
        try:
            form = await request.form(max_files=self.limits.files, max_fields=0)
        except HTTPException as error:
            if error.detail.startswith(TOO_MANY_FILES):
                raise HTTPException(413, f"expected at most {self.limits.files} files in a request") from error
            raise
        try:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if not files:
                raise HTTPException(400, "the request holds no file")
            yield files
        finally:
            await form.close()

    def _read(self, file: UploadFile) -> np.ndarray | Skipped:
        try:
            return self.classifier.decode(file.file, self.limits.pixels)
        except DataError as error:
            return Skipped(str(file.filename), str(error))

    async def _vectors(self, images: Sequence[np.ndarray | Skipped], finish: Finish) -> Any:
        """What `finish` makes of the vectors of the images that could be read."""
        readable = [image for image in images if not isinstance(image, Skipped)]
        if not readable:
            return ()
        return await asyncio.wrap_future(self.batches.submit(np.stack(readable), finish))

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)


def _page(name: str, kind: str) -> Any:
    """What answers with a file of the page; styles begin with the colours of all pages."""
    content = (TEMPLATES / name).read_bytes()
    if kind == "text/css":
        content = BASE_STYLE.read_bytes() + content

    async def page(_: Request) -> Response:
        return Response(content, media_type=kind)

    return page


async def _failed(_: Request, error: Exception) -> Response:
    """The work failed in a way that we know."""
    assert isinstance(error, FrozenbenchError)
    message = with_parameters(error.with_options)
    if isinstance(error, UsageError):
        return JSONResponse({"error": message}, 400)
    if isinstance(error, DataError):  # training pictures that are gone, or a head that does not work
        return JSONResponse({"error": message}, 404)
    logger.error("a request failed: %s", message)
    return JSONResponse({"error": message}, 500)


async def _unexpected(request: Request, error: Exception) -> Response:
    """The work failed in a way that we do not know; Starlette then raises the error again."""
    logger.error("a request to %s failed: %s: %s", request.url.path, type(error).__name__, error)
    return JSONResponse({"error": "the server failed"}, 500)
