"""Alarms in the operator's log, for the end-to-end tests and the soak test."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pythonjsonlogger.json import JsonFormatter

from dev import demo
from testing.dev_cluster import Kubectl, eventually
from tests.e2e.logs import Logs, alarms

FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"
KUBECTL = """#!/bin/sh
case "$*" in
*--watch*)
    echo "first    <none>"
    echo "first    containerd://aaaaaaaaaaaa"
    echo "second   containerd://bbbbbbbbbbbb"
    echo "first    containerd://aaaaaaaaaaaa"
    exec sleep 60 ;;
*first) printf 'Traceback (most recent call last):\\nKeyError: 1\\n' ;;
*second) echo '2026-01-01 10:00:00 ERROR kopf no' && exec sleep 60 ;;
esac
"""
"""A kubectl with two pods; the first pod is killed after its first log lines."""
FORMATTERS = {"json": JsonFormatter(FIELDS), "text": logging.Formatter(FIELDS)}


@pytest.fixture(params=FORMATTERS)
def formatter(request: pytest.FixtureRequest) -> logging.Formatter:
    """Give both forms of the operator's log."""
    return FORMATTERS[request.param]


def format_record(formatter: logging.Formatter, level: int, message: str, error: Exception | None = None) -> str:
    exc_info = (type(error), error, error.__traceback__) if error else None
    return formatter.format(logging.LogRecord("asyncio", level, "", 0, message, (), exc_info)) + "\n"


def raised() -> Exception:
    try:
        raise KeyError("spec")
    except KeyError as error:
        return error


def test_error_is_alarm_with_its_exception(formatter: logging.Formatter) -> None:
    log = format_record(formatter, logging.INFO, "took the lease")
    log += format_record(formatter, logging.ERROR, "Task exception was never retrieved", raised())
    results = alarms(log)

    assert "Task exception was never retrieved" in results[0]
    assert "KeyError: 'spec'" in results[-1]


def test_expected_warnings_are_no_alarm(formatter: logging.Formatter) -> None:
    log = format_record(formatter, logging.WARNING, "the operator ends: the lease is lost")
    log += format_record(
        formatter, logging.WARNING, "Dataset a/b failed and is tried again in 0.1 s: Conflict('ERROR')"
    )

    assert alarms(log) == []


def test_pythons_own_warnings_and_tracebacks_are_alarms() -> None:
    log = "/app/main.py:3: RuntimeWarning: coroutine 'Lease.hold' was never awaited\n"
    log += 'Traceback (most recent call last):\n  File "main.py", line 1, in <module>\nValueError: no\n'

    assert alarms(log) == [log.splitlines()[0], "ValueError: no"]
    assert alarms("Traceback (most recent call last):\n  File") == ["a traceback that is cut off"]


def test_log_of_killed_pod_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    monkeypatch.setattr(demo, "tool", lambda name: str(tmp_path / name))
    with Logs(Kubectl("system"), "app=operator", tmp_path / "logs") as logs:

        def lines() -> int:
            return sum(path.read_text().count("\n") for path in (tmp_path / "logs").iterdir())

        eventually("both logs are there", lambda: lines() == 3, seconds=20, interval=0.1)
        assert logs.alarms() == ["first-aaaaaaaa: KeyError: 1", "second-bbbbbbbb: 2026-01-01 10:00:00 ERROR kopf no"]
        assert logs.alarms() == []
