"""InferenceService: keys, a Deployment and Service for each variant's model, and the weighted route."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace

from bloomery_operator.api import InferenceService
from bloomery_operator.api.common import Manifest
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    HTTP_ROUTES,
    INFERENCE_SERVICES,
    PODS,
    SECRETS,
    SERVICES,
    TRAFFIC_POLICIES,
    ObjectKey,
)
from bloomery_operator.cluster.object_cache import POD_REVISION
from bloomery_operator.cluster.stale_guard import StaleOwner, StaleOwnerGuard
from bloomery_operator.reconcile.context import (
    Context,
    apply_owned,
    create_owned,
    delete_owned,
    find,
    missing_storage_secret,
    publish_status,
    read_parent,
    refusal,
    taken,
)
from bloomery_operator.reconcile.models import found_models, note_served, resolve_models
from bloomery_operator.reconcile.paths import overlapping
from bloomery_operator.reconcile.revisions import apply_revisions, remove_retired
from bloomery_operator.resources.keys import (
    build_digests_secret,
    build_keys_secret,
    keys_secret_name,
    read_keys,
)
from bloomery_operator.resources.route import build_retries, build_route
from bloomery_operator.resources.serve import build_disruption_budget, build_front
from bloomery_operator.status.inferenceservice import derive_status
from bloomery_operator.status.lifecycle import lifecycle_of
from bloomery_operator.status.traffic import (
    InferenceServiceObservation,
    next_rollout,
    plan_traffic,
    retired_deployments,
)
from bloomery_operator.status.verdicts import Verdict
from bloomery_operator.status.workload import DeploymentView, PodView

KEY_BYTES = 32
"""256 random bits a key."""


async def reconcile(context: Context, key: ObjectKey) -> float | None:
    """Bring one InferenceService to what its spec says."""
    service = read_parent(context, INFERENCE_SERVICES, InferenceService, key)
    if service is None:
        return None
    cluster = StaleOwnerGuard(context.cluster, INFERENCE_SERVICES, service)
    try:
        return await _reconcile(replace(context, cluster=cluster), service)
    except StaleOwner:
        return None


async def _reconcile(context: Context, service: InferenceService) -> float | None:
    observation = await _decide(context, await _observe(context, service))
    observation = replace(observation, obstacle=await _act(context, observation))
    # Of the children only the route is looked at again: a Deployment that became ready meanwhile was not decided on.
    observation = replace(observation, route=_route(context, service))
    await publish_status(context, observation.service, derive_status(observation))
    await note_served(context, observation)
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
        waits.append(settings.retry_interval_seconds)
    if retired_deployments(observation) or (observation.rollout is not None and not observation.rollout.aborted):
        waits.append(settings.rollout_poll_seconds)
    if any(v.model.follows or (v.model.mlflow and observation.wanted[v.name] is None) for v in service.spec.variants):
        waits.append(settings.mlflow_poll_seconds)
    if service.spec.auth == "ApiKey":
        waits.append(settings.api_keys_poll_seconds)
    if observation.stops_at is not None and observation.stopped is None:
        waits.append(max(1.0, (observation.stops_at - observation.now).total_seconds()))
    return min(waits, default=None)


async def _observe(context: Context, service: InferenceService) -> InferenceServiceObservation:
    now = context.now()
    manifests = context.object_cache.controlled_by(DEPLOYMENTS, service.metadata.namespace, service.metadata.uid)
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
    routes = context.object_cache.controlled_by(HTTP_ROUTES, service.metadata.namespace, service.metadata.uid)
    return routes[0] if routes else None


async def _with_figures(context: Context, observation: InferenceServiceObservation) -> InferenceServiceObservation:
    """Add what the pods counted, where a rollout's step is judged by it."""
    rollout, plan = observation.rollout, observation.service.spec.rollout
    if rollout is None or rollout.aborted or plan is None or plan.abort_on is None:
        return observation
    step = f"{observation.service.metadata.uid} {rollout.since.isoformat()} {rollout.step}"
    shares = {share.revision for share in (*rollout.from_, *rollout.to)}
    pods = {revision: pods for revision, pods in observation.pods.items() if revision in shares}
    return replace(observation, figures=await context.servers.request_stats(step, rollout.since, pods))


def _pods(context: Context, namespace: str, deployments: Iterable[str]) -> dict[str, tuple[PodView, ...]]:
    found = {name: context.object_cache.find(PODS, POD_REVISION, namespace, name) for name in deployments}
    return {name: tuple(PodView.of(pod) for _, pod in pods) for name, pods in found.items()}


def _path_clash(context: Context, service: InferenceService) -> Verdict | None:
    """Notice that an older service has this path, or one that is a prefix of it or within it."""
    for key in overlapping(context.object_cache, service.path):
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


async def _act(context: Context, observation: InferenceServiceObservation) -> Verdict | None:
    """Write the children; return what stands in the way."""
    service = observation.service
    if observation.path_clash is not None:
        # Whatever else stands in the way: below the older one's path, ours would take its requests.
        await _withdraw_route(context, observation)
    # What runs has its credentials: a Secret that goes later must not keep weights from changing.
    if any(name not in observation.deployments for name in observation.wanted.values()):
        missing = await missing_storage_secret(context, service.metadata.namespace)
        if missing is not None:
            return missing
    try:
        for step in (_apply_keys, apply_revisions, _apply_disruption_budget, _apply_route, remove_retired):
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
    key = ObjectKey(service.metadata.namespace, keys_secret_name(service))
    secret = await context.cluster.get(SECRETS, key)
    if secret is None:
        first = build_keys_secret(service, secrets.token_urlsafe(KEY_BYTES))
        obstacle = await create_owned(context, service, first, SECRETS)
        # Read again: where it was made in between, its keys hold.
        secret = await context.cluster.get(SECRETS, key)
    else:
        obstacle = taken(service, secret)
    if obstacle is not None:
        return obstacle
    digests = await apply_owned(context, service, build_digests_secret(service, read_keys(secret or {})), SECRETS)
    return digests if isinstance(digests, Verdict) else None


async def _apply_disruption_budget(context: Context, observation: InferenceServiceObservation) -> Verdict | None:
    budget = build_disruption_budget(observation.service)
    applied = await apply_owned(context, observation.service, budget, DISRUPTION_BUDGETS)
    return applied if isinstance(applied, Verdict) else None


async def _apply_route(context: Context, observation: InferenceServiceObservation) -> Verdict | None:
    if not observation.has_gateway:
        return await _apply_front(context, observation)
    traffic = plan_traffic(observation)
    if observation.path_clash is not None or not traffic.backends:
        return None
    route = build_route(observation.service, traffic, context.settings)
    applied = await apply_owned(context, observation.service, route, HTTP_ROUTES)
    if isinstance(applied, Verdict):
        return applied
    context.object_cache.put(HTTP_ROUTES, applied)
    return await _apply_retries(context, observation)


async def _withdraw_route(context: Context, observation: InferenceServiceObservation) -> None:
    if observation.route is not None:
        # The route last: as long as it is there, what could not be deleted before it is deleted the next time.
        for kind in (TRAFFIC_POLICIES, HTTP_ROUTES):
            await delete_owned(context, observation.service, kind, observation.service.metadata.name)


async def _apply_retries(context: Context, observation: InferenceServiceObservation) -> Verdict | None:
    """Have requests that a pod loses sent to another one, where the gateway has a kind for that."""
    if context.gateway.lacks_policies(context.settings):
        return None
    policy = build_retries(observation.service)
    try:
        applied = await apply_owned(context, observation.service, policy, TRAFFIC_POLICIES)
    except ClusterError as error:
        if not error.is_unknown_kind:
            raise
        context.gateway.note_lack_of_policies()
        return None
    return applied if isinstance(applied, Verdict) else None


async def _apply_front(context: Context, observation: InferenceServiceObservation) -> Verdict | None:
    """Let the Service of the same name lead to the variant's pods, to the former ones until the new ones are ready."""
    service = observation.service
    if len(service.spec.variants) > 1:
        # It would go on leading to the one that was alone before.
        await delete_owned(context, service, SERVICES, service.metadata.name)
        return None
    revision = observation.answering_revision(service.spec.variants[0])
    if revision is None:
        return None
    applied = await apply_owned(context, service, build_front(service, revision), SERVICES)
    return applied if isinstance(applied, Verdict) else None
