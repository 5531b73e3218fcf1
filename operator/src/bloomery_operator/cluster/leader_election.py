"""Leader election by a Lease: one of several operators works, the others stand by.

The rules are those of client-go's ``leaderelection``. The leader renews the Lease every few seconds. A standby takes it
over once it has seen no renewal for the whole lease duration, measured by its own clock, so that clocks need not agree.
The leader gives up earlier than that, and sends no writes after: the difference is the margin for requests that are
still on their way to the API server.

The module is written by hand because ``kubernetes.aio.leaderelection`` compares the wall clocks of two machines, never
releases the Lease, ends the election at a connection error, and cannot say for how long a write is still safe.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import aiohttp

from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import LEASES, ObjectKey, ResourceKind

logger = logging.getLogger(__name__)

_RELEASED_LEASE_SECONDS = 1


class LeaseLost(Exception):
    """This process is no longer the leader, and must end."""


@dataclass(frozen=True, kw_only=True)
class ElectionTimes:
    """Durations of the election, in seconds."""

    lease: float = 10.0
    """A standby may take over a Lease that was not renewed for this long."""

    renew_deadline: float = 7.0
    """The leader gives up if it could not renew the Lease for this long."""

    retry: float = 2.0
    """Time between two renewals, and between two checks of a standby."""


class LeaseStore(Protocol):
    """The part of a cluster that an election needs."""

    async def get(self, kind: ResourceKind, key: ObjectKey) -> Manifest | None:
        """Return the current object, or None."""

    async def create(self, manifest: Manifest) -> Manifest | None:
        """Create the object; return None if its name is in use."""

    async def replace(self, manifest: Manifest) -> Manifest | None:
        """Replace the object if it still has that resourceVersion; else return None."""


def boot_seconds() -> float:
    """Return the seconds since boot: nobody sets this clock, and it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaderElector:
    """One candidate for a Lease."""

    def __init__(
        self,
        store: LeaseStore,
        key: ObjectKey,
        *,
        identity: str,
        times: ElectionTimes = ElectionTimes(),  # frozen
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        """Be a candidate.

        Args:
            store: reads and writes the Lease.
            key: namespace and name of the Lease.
            identity: is unique to this process.
            times: durations of the election.
            clock: returns seconds.
        """
        self._store = store
        self._key = key
        self._identity = identity
        self._times = times
        self._clock = clock
        self._renewed_at: float | None = None
        self._lease: Manifest = {}
        self._lease_seen_at = 0.0

    def remaining_seconds(self) -> float:
        """Return for how long this process may still write without a renewal; it may not at zero or below."""
        return 0.0 if self._renewed_at is None else self._renewed_at + self._times.renew_deadline - self._clock()

    async def acquire(self) -> None:
        """Wait until this process holds the Lease."""
        logged: str | None = None
        while not await self._try_acquire_or_renew():
            holder = self._holder()
            if holder != logged:
                logger.info("waiting for the lease %s, which %s holds", self._key, holder or "nobody")
                logged = holder
            await asyncio.sleep(self._times.retry)
        logger.info("took the lease %s", self._key)

    async def hold(self) -> None:
        """Renew the Lease for as long as possible.

        Raises:
            LeaseLost: another process took the Lease, or it could not be renewed in time.
        """
        while True:
            await asyncio.sleep(self._times.retry)
            if await self._try_acquire_or_renew():
                continue
            if self._holder() not in (self._identity, ""):
                self._renewed_at = None
                raise LeaseLost(f"the lease {self._key} was taken by {self._holder()}")
            if self.remaining_seconds() <= 0:
                raise LeaseLost(f"the lease {self._key} could not be renewed for {self._times.renew_deadline:.0f} s")

    async def release(self) -> None:
        """Release the Lease, so that a standby need not wait; call this when nothing is written any more."""
        is_leader = self.remaining_seconds() > 0
        self._renewed_at = None
        if not is_leader:
            return
        spec = self._lease["spec"] | {"holderIdentity": "", "leaseDurationSeconds": _RELEASED_LEASE_SECONDS}
        try:
            async with asyncio.timeout(self._times.retry):
                await self._store.replace(self._lease | {"spec": spec})
        except (ClusterError, aiohttp.ClientError, OSError) as error:
            logger.warning("the lease %s was not released and expires by itself: %r", self._key, error)

    async def _try_acquire_or_renew(self) -> bool:
        """Return whether this process certainly holds the Lease now."""
        started_at = self._clock()
        try:
            # A response that comes after the next attempt began is of no use.
            async with asyncio.timeout(self._times.retry):
                is_leader = await self._acquire_or_renew()
        except (ClusterError, aiohttp.ClientError, OSError) as error:
            logger.warning("the lease %s could not be read or renewed: %r", self._key, error)
            return False
        if is_leader:
            self._renewed_at = started_at
        return is_leader

    async def _acquire_or_renew(self) -> bool:
        current = await self._store.get(LEASES, self._key)
        if current is not None and current != self._lease:
            self._note_lease(current)
        if self._is_held_by_another():
            return False
        if current is None:
            written = await self._store.create(self._build_lease(None))
        else:
            written = await self._store.replace(self._build_lease(current["metadata"]["resourceVersion"]))
        if written is None:
            return False
        self._note_lease(written)
        return True

    def _note_lease(self, lease: Manifest) -> None:
        self._lease, self._lease_seen_at = lease, self._clock()

    def _is_held_by_another(self) -> bool:
        """Return whether another process may be the leader; a deleted Lease, too, is valid until it expires."""
        if self._holder() in (self._identity, ""):
            return False
        duration = max(self._times.lease, float(self._lease["spec"].get("leaseDurationSeconds") or 0))
        return self._clock() < self._lease_seen_at + duration

    def _holder(self) -> str:
        return str(self._lease.get("spec", {}).get("holderIdentity") or "")

    def _build_lease(self, version: str | None) -> Manifest:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = self._lease.get("spec", {})
        is_renewal = self._holder() == self._identity
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"namespace": self._key.namespace, "name": self._key.name, "resourceVersion": version},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": round(self._times.lease),
                "acquireTime": before["acquireTime"] if is_renewal else now,
                "renewTime": now,
                "leaseTransitions": int(before.get("leaseTransitions") or 0) + (not is_renewal and bool(before)),
            },
        }
