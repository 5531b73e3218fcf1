"""The daemons of the development cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import processes
from dev.stages import StageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(processes, "PIDS", tmp_path / "pids")
    monkeypatch.setattr(processes, "LOGS", tmp_path / "logs")
    yield tmp_path
    processes.stop("daemon")


def pid(folder: Path) -> str:
    return (folder / "pids" / "daemon").read_text().split()[0]


def test_a_daemon_that_runs_is_left_running(folder: Path) -> None:
    processes.start("daemon", ["sleep", "60"])
    first = pid(folder)
    processes.start("daemon", ["sleep", "60"])
    assert pid(folder) == first


def test_other_arguments_restart_the_daemon(folder: Path) -> None:
    processes.start("daemon", ["sleep", "60"])
    first = pid(folder)
    processes.start("daemon", ["sleep", "61"])
    assert pid(folder) != first
    assert not Path("/proc", first, "exe").exists()


def test_another_configuration_restarts_the_daemon(folder: Path) -> None:
    config = folder / "config"
    config.write_text("a")
    processes.start("daemon", ["sleep", "60"], reads=[config])
    first = pid(folder)
    config.write_text("b")
    processes.start("daemon", ["sleep", "60"], reads=[config])
    assert pid(folder) != first


def test_stop_ends_it_and_may_be_repeated() -> None:
    processes.start("daemon", ["sleep", "60"])
    processes.stop("daemon")
    assert not processes.is_running("daemon")
    processes.stop("daemon")


def test_a_pid_that_now_belongs_to_another_process_is_not_ours(folder: Path) -> None:
    (folder / "pids").mkdir()
    (folder / "pids" / "daemon").write_text("1 0 digest")
    assert not processes.is_running("daemon")
    processes.stop("daemon")
    assert Path("/proc/1").exists()


def test_a_daemon_that_ended_is_reported_at_once_with_its_log(folder: Path) -> None:
    processes.start("daemon", ["sh", "-c", "echo no such flag; exit 2"])
    with pytest.raises(StageError, match=r"daemon ended at once; its own log is .*/daemons/daemon\.log"):
        while True:
            processes.is_up("daemon", lambda: False)
    assert (folder / "logs" / "daemons" / "daemon.log").read_text() == "no such flag\n"
