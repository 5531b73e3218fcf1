"""Times of what need not be done again for each event."""

from __future__ import annotations

from bloomery_operator.reconcile.recent_times import RecentTimes


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_interval_runs_from_the_last_noted_time() -> None:
    clock = Clock()
    times = RecentTimes(clock=clock)
    assert times.seconds_left("keys", 2.0) == 0.0
    times.note("keys")
    clock.now += 0.5
    assert times.seconds_left("keys", 2.0) == 1.5
    times.note("keys")
    assert times.seconds_left("keys", 2.0) == 2.0


def test_interval_of_a_wait_runs_from_its_first_event_until_it_is_forgotten() -> None:
    clock = Clock()
    times = RecentTimes(clock=clock)
    for expected in (2.0, 1.5, 1.0, 0.5, 0.0, 0.0):
        times.note_first("progress")
        assert times.seconds_left("progress", 2.0) == expected
        clock.now += 0.5
    times.forget("progress")
    times.forget("progress")
    times.note_first("progress")
    assert times.seconds_left("progress", 2.0) == 2.0
