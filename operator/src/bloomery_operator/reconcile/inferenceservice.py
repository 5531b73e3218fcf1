"""InferenceService: API keys, a Deployment and Service for each variant's model, and the weighted route."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace

from bloomery_operator.api import InferenceService
from bloomery_operator.api.inferenceservice import InferenceServiceStatus
from bloomery_operator.api.reasons import Reason
from bloomery_operator.cluster.apply_cache import owner_of
from bloomery_operator.cluster.kinds import (
    DEPLOYMENTS,
    HTTP_ROUTES,
    INFERENCE_SERVICES,
    SECRETS,
    TRAFFIC_POLICIES,
    ObjectKey,
)
from bloomery_operator.domain.names import comparison_secret_name, keys_secret_name
from bloomery_operator.domain.ports import METRICS_PORT
from bloomery_operator.domain.rollout import RequestStats
from bloomery_operator.domain.service_lifecycle import lifecycle_of
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests.api_keys import (
    build_comparison_secret,
    build_digests_secret,
    build_keys_secret,
    read_keys,
)
from bloomery_operator.manifests.disruption_budget import build_disruption_budget
from bloomery_operator.reconcile.address import apply_address
from bloomery_operator.reconcile.blocked import Blocked, blocked_by, rejections_block
from bloomery_operator.reconcile.children import apply_child, create_child, delete_child, require_own_child
from bloomery_operator.reconcile.context import Context
from bloomery_operator.reconcile.lookups import read_resource, require_storage_secret, require_store_keys
from bloomery_operator.reconcile.model_resolution import METRICS_ADVICE, discover_models, resolve_models
from bloomery_operator.reconcile.path_conflicts import check_path, find_route
from bloomery_operator.reconcile.revisions import apply_revisions, remove_retired
from bloomery_operator.reconcile.server_pods import pods_by_revision
from bloomery_operator.reconcile.status_writer import publish_status
from bloomery_operator.status.inferenceservice import Outcome, after_outcome, derive_status
from bloomery_operator.status.progress import is_only_progress
from bloomery_operator.status.service_facts import ServiceFacts, was_applied
from bloomery_operator.status.traffic_plan import TrafficPlan, plan_traffic, retired_deployments
from bloomery_operator.status.workloads import DeploymentView, PodView

API_KEY_BYTES = 32
COMPARISON_TOKEN_BYTES = 32
PROGRESS_SECONDS = 2.0
"""Time for which a change of the status that only shows how far the pods are waits for further ones."""


async def reconcile(context: Context, key: ObjectKey) -> float | None:
    """Reconcile one InferenceService with its spec."""
    service = read_resource(context, INFERENCE_SERVICES, InferenceService, key)
    if service is None:
        return None
    return await _reconcile(replace(context, is_first=service.status.phase is None), service)


async def _reconcile(context: Context, service: InferenceService) -> float | None:
    # Before all that may fail or wait: a key that somebody removes must stop working whatever else is wrong.
    keys_blocked_by = None if context.is_first else await blocked_by(_apply_keys(context, service))
    facts = await _observe(context, service)
    plan = plan_traffic(facts)
    facts = await _record_status(context, facts, plan)
    if context.is_first:
        keys_blocked_by = await blocked_by(_apply_keys(context, service))
    verdict = await blocked_by(_act(context, facts, plan, keys_blocked_by))
    # Of the children only the route is read again: a Deployment that became ready meanwhile is not part of the plan.
    outcome = Outcome(route=find_route(context.object_cache, service), blocked_by=verdict)
    status, next_look = derive_status(facts, plan, outcome), _next_look(context, facts, plan, outcome)
    seconds = _seconds_until_progress(context, facts.service, status)
    if seconds:
        return min(seconds, next_look or seconds)
    await _publish(context, facts.service, status)
    return next_look


async def _observe(context: Context, service: InferenceService) -> ServiceFacts:
    now, namespace = context.now(), service.metadata.namespace
    manifests = context.object_cache.controlled_by(DEPLOYMENTS, namespace, service.metadata.uid)
    resolved = await resolve_models(context, service, manifests)
    deployments = {view.name: view for view in map(DeploymentView.of, manifests)}
    uids = {manifest["metadata"]["name"]: manifest["metadata"]["uid"] for manifest in manifests}
    pods = await pods_by_revision(context, namespace, uids)
    discovered = await discover_models(context, service, resolved.models, pods)
    request_stats = await _read_request_stats(context, service, pods)
    path = check_path(context, service)
    return ServiceFacts(
        service=service,
        now=now,
        lifecycle=lifecycle_of(service, now, has_pods=bool(manifests)),
        models=resolved.models,
        unresolved=resolved.unresolved,
        registry_error=resolved.registry_error,
        deployments=deployments,
        pods=pods,
        route=find_route(context.object_cache, service),
        has_gateway=context.settings.has_gateway,
        gateway_address=await context.gateway.address(context.cluster, context.settings, namespace),
        path_conflict=path.conflict,
        path_warning=path.warning,
        was_applied=was_applied(service),
        discovered_models=discovered.models,
        request_stats=request_stats,
        metrics_error=discovered.unreadable or _unreadable_stats(request_stats),
    )


async def _read_request_stats(
    context: Context, service: InferenceService, pods: Mapping[str, tuple[PodView, ...]]
) -> dict[str, RequestStats]:
    """Return the requests to each revision of a rollout, if its steps are judged by them."""
    rollout, plan = service.status.rollout, service.spec.rollout
    if rollout is None or rollout.aborted or plan is None or plan.abort_on is None:
        return {}
    step = f"{service.metadata.uid} {rollout.since.isoformat()} {rollout.percent}"
    revisions = {entry.revision for entry in (*rollout.from_, *rollout.to)}
    chosen = {revision: views for revision, views in pods.items() if revision in revisions}
    return await context.servers.request_stats(step, rollout.since, chosen)


def _unreadable_stats(stats: Mapping[str, RequestStats]) -> Verdict | None:
    """Return why a rollout's requests are not known."""
    names = sorted(name for name, counted in stats.items() if counted.unreadable)
    if not names:
        return None
    message = f"The metrics of pods of {', '.join(names)} cannot be read on port {METRICS_PORT}; {METRICS_ADVICE}"
    return Verdict(Reason.METRICS_UNREADABLE, message)


async def _record_status(context: Context, facts: ServiceFacts, plan: TrafficPlan) -> ServiceFacts:
    """Write a rollout's new state before anything is done by it, and a service's first status; return the new facts."""
    if plan.rollout == facts.rollout and not context.is_first:
        return facts
    status = derive_status(facts, plan, Outcome(route=facts.route))
    return replace(facts, service=await _publish(context, facts.service, status))


async def _publish(context: Context, service: InferenceService, status: InferenceServiceStatus) -> InferenceService:
    """Write the status if it differs; return the service as it is now."""
    context.recent_times.forget(_progress(service))
    return await publish_status(context, service, status)


def _seconds_until_progress(context: Context, service: InferenceService, status: InferenceServiceStatus) -> float:
    """Return the seconds until a status is to be written of which only the pods' progress is new; 0 if it is now.

    Each pod that starts changes it several times.
    """
    if not is_only_progress(service.status, status):
        return 0.0
    context.recent_times.note_first(_progress(service))
    return context.recent_times.seconds_left(_progress(service), PROGRESS_SECONDS)


def _progress(service: InferenceService) -> tuple[str, str]:
    return "progress", service.metadata.uid


async def _act(context: Context, facts: ServiceFacts, plan: TrafficPlan, keys_blocked_by: Verdict | None) -> None:
    """Write the children; if the keys cannot be applied, only take the route away from a path in conflict.

    Raises:
        Blocked: a Secret is missing, or a child cannot be applied.
    """
    service = facts.service
    if facts.path_conflict is not None:
        # Even if something else blocks: below the older service's path, our route would take its requests.
        await _withdraw_route(context, facts)
    if keys_blocked_by is not None:
        raise Blocked(keys_blocked_by)
    # Running pods have their credentials: a Secret that is deleted later must not stop changes of weights.
    if any(facts.deployment_of(variant) is None for variant in service.spec.variants):
        await require_storage_secret(context, service.metadata.namespace)
        await _require_capture_secret(context, service)
    with rejections_block():
        await _create_comparison_secret(context, service)
        await apply_revisions(context, facts, plan)
        await apply_child(context, service, build_disruption_budget(service))
        await apply_address(context, facts, plan)
        await remove_retired(context, facts, plan)


async def _create_comparison_secret(context: Context, service: InferenceService) -> None:
    """Create the Secret with the token by which pods ask each other, once in the life of this process."""
    name = comparison_secret_name(service)
    if not context.apply_cache.contains(owner_of(service), SECRETS, name):
        secret = build_comparison_secret(service, secrets.token_urlsafe(COMPARISON_TOKEN_BYTES))
        context.apply_cache.record(owner_of(service), SECRETS, secret, await create_child(context, service, secret))


async def _require_capture_secret(context: Context, service: InferenceService) -> None:
    secret = service.spec.capture.secret_ref if service.spec.capture else None
    if secret is not None:
        await require_store_keys(context, service.metadata.namespace, secret.name, field="spec.capture")


async def _apply_keys(context: Context, service: InferenceService) -> None:
    """Create the first key, and keep the pods' digests equal to the keys of the Secret for people.

    Raises:
        Blocked: a Secret belongs to something else, or is rejected.
    """
    if service.spec.auth != "ApiKey" or _seconds_until_keys(context, service):
        return
    key = ObjectKey(service.metadata.namespace, keys_secret_name(service))
    with rejections_block():
        secret = None if context.is_first else await context.cluster.get(SECRETS, key)
        if secret is not None:
            require_own_child(service, secret)
        else:
            first = build_keys_secret(service, secrets.token_urlsafe(API_KEY_BYTES))
            secret = await create_child(context, service, first)
        await apply_child(context, service, build_digests_secret(service, read_keys(secret)))
    context.recent_times.note(_keys_read(service))


def _keys_read(service: InferenceService) -> tuple[str, str]:
    return "keys", service.metadata.uid


def _seconds_until_keys(context: Context, service: InferenceService) -> float:
    """Return the seconds until the API keys are to be read again."""
    return context.recent_times.seconds_left(_keys_read(service), context.settings.api_keys_poll_seconds)


async def _withdraw_route(context: Context, facts: ServiceFacts) -> None:
    if facts.route is not None:
        # The route last: while it exists, a deletion that failed is repeated.
        for kind in (TRAFFIC_POLICIES, HTTP_ROUTES):
            await delete_child(context, facts.service, kind, facts.service.metadata.name)


def _next_look(context: Context, facts: ServiceFacts, plan: TrafficPlan, outcome: Outcome) -> float | None:
    """Return the seconds until the next look, for changes of which no watch informs."""
    settings, variants = context.settings, facts.service.spec.variants
    facts, plan = after_outcome(facts, plan, outcome)
    rolls_out = plan.rollout is not None and not plan.rollout.aborted
    waits: list[float] = []
    if outcome.blocked_by is not None or facts.path_conflict is not None:
        waits.append(settings.retry_interval_seconds)
    if rolls_out or retired_deployments(facts, plan):
        waits.append(settings.rollout_poll_seconds)
    if any(v.model.follows or (v.model.mlflow and v.name in facts.unresolved) for v in variants):
        waits.append(settings.mlflow_poll_seconds)
    if facts.service.spec.auth == "ApiKey":
        waits.append(_seconds_until_keys(context, facts.service) or settings.retry_interval_seconds)
    if facts.lifecycle.stops_at is not None and not facts.is_stopped:
        waits.append(max(1.0, (facts.lifecycle.stops_at - facts.now).total_seconds()))
    return min(waits, default=None)
