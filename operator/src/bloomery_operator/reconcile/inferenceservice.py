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
    GATEWAYS,
    HTTP_ROUTES,
    INFERENCE_SERVICES,
    PODS,
    SECRETS,
    SERVICES,
    TRAINING_JOBS,
    Key,
)
from bloomery_operator.reconcile.context import (
    Context,
    apply_owned,
    create_owned,
    find,
    is_current,
    missing_storage_secret,
    publish_status,
    read_parent,
    refusal,
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
    if service is None or not await is_current(context, INFERENCE_SERVICES, service):
        return None
    address = await _gateway_address(context)
    observation = _observe(context, service, address=address)
    obstacle = await _act(context, observation)
    observation = _observe(context, service, address=address, obstacle=obstacle)
    await publish_status(context, service, derive_status(observation, context.now()))
    return _next_look(context, observation)


def _next_look(context: Context, observation: InferenceServiceObservation) -> float | None:
    """Return in how many seconds to look again for what no watch tells."""
    waits: list[float] = []
    if observation.obstacle is not None or observation.path_clash is not None:
        waits.append(context.settings.obstacle_seconds)
    if retired_deployments(observation):
        waits.append(DRAIN.total_seconds())
    if observation.service.spec.auth == "ApiKey":
        waits.append(context.settings.keys_seconds)
    return min(waits, default=None)


async def _gateway_address(context: Context) -> str:
    """Return what stands before a service's path: the address in the settings, else the Gateway's own."""
    settings = context.settings
    if settings.gateway_public_url or not settings.has_gateway:
        return settings.gateway_public_url
    gateway = await context.cluster.get(GATEWAYS, Key(settings.gateway_namespace, settings.gateway_name))
    addresses = (gateway or {}).get("status", {}).get("addresses", [])
    return f"http://{addresses[0]['value']}" if addresses else ""


def _observe(
    context: Context, service: InferenceService, *, address: str, obstacle: Verdict | None = None
) -> InferenceServiceObservation:
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
        address=address,
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
    for key, manifest in context.projection.items(INFERENCE_SERVICES):
        # Most services are told apart without reading them in full.
        if not _overlap(service.path, manifest["spec"].get("path") or f"/{key}"):
            continue
        other = find(context, INFERENCE_SERVICES, InferenceService, key)
        if other is None or other.metadata.uid == service.metadata.uid:
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
    # What runs has its credentials: a Secret that goes later must not keep weights from changing.
    if any(observation.revision(variant) not in observation.deployments for variant in service.spec.variants):
        missing = await missing_storage_secret(context, service.metadata.namespace)
        if missing is not None:
            return missing
    try:
        for step in (_apply_keys, _apply_variants, _apply_route, _remove_retired):
            obstacle = await step(context, observation)
            if obstacle is not None:
                return obstacle
    except ClusterError as error:
        return refusal(error)
    return None


async def _apply_keys(context: Context, observation: InferenceServiceObservation) -> Verdict | None:
    """Make the first key, and keep the pods' digests in step with the people's Secret."""
    service = observation.service
    if service.spec.auth != "ApiKey":
        return None
    key = Key(service.metadata.namespace, keys_secret_name(service))
    secret = await context.cluster.get(SECRETS, key)
    if secret is None:
        taken = await create_owned(
            context, service, build_keys_secret(service, secrets.token_urlsafe(KEY_BYTES)), SECRETS
        )
        if taken is not None:
            return taken
        # Read again: where somebody made one in between, theirs holds.
        secret = await context.cluster.get(SECRETS, key)
    digests = await apply_owned(context, service, build_digests_secret(service, read_keys(secret or {})), SECRETS)
    return digests if isinstance(digests, Verdict) else None


async def _apply_variants(context: Context, observation: InferenceServiceObservation) -> Verdict | None:
    service = observation.service
    for variant in service.spec.variants:
        model = observation.models[variant.name]
        if not isinstance(model, ServedModel):
            continue
        for kind, manifest in (
            (DEPLOYMENTS, build_deployment(service, variant, model, context.settings)),
            (SERVICES, build_service(service, variant, model)),
        ):
            applied = await apply_owned(context, service, manifest, kind)
            if isinstance(applied, Verdict):
                return applied
    return None


async def _apply_route(context: Context, observation: InferenceServiceObservation) -> Verdict | None:
    backends = plan_backends(observation)
    if not observation.has_gateway or observation.path_clash is not None or not backends:
        return None
    route = build_route(observation.service, backends, context.settings)
    applied = await apply_owned(context, observation.service, route, HTTP_ROUTES)
    if isinstance(applied, Verdict):
        return applied
    context.projection.put(HTTP_ROUTES, applied)
    return None


async def _remove_retired(context: Context, observation: InferenceServiceObservation) -> None:
    """Remove revisions that left the route a while ago; date those that have just left it."""
    namespace, now = observation.service.metadata.namespace, context.now()
    retired = retired_deployments(observation)
    for deployment in observation.deployments.values():
        if deployment.retired_at is not None and deployment not in retired:
            # Wanted again: when it retires next time, its drain begins anew.
            await context.cluster.annotate(DEPLOYMENTS, Key(namespace, deployment.name), {RETIRED_AT: None})
    for deployment in retired:
        key = Key(namespace, deployment.name)
        if deployment.retired_at is None:
            await context.cluster.annotate(DEPLOYMENTS, key, {RETIRED_AT: now.isoformat()})
        elif is_drained(deployment, now):
            await context.cluster.delete(DEPLOYMENTS, key)
            await context.cluster.delete(SERVICES, key)
