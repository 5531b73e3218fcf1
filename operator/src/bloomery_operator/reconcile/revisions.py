"""Revisions of a service: applied for its variants' models, scaled, and removed once they are retired and drained."""

from __future__ import annotations

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.inferenceservice import Variant
from bloomery_operator.cluster.apply_cache import owner_of
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import AUTOSCALERS, CONFIG_MAPS, DEPLOYMENTS, SERVICES, ObjectKey
from bloomery_operator.domain.labels import RETIRED_AT
from bloomery_operator.domain.names import about_name
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.manifests.autoscaler import build_autoscaler
from bloomery_operator.manifests.config_map import build_about_config_map, says_something
from bloomery_operator.manifests.deployment import build_deployment
from bloomery_operator.manifests.pinned_template import has_same_template, keep_template
from bloomery_operator.manifests.service import build_service
from bloomery_operator.reconcile.children import apply_child, delete_child
from bloomery_operator.reconcile.context import Context
from bloomery_operator.status.service_facts import ServiceFacts
from bloomery_operator.status.traffic_plan import (
    TrafficPlan,
    compared_revision,
    is_drained,
    replicas_now,
    retired_deployments,
)
from bloomery_operator.status.workloads import DeploymentView

_MAX_APPLY_TRIES = 5


async def apply_revisions(context: Context, facts: ServiceFacts, plan: TrafficPlan) -> None:
    """Apply the revision of each variant whose model is resolved, and scale the former revisions."""
    for variant in facts.service.spec.variants:
        if variant.name in facts.models:
            await _apply_revision(context, facts, plan, variant, facts.models[variant.name])
    await _scale_former(context, facts)


async def _apply_revision(
    context: Context, facts: ServiceFacts, plan: TrafficPlan, variant: Variant, model: ServedModel
) -> None:
    service, seen = facts.service, facts.deployment_of(variant)
    autoscaler = build_autoscaler(service, variant, model)
    if seen is not None and autoscaler is None and _has_autoscaler(context, service, seen):
        await delete_child(context, service, AUTOSCALERS, seen.name)
    replaces = compared_revision(facts, plan, variant)
    about = build_about_config_map(service, variant, model, replaces=replaces)
    await apply_child(context, service, about, is_needed=says_something(about))
    await _apply_deployment(context, facts, variant, model)
    await apply_child(context, service, build_service(service, variant, model))
    if autoscaler is not None:
        await apply_child(context, service, autoscaler)


def _has_autoscaler(context: Context, service: InferenceService, deployment: DeploymentView) -> bool:
    """Return whether a Deployment has an autoscaler; its annotation may not have been watched yet."""
    return deployment.autoscaled or context.apply_cache.contains(owner_of(service), AUTOSCALERS, deployment.name)


async def _apply_deployment(
    context: Context, facts: ServiceFacts, variant: Variant, model: ServedModel, *, tries: int = _MAX_APPLY_TRIES
) -> None:
    """Apply a variant's Deployment; if an autoscaler writes to it too, only to the version that was read."""
    service = facts.service
    live = await _read_deployment(context, facts, variant)
    view = DeploymentView.of(live) if live is not None else None
    replicas = _replicas_to_apply(facts, variant, view)
    built = build_deployment(service, variant, model, context.settings, replicas=replicas)
    manifest = _choose_template(context, facts, built, live, view)
    if view is not None and view.autoscaled:
        manifest["metadata"]["resourceVersion"] = view.version
    try:
        await apply_child(context, service, manifest)
    except ClusterError as error:
        if error.code != 409 or tries == 1:
            raise
        await _apply_deployment(context, facts, variant, model, tries=tries - 1)


def _choose_template(
    context: Context, facts: ServiceFacts, built: Manifest, live: Manifest | None, view: DeploymentView | None
) -> Manifest:
    """Return a Deployment with the pod template that it has, or the present one if its pods may be replaced now."""
    unchanged = keep_template(built, live, adopts=facts.was_applied)
    key = ObjectKey(facts.service.metadata.namespace, built["metadata"]["name"])
    if has_same_template(unchanged, built):
        if view is not None and view.is_complete:
            context.template_updates.end(key)
        return built
    has_pods = view is not None and view.replicas > 0
    may_update = not has_pods or context.template_updates.begin(key, limit=context.settings.serving_updates)
    return built if may_update else unchanged


async def _read_deployment(context: Context, facts: ServiceFacts, variant: Variant) -> Manifest | None:
    """Return a variant's Deployment; live if it has an autoscaler, which writes to it as well."""
    seen = facts.deployment_of(variant)
    if seen is None:
        return None
    key = ObjectKey(facts.service.metadata.namespace, seen.name)
    if seen.autoscaled:
        return await context.cluster.get(DEPLOYMENTS, key)
    return context.object_cache.get(DEPLOYMENTS, key)


def _replicas_to_apply(facts: ServiceFacts, variant: Variant, deployment: DeploymentView | None) -> int | None:
    """Return the number of pods to apply; None leaves it to the autoscaler, once that has taken it over.

    Until then each apply must contain the number: a field that its manager no longer applies falls back to 1. An
    autoscaler does nothing at 0 pods, so the Deployment starts with some.
    """
    is_set_by_us = variant.autoscaling is None or facts.is_stopped or facts.pods_to_end(variant) > 0
    if is_set_by_us or deployment is None or deployment.replicas == 0:
        return replicas_now(facts, variant)
    return None if deployment.scaled_by_others else deployment.replicas


async def _scale_former(context: Context, facts: ServiceFacts) -> None:
    """Stop and start former revisions with their variants, and stop those whose variants are gone or come first."""
    variants = facts.service.spec.variants
    replicas = {variant.name: replicas_now(facts, variant) for variant in variants}
    outgoing = {deployment.name for variant in variants for deployment in facts.outgoing(variant)}
    for deployment in facts.deployments.values():
        is_over = facts.service.recreates_pods and deployment.replicas == 0
        if deployment.name in facts.revisions.values() or is_over:
            continue
        desired = replicas.get(deployment.variant, 0 if facts.is_stopped else deployment.replicas)
        is_kept = desired == 0 and facts.must_keep_pods(deployment.name)
        if deployment.name in outgoing:
            desired, is_kept = 0, False
        if not is_kept and (deployment.replicas == 0) != (desired == 0):
            key = ObjectKey(facts.service.metadata.namespace, deployment.name)
            await context.cluster.merge(DEPLOYMENTS, key, {"spec": {"replicas": desired}})


async def remove_retired(context: Context, facts: ServiceFacts, plan: TrafficPlan) -> None:
    """Remove retired revisions that are drained, and annotate those that have just retired with the time."""
    retired = retired_deployments(facts, plan)
    for deployment in facts.deployments.values():
        if deployment.retired_at is not None and deployment not in retired:
            # Needed again: when it retires the next time, its drain begins again.
            await _annotate_retirement(context, facts, deployment, None)
    for deployment in retired:
        if deployment.retired_at is None or deployment.retired_at > facts.now:
            # It has just retired, or somebody changed the annotation to something that has not happened.
            await _annotate_retirement(context, facts, deployment, facts.now.isoformat())
            continue
        seconds_idle = await context.servers.seconds_idle(facts.pods.get(deployment.name, ()))
        if is_drained(facts, deployment, seconds_idle):
            await _delete_revision(context, facts.service, deployment)


async def _annotate_retirement(
    context: Context, facts: ServiceFacts, deployment: DeploymentView, time: str | None
) -> None:
    key = ObjectKey(facts.service.metadata.namespace, deployment.name)
    await context.cluster.annotate(DEPLOYMENTS, key, {RETIRED_AT: time})


async def _delete_revision(context: Context, service: InferenceService, deployment: DeploymentView) -> None:
    autoscalers = [AUTOSCALERS] if _has_autoscaler(context, service, deployment) else []
    # The Deployment last: while it exists, a deletion that failed is repeated.
    await delete_child(context, service, CONFIG_MAPS, about_name(deployment.name))
    for kind in (*autoscalers, SERVICES, CONFIG_MAPS, DEPLOYMENTS):
        await delete_child(context, service, kind, deployment.name)
