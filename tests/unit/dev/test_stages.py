"""The runner of the development cluster's stages."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from dev import stages
from dev.stages import Stage, StageError, run, run_stages, wait_until


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(stages, "LOGS", tmp_path)
    monkeypatch.setattr(stages, "TIMINGS", tmp_path / "timings.json")
    yield tmp_path
    stages._stopping.clear()


def succeed(log: TextIO) -> None:
    print("done", file=log)


def test_a_stage_runs_after_those_it_needs() -> None:
    order: list[str] = []
    chain = [("c", ("b",)), ("b", ("a",)), ("a", ())]
    run_stages([Stage(name, name, lambda _, name=name: order.append(name), needs) for name, needs in chain])  # type: ignore[misc]
    assert order == ["a", "b", "c"]


def test_independent_stages_run_side_by_side() -> None:
    together = threading.Barrier(2, timeout=10)

    def meet(_: TextIO) -> None:
        together.wait()

    run_stages([Stage(name, name, meet) for name in "ab"])


def test_stages_of_one_lane_run_one_by_one_in_order() -> None:
    running: list[str] = []
    order: list[str] = []

    def work(name: str) -> None:
        assert not running
        running.append(name)
        order.append(name)
        time.sleep(0.02)
        running.remove(name)

    run_stages([Stage(name, name, lambda _, name=name: work(name), lane="go") for name in "abcd"])  # type: ignore[misc]
    assert order == ["a", "b", "c", "d"]


def test_each_stage_has_its_log_and_its_time(logs: Path) -> None:
    run_stages([Stage("build", "the build", succeed)])
    assert (logs / "build.log").read_text() == "done\n"
    assert set(json.loads((logs / "timings.json").read_text())) == {"build"}


def test_failed_command_is_reported_with_end_of_its_log(logs: Path) -> None:
    words = ["sh", "-c", "seq 100; exit 3"]
    with pytest.raises(StageError) as ended:
        run_stages([Stage("build", "the build", lambda log: run(words, log))])
    message = str(ended.value)
    assert message.startswith("The stage 'the build' failed: sh ended with exit code 3.\n\n  71\n  72\n")
    assert message.endswith(f"\n  100\n\nThe whole is in {logs / 'build.log'}")
    assert "+ sh -c seq 100; exit 3" in (logs / "build.log").read_text()


def test_unexpected_error_is_logged_with_traceback(logs: Path) -> None:
    def stumble(_: TextIO) -> None:
        raise KeyError("missing")

    with pytest.raises(StageError, match="'build' failed"):
        run_stages([Stage("build", "build", stumble)])
    assert "Traceback" in (logs / "build.log").read_text()


def test_a_failure_ends_what_still_runs() -> None:
    start = time.monotonic()
    with pytest.raises(StageError, match="'bad' failed"):
        run_stages(
            [
                Stage("slow", "slow", lambda log: run(["sleep", "30"], log)),
                Stage("waits", "waits", lambda _: wait_until("It", lambda: False, seconds=30)),
                Stage("bad", "bad", lambda log: run(["sh", "-c", "sleep 0.2; exit 3"], log)),
            ]
        )
    assert time.monotonic() - start < 10


def test_what_does_not_come_in_time_is_named() -> None:
    with pytest.raises(StageError, match="The gateway did not come within 0 s"):
        wait_until("The gateway", lambda: False, seconds=0.05, interval=0.01)


def test_a_command_reads_what_it_is_given(logs: Path) -> None:
    with (logs / "x.log").open("w") as log:
        run(["cat"], log, stdin="hello")
    assert (logs / "x.log").read_text() == "+ cat\nhello"


def test_a_stage_without_work_keeps_its_former_duration(logs: Path) -> None:
    stages.record("build", 300)
    stages.record("build", 0.04)
    assert json.loads((logs / "timings.json").read_text()) == {"build": 300}
    stages.record("build", 200)
    assert json.loads((logs / "timings.json").read_text()) == {"build": 200}
