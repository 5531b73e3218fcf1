"""Leader election by a Lease: of several operators one works, and the others wait for it to end.

The rules are those of client-go's ``leaderelection``. Whoever holds the Lease renews it every few seconds; who
waits takes it over once it has seen no renewal for as long as it lasts, by its own clock, so that clocks need not
agree. The holder gives up earlier than that, and writes nothing after: between the two lies the margin for what
is still on its way to the API server.
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
from bloomery_operator.cluster.kinds import LEASES, Key, Kind

logger = logging.getLogger(__name__)


class LeaseLost(Exception):
    """This process is not the one that works any more; it must end."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How long things last, in seconds."""

    duration: float = 10.0
    """Without a renewal for that long, another may take the Lease."""

    deadline: float = 7.0
    """Without a renewal for that long, the holder gives up."""

    retry: float = 2.0
    """Between two renewals, and between two looks of those who wait."""


class LeaseStore(Protocol):
    """What a Lease needs of a cluster."""

    async def get(self, kind: Kind, key: Key) -> Manifest | None:
        """Return the object as it is now, or None."""

    async def create(self, manifest: Manifest) -> Manifest | None:
        """Create the object; None where one of that name exists already."""

    async def replace(self, manifest: Manifest) -> Manifest | None:
        """Replace the object of that resourceVersion; None where it has another by now, or is gone."""


def boot_seconds() -> float:
    """A clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """One candidate for a Lease."""

    def __init__(
        self,
        store: LeaseStore,
        key: Key,
        *,
        identity: str,
        terms: Terms = Terms(),  # frozen
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        """Be a candidate; ``identity`` differs for each process, ``clock`` gives seconds."""
        self._store = store
        self._key = key
        self._identity = identity
        self._terms = terms
        self._clock = clock
        self._renewed: float | None = None
        self._seen: Manifest = {}
        self._seen_at = 0.0

    def remaining(self) -> float:
        """For how many seconds this process may still write without a renewal; not above zero: not at all."""
        return 0.0 if self._renewed is None else self._renewed + self._terms.deadline - self._clock()

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        told: str | None = None
        while not await self._attempt():
            holder = self._holder()
            if holder != told:
                logger.info("waiting for the lease %s, which %s holds", self._key, holder or "nobody")
                told = holder
            await asyncio.sleep(self._terms.retry)
        logger.info("took the lease %s", self._key)

    async def hold(self) -> None:
        """Renew the Lease for as long as that works; raises LeaseLost then."""
        while True:
            await asyncio.sleep(self._terms.retry)
            if await self._attempt():
                continue
            if self._holder() not in (self._identity, ""):
                self._renewed = None
                raise LeaseLost(f"the lease {self._key} was taken by {self._holder()}")
            if self.remaining() <= 0:
                raise LeaseLost(f"the lease {self._key} could not be renewed for {self._terms.deadline:.0f} s")

    async def release(self) -> None:
        """Give the Lease back, so that the next one need not wait; to be called when nothing is written any more."""
        is_ours = self.remaining() > 0
        self._renewed = None
        if not is_ours:
            return
        spec = self._seen["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(self._terms.retry):
                await self._store.replace(self._seen | {"spec": spec})
        except (ClusterError, aiohttp.ClientError, OSError) as error:
            logger.warning("the lease %s was not given back and runs out by itself: %r", self._key, error)

    async def _attempt(self) -> bool:
        """Take or renew the Lease; return whether that is certain. What is not is tried again."""
        started = self._clock()
        try:
            # An answer that comes later than the next attempt is of no use.
            async with asyncio.timeout(self._terms.retry):
                taken = await self._take()
        except (ClusterError, aiohttp.ClientError, OSError) as error:
            logger.warning("the lease %s could not be asked for: %r", self._key, error)
            return False
        if taken:
            self._renewed = started
        return taken

    async def _take(self) -> bool:
        found = await self._store.get(LEASES, self._key)
        if found is not None and found != self._seen:
            self._seen, self._seen_at = found, self._clock()
        if self._is_anothers():
            return False
        manifest = self._manifest(None if found is None else found["metadata"]["resourceVersion"])
        written = await (self._store.create(manifest) if found is None else self._store.replace(manifest))
        if written is None:
            return False
        self._seen, self._seen_at = written, self._clock()
        return True

    def _is_anothers(self) -> bool:
        """Whether another holds it, or may believe so: also a Lease that somebody deleted runs until its end."""
        if self._holder() in (self._identity, ""):
            return False
        duration = max(self._terms.duration, float(self._seen["spec"].get("leaseDurationSeconds") or 0))
        return self._clock() < self._seen_at + duration

    def _holder(self) -> str:
        return str(self._seen.get("spec", {}).get("holderIdentity") or "")

    def _manifest(self, version: str | None) -> Manifest:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = self._seen.get("spec", {})
        is_ours = self._holder() == self._identity
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"namespace": self._key.namespace, "name": self._key.name, "resourceVersion": version},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": round(self._terms.duration),
                "acquireTime": before["acquireTime"] if is_ours else now,
                "renewTime": now,
                "leaseTransitions": int(before.get("leaseTransitions") or 0) + (not is_ours and bool(before)),
            },
        }
