"""Stages: named steps with a log each, run as early as what they need allows, with a progress line each."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from dev.paths import LOGS, STATE

TIMINGS = STATE / "timings.json"
HEARTBEAT_SECONDS = 30.0


class StageError(Exception):
    """A stage failed; the message is a sentence for people."""


@dataclass(frozen=True)
class Stage:
    """One step: ``run`` gets its open log; ``lane`` keeps heavy steps of one sort from running side by side."""

    name: str
    title: str
    run: Callable[[TextIO], None]
    needs: tuple[str, ...] = ()
    lane: str = ""


def run(
    command: Sequence[str | Path],
    log: TextIO,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> None:
    """Run a command with its output in the log.

    Raises:
        StageError: it ended with another exit code than 0.
    """
    words = [str(word) for word in command]
    print("+", *words, file=log, flush=True)
    done = subprocess.run(
        words, stdout=log, stderr=subprocess.STDOUT, cwd=cwd, env=env, input=stdin, text=True, check=False
    )
    if done.returncode:
        raise StageError(f"{Path(words[0]).name} ended with exit code {done.returncode}")


def wait_until(
    what: str, condition: Callable[[], bool], *, seconds: float, interval: float = 0.3, hint: str = ""
) -> None:
    """Poll a condition until it holds.

    Raises:
        StageError: it does not hold within the limit.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise StageError(f"{what} did not come within {seconds:.0f} s. {hint}".strip())
        time.sleep(interval)


def run_stages(stages: Sequence[Stage]) -> None:
    """Run all stages, each as soon as those it needs are done, and record how long each took.

    Raises:
        SystemExit: one failed; says which log to read.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    _Run(stages).finish()


class _Run:
    """One run over a set of stages."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._waiting = list(stages)
        self._done: set[str] = set()
        self._lanes = {stage.lane: threading.Lock() for stage in stages if stage.lane}
        self._start = time.monotonic()
        self._running: dict[Future[float], Stage] = {}
        self._width = max(len(stage.title) for stage in stages)

    def finish(self) -> None:
        with ThreadPoolExecutor(max_workers=8) as pool:
            while self._waiting or self._running:
                self._submit(pool)
                ended, _ = wait(self._running, timeout=HEARTBEAT_SECONDS, return_when=FIRST_COMPLETED)
                if not ended:
                    self._say("…", ", ".join(stage.title for stage in self._running.values()))
                for future in ended:
                    self._end(future)

    def _submit(self, pool: ThreadPoolExecutor) -> None:
        for stage in [s for s in self._waiting if self._done.issuperset(s.needs)]:
            self._waiting.remove(stage)
            self._running[pool.submit(self._execute, stage)] = stage

    def _execute(self, stage: Stage) -> float:
        lane = self._lanes.get(stage.lane, threading.Lock())
        with lane, (LOGS / f"{stage.name}.log").open("w") as log:
            start = time.monotonic()
            stage.run(log)
            return time.monotonic() - start

    def _end(self, future: Future[float]) -> None:
        stage = self._running.pop(future)
        try:
            seconds = future.result()
        except (StageError, OSError) as error:
            self._say("✗", f"{stage.title}: {error}")
            print(f"\nThe stage '{stage.title}' failed: {error}.\nRead {LOGS / stage.name}.log", file=sys.stderr)
            # Builds of other stages may take minutes yet; they are no use any more.
            sys.stderr.flush()
            raise SystemExit(1) from None
        self._done.add(stage.name)
        self._say("✓", f"{stage.title:<{self._width}} {seconds:7.1f} s")
        record(stage.name, seconds)

    def _say(self, mark: str, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        print(f"[{minutes:2d}:{seconds:02d}] {mark} {text}", flush=True)


def record(name: str, seconds: float) -> None:
    """Keep a stage's duration in ``.dev/timings.json``."""
    timings = json.loads(TIMINGS.read_text()) if TIMINGS.exists() else {}
    TIMINGS.write_text(json.dumps(timings | {name: round(seconds, 1)}, indent=1))
