"""Steady load from a pod: a fixed rate of requests, counted by their answers."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from dev.images import OUR_IMAGES
from testing.dev_cluster import Kubectl, eventually

SCRIPT = """
import asyncio, base64, json, os, signal, time
from collections import Counter

import aiohttp

URL, KEY = os.environ["URL"], os.environ["KEY"]
RATE, COUNT, IN_FLIGHT = float(os.environ["RATE"]), int(os.environ["COUNT"]), int(os.environ["IN_FLIGHT"])
IMAGE = base64.b64decode(os.environ["IMAGE"])


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    answers, wrong, seconds, tasks = Counter(), [], [], set()
    free = asyncio.Semaphore(IN_FLIGHT)

    async def ask(session):
        began = time.perf_counter()
        try:
            async with session.post(URL, data=IMAGE, headers={"content-type": "image/png", "authorization": KEY}) as r:
                body = await r.read()
                answers[f"{r.headers.get('x-variant', 'none')} {r.headers.get('x-model', '')}"] += 1
                if r.status != 200:
                    wrong.append(f"{time.time():.1f} {r.status} {body[:120]!r}")
        except (aiohttp.ClientError, TimeoutError) as error:
            wrong.append(f"{time.time():.1f} {error!r}")
        finally:
            seconds.append(time.perf_counter() - began)
            free.release()

    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        start = time.monotonic()
        for number in range(COUNT):
            if stop.is_set():
                break
            await asyncio.sleep(max(0.0, start + number / RATE - time.monotonic()))
            await free.acquire()
            task = asyncio.create_task(ask(session))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if number % 500 == 0:
                print(f"{number} asked, {len(wrong)} wrong", flush=True)
        await asyncio.gather(*tasks)
    ordered = sorted(seconds)
    at = lambda share: ordered[int(share * (len(ordered) - 1))] if ordered else 0
    print(json.dumps({
        "requests": len(ordered), "seconds": time.monotonic() - start, "answers": answers, "wrong": wrong[:20],
        "wrongCount": len(wrong), "p50": at(0.5), "p99": at(0.99),
    }), flush=True)


asyncio.run(main())
"""


@dataclass(frozen=True)
class Outcome:
    """What became of the requests: who answered how many, and what went wrong."""

    requests: int
    seconds: float
    answers: dict[str, int]
    wrong: list[str]
    wrong_count: int
    p50: float
    p99: float

    def by_variant(self) -> dict[str, int]:
        """Return the number of answers by variant, for all its models."""
        counted: dict[str, int] = {}
        for sender, count in self.answers.items():
            variant = sender.split(" ")[0]
            counted[variant] = counted.get(variant, 0) + count
        return counted


class Load:
    """A pod that sends requests to a service until ``count`` requests are sent, or until ``stop``."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self._kubectl = kubectl
        self._name = name

    def start(self, url: str, *, key: str, image: bytes, rate: float, count: int, in_flight: int = 32) -> Load:
        """Start the pod."""
        values = {
            "URL": url,
            "KEY": key,
            "IMAGE": base64.b64encode(image).decode(),
            "RATE": str(rate),
            "COUNT": str(count),
            "IN_FLIGHT": str(in_flight),
        }
        done = self._kubectl.apply(_pod(self._name, values))
        assert done.returncode == 0, done.stderr
        eventually("the load is under way", lambda: "asked" in self.log(), seconds=60)
        return self

    def log(self) -> str:
        """Return the pod's log."""
        return self._kubectl.run("logs", self._name, check=False).stdout

    def end(self, *, seconds: float) -> Outcome:
        """Wait for the last answer; return the outcome of all requests."""
        eventually(f"{self._name} ended", lambda: '"requests"' in self.log(), seconds=seconds, interval=2)
        figures = json.loads(self.log().strip().rsplit("\n", 1)[-1])
        self._kubectl.run("delete", "pod", self._name, "--wait=false")
        return Outcome(
            requests=figures["requests"],
            seconds=figures["seconds"],
            answers=figures["answers"],
            wrong=figures["wrong"],
            wrong_count=figures["wrongCount"],
            p50=figures["p50"],
            p99=figures["p99"],
        )

    def stop(self) -> Outcome:
        """Stop sending, and wait for the open requests; return the outcome."""
        self._kubectl("exec", self._name, "--", "python", "-c", "import os; os.kill(1, 15)")
        return self.end(seconds=90)


def _pod(name: str, values: dict[str, str]) -> dict[str, Any]:
    image = next(image.reference for image in OUR_IMAGES if image.name == "operator")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "load",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "command": ["python", "-c", SCRIPT],
                    "env": [{"name": name, "value": value} for name, value in values.items()],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
