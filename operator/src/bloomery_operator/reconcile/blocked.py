"""Reconciles that cannot go on: the exception, and its conversion to a verdict."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

from bloomery_operator.api.reasons import Reason
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.domain.verdict import Verdict


class Blocked(Exception):
    """A reconcile cannot go on; its verdict becomes a condition, and the reconcile is tried again."""

    def __init__(self, verdict: Verdict) -> None:
        """Carry the verdict."""
        super().__init__(verdict.message)
        self.verdict = verdict


@contextmanager
def rejections_block() -> Iterator[None]:
    """Raise ``Blocked`` if the API server rejects a request in the block; other errors pass through."""
    try:
        yield
    except ClusterError as error:
        if not error.is_refusal:
            raise
        verdict = Verdict(Reason.REFUSED, f"The API server refused an object that this needs: {error}")
        raise Blocked(verdict) from error


async def blocked_by(work: Awaitable[object]) -> Verdict | None:
    """Await the work; return the verdict that blocks it, or None if it is done."""
    try:
        await work
    except Blocked as blocked:
        return blocked.verdict
    return None
