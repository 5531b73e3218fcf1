"""Models of services and batch predictions: resolved once and recorded, or followed as their alias moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bloomery_operator.api import InferenceService, TrainingJob
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.batchprediction import PredictingModel
from bloomery_operator.api.inferenceservice import ModelSource, Variant
from bloomery_operator.api.reasons import Reason
from bloomery_operator.clients.model_server import MetricsUnreadable
from bloomery_operator.cluster.apply_cache import owner_of
from bloomery_operator.cluster.kinds import CONFIG_MAPS, TRAINING_JOBS, ObjectKey
from bloomery_operator.domain.served_model import (
    ServedModel,
    lineage_from_status,
    model_from_status,
    model_from_training_job,
    recorded_model,
)
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests.config_map import build_digest_config_map
from bloomery_operator.reconcile.blocked import blocked_by
from bloomery_operator.reconcile.children import create_child
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.lookups import find_resource, read_storage_secret
from bloomery_operator.status.service_facts import desired_revisions
from bloomery_operator.status.workloads import DeploymentView, PodView

METRICS_ADVICE = "let the operator's pods reach this port (network policies)."


@dataclass(frozen=True)
class ResolvedModels:
    """The model of each variant, or what it waits for."""

    models: Mapping[str, ServedModel]
    unresolved: Mapping[str, Verdict]
    registry_error: Verdict | None = None
    """Why an alias cannot be resolved now, whose variant keeps its former model."""


@dataclass(frozen=True)
class DiscoveredModels:
    """By revision, the digest and lineage that pods found of models that were named without a digest."""

    models: Mapping[str, ServedModel]
    unreadable: Verdict | None = None
    """Why a pod's metrics, which name the digest, cannot be read."""


async def resolve_models(
    context: Context, service: InferenceService, deployments: Sequence[Manifest]
) -> ResolvedModels:
    """Resolve each variant's model; one that was resolved before from the same source stays, unless it is followed."""
    models: dict[str, ServedModel] = {}
    unresolved: dict[str, Verdict] = {}
    registry_error: Verdict | None = None
    for variant in service.spec.variants:
        recorded = _recorded_model(service, variant, deployments)
        if recorded is not None and not variant.model.follows:
            models[variant.name] = _with_later_registration(context, service, variant, recorded)
            continue
        resolved = await resolve_model(context, service.metadata.namespace, variant.model)
        if not isinstance(resolved, Verdict):
            models[variant.name] = resolved
        elif recorded is not None:
            # A registry that does not answer, or an alias that is gone, stops no variant.
            models[variant.name] = recorded
            registry_error = registry_error or resolved
        else:
            unresolved[variant.name] = resolved
    return ResolvedModels(models, unresolved, registry_error)


async def discover_models(
    context: Context,
    service: InferenceService,
    models: Mapping[str, ServedModel],
    pods: Mapping[str, Sequence[PodView]],
) -> DiscoveredModels:
    """Return by revision the digest and lineage of each model without a digest, and pin it to the digest found.

    A pod is read until the status records the result.
    """
    discovered: dict[str, ServedModel] = {}
    unreadable: Verdict | None = None
    revisions = desired_revisions(service, models)
    recorded = {status.revision: status for status in service.status.variants if status.digest is not None}
    for variant in service.spec.variants:
        model, revision = models.get(variant.name), revisions.get(variant.name)
        if model is None or revision is None or model.digest is not None:
            continue
        if revision in recorded:
            discovered[revision] = lineage_from_status(recorded[revision])
            continue
        try:
            served = await context.servers.model(pods.get(revision, ()))
        except MetricsUnreadable as error:
            message = f"The model is not pinned to its digest yet: {error}; {METRICS_ADVICE}"
            unreadable = Verdict(Reason.METRICS_UNREADABLE, message)
            continue
        if served is not None and served.digest is not None:
            # An object of something else with that name stays; the pods then are not pinned.
            await blocked_by(_pin(context, service, build_digest_config_map(service, variant, model, served.digest)))
            discovered[revision] = served
    return DiscoveredModels(discovered, unreadable)


async def _pin(context: Context, service: InferenceService, pin: Manifest) -> None:
    """Create the ConfigMap with a model's digest, unless that was done a moment ago.

    Raises:
        Blocked: the name belongs to another object.
    """
    seconds = context.settings.retry_interval_seconds
    if not context.apply_cache.was_applied_within(owner_of(service), CONFIG_MAPS, pin, seconds):
        context.apply_cache.record(owner_of(service), CONFIG_MAPS, pin, await create_child(context, service, pin))


def _recorded_model(service: InferenceService, variant: Variant, deployments: Sequence[Manifest]) -> ServedModel | None:
    """Return the model that was last resolved from the variant's source.

    Its Deployment records it; if that is gone, the status or a former Deployment does.
    """
    revision = next((status.revision for status in service.status.variants if status.name == variant.name), None)
    newest_first = sorted(
        (manifest for manifest in deployments if DeploymentView.of(manifest).variant == variant.name),
        key=lambda manifest: str(manifest["metadata"].get("creationTimestamp", "")),
        reverse=True,
    )
    records = {
        manifest["metadata"]["name"]: recorded_model(manifest["metadata"].get("annotations", {}), variant)
        for manifest in newest_first
    }
    candidates = (records.get(revision or ""), model_from_status(service, variant), *records.values())
    return next((model for model in candidates if model is not None), None)


def _with_later_registration(
    context: Context, service: InferenceService, variant: Variant, recorded: ServedModel
) -> ServedModel:
    """Return a recorded model with its name and version, if its training was registered after it was deployed."""
    if recorded.registered_version is not None or variant.model.training_job is None:
        return recorded
    key = ObjectKey(service.metadata.namespace, variant.model.training_job)
    registered = model_from_training_job(find_resource(context, TRAINING_JOBS, TrainingJob, key), key.name)
    if isinstance(registered, Verdict) or (registered.uri, registered.digest) != (recorded.uri, recorded.digest):
        return recorded
    return replace(recorded, name=registered.name, version=registered.version)


async def resolve_model(
    context: Context, namespace: str, source: ModelSource | PredictingModel
) -> ServedModel | Verdict:
    """Return the model that an object of a namespace names, or what it waits for."""
    if source.uri is not None:
        return ServedModel(uri=source.uri.rstrip("/"))
    if source.mlflow is not None:
        environment = await read_storage_secret(context, namespace)
        model = await context.registry.find(environment, source.mlflow)
        if isinstance(model, Verdict) or model.training_job is None:
            return model
        return replace(model, training_job=model.training_job.removeprefix(f"{namespace}/"))
    name = source.training_job or ""
    job = find_resource(context, TRAINING_JOBS, TrainingJob, ObjectKey(namespace, name))
    return model_from_training_job(job, name)
