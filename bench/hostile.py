"""`make bench-hostile`: a well-behaved client beside hostile ones; the last line is one JSON object.

A server on one processor, with the memory of a pod of default size, has a client that sends photos. Beside that come
clients whose requests are made to fill the memory or to keep the server busy: each kind by itself, then all together.
Each client has a key of its own and eight connections, and sends its next request after the answer to the one before.
The load runs on the other processor.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import math
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.images import write_photos
from bench.servers import CORES, ours, running
from bloomery_model.cgroup import resident_bytes

CONNECTIONS = 8
SIDE = 224
PORT = 18200
MEMORY_BYTES = 2 * 1024**3
GOOD = "good"
ANSWER_SECONDS = 60.0
"""As long as a gateway waits."""
MARGIN_SECONDS = 60.0
"""Time for the process of the well-behaved client to start."""
PAUSE_SECONDS = 2.0
"""Time between two kinds, in which the server finishes what it has begun."""
MIB = 1024 * 1024

_CUT_OFF = (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError)


@dataclass(frozen=True)
class Answers:
    """What became of the well-behaved client's requests."""

    milliseconds: Sequence[float]
    failures: Sequence[str]

    def at(self, share: float) -> float:
        """Return a percentile in milliseconds."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


Interaction = Callable[[str], Awaitable[None]]
"""One request of a hostile client, or what is none; its argument is the client's key."""


def head(key: str, length: int, *more: str, path: str = "/predict") -> bytes:
    """Return the head of a POST."""
    lines = [f"POST {path} HTTP/1.1", "host: x", f"authorization: {key}", f"content-length: {length}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def answer_to(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one answer; return its status and its body."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    lengths = [line.partition(":")[2] for line in lines if line.lower().startswith("content-length:")]
    return int(lines[0].split(" ")[1]), await reader.readexactly(int(lengths[0]))


@contextmanager
def closing(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Close a connection after the block, whatever is still to be sent."""
    try:
        yield
    finally:
        writer.transport.abort()


def posts(body: bytes, *headers: str, path: str = "/predict", leaves: bool = False) -> Interaction:
    """Return the interaction that posts a body; with ``leaves``, nobody waits for the answer."""

    async def interact(key: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        with closing(writer):
            writer.write(head(key, len(body), *headers, path=path) + body)
            await writer.drain()
            if not leaves:
                await asyncio.wait_for(answer_to(reader), ANSWER_SECONDS)

    return interact


def sends(first: bytes, *, repeated: bytes = b"", times: int = 0) -> Interaction:
    """Return the interaction that sends bytes that are no whole request, and waits until it is cut off."""

    async def interact(key: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        with closing(writer):
            writer.write(first.replace(b"KEY", key.encode()))
            for _ in range(times):
                writer.write(repeated)
                await writer.drain()
            await asyncio.wait_for(reader.read(), ANSWER_SECONDS)

    return interact


INFER = "/v2/models/model/infer"
_NUMBERS = 10 * 3 * SIDE**2

KINDS: Mapping[str, Callable[[], Interaction]] = {
    "nested-lists": lambda: posts(_tensor(["[[[[[[[[[[]]]]]]]]]]"] * _NUMBERS), path=INFER),
    "nested-objects": lambda: posts(_tensor(['{"":0}'] * _NUMBERS), path=INFER),
    "deep-lists-left": lambda: posts(_tensor(["0"] * 1_400_000, depth=190), path=INFER, leaves=True),
    "overflowing-tensors": lambda: posts(_tensor(["3e38"] * (_NUMBERS // 10), count=1), path=INFER),
    "gzip-bombs": lambda: posts(gzip.compress(bytes(140 * MIB), 1), "content-encoding: gzip", path=INFER),
    "16-bit-images": lambda: posts(_grey_image()),
    "turned-images": lambda: posts(_turned_image()),
    "large-images": lambda: posts(_png(_wide_image())),
    "large-images-left": lambda: posts(_turned_image(), leaves=True),
    "announced-bodies": lambda: sends(head("KEY", 140_000_000) + b"x"),
    "heads-without-end": lambda: sends(b"GET / HTTP/1.1\r\nx: ", repeated=b"a" * MIB, times=300),
    "half-heads": lambda: sends(b"GET / HTTP/1.1\r\nhost:"),
    "pipelined": lambda: sends(b"GET /upload HTTP/1.1\r\nhost: x\r\n\r\n" * 5_000),
}
"""What makes each kind of hostile client, by its name, which is its key, too."""


def _wide_image() -> Image.Image:
    return Image.new("RGB", (5000, 5000), (20, 200, 20))


def _grey_image() -> bytes:
    return _png(Image.fromarray(np.full((5000, 5000), 20_000, np.uint16)))


def _turned_image() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _png(_wide_image().convert("RGBA"), exif=exif)


def _png(image: Image.Image, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def _tensor(elements: Sequence[str], *, count: int = 10, depth: int = 1) -> bytes:
    """Return a request with these elements in so many lists."""
    data = "[" * depth + ",".join(elements) + "]" * depth
    entry = f'"name":"images","shape":[{count},3,{SIDE},{SIDE}],"datatype":"FP32","data":{data}'
    return f'{{"inputs":[{{{entry}}}]}}'.encode()


def play(kind: str, seconds: float, barrier: Any) -> None:
    """Be hostile for some seconds, in a process of its own, once all that are to be have prepared what they send."""
    os.sched_setaffinity(0, CORES[1:] or CORES)
    os.nice(10)  # the load that is measured runs on the same processor
    interact = KINDS[kind]()
    barrier.wait()
    asyncio.run(_play(kind, interact, seconds))


async def _play(key: str, interact: Interaction, seconds: float) -> None:
    async def repeat() -> None:
        while True:
            with suppress(*_CUT_OFF):
                await interact(key)
            await asyncio.sleep(0)

    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*(repeat() for _ in range(CONNECTIONS))), seconds)


def ask(photo: bytes, seconds: float, results: Any) -> None:
    """Send photos for some seconds, in a process of its own."""
    os.sched_setaffinity(0, CORES[1:] or CORES)
    results.put(asyncio.run(_ask(photo, seconds)))


async def _ask(photo: bytes, seconds: float) -> Answers:
    milliseconds: list[float] = []
    failures: list[str] = []
    end = time.monotonic() + seconds
    request = head(GOOD, len(photo), "content-type: image/jpeg") + photo

    async def repeat() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        with closing(writer):
            while time.monotonic() < end:
                began = time.perf_counter()
                writer.write(request)
                status, body = await asyncio.wait_for(answer_to(reader), ANSWER_SECONDS)
                milliseconds.append(1000 * (time.perf_counter() - began))
                if status != 200:
                    failures.append(f"{status} {body[:200]!r}")

    async def repeat_and_reconnect() -> None:
        while time.monotonic() < end:
            try:
                await repeat()
            except _CUT_OFF as error:
                failures.append(repr(error))
                await asyncio.sleep(0.1)

    await asyncio.gather(*(repeat_and_reconnect() for _ in range(CONNECTIONS)))
    return Answers(milliseconds, failures)


class MemorySampler:
    """Looks at a process' resident memory, ten times a second."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._process = Path(f"/proc/{pid}")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> MemorySampler:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            self.peak = max(self.peak, resident_bytes(self._process))


def measure(kinds: Sequence[str], photo: bytes, seconds: float, pid: int) -> dict[str, Any]:
    """Let the well-behaved client ask while others are hostile; return its figures and the server's memory."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    barrier = context.Barrier(len(kinds) + 1)
    hostile = [context.Process(target=play, args=(kind, seconds + MARGIN_SECONDS, barrier)) for kind in kinds]
    good = context.Process(target=ask, args=(photo, seconds, results))
    with MemorySampler(pid) as memory:
        for process in hostile:
            process.start()
        barrier.wait()
        good.start()
        answers: Answers = results.get()
        good.join()
        for process in hostile:
            process.kill()
            process.join()
    time.sleep(PAUSE_SECONDS)
    return {
        "requests": len(answers.milliseconds),
        "failures": len(answers.failures),
        "firstFailures": list(answers.failures[:3]),
        "p50": round(answers.at(0.5), 1),
        "p99": round(answers.at(0.99), 1),
        "peakMiB": round(memory.peak / MIB),
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the figures as lines for people."""
    yield f"{'':20} {'requests':>8} {'failures':>8} {'p50 ms':>8} {'p99 ms':>8} {'of quiet':>8} {'MiB':>6}"
    for name, row in rows.items():
        share = row["p99"] / rows["quiet"]["p99"]
        figures = f"{row['requests']:>8} {row['failures']:>8} {row['p50']:>8.0f} {row['p99']:>8.0f}"
        yield f"{name:20} {figures} {share:>8.1f} {row['peakMiB']:>6}"


def main() -> None:
    """Measure each kind in turn, then all together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="of all together")
    parser.add_argument("--turn-seconds", type=float, default=20, help="of each kind by itself, and of the quiet")
    parser.add_argument("--only", action="append", choices=list(KINDS), help="only these kinds")
    options = parser.parse_args()
    kinds = options.only or list(KINDS)
    # Only here: the processes that make the load are to start without torch.
    from bench.serving import write_models

    with tempfile.TemporaryDirectory(prefix="bench-hostile-") as name:
        folder = Path(name)
        keys = folder / "keys"
        keys.mkdir()
        for key in (GOOD, *kinds):
            (keys / key).write_text(hashlib.sha256(key.encode()).hexdigest())
        write_photos(folder / "photos", images=1, classes=1)
        photo = next((folder / "photos").rglob("*.jpg")).read_bytes()
        model = write_models(folder, {"resnet50": "resnet50"})["resnet50"]
        server = ours(model, port=PORT, API_KEYS_DIR=str(keys), MEMORY_BYTES=str(MEMORY_BYTES))
        with running(server, folder / "log", cores=CORES[:1]) as process:
            measure([], photo, 2, process.pid)
            rows: dict[str, Any] = {}
            turns = {"quiet": [], **{kind: [kind] for kind in kinds}, "together": kinds}
            for row, hostile in turns.items():
                seconds = options.seconds if row == "together" else options.turn_seconds
                rows[row] = measure(hostile, photo, seconds, process.pid)
                print(f"{row}: {rows[row]}", flush=True)
        print((folder / "log").read_text()[-2000:], file=sys.stderr)
    print("\n".join(table(rows)))
    print(json.dumps(_summary(rows)))


def _summary(rows: Mapping[str, Any]) -> dict[str, Any]:
    loaded = {name: row for name, row in rows.items() if name != "quiet"}
    return {
        "quietP99": rows["quiet"]["p99"],
        "loadedP99": max(row["p99"] for row in loaded.values()),
        "failures": sum(row["failures"] for row in rows.values()),
        "peakMiB": max(row["peakMiB"] for row in rows.values()),
        "limitMiB": MEMORY_BYTES // MIB,
        "kinds": rows,
    }


if __name__ == "__main__":
    main()
