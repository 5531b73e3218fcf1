"""Tags in MLflow's registry that name the services of a model version: set and removed beside the reconciles."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bloomery_operator.api import InferenceService
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import DEPLOYMENTS, INFERENCE_SERVICES, ObjectKey
from bloomery_operator.domain.labels import SERVED_TAG
from bloomery_operator.domain.served_model import ServedVersion, recorded_model
from bloomery_operator.domain.served_tag import ServedTag
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.lookups import find_resource, read_storage_secret
from bloomery_operator.status.workloads import DeploymentView

logger = logging.getLogger(__name__)

SERVICE_SECONDS = 60.0
"""Time limit of one service's tags."""
RETRY_SECONDS = 60.0
"""Pause after a registry did not accept a tag."""
MAX_FAILURES = 60
"""Tries to remove the tags of a service that is gone; a registry may be down for an hour."""


class TagWriter(Protocol):
    """MLflow's registry, with the address and credentials of a namespace's pods."""

    async def tag_served(
        self, environment: Mapping[str, str], model: ServedVersion, *, tag: str, variants: str
    ) -> bool:
        """Set a tag of a model version, or remove it if ``variants`` is empty; return whether MLflow accepted it."""


@dataclass(frozen=True)
class _Revision:
    """A Deployment of a service, with the model version that it serves."""

    deployment: DeploymentView
    version: ServedVersion
    tag: ServedTag | None
    """The tag that was last written for it."""

    @property
    def is_in_use(self) -> bool:
        return self.deployment.retired_at is None


@dataclass
class _Memory:
    """Tags of a service that are in the registry, as far as this process knows, and the time of the next try."""

    tags: set[ServedTag] = field(default_factory=set)
    failures: int = 0
    next_try: float = 0.0


class ServedTags:
    """Keeps the tags of services as their Deployments are, each namespace in a task of its own.

    A Deployment's annotation records its tag, and this process remembers the tags of Deployments that it has seen. So
    it never searches the registry, and removes only tags that it has written: those of another cluster stay.
    """

    def __init__(self, context: Context, registry: TagWriter, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to ``registry``; ``clock`` gives seconds."""
        self._context = context
        self._registry = registry
        self._clock = clock
        self._memory: dict[ObjectKey, _Memory] = {}
        self._requested: dict[str, dict[ObjectKey, None]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def look_at(self, service: ObjectKey) -> None:
        """Request a service; it costs nothing if its tags are as they should be."""
        self._requested.setdefault(service.namespace, {})[service] = None
        if service.namespace not in self._tasks:
            self._tasks[service.namespace] = asyncio.create_task(self._write_namespace(service.namespace))

    def look_at_all(self) -> None:
        """Request all services that had tags, also those that are gone."""
        for service in list(self._memory):
            self.look_at(service)

    async def _write_namespace(self, namespace: str) -> None:
        """Write the tags of a namespace's requested services."""
        requested = self._requested[namespace]
        while requested:
            service = next(iter(requested))
            del requested[service]
            try:
                async with asyncio.timeout(SERVICE_SECONDS):
                    await self._write(service)
            except Exception as error:
                logger.warning("the tags of models that %s serves were not written: %r", service, error)
        del self._requested[namespace], self._tasks[namespace]

    async def _write(self, service: ObjectKey) -> None:
        memory = self._memory.setdefault(service, _Memory())
        revisions = _revisions(self._context, service)
        memory.tags |= {revision.tag for revision in revisions if revision.tag is not None}
        missing = _missing_tags(revisions, self._key(service))
        stale = memory.tags - {ServedTag(self._key(service), r.version) for r in revisions if r.is_in_use}
        if (missing or stale) and self._clock() >= memory.next_try:
            environment = await read_storage_secret(self._context, service.namespace)
            accepted = await self._set(service, memory, environment, missing)
            accepted &= await self._remove(service, memory, environment, stale, revisions)
            memory.failures = 0 if accepted else memory.failures + 1
            memory.next_try = 0.0 if accepted else self._clock() + RETRY_SECONDS
        if not revisions and (not memory.tags or memory.failures > MAX_FAILURES):
            self._memory.pop(service, None)

    async def _set(
        self, service: ObjectKey, memory: _Memory, environment: Mapping[str, str], missing: Mapping[str, ServedTag]
    ) -> bool:
        """Write the tags of Deployments, by their names; return whether the registry accepted all."""
        for deployment, tag in missing.items():
            if not await self._registry.tag_served(environment, tag.version, tag=tag.key, variants=tag.variants):
                return False
            memory.tags.add(tag)
            await self._annotate(ObjectKey(service.namespace, deployment), str(tag))
        return True

    async def _remove(
        self,
        service: ObjectKey,
        memory: _Memory,
        environment: Mapping[str, str],
        stale: set[ServedTag],
        revisions: Sequence[_Revision],
    ) -> bool:
        """Remove tags from the registry and from the Deployments; return whether the registry accepted all."""
        for tag in sorted(stale, key=str):
            if not await self._registry.tag_served(environment, tag.version, tag=tag.key, variants=""):
                return False
            memory.tags.discard(tag)
            for revision in revisions:
                if revision.tag == tag:
                    await self._annotate(ObjectKey(service.namespace, revision.deployment.name), None)
        return True

    async def _annotate(self, deployment: ObjectKey, tag: str | None) -> None:
        try:
            await self._context.cluster.annotate(DEPLOYMENTS, deployment, {SERVED_TAG: tag})
        except ClusterError as error:
            if error.code != 404:
                raise

    def _key(self, service: ObjectKey) -> str:
        return ServedTag.key_of(self._context.settings.cluster_name, service.namespace, service.name)


def _revisions(context: Context, service: ObjectKey) -> list[_Revision]:
    """Return the Deployments of a service that serve a model of the registry; none if the service is gone."""
    known = find_resource(context, INFERENCE_SERVICES, InferenceService, service)
    if known is None:
        return []
    manifests = context.object_cache.controlled_by(DEPLOYMENTS, service.namespace, known.metadata.uid)
    models = [(recorded_model(m["metadata"].get("annotations", {})), DeploymentView.of(m)) for m in manifests]
    return [
        _Revision(deployment, version, _recorded_tag(deployment, version, service))
        for model, deployment in models
        if model is not None and (version := model.registered_version) is not None
    ]


def _recorded_tag(deployment: DeploymentView, version: ServedVersion, service: ObjectKey) -> ServedTag | None:
    return ServedTag.parse(deployment.served_tag, version, namespace=service.namespace, service=service.name)


def _missing_tags(revisions: Sequence[_Revision], key: str) -> dict[str, ServedTag]:
    """Return by Deployment the tags to write: each names the variants that serve a version with a ready pod."""
    serving = [revision for revision in revisions if revision.is_in_use and revision.deployment.ready > 0]
    variants: dict[ServedVersion, set[str]] = {}
    for revision in serving:
        variants.setdefault(revision.version, set()).add(revision.deployment.variant)
    tags = {
        revision.deployment.name: ServedTag(key, revision.version, ",".join(sorted(variants[revision.version])))
        for revision in serving
    }
    return {r.deployment.name: tag for r in serving if str(tag := tags[r.deployment.name]) != r.deployment.served_tag}
