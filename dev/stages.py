"""Stages: named steps with a log each, run as early as what they need allows, with a progress line each."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from dev.paths import LOGS, STATE

TIMINGS = STATE / "timings.json"
HEARTBEAT_SECONDS = 30.0
LAST_LINES = 30
"""Of a failed stage's log, in its error."""

_children: set[subprocess.Popen[str]] = set()
_stopping = threading.Event()
"""Set once a stage has failed: the others are ended too, as what they make is of no use any more."""


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
    source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
    child = subprocess.Popen(
        words, stdin=source, stdout=log, stderr=subprocess.STDOUT, cwd=cwd, env=env, text=True
    )  # fmt: skip
    _children.add(child)
    try:
        if _stopping.is_set():
            child.terminate()
        child.communicate(stdin)
    finally:
        _children.discard(child)
    if child.returncode:
        raise StageError(f"{Path(words[0]).name} ended with exit code {child.returncode}")


def wait_until(what: str, condition: Callable[[], bool], *, seconds: float, interval: float = 0.3) -> None:
    """Poll a condition until it holds.

    Raises:
        StageError: it does not hold within the limit.
    """
    end = time.monotonic() + seconds
    while not condition():
        if _stopping.is_set():
            raise StageError(f"{what} is not waited for any more")
        if time.monotonic() > end:
            raise StageError(f"{what} did not come within {seconds:.0f} s")
        time.sleep(interval)


def run_stages(stages: Sequence[Stage]) -> None:
    """Run all stages, each as soon as those it needs are done, and record how long each took.

    Raises:
        StageError: one failed; with the end of its log, and where the whole is.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    _Run(stages).finish()


class _Run:
    """One run over a set of stages."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._waiting = list(stages)
        self._done: set[str] = set()
        self._start = time.monotonic()
        self._running: dict[Future[float], Stage] = {}
        self._width = max(len(stage.title) for stage in stages)

    def finish(self) -> None:
        with ThreadPoolExecutor(max_workers=len(self._waiting)) as pool:
            try:
                while self._waiting or self._running:
                    self._submit(pool)
                    self._await_one()
            except BaseException:
                self._stop()
                raise

    def _submit(self, pool: ThreadPoolExecutor) -> None:
        """Start what can start; of the stages that share a lane, one at a time and in the order given."""
        busy = {stage.lane for stage in self._running.values() if stage.lane}
        for stage in [s for s in self._waiting if self._done.issuperset(s.needs)]:
            if stage.lane not in busy:
                busy.update({stage.lane} - {""})
                self._waiting.remove(stage)
                self._running[pool.submit(_execute, stage)] = stage

    def _await_one(self) -> None:
        ended, _ = wait(self._running, timeout=HEARTBEAT_SECONDS, return_when=FIRST_COMPLETED)
        if not ended:
            self._say("…", ", ".join(stage.title for stage in self._running.values()))
        for future in ended:
            self._end(future)

    def _end(self, future: Future[float]) -> None:
        stage = self._running.pop(future)
        error = future.exception()
        if error is not None:
            words = str(error).rstrip(".") or type(error).__name__
            self._say("✗", stage.title)
            log = log_path(stage.name)
            raise StageError(f"The stage '{stage.title}' failed: {words}.\n\n{_end_of(log)}\n\nThe whole is in {log}")
        seconds = future.result()
        self._done.add(stage.name)
        self._say("✓", f"{stage.title:<{self._width}} {seconds:7.1f} s")
        record(stage.name, seconds)

    def _stop(self) -> None:
        _stopping.set()
        for child in list(_children):
            child.terminate()

    def _say(self, mark: str, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        print(f"[{minutes:2d}:{seconds:02d}] {mark} {text}", flush=True)


def _execute(stage: Stage) -> float:
    with log_path(stage.name).open("w") as log:
        start = time.monotonic()
        try:
            stage.run(log)
        except StageError:
            raise
        except Exception:
            traceback.print_exc(file=log)
            raise
        return time.monotonic() - start


def _end_of(log: Path) -> str:
    """Return a log's last lines, for a machine that is gone when somebody asks why."""
    return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-LAST_LINES:])


def log_path(stage: str) -> Path:
    """Return a stage's log."""
    return LOGS / f"{stage}.log"


def record(name: str, seconds: float) -> None:
    """Keep a stage's duration in ``.dev/timings.json``.

    A stage that finds its result there takes no second; that does not replace what making it took.
    """
    timings = json.loads(TIMINGS.read_text()) if TIMINGS.exists() else {}
    if seconds >= 1 or name not in timings:
        TIMINGS.write_text(json.dumps(timings | {name: round(seconds, 1)}, indent=1))
