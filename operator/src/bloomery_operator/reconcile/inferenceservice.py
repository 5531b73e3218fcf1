"""InferenceService: keys, a Deployment and Service for each variant's model, and the weighted route."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace

from bloomery_operator.api import InferenceService
from bloomery_operator.api.common import Manifest
from bloomery_operator.api.reasons import Reason
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import (
    DEPLOYMENTS,
    HTTP_ROUTES,
    INFERENCE_SERVICES,
    PODS,
    SECRETS,
    SERVICES,
    TRAFFIC_POLICIES,
    Key,
)
from bloomery_operator.cluster.projection import POD_REVISION
from bloomery_operator.domain.names import keys_secret_name
from bloomery_operator.domain.service_lifecycle import lifecycle_of
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests.api_keys import build_digests_secret, build_keys_secret, read_keys
from bloomery_operator.manifests.disruption_budget import build_disruption_budget
from bloomery_operator.manifests.http_route import build_route
from bloomery_operator.manifests.retry_policy import build_retry_policy
from bloomery_operator.manifests.service import build_service_alias
from bloomery_operator.reconcile.blocked import blocked_by, rejections_block
from bloomery_operator.reconcile.children import apply_child, create_child, delete_child, require_own_child
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.current import NotCurrent, WritesWhileCurrent
from bloomery_operator.reconcile.lookups import find_resource, read_resource, require_storage_secret
from bloomery_operator.reconcile.model_resolution import found_models, resolve_models
from bloomery_operator.reconcile.path_conflicts import overlapping
from bloomery_operator.reconcile.revisions import apply_revisions, remove_retired
from bloomery_operator.reconcile.served_tags import tag_served_models
from bloomery_operator.reconcile.status_writer import publish_status
from bloomery_operator.status.inferenceservice import derive_status
from bloomery_operator.status.traffic import (
    InferenceServiceObservation,
    next_rollout,
    plan_traffic,
    retired_deployments,
)
from bloomery_operator.status.workloads import DeploymentView, PodView

KEY_BYTES = 32
"""256 random bits a key."""


async def reconcile(context: Context, key: Key) -> float | None:
    """Bring one InferenceService to what its spec says."""
    service = read_resource(context, INFERENCE_SERVICES, InferenceService, key)
    if service is None:
        return None
    cluster = WritesWhileCurrent(context.cluster, INFERENCE_SERVICES, service)
    try:
        return await _reconcile(replace(context, cluster=cluster), service)
    except NotCurrent:
        return None


async def _reconcile(context: Context, service: InferenceService) -> float | None:
    observation = await _decide(context, await _observe(context, service))
    observation = replace(observation, obstacle=await blocked_by(_act(context, observation)))
    # Of the children only the route is looked at again: a Deployment that became ready meanwhile was not decided on.
    observation = replace(observation, route=_route(context, service))
    await publish_status(context, observation.service, derive_status(observation))
    await tag_served_models(context, observation)
    return _next_look(context, observation)


async def _decide(context: Context, observation: InferenceServiceObservation) -> InferenceServiceObservation:
    """Take a rollout further; its state is written down before anything is done by it."""
    rollout = next_rollout(observation)
    if rollout == observation.rollout:
        return observation
    moved = replace(observation, rollout=rollout)
    status = derive_status(moved)
    await publish_status(context, observation.service, status)
    return replace(moved, service=observation.service.model_copy(update={"status": status}))


def _next_look(context: Context, observation: InferenceServiceObservation) -> float | None:
    """Return in how many seconds to look again for what no watch tells."""
    settings, service = context.settings, observation.service
    waits: list[float] = []
    if observation.obstacle is not None or observation.path_clash is not None:
        waits.append(settings.obstacle_seconds)
    if retired_deployments(observation) or (observation.rollout is not None and not observation.rollout.aborted):
        waits.append(settings.traffic_seconds)
    if any(v.model.follows or (v.model.mlflow and observation.wanted[v.name] is None) for v in service.spec.variants):
        waits.append(settings.registry_seconds)
    if service.spec.auth == "ApiKey":
        waits.append(settings.keys_seconds)
    if observation.stops_at is not None and observation.stopped is None:
        waits.append(max(1.0, (observation.stops_at - observation.now).total_seconds()))
    return min(waits, default=None)


async def _observe(context: Context, service: InferenceService) -> InferenceServiceObservation:
    now = context.now()
    manifests = context.projection.controlled_by(DEPLOYMENTS, service.metadata.namespace, service.metadata.uid)
    life = lifecycle_of(service, now, has_pods=bool(manifests))
    resolved = await resolve_models(context, service, manifests)
    deployments = {view.name: view for view in map(DeploymentView.of, manifests)}
    observation = InferenceServiceObservation(
        service=service,
        now=now,
        models=resolved.models,
        deployments=deployments,
        pods=_pods(context, service.metadata.namespace, deployments),
        rollout=service.status.rollout,
        route=_route(context, service),
        has_gateway=context.settings.has_gateway,
        address=await context.gateway.address(context.cluster, context.settings, service.metadata.namespace),
        path_clash=_path_clash(context, service),
        registry_trouble=resolved.trouble,
        started_at=life.started_at,
        stops_at=life.stops_at,
        stopped=life.stopped,
    )
    observation = replace(observation, found=await found_models(context, observation))
    return await _with_figures(context, observation)


def _route(context: Context, service: InferenceService) -> Manifest | None:
    routes = context.projection.controlled_by(HTTP_ROUTES, service.metadata.namespace, service.metadata.uid)
    return routes[0] if routes else None


async def _with_figures(context: Context, observation: InferenceServiceObservation) -> InferenceServiceObservation:
    """Add what the pods counted, where a rollout's step is judged by it."""
    rollout, plan = observation.rollout, observation.service.spec.rollout
    if rollout is None or rollout.aborted or plan is None or plan.abort_on is None:
        return observation
    step = f"{observation.service.metadata.uid} {rollout.since.isoformat()} {rollout.step}"
    shares = {share.revision for share in (*rollout.from_, *rollout.to)}
    pods = {revision: pods for revision, pods in observation.pods.items() if revision in shares}
    return replace(observation, figures=await context.servers.figures(step, rollout.since, pods))


def _pods(context: Context, namespace: str, deployments: Iterable[str]) -> dict[str, tuple[PodView, ...]]:
    found = {name: context.projection.find(PODS, POD_REVISION, namespace, name) for name in deployments}
    return {name: tuple(PodView.of(pod) for _, pod in pods) for name, pods in found.items()}


def _path_clash(context: Context, service: InferenceService) -> Verdict | None:
    """Notice that an older service has this path, or one that is a prefix of it or within it."""
    for key in overlapping(context.projection, service.path):
        other = find_resource(context, INFERENCE_SERVICES, InferenceService, key)
        if other is None or other.metadata.uid == service.metadata.uid:
            continue
        if _age_order(other) < _age_order(service):
            return Verdict(
                Reason.PATH_TAKEN,
                f"The path {service.path!r} overlaps with {other.path!r} of an older service on this gateway; "
                "set another spec.path.",
                failed=True,
            )
    return None


def _age_order(service: InferenceService) -> tuple[str, str]:
    created = service.metadata.creation_timestamp
    return (created.isoformat() if created else "", service.metadata.uid)


async def _act(context: Context, observation: InferenceServiceObservation) -> None:
    """Write the children.

    Raises:
        Blocked: a Secret is missing, or a child cannot be applied.
    """
    service = observation.service
    if observation.path_clash is not None:
        # Even if something else blocks: below the older service's path, our route would take its requests.
        await _withdraw_route(context, observation)
    # Running pods have their credentials: a Secret that is deleted later must not stop changes of weights.
    if any(name not in observation.deployments for name in observation.wanted.values()):
        await require_storage_secret(context, service.metadata.namespace)
    with rejections_block():
        for step in (_apply_keys, apply_revisions, _apply_disruption_budget, _apply_route, remove_retired):
            await step(context, observation)


async def _apply_keys(context: Context, observation: InferenceServiceObservation) -> None:
    """Create the first key, and keep the pods' digests equal to the keys of the Secret for people."""
    service = observation.service
    if service.spec.auth != "ApiKey":
        return
    key = Key(service.metadata.namespace, keys_secret_name(service))
    secret = await context.cluster.get(SECRETS, key)
    if secret is not None:
        require_own_child(service, secret)
    else:
        await create_child(context, service, build_keys_secret(service, secrets.token_urlsafe(KEY_BYTES)))
        # Read again: if it was created meanwhile, its keys are valid.
        secret = await context.cluster.get(SECRETS, key)
    await apply_child(context, service, build_digests_secret(service, read_keys(secret or {})))


async def _apply_disruption_budget(context: Context, observation: InferenceServiceObservation) -> None:
    await apply_child(context, observation.service, build_disruption_budget(observation.service))


async def _apply_route(context: Context, observation: InferenceServiceObservation) -> None:
    if not observation.has_gateway:
        await _apply_service_alias(context, observation)
        return
    traffic = plan_traffic(observation)
    if observation.path_clash is not None or not traffic.backends:
        return
    route = build_route(observation.service, traffic, context.settings)
    context.projection.put(HTTP_ROUTES, await apply_child(context, observation.service, route))
    await _apply_retry_policy(context, observation)


async def _withdraw_route(context: Context, observation: InferenceServiceObservation) -> None:
    if observation.route is not None:
        # The route last: while it exists, a deletion that failed is repeated.
        for kind in (TRAFFIC_POLICIES, HTTP_ROUTES):
            await delete_child(context, observation.service, kind, observation.service.metadata.name)


async def _apply_retry_policy(context: Context, observation: InferenceServiceObservation) -> None:
    """Apply the policy by which the gateway retries requests that a pod lost, if the cluster has its kind."""
    if context.gateway.lacks_policies(context.settings):
        return
    try:
        await apply_child(context, observation.service, build_retry_policy(observation.service))
    except ClusterError as error:
        if not error.is_unknown_kind:
            raise
        context.gateway.note_lack_of_policies()


async def _apply_service_alias(context: Context, observation: InferenceServiceObservation) -> None:
    """Select the variant's pods by the Service of the same name: the former ones until the new ones are ready."""
    service = observation.service
    if len(service.spec.variants) > 1:
        # It would still select the pods of the former single variant.
        await delete_child(context, service, SERVICES, service.metadata.name)
        return
    revision = observation.answering_revision(service.spec.variants[0])
    if revision is not None:
        await apply_child(context, service, build_service_alias(service, revision))
