"""Cron schedules: times in a zone, missed times, changes of the clock, and texts that are no schedule."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bloomery_operator.domain.cron import CronSchedule, read_schedule
from bloomery_operator.domain.verdict import Verdict

pytestmark = pytest.mark.feature("S23")


def schedule(expression: str, zone: str | None = None) -> CronSchedule:
    parsed = read_schedule(expression, zone, field="spec.schedule")
    assert isinstance(parsed, CronSchedule)
    return parsed


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_schedule_is_due_in_its_own_time_zone() -> None:
    berlin = schedule("30 2 * * 1", "Europe/Berlin")
    assert berlin.next(after=at("2026-05-01T12:00:00")) == at("2026-05-04T00:30:00")
    assert schedule("30 2 * * 1").next(after=at("2026-05-01T12:00:00")) == at("2026-05-04T02:30:00")
    assert berlin.seconds_to_next(at("2026-05-04T00:29:00")) == 60


def test_the_very_second_is_due_and_the_next_time_is_later() -> None:
    daily = schedule("0 2 * * *")
    moment = at("2026-05-04T02:00:00")
    assert daily.last(until=moment) == moment
    assert daily.next(after=moment) == at("2026-05-05T02:00:00")


def test_of_missed_times_only_the_last_is_due_and_only_once() -> None:
    daily = schedule("0 2 * * *")
    now = at("2026-05-04T09:00:00")
    due = daily.due(since=at("2026-05-01T02:00:00"), now=now)
    assert due == at("2026-05-04T02:00:00")
    assert daily.due(since=due, now=now) is None


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Etc/UTC"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "45 1 * * *", "*/20 * * * *", "15 1-3 * * *", "0 0 1 * *"])
def test_last_and_next_agree_throughout_a_year_with_changes_of_the_clock(zone: str, expression: str) -> None:
    """Whatever the moment, the last due time is the one after which no other came: nothing is missed or doubled."""
    due = schedule(expression, zone)
    times = [at("2026-01-01T00:00:00")]
    while times[-1] < at("2026-12-31T00:00:00"):
        times.append(due.next(after=times[-1]))
    # Around each time; for schedules of every few minutes, a part of the year's.
    sample = times[1:-1] if len(times) < 1000 else times[1:-1:97]
    for number, time in enumerate(times[1:-1], start=1):
        if time in sample:
            assert due.last(until=time) == time
            assert due.last(until=times[number + 1].replace(second=0)) == times[number + 1]
            between = time + (times[number + 1] - time) / 2
            assert due.last(until=between.replace(microsecond=0)) == time


@pytest.mark.parametrize(
    ("expression", "zone", "sentence"),
    [
        ("0 0 * * 5-1", None, "Bad day-of-week"),
        ("0 0 31 2 *", None, "Bad day-of-month"),
        ("0 0 * *", None, "Wrong number of fields"),
        ("0 0 * * *", "Europe/Atlantis", "timeZone beside spec.schedule is 'Europe/Atlantis'"),
        ("0 0 * * *", "Europe", "timeZone beside spec.schedule is 'Europe'"),
        ("0 0 * * *", "../etc/passwd", "timeZone beside spec.schedule"),
    ],
)
def test_what_is_no_schedule_is_reported_in_a_sentence(expression: str, zone: str | None, sentence: str) -> None:
    verdict = read_schedule(expression, zone, field="spec.schedule")
    assert isinstance(verdict, Verdict)
    assert verdict.failed and verdict.reason == "InvalidSchedule"
    assert sentence in verdict.message
