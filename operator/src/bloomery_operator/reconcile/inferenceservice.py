"""InferenceService: keys, a Deployment and Service for each variant's model, and the weighted route."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from bloomery_operator.api import InferenceService, TrainingJob
from bloomery_operator.api.common import Manifest
from bloomery_operator.api.inferenceservice import Variant
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import (
    DEPLOYMENTS,
    HTTP_ROUTES,
    INFERENCE_SERVICES,
    PODS,
    SECRETS,
    SERVICES,
    TRAINING_JOBS,
    Key,
)
from bloomery_operator.reconcile.context import (
    OBSTACLE_RETRY_SECONDS,
    Context,
    create_owned,
    find,
    missing_storage_secret,
    publish_status,
    read_parent,
    refusal,
    still_exists,
)
from bloomery_operator.resources.keys import (
    build_digests_secret,
    build_keys_secret,
    keys_secret_name,
    read_keys,
)
from bloomery_operator.resources.metadata import RETIRED_AT
from bloomery_operator.resources.route import build_route
from bloomery_operator.resources.serve import ServedModel, build_deployment, build_service, recorded_model
from bloomery_operator.status.inferenceservice import (
    DRAIN,
    InferenceServiceObservation,
    derive_status,
    is_drained,
    model_of,
    plan_backends,
    retired_deployments,
)
from bloomery_operator.status.verdicts import Verdict
from bloomery_operator.status.workload import DeploymentView, PodView

KEY_BYTES = 32
"""256 random bits a key."""


async def reconcile(context: Context, key: Key) -> float | None:
    """Bring one InferenceService to what its spec says."""
    service = read_parent(context, INFERENCE_SERVICES, InferenceService, key)
    if service is None or not await still_exists(context, INFERENCE_SERVICES, service):
        return None
    observation = _observe(context, service, obstacle=None)
    obstacle = await _act(context, observation)
    observation = _observe(context, service, obstacle=obstacle)
    await publish_status(context, service, derive_status(observation, context.now()))
    if obstacle is not None:
        return OBSTACLE_RETRY_SECONDS
    return DRAIN.total_seconds() if retired_deployments(observation) else None


def _observe(context: Context, service: InferenceService, *, obstacle: Verdict | None) -> InferenceServiceObservation:
    namespace, uid = service.metadata.namespace, service.metadata.uid
    manifests = context.projection.controlled_by(DEPLOYMENTS, namespace, uid)
    deployments = {view.name: view for view in map(DeploymentView.of, manifests)}
    routes = context.projection.controlled_by(HTTP_ROUTES, namespace, uid)
    return InferenceServiceObservation(
        service=service,
        models={v.name: _model(context, service, v, manifests) for v in service.spec.variants},
        deployments=deployments,
        pods=_pods(context, namespace, deployments),
        route=routes[0] if routes else None,
        has_gateway=context.settings.has_gateway,
        public_url=context.settings.gateway_public_url,
        obstacle=obstacle,
        path_clash=_path_clash(context, service),
    )


def _model(
    context: Context, service: InferenceService, variant: Variant, deployments: list[Manifest]
) -> ServedModel | Verdict:
    """Resolve a variant's model; what was resolved before for the same words stays."""
    for deployment in deployments:
        if DeploymentView.of(deployment).variant == variant.name:
            recorded = recorded_model(variant, deployment["metadata"].get("annotations", {}))
            if recorded is not None:
                return recorded
    if variant.model.uri is not None:
        return ServedModel(uri=variant.model.uri)
    name = variant.model.training_job or ""
    training_job = find(context, TRAINING_JOBS, TrainingJob, Key(service.metadata.namespace, name))
    return model_of(training_job, name)


def _pods(
    context: Context, namespace: str, deployments: Mapping[str, DeploymentView]
) -> dict[str, tuple[PodView, ...]]:
    pods: dict[str, list[PodView]] = {name: [] for name in deployments}
    for key, pod in context.projection.items(PODS):
        revision = pod["metadata"].get("labels", {}).get("bloomery.dev/revision", "")
        if key.namespace == namespace and revision in pods:
            pods[revision].append(PodView.of(pod))
    return {name: tuple(views) for name, views in pods.items()}


def _path_clash(context: Context, service: InferenceService) -> Verdict | None:
    """Notice that an older service has this path, or one that is a prefix of it or within it."""
    for key, _ in context.projection.items(INFERENCE_SERVICES):
        other = find(context, INFERENCE_SERVICES, InferenceService, key)
        if other is None or other.metadata.uid == service.metadata.uid or not _overlap(service.path, other.path):
            continue
        if _age_order(other) < _age_order(service):
            return Verdict(
                "PathTaken",
                f"The path {service.path!r} overlaps with {other.path!r} of an older service on this gateway; "
                "set another spec.path.",
                failed=True,
            )
    return None


def _age_order(service: InferenceService) -> tuple[str, str]:
    created = service.metadata.creation_timestamp
    return (created.isoformat() if created else "", service.metadata.uid)


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


async def _act(context: Context, observation: InferenceServiceObservation) -> Verdict | None:
    """Write the children; return what stands in the way."""
    service = observation.service
    missing = await missing_storage_secret(context, service.metadata.namespace)
    if missing is not None:
        return missing
    try:
        taken = await _apply_keys(context, service)
        if taken is not None:
            return taken
        for variant in service.spec.variants:
            model = observation.models[variant.name]
            if isinstance(model, ServedModel):
                await context.cluster.apply(build_deployment(service, variant, model, context.settings))
                await context.cluster.apply(build_service(service, variant, model))
        await _apply_route(context, observation)
        await _remove_retired(context, observation)
    except ClusterError as error:
        return refusal(error)
    return None


async def _apply_keys(context: Context, service: InferenceService) -> Verdict | None:
    """Make the first key, and keep the pods' digests in step with the people's Secret."""
    if service.spec.auth != "ApiKey":
        return None
    key = Key(service.metadata.namespace, keys_secret_name(service))
    secret = await context.cluster.get(SECRETS, key)
    if secret is None:
        secret = build_keys_secret(service, secrets.token_urlsafe(KEY_BYTES))
        taken = await create_owned(context, service, secret, SECRETS)
        if taken is not None:
            return taken
    await context.cluster.apply(build_digests_secret(service, read_keys(secret)))
    return None


async def _apply_route(context: Context, observation: InferenceServiceObservation) -> None:
    backends = plan_backends(observation)
    if not observation.has_gateway or observation.path_clash is not None or not backends:
        return
    route = await context.cluster.apply(build_route(observation.service, backends, context.settings))
    context.projection.put(HTTP_ROUTES, route)


async def _remove_retired(context: Context, observation: InferenceServiceObservation) -> None:
    """Remove revisions that left the route a while ago; date those that have just left it."""
    namespace, now = observation.service.metadata.namespace, context.now()
    for deployment in retired_deployments(observation):
        key = Key(namespace, deployment.name)
        if deployment.retired_at is None:
            await context.cluster.annotate(DEPLOYMENTS, key, {RETIRED_AT: now.isoformat()})
        elif is_drained(deployment, now):
            await context.cluster.delete(DEPLOYMENTS, key)
            await context.cluster.delete(SERVICES, key)
