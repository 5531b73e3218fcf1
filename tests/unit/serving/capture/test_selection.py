"""The selection of images: why each is captured, and the bounds of an hour."""

from __future__ import annotations

import pytest

from bloomery_serving.capture.selection import CapturePolicy, Selector

HOUR = 3600.0


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 10 * HOUR

    def __call__(self) -> float:
        return self.now


def policy(
    *, percent: float = 0, low_confidence: float = 0, per_class: int = 0, max_per_hour: int = 100
) -> CapturePolicy:
    return CapturePolicy(percent=percent, low_confidence=low_confidence, per_class=per_class, max_per_hour=max_per_hour)


@pytest.mark.feature("S19")
@pytest.mark.parametrize(
    ("chance", "confidence", "is_unknown", "reason"),
    [
        (0.04, 0.2, True, "Random"),
        (0.05, 0.2, False, "LowConfidence"),
        (0.9, 0.99, True, "LowConfidence"),
        (0.9, 0.6, False, "PerClass"),
    ],
    ids=["the dice come first", "unsure", "unknown", "an example of its class"],
)
def test_each_image_has_one_reason(chance: float, confidence: float, is_unknown: bool, reason: str) -> None:
    selector = Selector(policy(percent=5, low_confidence=0.6, per_class=1), chance=lambda: chance)

    assert selector.find_reason(0, confidence, is_unknown=is_unknown) == reason


@pytest.mark.feature("S19")
def test_nothing_is_selected_without_a_reason() -> None:
    selector = Selector(policy(), chance=lambda: 0)

    assert selector.find_reason(0, 0.0, is_unknown=True) is None


@pytest.mark.feature("S19")
def test_each_class_has_its_examples_in_each_hour() -> None:
    clock = Clock()
    selector = Selector(policy(per_class=2), clock=clock)

    def select(label: int) -> bool:
        reason = selector.find_reason(label, 1.0, is_unknown=False)
        return reason is not None and selector.acquire(label, reason)

    assert [select(0) for _ in range(4)] == [True, True, False, False]
    assert select(1)
    clock.now += HOUR
    assert select(0)


@pytest.mark.feature("S19")
def test_an_hour_has_a_bound_whatever_the_reason() -> None:
    clock = Clock()
    selector = Selector(policy(percent=100, max_per_hour=3), clock=clock)

    def select() -> bool:
        reason = selector.find_reason(0, 1.0, is_unknown=False)
        return reason is not None and selector.acquire(0, reason)

    assert [select() for _ in range(5)] == [True, True, True, False, False]
    clock.now += HOUR
    assert select()
