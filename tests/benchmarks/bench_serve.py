"""What `frozenbench serve` costs, and what it withstands.

    python tests/benchmarks/bench_serve.py speed RUN [--seconds 20] [--clients 32] [--pictures FOLDER]
    python tests/benchmarks/bench_serve.py attack RUN [--requests 10000] [--hostile 500] [--seed 0]

RUN is the directory of a run. Both start a server of their own. `speed` compares the time of an answer with that of
the extraction of one picture, in turns, and the pictures per second of many clients with those of the extraction loop
of `featurize`. `attack` sends pictures, and between them requests that are damaged, too large, slow or cut off. Each
answer must be that of `classify predict`, bit for bit. It also reads the memory of the server.

Pictures are those of the sample that comes with the package, as PNG files, unless there is a folder of others.
"""

import argparse
import io
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from classify.predict import Classifier, answer
from featurize.extraction.extractor import vector_blocks
from featurize.images import load_dataset

PICTURES = 200
BOUNDARY = b"frozenbench-boundary"
ROUND = 25  # answers, then as many extractions
TURNS = 10  # of many clients and the extraction loop
AT_ONCE = 8  # clients of `attack`
SETTLED = 500  # requests, after which the memory of the server counts


class Server:
    """`frozenbench serve` in a process of its own."""

    def __init__(self, run: Path, *options: str) -> None:
        words = ["serve", str(run), "--port", "0", *options]
        code = "from analysis.frozenbench import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise SystemExit(self.process.communicate()[1])
        self.port = int(self.address.rstrip("/").rpartition(":")[2])

    def memory(self, name: str = "VmRSS") -> float:
        """Its resident memory in MiB; with `VmHWM`, the most of it so far."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=120)

    def end(self, how: int = signal.SIGINT) -> tuple[int, str]:
        """Its exit code, and what it wrote to standard error."""
        self.process.send_signal(how)
        _, errors = self.process.communicate(timeout=90)
        return self.process.returncode, errors


@contextmanager
def serving(run: Path, *options: str) -> Iterator[Server]:
    server = Server(run, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def multipart(files: dict[str, bytes], end: bytes = b"--") -> bytes:
    """The body of a request with files."""
    parts = []
    for name, content in files.items():
        disposition = f'Content-Disposition: form-data; name="file"; filename="{name}"'.encode()
        parts.append(b"--" + BOUNDARY + b"\r\n" + disposition + b"\r\n\r\n" + content + b"\r\n")
    return b"".join(parts) + b"--" + BOUNDARY + end + b"\r\n"


def request(
    body: bytes = b"",
    path: str = "/predict",
    method: str = "POST",
    kind: bytes = b"multipart/form-data; boundary=" + BOUNDARY,
    host: str = "localhost",
    more: bytes = b"",
    length: int | None = None,
) -> bytes:
    """The bytes of a request."""
    size = len(body) if length is None else length
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n".encode()
    return head + b"Content-Type: " + kind + b"\r\n" + more + b"\r\n" + body


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """The status and body of an answer; 0 if the connection ended without one."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(1 << 16)
        if not part:
            return 0, received
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    size = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    while len(body) < size:
        part = connection.recv(1 << 16)
        if not part:
            return 0, body
        body += part
    return int(lines[0].split()[1]), body


# Speed.


def latencies(server: Server, classifier: Classifier, paths: list[Path], seconds: float) -> dict[str, np.ndarray]:
    """Milliseconds of answers and, in turns with them, of extractions and predictions of one picture by ourselves."""
    bodies = [request(multipart({path.name: path.read_bytes()})) for path in paths]
    found: dict[str, list[float]] = {"answer": [], "extraction": [], "prediction": []}

    def extraction(number: int) -> None:
        classifier.vectors(np.stack([classifier.read(paths[number])]))

    def prediction(number: int) -> None:
        list(classifier.predictions([paths[number]], 5))

    with server.connect() as connection:

        def ask(number: int) -> None:
            connection.sendall(bodies[number])
            status, _ = read_answer(connection)
            assert status == 200

        work: dict[str, Callable[[int], None]] = {"answer": ask, "extraction": extraction, "prediction": prediction}
        end = time.perf_counter() + seconds
        for started in count(0, ROUND):
            if time.perf_counter() > end:
                break
            for name, function in work.items():
                for number in range(started, started + ROUND):
                    began = time.perf_counter()
                    function(number % len(paths))
                    if started:  # the first round warms up
                        found[name].append(1000 * (time.perf_counter() - began))
    return {name: np.array(values) for name, values in found.items()}


def answered_per_second(server: Server, paths: list[Path], clients: int, seconds: float) -> float:
    """Pictures per second of so many clients, each of which sends the next picture when it has an answer."""
    bodies = [request(multipart({path.name: path.read_bytes()})) for path in paths]
    end = time.perf_counter() + seconds
    done = Counter[int]()

    def client(number: int) -> None:
        with server.connect() as connection:
            for each in count(number):
                if time.perf_counter() > end:
                    return
                connection.sendall(bodies[each % len(bodies)])
                status, _ = read_answer(connection)
                assert status == 200
                done[number] += 1

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return sum(done.values()) / (time.perf_counter() - began)


def extracted_per_second(classifier: Classifier, folder: Path, seconds: float) -> float:
    """Pictures per second of the loop of `featurize` over files."""
    dataset = load_dataset(folder, test_fraction=0.1)
    split = dataset.splits["train"].first(PICTURES)
    assert classifier.extractor is not None
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for block in vector_blocks(classifier.extractor, "train", split, classifier.batch_size):
            done += len(block)
    return done / (time.perf_counter() - began)


def measure_speed(run: Path, folder: Path, seconds: float, clients: int) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())[:PICTURES]
    classifier = Classifier(run)
    list(classifier.predictions(paths[: classifier.batch_size], 5))
    with serving(run) as server:
        found = latencies(server, classifier, paths, seconds)
        for name, values in found.items():
            print(f"one {name}: median {np.median(values):.2f} ms, p95 {np.percentile(values, 95):.2f} ms")
        for name, percent in (("median", 50), ("p95", 95)):
            answers, own = (np.percentile(found[each], percent) for each in ("answer", "extraction"))
            print(f"{name} of an answer: {answers / own:.2f} times that of an extraction")
        many, own_rate = [], []
        for _ in range(TURNS):
            many.append(answered_per_second(server, paths, clients, seconds / TURNS))
            own_rate.append(extracted_per_second(classifier, folder, seconds / TURNS))
        shares = np.divide(many, own_rate)
        print(f"{clients} clients: {np.median(many):.1f} pictures/s; extraction loop: {np.median(own_rate):.1f}")
        print(f"share: median {np.median(shares):.0%}, {shares.min():.0%} to {shares.max():.0%} in {TURNS} turns")


# Attacks: what each sends, and the statuses that it may get; 0 is a closed connection.


def png(width: int, height: int, content: bytes) -> bytes:
    """A PNG file that claims a size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def sent(data: bytes, *statuses: int) -> Callable[[Server], None]:
    """Send bytes, and expect one of these statuses."""

    def attack(server: Server) -> None:
        with server.connect() as connection:
            connection.sendall(data)
            status, body = read_answer(connection)
            assert status in statuses, (status, body[:200], data[:200])

    return attack


def skipped(name: str, content: bytes) -> Callable[[Server], None]:
    """Send a file, and expect that it is skipped."""

    def attack(server: Server) -> None:
        with server.connect() as connection:
            connection.sendall(request(multipart({name: content})))
            status, body = read_answer(connection)
            found = json.loads(body)
            assert (status, len(found["skipped"]), found["predictions"]) == (200, 1, []), body[:200]

    return attack


def endless(head: bytes, part: bytes, total: int) -> Callable[[Server], None]:
    """Send far too much, until the server refuses it."""

    def attack(server: Server) -> None:
        with server.connect() as connection:
            with suppress(OSError):
                connection.sendall(head)
                for _ in range(total // len(part)):
                    connection.sendall(part)
            with suppress(ConnectionError):
                status, _ = read_answer(connection)
                assert status in (0, 413, 429), status

    return attack


def cut_off(data: bytes) -> Callable[[Server], None]:
    """Send some bytes and reset the connection."""

    def attack(server: Server) -> None:
        with server.connect() as connection:
            connection.sendall(data)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return attack


def slow(head: bytes, rest: bytes, *statuses: int) -> Callable[[Server], None]:
    """Send the beginning of a request, and then a byte a second, until the server gives up."""

    def attack(server: Server) -> None:
        with server.connect() as connection:
            connection.sendall(head)
            connection.settimeout(1)
            for each in rest:
                try:
                    connection.sendall(bytes([each]))
                    status, _ = read_answer(connection)
                except TimeoutError:
                    continue
                except ConnectionError:
                    status = 0
                assert status in statuses, status
                return
            raise AssertionError("the server has waited for all of it")

    return attack


def hostile(picture: bytes) -> dict[str, Callable[[Server], None]]:
    """The attacks, by name."""
    body = multipart({"a.png": picture})
    good = request(body)
    head = good.removesuffix(body)
    megabyte = bytes(1 << 20)
    begun = body[:200]  # of a file
    chunked = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
    large = io.BytesIO()
    Image.new("RGB", (5000, 5000), "red").save(large, "PNG")
    return {
        "truncated picture": skipped("a.png", picture[: len(picture) // 2]),
        "empty picture": skipped("a.png", b""),
        "text": skipped("a.png", b"no picture"),
        "bomb": skipped("a.png", png(30_000, 30_000, zlib.compress(bytes(100_000)))),
        "bomb below Pillow's limit": skipped("a.png", png(9_000, 9_000, zlib.compress(bytes(9_000 * 27_001)))),
        "large picture": sent(request(multipart({"a.png": large.getvalue()})), 200),
        "zip": skipped("a.zip", b"PK\x03\x04" + bytes(1000)),
        "wrong checksum": skipped("a.png", picture[:40] + b"xx" + picture[42:]),
        "200 MB declared": endless(request(begun, length=200 << 20), megabyte, 200 << 20),
        "200 MB in chunks": endless(
            chunked + b"c8\r\n" + begun + b"\r\n", b"100000\r\n" + megabyte + b"\r\n", 200 << 20
        ),
        "many files": sent(request(multipart({f"{number}.png": b"" for number in range(65)})), 413),
        "no files": sent(request(b"--" + BOUNDARY + b"--\r\n"), 400),
        "a field": sent(request(body.replace(b'; filename="a.png"', b"")), 400),
        "not multipart": sent(request(picture, kind=b"image/png"), 415),
        "JSON": sent(request(b"{}", kind=b"application/json"), 415),
        "no boundary": sent(request(b"x", kind=b"multipart/form-data"), 400),
        "broken multipart": sent(request(b"\x00" * 1000), 400),
        "end of multipart missing": sent(request(multipart({"a.png": picture}, end=b"")), 200, 400),
        "wrong method": sent(request(method="PUT"), 405),
        "wrong path": sent(request(path="/../../etc/passwd"), 404),
        "wrong option": sent(request(body, path="/predict?top=0"), 400),
        "wrong coverage": sent(request(body, path="/predict?coverage=nan"), 400),
        "other host": sent(request(body, host="evil.example"), 421),
        "other origin": sent(request(body, more=b"Origin: http://evil.example\r\n"), 403),
        "large head": sent(request(more=b"X: " + b"x" * 200_000 + b"\r\n"), 0, 400, 431),
        "negative length": sent(request(length=-1), 400),
        "no HTTP": sent(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 0, 400),
        "cut in the head": cut_off(good[:40]),
        "cut in the body": cut_off(good[: len(good) // 2]),
        "cut before the answer": cut_off(good),
        "slow head": slow(b"", good, 0),
        "slow body": slow(head, body, 408),
    }


def expected_answers(classifier: Classifier, groups: list[list[Path]]) -> list[bytes]:
    """The JSON of `classify predict --coverage 0.9` for each group of files, with their names only."""
    coverage = 0.9 if classifier.guarantee.sets else None
    found = []
    for paths in groups:
        object_ = answer(classifier.predictions(paths, 5, coverage))
        for path, each in zip(paths, object_["predictions"], strict=True):
            each["file"] = path.name
        found.append(json.dumps(object_).encode())
    return found


def measure_attack(run: Path, folder: Path, requests: int, attacks: int, seed: int) -> int:
    """Returns the number of wrong answers and of attacks that succeeded."""
    rng = random.Random(seed)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())[:PICTURES]
    groups = [[path] for path in paths] + [rng.sample(paths, 3) for _ in range(20)]
    classifier = Classifier(run)
    right = expected_answers(classifier, groups)
    query = "?coverage=0.9" if classifier.guarantee.sets else ""
    bodies = [
        request(multipart({path.name: path.read_bytes() for path in group}), f"/predict{query}") for group in groups
    ]
    kinds = hostile(paths[0].read_bytes())
    todo: list[Any] = [int(rng.random() * len(groups)) for _ in range(requests - attacks)]
    todo += [name for _, name in zip(range(attacks), (name for _ in count() for name in kinds), strict=False)]
    rng.shuffle(todo)
    wrong: list[str] = []
    statuses: Counter[str] = Counter()
    memory: list[float] = []
    waiting = iter(todo)
    done = count(1)
    lock = threading.Lock()

    with serving(run) as server:

        def attack(name: str) -> None:
            try:
                kinds[name](server)
                statuses[f"attack: {name}"] += 1
            except (AssertionError, OSError, ValueError, KeyError) as error:
                wrong.append(f"{name}: {type(error).__name__}: {error}")

        def ask(connection: socket.socket, number: int) -> None:
            for _ in range(1000):
                connection.sendall(bodies[number])
                status, body = read_answer(connection)
                if status != 429:
                    break
                statuses["asked again after 429"] += 1
                time.sleep(0.2)
            if status != 200:
                wrong.append(f"request: {status} {body[:200]!r}")
            elif body != right[number]:
                wrong.append(f"request: {body[:300]!r}, expected {right[number][:300]!r}")
            else:
                statuses["right answers"] += 1

        def client(_: int) -> None:
            connection = server.connect()
            while True:
                with lock:
                    each = next(waiting, None)
                    finished = next(done)
                if each is None:
                    break
                if isinstance(each, str):
                    # Slow ones last half a minute: they run beside the others.
                    pool.submit(attack, each) if each.startswith("slow") else attack(each)
                else:
                    try:
                        ask(connection, each)
                    except OSError:  # an idle connection that the server has closed
                        connection.close()
                        connection = server.connect()
                        ask(connection, each)
                if finished % SETTLED == 0:
                    with lock:
                        memory.append(server.memory())
            connection.close()

        began, first = time.perf_counter(), server.memory()
        with ThreadPoolExecutor(64) as pool, ThreadPoolExecutor(AT_ONCE) as clients:
            list(clients.map(client, range(AT_ONCE)))
        seconds = time.perf_counter() - began
        time.sleep(1)
        memory.append(server.memory())
        alive = server.process.poll() is None
        most = server.memory("VmHWM")
        code, errors = server.end()
    for name, number in sorted(statuses.items()):
        print(f"{number:6,} {name}")
    print(f"{requests:,} requests, {attacks:,} of them hostile, in {seconds:.0f} s; seed {seed}")
    print(
        f"memory after {SETTLED} requests: {memory[0]:.0f} MiB; at the end {memory[-1]:.0f}; at the start {first:.0f}"
    )
    print(f"memory every {SETTLED} requests: {' '.join(f'{each:.0f}' for each in memory)}; most at a time {most:.0f}")
    print(f"alive at the end: {alive}; exit code after Ctrl-C: {code}; standard error: {errors.strip()!r}")
    print(f"wrong: {len(wrong)}")
    for line in wrong[:20]:
        print(f"  {line}")
    return len(wrong) + (not alive) + (code != 130)


def save_sample(folder: Path) -> None:
    """The test images of the sample as PNG files in class folders."""
    dataset = load_dataset("sample")
    split = dataset.splits["test"]
    for number, (image, label) in enumerate(zip(np.asarray(split.images), split.labels, strict=True)):
        path = folder / dataset.class_names[label] / f"{number:04}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "attack"))
    parser.add_argument("run", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--hostile", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(f"{chosen.run.name}; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.pictures
        if folder is None:
            folder = Path(temporary)
            save_sample(folder)
        if chosen.what == "speed":
            measure_speed(chosen.run, folder, chosen.seconds, chosen.clients)
        else:
            sys.exit(bool(measure_attack(chosen.run, folder, chosen.requests, chosen.hostile, chosen.seed)))


if __name__ == "__main__":
    main()
