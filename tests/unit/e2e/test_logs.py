"""What the end-to-end tests and the soak find wrong in the operator's log."""

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
"""Of two pods, the first is killed as soon as it has said something."""
FORMATTERS = {"json": JsonFormatter(FIELDS), "text": logging.Formatter(FIELDS)}


@pytest.fixture(params=FORMATTERS)
def formatter(request: pytest.FixtureRequest) -> logging.Formatter:
    """Give both forms of the operator's log."""
    return FORMATTERS[request.param]


def said(formatter: logging.Formatter, level: int, message: str, error: Exception | None = None) -> str:
    exc_info = (type(error), error, error.__traceback__) if error else None
    return formatter.format(logging.LogRecord("asyncio", level, "", 0, message, (), exc_info)) + "\n"


def raised() -> Exception:
    try:
        raise KeyError("spec")
    except KeyError as error:
        return error


def test_an_error_is_told_with_what_was_raised(formatter: logging.Formatter) -> None:
    log = said(formatter, logging.INFO, "took the lease")
    log += said(formatter, logging.ERROR, "Task exception was never retrieved", raised())
    found = alarms(log)

    assert "Task exception was never retrieved" in found[0]
    assert "KeyError: 'spec'" in found[-1]


def test_daily_business_is_no_alarm(formatter: logging.Formatter) -> None:
    log = said(formatter, logging.WARNING, "the operator ends: the lease is lost")
    log += said(formatter, logging.WARNING, "Dataset a/b failed and is tried again in 0.1 s: Conflict('ERROR')")
    log += said(formatter, logging.ERROR, "Request attempt #1 failed; will retry: GET /api -> APIForbiddenError()")

    assert alarms(log) == []


def test_what_python_itself_writes_beside_the_log_is_seen() -> None:
    log = "/app/main.py:3: RuntimeWarning: coroutine 'Lease.hold' was never awaited\n"
    log += 'Traceback (most recent call last):\n  File "main.py", line 1, in <module>\nValueError: no\n'

    assert alarms(log) == [log.splitlines()[0], "ValueError: no"]
    assert alarms("Traceback (most recent call last):\n  File") == ["a traceback that is cut off"]


def test_what_a_pod_said_before_it_was_killed_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
