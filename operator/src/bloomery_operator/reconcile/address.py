"""Address of a service: its route on the gateway, or the Service of the same name."""

from __future__ import annotations

import logging

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.reasons import Reason
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.gateway import RETRIES
from bloomery_operator.cluster.kinds import HTTP_ROUTES, SERVICES, TRAFFIC_POLICIES, ObjectKey
from bloomery_operator.domain.ownership import controller_uid
from bloomery_operator.manifests.http_route import OPTIONAL_FIELDS, build_route, without_fields
from bloomery_operator.manifests.retry_policy import build_retry_policy
from bloomery_operator.manifests.service import build_service_alias
from bloomery_operator.reconcile.children import apply_child, delete_child
from bloomery_operator.reconcile.context import Context
from bloomery_operator.status.service_facts import ServiceFacts
from bloomery_operator.status.traffic_plan import TrafficPlan

logger = logging.getLogger(__name__)


async def apply_address(context: Context, facts: ServiceFacts, plan: TrafficPlan) -> None:
    """Apply the route on the gateway, or without a gateway the Service of the same name."""
    if not facts.has_gateway:
        await _remove_former_route(context, facts)
        await _apply_service_alias(context, facts, plan)
        return
    if facts.path_conflict is None and plan.traffic.backends:
        route = build_route(facts.service, plan.traffic, context.settings)
        context.object_cache.put(HTTP_ROUTES, await _apply_route(context, facts.service, route))
        await _apply_retry_policy(context, facts.service, is_new=facts.route is None)
    if _has_service_alias(context, facts.service):
        # It is from the time before the gateway, and may still be in use in the cluster.
        await _apply_service_alias(context, facts, plan)


async def _apply_route(context: Context, service: InferenceService, route: Manifest) -> Manifest:
    """Apply the route without those fields that the cluster's version of the Gateway API does not have."""
    lacking = [field for field in OPTIONAL_FIELDS if context.gateway.lacks(field, context.settings)]
    try:
        return await apply_child(context, service, without_fields(route, lacking))
    except ClusterError as error:
        unknown = [field for field in OPTIONAL_FIELDS if error.is_undeclared(field) and field not in lacking]
        if not unknown:
            raise
    for field in unknown:
        context.gateway.note_lack(field, f"HTTPRoutes of this cluster have no {field}: {OPTIONAL_FIELDS[field]}")
    return await _apply_route(context, service, route)


def _has_service_alias(context: Context, service: InferenceService) -> bool:
    existing = context.object_cache.get(SERVICES, ObjectKey(service.metadata.namespace, service.metadata.name))
    return existing is not None and controller_uid(existing) == service.metadata.uid


async def _apply_service_alias(context: Context, facts: ServiceFacts, plan: TrafficPlan) -> None:
    """Select the variant's pods by the Service of the same name: the former ones until the new ones are ready."""
    service = facts.service
    if len(service.spec.variants) > 1:
        # It would still select the pods of the former single variant.
        await delete_child(context, service, SERVICES, service.metadata.name)
        return
    name = service.spec.variants[0].name
    # During a rollout, the one with most of the traffic.
    revision = plan.traffic.direct.get(name) if facts.has_gateway else plan.serving[name]
    if revision is not None:
        await apply_child(context, service, build_service_alias(service, revision))


async def _apply_retry_policy(context: Context, service: InferenceService, *, is_new: bool) -> None:
    """Apply the policy by which the gateway retries requests that a pod lost, if the cluster has its kind.

    The service works without it, so a refusal stops nothing.
    """
    if context.gateway.lacks(RETRIES, context.settings):
        return
    consequence = "the gateway does not retry requests that a pod fails to answer"
    try:
        await apply_child(context, service, build_retry_policy(service), is_new=is_new)
    except ClusterError as error:
        if error.is_unknown_kind:
            context.gateway.note_lack(RETRIES, f"the cluster has no {TRAFFIC_POLICIES.kind}: {consequence}")
        elif error.is_refusal:
            context.gateway.note_lack(RETRIES, f"no {TRAFFIC_POLICIES.kind} can be applied: {consequence}: {error}")
        else:
            raise


async def _remove_former_route(context: Context, facts: ServiceFacts) -> None:
    """Remove the route from the time when a gateway was set up; routes are not watched without one."""
    service = facts.service
    former = service.status.condition("RouteReady")
    if former is None or former.reason in (Reason.NO_GATEWAY, Reason.GATEWAY_REQUIRED):
        return
    try:
        # The route last: while it exists, a deletion that failed is repeated.
        for kind in (TRAFFIC_POLICIES, HTTP_ROUTES):
            await delete_child(context, service, kind, service.metadata.name)
    except ClusterError as error:
        if not error.is_refusal:
            raise
        key = ObjectKey(service.metadata.namespace, service.metadata.name)
        logger.warning("remove HTTPRoute %s of the former gateway yourself: %s", key, error)
