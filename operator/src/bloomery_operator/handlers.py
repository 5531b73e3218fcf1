"""kopf's part: it watches; each event only goes into the projection and the queue."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import kopf

from bloomery_operator.cluster.kinds import OWNERS, Kind
from bloomery_operator.controller import Controller
from bloomery_operator.domain.labels import SELECTOR

WATCH_CHUNK = 100
IDLE_SECONDS = 0.5


class _Backoffs:
    """Seconds between kopf's tries of a request, without an end: it would end the process after a minute of 500s."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1.0, 2.0, 4.0, 8.0), itertools.repeat(10.0))


def build_registry(controller: Controller) -> kopf.OperatorRegistry:
    """Return the handlers: ``on.event`` for each kind, which writes nothing and adds no finalizer."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    for kind in controller.kinds:
        _watch(registry, controller, kind)
    return registry


def build_settings(controller: Controller) -> kopf.OperatorSettings:
    """Return kopf's settings: bounded watches, server-side selectors, no peering, no Events of its own."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.networking.error_backoffs = _Backoffs()
    # kopf keeps for each object a task with its last news for so long: at a start, of all objects at once.
    settings.queueing.idle_timeout = IDLE_SECONDS
    settings.persistence.diffbase_storage = _NoMemory()
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 301
    settings.watching.connect_timeout = 60
    settings.watching.chunk_size = WATCH_CHUNK
    for kind in controller.kinds:
        if kind not in OWNERS:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = SELECTOR
    return settings


class _NoMemory(kopf.DiffBaseStorage):
    """Keeps nothing of an object: no handler of ours asks what changed, and kopf would copy each object to compare."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Give kopf the same credentials that our own client uses: the pod's, or a kubeconfig's."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


def _watch(registry: kopf.OperatorRegistry, controller: Controller, kind: Kind) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)
    async def observe(event: kopf.RawEvent, **_: Any) -> None:
        controller.observe(kind, dict(event["object"]), deleted=event["type"] == "DELETED")
