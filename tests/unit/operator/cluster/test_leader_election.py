"""Leader election, with a clock and an API server that the tests control."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from typing import Any

import pytest

from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import LEASES, ObjectKey, ResourceKind
from bloomery_operator.cluster.leader_election import ElectionTimes, LeaderElector, LeaseLost

pytestmark = pytest.mark.anyio

KEY = ObjectKey("system", "operator")
TIMES = ElectionTimes(lease=10, renew_deadline=7, retry=0.001)
Manifest = dict[str, Any]


class Store:
    """One object with a resourceVersion, as the API server keeps it."""

    def __init__(self) -> None:
        self.lease: Manifest | None = None
        self.version = 0
        self.is_down = False

    async def get(self, kind: ResourceKind, key: ObjectKey) -> Manifest | None:
        assert (kind, key) == (LEASES, KEY)
        if self.is_down:
            raise ClusterError(503, "ServiceUnavailable", "down")
        return deepcopy(self.lease)

    async def create(self, manifest: Manifest) -> Manifest | None:
        return self._write(manifest) if self.lease is None else None

    async def replace(self, manifest: Manifest) -> Manifest | None:
        if self.lease is None or self.lease["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"]:
            return None
        return self._write(manifest)

    def _write(self, manifest: Manifest) -> Manifest:
        self.version += 1
        self.lease = deepcopy(manifest) | {"metadata": manifest["metadata"] | {"resourceVersion": str(self.version)}}
        return deepcopy(self.lease)

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])


class Clock:
    """Seconds that pass only when set."""

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


def candidate(store: Store, clock: Clock, name: str, times: ElectionTimes = TIMES) -> LeaderElector:
    return LeaderElector(store, KEY, identity=name, times=times, clock=clock)


async def try_acquire(elector: LeaderElector, seconds: float = 0.05) -> bool:
    """Return whether the lease is acquired while the clock stands still."""
    try:
        await asyncio.wait_for(elector.acquire(), seconds)
    except TimeoutError:
        return False
    return True


async def test_first_candidate_leads_and_second_waits(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    assert await try_acquire(first)
    assert not await try_acquire(second)
    assert first.remaining_seconds() == TIMES.renew_deadline
    assert second.remaining_seconds() == 0


async def test_standby_takes_over_after_the_lease_duration_without_renewal(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await try_acquire(first)
    clock.now += 5
    assert not await try_acquire(second)
    clock.now += 9.9
    assert not await try_acquire(second)
    clock.now += 0.2
    assert await try_acquire(second)
    assert store.holder == "second"
    assert store.lease is not None
    assert store.lease["spec"]["leaseTransitions"] == 1


async def test_leader_must_not_write_before_the_standby_takes_over(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await try_acquire(first)
    await try_acquire(second)
    clock.now += TIMES.renew_deadline
    assert first.remaining_seconds() <= 0
    assert not await try_acquire(second)


async def test_leader_renews_and_standby_goes_on_waiting(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await try_acquire(first)
    holding = asyncio.create_task(first.hold())
    for _ in range(8):
        clock.now += 5
        await asyncio.sleep(0.02)
        assert first.remaining_seconds() == TIMES.renew_deadline
        assert not await try_acquire(second, 0.01)
    holding.cancel()


async def test_suspended_leader_gives_up_after_a_takeover(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await try_acquire(first)
    await try_acquire(second)
    clock.now += 60
    assert await try_acquire(second)
    with pytest.raises(LeaseLost, match=r"the lease system/operator was taken by second"):
        await asyncio.wait_for(first.hold(), 1)
    assert first.remaining_seconds() <= 0


async def test_leader_without_api_server_gives_up_at_the_deadline(store: Store, clock: Clock) -> None:
    first = candidate(store, clock, "first")
    await try_acquire(first)
    store.is_down = True
    holding = asyncio.create_task(first.hold())
    clock.now += TIMES.renew_deadline - 0.1
    await asyncio.sleep(0.02)
    assert not holding.done()
    clock.now += 0.2
    with pytest.raises(LeaseLost, match="could not be renewed for 7 s"):
        await asyncio.wait_for(holding, 1)


async def test_released_lease_is_taken_at_once(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await try_acquire(first)
    await try_acquire(second)
    await first.release()
    assert first.remaining_seconds() == 0
    assert await try_acquire(second)


async def test_release_after_a_takeover_changes_nothing(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await try_acquire(first)
    await try_acquire(second)
    clock.now += 60
    await try_acquire(second)
    await first.release()
    assert store.holder == "second"


async def test_deleted_lease_is_created_again_by_its_holder_only(store: Store, clock: Clock) -> None:
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await try_acquire(first)
    await try_acquire(second)
    store.lease = None
    assert not await try_acquire(second)
    assert await try_acquire(first)
    assert store.holder == "first"


async def test_standby_waits_for_the_longer_duration_of_another_holder(store: Store, clock: Clock) -> None:
    old = candidate(store, clock, "old", ElectionTimes(lease=30, renew_deadline=20, retry=0.001))
    new = candidate(store, clock, "new")
    await try_acquire(old)
    await try_acquire(new)
    clock.now += 15
    assert not await try_acquire(new)
    clock.now += 16
    assert await try_acquire(new)
