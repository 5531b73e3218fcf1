"""Fuzz test of what strangers send: files to prepare, and requests to a model server (`make fuzz`).

Random archives, folders with labels, S3 listings, images, request heads, forms and inference requests go to the real
trainer and the real server, each as a process. Nothing may crash, hang, take more memory than a pod has, or get another
answer than 2xx, 4xx or a 500 that says why; each input file is used, or listed with a reason. `MINUTES` sets the
duration (10), `SEED` the inputs (1), `ONLY=archives,heads` the targets, and `CASE=17` repeats one case. The input of a
case that fails stays in `.dev/fuzz/`. The last line is one JSON object; the exit code is 1 if a case failed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.fuzz import preparation
from tests.fuzz.requests import REQUESTS
from tests.fuzz.serving import ServingTarget
from tests.fuzz.worker import Worker

FOLDER = Path(__file__).resolve().parents[2] / ".dev" / "fuzz"
LINE_SECONDS = 30.0
MAX_FAILURES = 50

Attempt = Callable[[random.Random, Path], list[str]]


class Fuzz:
    """One run over some targets, each of which gets the same time."""

    def __init__(self, targets: dict[str, Attempt], seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self._targets = targets
        self._seed = seed
        self._seconds = dict.fromkeys(targets, 0.0)

    def run(self, seconds: float) -> None:
        """Attempt cases until the time is over, or too many have failed."""
        end, reported = time.monotonic() + seconds, time.monotonic()
        while (now := time.monotonic()) < end and len(self.failures) < MAX_FAILURES:
            target = min(self._seconds, key=lambda name: self._seconds[name])
            self.attempt(target, self.counts[target])
            self._seconds[target] += time.monotonic() - now
            if now - reported > LINE_SECONDS:
                reported = now
                print(f"{end - now:4.0f} s left; cases: {dict(self.counts)}", flush=True)

    def attempt(self, target: str, number: int) -> None:
        """Attempt one case, and keep its input if it fails."""
        self.counts[target] += 1
        folder = FOLDER / f"{target}-{self._seed}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        problems = self._targets[target](random.Random(f"{self._seed}/{target}/{number}"), folder)
        if not problems:
            shutil.rmtree(folder, ignore_errors=True)
            return
        again = f"make fuzz SEED={self._seed} ONLY={target} CASE={number}"
        self.failures.append(f"{target}, case {number}: {'; '.join(problems)}")
        print(f"FAILED {self.failures[-1]}\n       {again}; the input is in {folder}", flush=True)


def main() -> int:
    """Run the fuzz test; return 1 if a case failed."""
    minutes, seed = float(os.environ.get("MINUTES", "10")), int(os.environ.get("SEED", "1"))
    FOLDER.mkdir(parents=True, exist_ok=True)
    worker, server = Worker(FOLDER / "prepare.log"), ServingTarget(FOLDER)
    targets: dict[str, Attempt] = {
        "archives": partial(preparation.archives, worker),
        "folders": partial(preparation.folders, worker),
        "listings": partial(preparation.listings, worker),
        **{name: partial(server.attempt, request) for name, request in REQUESTS.items()},
    }
    chosen = [name for name in os.environ.get("ONLY", "").split(",") if name] or list(targets)
    if unknown := set(chosen) - set(targets):
        raise SystemExit(f"ONLY names {', '.join(sorted(unknown))}; there are {', '.join(targets)}.")
    fuzz = Fuzz({name: targets[name] for name in chosen}, seed)
    try:
        if case := os.environ.get("CASE"):
            fuzz.attempt(chosen[0], int(case))
        else:
            fuzz.run(minutes * 60)
    finally:
        worker.stop()
        server.stop()
    print(json.dumps({"seed": seed, "cases": dict(fuzz.counts), "failures": fuzz.failures}, ensure_ascii=False))
    return 1 if fuzz.failures else 0


if __name__ == "__main__":
    sys.exit(main())
