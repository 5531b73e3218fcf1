"""Tags in MLflow's registry that name the services of a model version: set at once, removed in the background."""

from __future__ import annotations

import asyncio
import logging

from bloomery_operator.api import InferenceService
from bloomery_operator.cluster.kinds import DEPLOYMENTS, INFERENCE_SERVICES, ObjectKey
from bloomery_operator.domain.labels import SERVED_TAG
from bloomery_operator.domain.served_model import recorded_model
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.lookups import find_resource, read_storage_secret
from bloomery_operator.status.service_facts import ServiceFacts
from bloomery_operator.status.workloads import DeploymentView

logger = logging.getLogger(__name__)

NAMESPACE_SECONDS = 60.0
"""Time limit of one namespace, so that a slow registry does not delay the others."""


async def tag_served_models(context: Context, facts: ServiceFacts) -> None:
    """Tag the model versions that the service serves with its name and variants.

    An annotation of the Deployment records the tag, so that only changes are sent to MLflow.
    """
    service, tags = facts.service.metadata, _served_variants(facts)
    for variant in facts.service.spec.variants:
        model, deployment = facts.models.get(variant.name), facts.deployment_of(variant)
        version = model.registered_version if model is not None else None
        # Another variant may serve the same version already, while this one has no Deployment yet.
        if version is None or version not in tags or deployment is None or deployment.served_tag == tags[version]:
            continue
        accepted = await context.registry.tag_served(
            await read_storage_secret(context, service.namespace),
            version,
            service=f"{service.namespace}/{service.name}",
            variants=tags[version],
        )
        if accepted:
            key = ObjectKey(service.namespace, deployment.name)
            await context.cluster.annotate(DEPLOYMENTS, key, {SERVED_TAG: tags[version]})


def _served_variants(facts: ServiceFacts) -> dict[tuple[str, str], str]:
    """Return for each model version the variants that serve it with a ready pod, separated by commas."""
    variants: dict[tuple[str, str], list[str]] = {}
    for name, model in facts.models.items():
        if model.registered_version is not None and facts.revisions[name] in facts.ready:
            variants.setdefault(model.registered_version, []).append(name)
    return {version: ",".join(names) for version, names in variants.items()}


class ServedTags:
    """Removes stale tags, one namespace after the other, once for all requests since its last turn."""

    def __init__(self, context: Context) -> None:
        """Start with no namespace requested."""
        self._context = context
        self._namespaces: dict[str, None] = {}
        self._requested = asyncio.Event()

    def look_at(self, namespace: str) -> None:
        """Request a namespace; a second request before its turn has no effect."""
        self._namespaces[namespace] = None
        self._requested.set()

    async def tidy_forever(self) -> None:
        """Remove stale tags of requested namespaces; never ends. A failure is left to the next resync."""
        while True:
            await self._requested.wait()
            namespace = next(iter(self._namespaces))
            del self._namespaces[namespace]
            if not self._namespaces:
                self._requested.clear()
            try:
                async with asyncio.timeout(NAMESPACE_SECONDS):
                    await remove_stale_tags(self._context, namespace)
            except Exception as error:
                logger.warning("the stale tags of models in namespace %s were not removed: %r", namespace, error)


async def remove_stale_tags(context: Context, namespace: str) -> None:
    """Remove the tags of services that are gone or serve other versions now from the namespace's models."""
    environment = await read_storage_secret(context, namespace)
    for service, version in await context.registry.list_served(environment, namespace):
        if version not in _served_versions(context, service):
            await context.registry.tag_served(environment, version, service=service, variants="")


def _served_versions(context: Context, service: str) -> set[tuple[str, str]]:
    """Return the model versions of a service's Deployments, without retired ones."""
    namespace, _, name = service.partition("/")
    known = find_resource(context, INFERENCE_SERVICES, InferenceService, ObjectKey(namespace, name))
    if known is None:
        return set()
    manifests = context.object_cache.controlled_by(DEPLOYMENTS, namespace, known.metadata.uid)
    in_use = [manifest for manifest in manifests if DeploymentView.of(manifest).retired_at is None]
    models = (recorded_model(manifest["metadata"].get("annotations", {})) for manifest in in_use)
    return {model.registered_version for model in models if model is not None and model.registered_version is not None}
