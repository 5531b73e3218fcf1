"""The Lease: who works, who waits and who gives up, with a clock and an API server that the tests turn."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from typing import Any

import pytest

from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import LEASES, Key, Kind
from bloomery_operator.cluster.lease import Lease, LeaseLost, Terms

pytestmark = pytest.mark.anyio

KEY = Key("system", "operator")
TERMS = Terms(duration=10, deadline=7, retry=0.001)
Manifest = dict[str, Any]


class Store:
    """One object with a resourceVersion, as the API server keeps it."""

    def __init__(self) -> None:
        self.found: Manifest | None = None
        self.version = 0
        self.is_down = False

    async def get(self, kind: Kind, key: Key) -> Manifest | None:
        assert (kind, key) == (LEASES, KEY)
        if self.is_down:
            raise ClusterError(503, "ServiceUnavailable", "down")
        return deepcopy(self.found)

    async def create(self, manifest: Manifest) -> Manifest | None:
        return self._write(manifest) if self.found is None else None

    async def replace(self, manifest: Manifest) -> Manifest | None:
        if self.found is None or self.found["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"]:
            return None
        return self._write(manifest)

    def _write(self, manifest: Manifest) -> Manifest:
        self.version += 1
        self.found = deepcopy(manifest) | {"metadata": manifest["metadata"] | {"resourceVersion": str(self.version)}}
        return deepcopy(self.found)

    @property
    def holder(self) -> str:
        assert self.found is not None
        return str(self.found["spec"]["holderIdentity"])


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def candidate(store: Store, clock: Clock, name: str, terms: Terms = TERMS) -> Lease:
    return Lease(store, KEY, identity=name, terms=terms, clock=clock)


async def tries(lease: Lease, seconds: float = 0.05) -> bool:
    """Whether the lease is acquired while the clock stands still."""
    try:
        await asyncio.wait_for(lease.acquire(), seconds)
    except TimeoutError:
        return False
    return True


async def test_the_first_works_and_the_second_waits(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    assert await tries(first)
    assert not await tries(second)
    assert first.remaining() == TERMS.deadline
    assert second.remaining() == 0


async def test_the_second_takes_over_once_it_saw_no_renewal_for_as_long_as_the_lease_lasts(
    store: Store, clock: Clock
) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await tries(first)
    clock.now += 5
    assert not await tries(second)
    clock.now += 9.9
    assert not await tries(second)
    clock.now += 0.2
    assert await tries(second)
    assert store.holder == "second"
    assert store.found is not None
    assert store.found["spec"]["leaseTransitions"] == 1


async def test_the_first_may_not_write_any_more_before_the_second_takes_over(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await tries(first)
    await tries(second)
    clock.now += TERMS.deadline
    assert first.remaining() <= 0
    assert not await tries(second)


async def test_who_holds_it_renews_it_and_others_go_on_waiting(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await tries(first)
    holding = asyncio.create_task(first.hold())
    for _ in range(8):
        clock.now += 5
        await asyncio.sleep(0.02)
        assert first.remaining() == TERMS.deadline
        assert not await tries(second, 0.01)
    holding.cancel()


async def test_who_was_stopped_for_long_finds_another_at_work_and_gives_up(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await tries(first)
    await tries(second)
    clock.now += 60
    assert await tries(second)
    with pytest.raises(LeaseLost, match=r"the lease system/operator was taken by second"):
        await asyncio.wait_for(first.hold(), 1)
    assert first.remaining() <= 0


async def test_who_can_not_reach_the_api_server_gives_up_in_time(store: Store, clock: Clock) -> None:
    first = candidate(store, clock, "first")
    await tries(first)
    store.is_down = True
    holding = asyncio.create_task(first.hold())
    clock.now += TERMS.deadline - 0.1
    await asyncio.sleep(0.02)
    assert not holding.done()
    clock.now += 0.2
    with pytest.raises(LeaseLost, match="could not be renewed for 7 s"):
        await asyncio.wait_for(holding, 1)


async def test_a_lease_that_was_given_back_is_taken_at_once(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await tries(first)
    await tries(second)
    await first.release()
    assert first.remaining() == 0
    assert await tries(second)


async def test_giving_back_what_another_has_by_now_changes_nothing(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await tries(first)
    await tries(second)
    clock.now += 60
    await tries(second)
    await first.release()
    assert store.holder == "second"


async def test_a_lease_that_somebody_deleted_is_made_anew_by_its_holder_alone(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await tries(first)
    await tries(second)
    store.found = None
    assert not await tries(second)
    assert await tries(first)
    assert store.holder == "first"


async def test_the_longer_term_of_an_older_operator_is_waited_for(store: Store, clock: Clock) -> None:
    old = candidate(store, clock, "old", Terms(duration=30, deadline=20, retry=0.001))
    new = candidate(store, clock, "new")
    await tries(old)
    await tries(new)
    clock.now += 15
    assert not await tries(new)
    clock.now += 16
    assert await tries(new)
