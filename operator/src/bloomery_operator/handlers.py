"""kopf's part: it watches; each event only goes into the projection and the queue."""

from __future__ import annotations

from typing import Any

import kopf

from bloomery_operator.cluster.kinds import OWNERS, Kind
from bloomery_operator.controller import Controller
from bloomery_operator.resources.metadata import SELECTOR

WATCH_CHUNK = 500


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
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 301
    settings.watching.connect_timeout = 60
    settings.watching.chunk_size = WATCH_CHUNK
    for kind in controller.kinds:
        if kind not in OWNERS:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = SELECTOR
    return settings


def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Give kopf the same credentials that our own client uses: the pod's, or a kubeconfig's."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


def _watch(registry: kopf.OperatorRegistry, controller: Controller, kind: Kind) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)
    async def observe(event: kopf.RawEvent, **_: Any) -> None:
        controller.observe(kind, dict(event["object"]), deleted=event["type"] == "DELETED")
