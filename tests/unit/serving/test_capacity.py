"""Workers and bytes by the limits of a container."""

from __future__ import annotations

import threading

import pytest

from bloomery_serving.capacity import LARGE_DECODING_BYTES, Capacity
from bloomery_serving.memory_budget import MemoryBudget
from bloomery_serving.settings import Settings

pytestmark = pytest.mark.feature("O7")

SETTINGS = Settings(model_uri="file:///model")
MIB = 1024 * 1024
GIB = 1024 * MIB
SECONDS = 10


@pytest.mark.parametrize(
    ("processors", "memory", "workers"),
    [(1, 2 * GIB, 1), (8, 2 * GIB, 8), (64, 2 * GIB, 16), (64, 64 * GIB, 64), (4, 100 * MIB, 1)],
)
def test_workers_are_as_many_as_the_memory_allows(processors: int, memory: int, workers: int) -> None:
    assert Capacity.of(SETTINGS, processors=processors, memory=memory).workers == workers


@pytest.mark.parametrize("memory", [512 * MIB, GIB, 2 * GIB, 16 * GIB])
def test_everything_at_its_limit_leaves_memory_for_the_model(memory: int) -> None:
    capacity = Capacity.of(SETTINGS, processors=64, memory=memory)
    small = capacity.workers * LARGE_DECODING_BYTES
    assert capacity.decoding_bytes + small + capacity.queue_bytes + capacity.max_body_bytes <= 0.75 * memory
    assert capacity.decoding_bytes + small + capacity.queue_bytes + capacity.process_bytes <= memory


def test_defaults_hold_for_a_pod_of_default_size() -> None:
    capacity = Capacity.of(SETTINGS, processors=2, memory=2 * GIB)
    assert (capacity.queue_bytes, capacity.max_body_bytes) == (SETTINGS.queue_bytes, SETTINGS.max_body_bytes)


def test_budget_admits_only_requests_that_fit_unless_alone() -> None:
    budget, entered = MemoryBudget(100), threading.Event()

    def take() -> None:
        with budget.acquire(60):
            entered.set()

    with budget.acquire(1000):
        other = threading.Thread(target=take)
        other.start()
        assert not entered.wait(0.05)
    assert entered.wait(SECONDS)
    other.join(SECONDS)
