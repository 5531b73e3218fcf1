"""Cool-down of a run that ends before its last step: its begin, its length and the learning rate."""

from __future__ import annotations

from typing import Any

import pytest

from bloomery_trainer.engine.cooldown import Cooldown, Pace
from bloomery_trainer.engine.early_stopping import Patience, is_still_improving


def pace(step: int, *, seconds: float | None = None, **changes: Any) -> Pace:
    """A second for each step, and 1,000 steps in all."""
    values: dict[str, Any] = {"left": 1_000 - step, **changes}
    return Pace(step=step, seconds=step if seconds is None else seconds, **values)


def test_cooldown_falls_in_a_line_to_nothing() -> None:
    cooldown = Cooldown(reason="Stopped", start=40, steps=4, factor=0.5)

    assert [cooldown.factor_at(step) for step in range(40, 45)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0])
    assert cooldown.end == 44


def test_stop_cools_down_for_a_tenth_of_the_steps_done() -> None:
    assert pace(200).cooldown_steps("Stopped") == 20
    assert pace(0).cooldown_steps("Stopped") == 0
    assert pace(995).cooldown_steps("Stopped") == 5


def test_stop_cools_down_for_five_minutes_at_most() -> None:
    assert pace(10_000, left=10_000, seconds=50_000).cooldown_steps("Stopped") == 60
    assert pace(100, max_seconds=110, evaluation_seconds=4.5).cooldown_steps("Stopped") == 5


def test_time_is_near_with_a_fifth_of_the_finished_steps_left() -> None:
    assert not pace(100, max_seconds=150).is_time_near
    assert pace(130, max_seconds=150).is_time_near
    assert pace(130, max_seconds=150).cooldown_steps("TrainingTimeReached") == 19


def test_time_is_not_near_where_the_run_ends_before_it() -> None:
    assert not pace(995, max_seconds=1_020).is_time_near
    assert not pace(500).is_time_near
    assert not pace(0, max_seconds=10).is_time_near


def test_time_for_the_last_evaluation_is_left() -> None:
    steps = pace(130, max_seconds=170, evaluation_seconds=20).cooldown_steps("TrainingTimeReached")

    assert steps + 20 <= 40


def test_patience_ends_where_only_the_loss_gets_better() -> None:
    patience = Patience()
    for epoch in range(1, 4):
        patience.update(epoch, 1.0)

    assert patience.is_over(3, 2)


def test_patience_counts_neither_tiny_gains_nor_warmup() -> None:
    patience = Patience()
    patience.update(1, 0.2)
    patience.update(2, 0.2, is_warmup=True)
    patience.update(3, 0.2005)

    assert (patience.epoch, patience.value) == (2, 0.2)
    patience.update(4, 0.202)
    assert (patience.epoch, patience.value) == (4, 0.202)


def test_metric_that_rises_in_the_last_tenth_is_still_improving() -> None:
    rising, level = [number / 30 for number in range(30)], [0.8] * 27 + [0.803] * 3

    assert is_still_improving(rising)
    assert not is_still_improving(level)
    assert not is_still_improving([0.5])
    assert is_still_improving([0.5, 0.6])
