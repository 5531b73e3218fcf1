"""`make bench-capture`: the cost of capture, and a store that is away; the last line is one JSON object.

Two servers on one processor answer the same photos: one captures each of them, the other none. They get requests at
fixed times (an open loop), at half of the rate at which the first one is saturated, in pairs of runs; the load runs on
the other processor, and so does the store, but at the lowest priority: in production, no client shares a processor with
it. Then the store goes away for a minute, and comes back.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from prometheus_client.parser import text_string_to_metric_families

from bench.hostile import MIB, Answers, MemorySampler, answer_to, closing, head
from bench.images import write_photos
from bench.servers import CORES, Contestant, ours, running
from testing.processes import free_port

if TYPE_CHECKING:
    from testing.servers import S3Server

PLAIN_PORT, CAPTURING_PORT = 18300, 18301
MEMORY_BYTES = 2 * 1024**3
BUCKET = "captures"
SATURATING_CONNECTIONS = 8
LIMIT_RATIO = 1.1
LOAD_CORES = CORES[1:] or CORES
"""Processors of the load and the store; the servers share the first one."""


@dataclass(frozen=True)
class Load:
    """Requests for one server: so many, at fixed times; with rate 0, as fast as they are answered."""

    port: int
    photos: Sequence[bytes]
    requests: int
    rate: float = 0


async def send(load: Load) -> Answers:
    """Send the requests; the time of each is that from when it was due to its answer."""
    milliseconds: list[float] = []
    failures: list[str] = []
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send_one(number: int, due: float) -> None:
        try:
            reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", load.port)
            photo = load.photos[number % len(load.photos)]
            writer.write(head("none", len(photo), "content-type: image/jpeg") + photo)
            status, body = await answer_to(reader)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            failures.append(repr(error))
            return
        milliseconds.append(1000 * (time.perf_counter() - due))
        idle.append((reader, writer))
        if status != 200:
            failures.append(f"{status} {body[:200]!r}")

    async def send_as_answered(first: int) -> None:
        for number in range(first, load.requests, SATURATING_CONNECTIONS):
            await send_one(number, time.perf_counter())

    if load.rate:
        await _at_fixed_times(send_one, load)
    else:
        await asyncio.gather(*map(send_as_answered, range(SATURATING_CONNECTIONS)))
    for _, writer in idle:
        with closing(writer):
            pass
    return Answers(milliseconds, failures)


async def _at_fixed_times(send_one: Callable[[int, float], Any], load: Load) -> None:
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(load.requests):
            due = began + number / load.rate
            await asyncio.sleep(max(0, due - time.perf_counter()))
            tasks.create_task(send_one(number, due))


def _send_in_process(load: Load, results: Any) -> None:
    os.sched_setaffinity(0, LOAD_CORES)
    began = time.perf_counter()
    answers = asyncio.run(send(load))
    results.put((answers, time.perf_counter() - began))


def run(load: Load) -> tuple[Answers, float]:
    """Send requests from a process of its own; return the answers and the seconds."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_send_in_process, args=(load, results))
    process.start()
    outcome: tuple[Answers, float] = results.get()
    process.join()
    return outcome


def metric(port: int, name: str, **labels: str) -> float:
    """Return the sum of a server's samples with these labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port + 1000}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def cpu_seconds(pid: int) -> float:
    """Return the time of processors that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_stored() -> None:
    """Wait until no capture waits for the store."""
    while metric(CAPTURING_PORT, "bloomery_capture_queue_bytes"):
        time.sleep(0.2)


def measure_pairs(
    photos: Sequence[bytes], pids: Mapping[int, int], *, requests: int, pairs: int, rate: float
) -> dict[str, Any]:
    """Measure both servers in turn; return the figures of each pair and the medians.

    The time of processors for a request says what capture costs also on a machine that is not quiet.
    """
    rows = []
    for number in range(pairs):
        ports = (PLAIN_PORT, CAPTURING_PORT) if number % 2 else (CAPTURING_PORT, PLAIN_PORT)
        answers, cpu = {}, {}
        for port in ports:
            before = cpu_seconds(pids[port])
            answers[port], _ = run(Load(port, photos, requests, rate))
            wait_until_stored()
            cpu[port] = 1000 * (cpu_seconds(pids[port]) - before) / requests
        plain, capturing = answers[PLAIN_PORT], answers[CAPTURING_PORT]
        row = {
            "plainP50": round(plain.at(0.5), 2), "capturingP50": round(capturing.at(0.5), 2),
            "plainP99": round(plain.at(0.99), 2), "capturingP99": round(capturing.at(0.99), 2),
            "plainCpuMs": round(cpu[PLAIN_PORT], 2), "capturingCpuMs": round(cpu[CAPTURING_PORT], 2),
            "ratio": round(capturing.at(0.99) / plain.at(0.99), 3),
            "failures": len(plain.failures) + len(capturing.failures),
            "firstFailures": [*plain.failures[:2], *capturing.failures[:2]],
        }  # fmt: skip
        print(f"pair {number + 1}: {row}", flush=True)
        rows.append(row)
    medians = {name: statistics.median(row[name] for row in rows) for name in ("ratio", "plainCpuMs", "capturingCpuMs")}
    return {**medians, "pairs": rows}


def measure_outage(
    photos: Sequence[bytes], store: S3Server, pid: int, *, rate: float, seconds: float
) -> dict[str, Any]:
    """Take the store away while requests come, and bring it back; return what became of requests and captures."""
    before = {
        name: metric(CAPTURING_PORT, name) for name in ("bloomery_captures_total", "bloomery_dropped_captures_total")
    }
    store.kill()
    revival = threading.Timer(seconds, store.start)
    revival.start()
    with MemorySampler(pid) as memory:
        answers, _ = run(Load(CAPTURING_PORT, photos, round(1.25 * seconds * rate), rate))
        revival.join()
        wait_until_stored()
    stored, dropped = (metric(CAPTURING_PORT, name) - count for name, count in before.items())
    return {
        "requests": len(answers.milliseconds),
        "failures": len(answers.failures),
        "p99": round(answers.at(0.99), 2),
        "stored": stored,
        "dropped": dropped,
        "peakMiB": round(memory.peak / MIB),
    }


def count_foreign(store: S3Server, photos: Sequence[bytes]) -> dict[str, int]:
    """Compare what is stored with what was asked, by digests."""
    digests_of_photos = {hashlib.sha256(photo).hexdigest() for photo in photos}
    bucket = store.bucket(BUCKET)
    paths = [entry["path"] for page in obstore.list(bucket) for entry in page if entry["path"].endswith(".jpg")]
    digests = [hashlib.sha256(bytes(obstore.get(bucket, path).bytes())).hexdigest() for path in paths]
    return {"images": len(digests), "foreign": sum(digest not in digests_of_photos for digest in digests)}


@contextmanager
def both_servers(model: Path, store: S3Server, folder: Path) -> Iterator[Mapping[int, int]]:
    """Run both servers on one processor; yield their processes by their ports."""
    settings = {"MEMORY_BYTES": str(MEMORY_BYTES)}
    capture = {
        "CAPTURE_URI": f"s3://{BUCKET}/bench", "CAPTURE_PERCENT": "100", "CAPTURE_MAX_PER_HOUR": "10000000",
        **store.environment("CAPTURE_STORE_"),
    }  # fmt: skip
    contestants: list[Contestant] = [
        ours(model, port=PLAIN_PORT, **settings),
        ours(model, port=CAPTURING_PORT, **settings, **capture),
    ]
    plain, capturing = (
        running(contestant, folder / f"{contestant.port}.log", cores=CORES[:1]) for contestant in contestants
    )
    with plain as one, capturing as other:
        yield {PLAIN_PORT: one.pid, CAPTURING_PORT: other.pid}


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the cost of capture, and an outage."""
    # Only here: the processes that make the load are to start without torch.
    from bench.serving import write_models
    from testing.servers import S3Server

    write_photos(folder / "photos", images=200, classes=1)
    photos = [path.read_bytes() for path in sorted((folder / "photos").rglob("*.jpg"))]
    model = write_models(folder, {options.preset: options.preset})[options.preset]
    prefix = ("taskset", "--cpu-list", ",".join(map(str, LOAD_CORES)), "nice", "-n", "19")
    store = S3Server(free_port(), "captures", folder / "s3", folder / "s3.log", prefix=prefix)
    store.start()
    store.bucket(BUCKET)
    try:
        with both_servers(model, store, folder) as pids:
            run(Load(PLAIN_PORT, photos, 100))
            answers, seconds = run(Load(PLAIN_PORT, photos, options.requests // 4))
            rate = len(answers.milliseconds) / seconds / 2
            print(f"saturated at {2 * rate:.1f} images/s", flush=True)
            figures = measure_pairs(photos, pids, requests=options.requests, pairs=options.pairs, rate=rate)
            outage = measure_outage(photos, store, pids[CAPTURING_PORT], rate=rate, seconds=options.outage)
            captured = metric(CAPTURING_PORT, "bloomery_captures_total")
        return {
            "rate": round(rate, 1),
            **figures,
            "outage": outage,
            "captured": captured,
            **count_foreign(store, photos),
        }
    finally:
        store.kill()


def main() -> None:
    """Measure, and fail where capture costs more than it may or a request fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="mobilenet-v3-large")
    parser.add_argument("--requests", type=int, default=2000, help="of each run")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--outage", type=float, default=60, help="seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-capture-") as name:
        figures = measure(Path(name), options)
    print(json.dumps(figures))
    failures = figures["outage"]["failures"] + sum(row["failures"] for row in figures["pairs"])
    if failures or figures["foreign"] or figures["ratio"] > LIMIT_RATIO:
        raise SystemExit(f"capture costs more than {LIMIT_RATIO}, or requests failed, or images are not those asked")


if __name__ == "__main__":
    main()
