"""Takes the tags of services that are gone off the registry's models, apart from the work that must not wait for it."""

from __future__ import annotations

import asyncio
import logging

from bloomery_operator.api import InferenceService
from bloomery_operator.cluster.kinds import DEPLOYMENTS, INFERENCE_SERVICES, Key
from bloomery_operator.domain.labels import SERVED_TAG
from bloomery_operator.domain.served_model import ServedModel, recorded_model
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.lookups import find_resource, read_storage_secret
from bloomery_operator.status.traffic import InferenceServiceObservation
from bloomery_operator.status.workloads import DeploymentView

logger = logging.getLogger(__name__)

NAMESPACE_SECONDS = 60.0
"""What one namespace may take; a registry that answers little by little must not keep the others waiting."""


class ServedTags:
    """Looks at one namespace after the other, each as often as somebody asked for it since it was looked at last."""

    def __init__(self, context: Context) -> None:
        """Start with nothing to look at."""
        self._context = context
        self._namespaces: dict[str, None] = {}
        self._asked = asyncio.Event()

    def look_at(self, namespace: str) -> None:
        """Ask for a namespace to be looked at; asking again before that counts once."""
        self._namespaces[namespace] = None
        self._asked.set()

    async def tidy_forever(self) -> None:
        """Look at what is asked for; never ends. What fails is left to the next resync."""
        while True:
            await self._asked.wait()
            namespace = next(iter(self._namespaces))
            del self._namespaces[namespace]
            if not self._namespaces:
                self._asked.clear()
            try:
                async with asyncio.timeout(NAMESPACE_SECONDS):
                    await remove_stale_tags(self._context, namespace)
            except Exception as error:
                logger.warning("the models' tags of namespace %s could not be tidied: %r", namespace, error)


async def tag_served_models(context: Context, observation: InferenceServiceObservation) -> None:
    """Tag the model versions that the service serves with its name and variants, and take the tag off the others.

    What is noted already stands in an annotation of the Deployment, so that MLflow is only told of changes.
    """
    notes: dict[tuple[str, str], list[str]] = {}
    for variant in observation.service.spec.variants:
        version = _version(observation.models[variant.name])
        if version is not None and observation.wanted[variant.name] in observation.ready:
            notes.setdefault(version, []).append(variant.name)
    service = observation.service.metadata
    for variant in observation.service.spec.variants:
        version = _version(observation.models[variant.name])
        deployment = observation.deployments.get(observation.wanted[variant.name] or "")
        # Another variant may serve the same version already, while this one is still to be deployed.
        if version not in notes or version is None or deployment is None:
            continue
        variants = ",".join(notes[version])
        if deployment.served_tag == variants:
            continue
        environment = await read_storage_secret(context, service.namespace)
        told = await context.registry.tag_served(
            environment, version, service=f"{service.namespace}/{service.name}", variants=variants
        )
        if told:
            await context.cluster.annotate(DEPLOYMENTS, Key(service.namespace, deployment.name), {SERVED_TAG: variants})


async def remove_stale_tags(context: Context, namespace: str) -> None:
    """Take the tags of services that are gone, or that serve other versions by now, off the namespace's models."""
    environment = await read_storage_secret(context, namespace)
    for service, version in await context.registry.served(environment, namespace):
        if version not in _served_versions(context, service):
            await context.registry.tag_served(environment, version, service=service, variants="")


def _served_versions(context: Context, service: str) -> set[tuple[str, str]]:
    """Return the model versions that a service has Deployments of, the retired ones not counted."""
    namespace, _, name = service.partition("/")
    known = find_resource(context, INFERENCE_SERVICES, InferenceService, Key(namespace, name))
    if known is None:
        return set()
    manifests = context.projection.controlled_by(DEPLOYMENTS, namespace, known.metadata.uid)
    in_use = [m for m in manifests if DeploymentView.of(m).retired_at is None]
    models = (recorded_model(m["metadata"].get("annotations", {})) for m in in_use)
    return {version for model in models if model is not None and (version := _version(model)) is not None}


def _version(model: ServedModel | Verdict) -> tuple[str, str] | None:
    if isinstance(model, Verdict) or model.name is None or model.version is None:
        return None
    return model.name, model.version
