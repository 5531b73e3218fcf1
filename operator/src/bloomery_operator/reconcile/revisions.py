"""The revisions of a service: made for what its variants want, scaled, and removed once nobody asks them any more."""

from __future__ import annotations

from bloomery_operator.api import InferenceService
from bloomery_operator.api.common import Manifest
from bloomery_operator.api.inferenceservice import Variant
from bloomery_operator.cluster.apply_cache import owner_of
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import AUTOSCALERS, CONFIG_MAPS, DEPLOYMENTS, SERVICES, ObjectKey, kind_of
from bloomery_operator.reconcile.context import Context, apply_owned, delete_owned
from bloomery_operator.resources.metadata import RETIRED_AT
from bloomery_operator.resources.serve import ServedModel, build_autoscaler, build_deployment, build_service
from bloomery_operator.status.inferenceservice import wanted_pods
from bloomery_operator.status.traffic import InferenceServiceObservation, is_drained, retired_deployments
from bloomery_operator.status.verdicts import Verdict
from bloomery_operator.status.workload import DeploymentView


async def apply_revisions(context: Context, observation: InferenceServiceObservation) -> Verdict | None:
    """Make the revision that each variant wants, and scale the one that it still has."""
    for variant in observation.service.spec.variants:
        model = observation.models[variant.name]
        if isinstance(model, Verdict):
            continue
        obstacle = await _apply_revision(context, observation, variant, model)
        if obstacle is not None:
            return obstacle
    await _scale_former(context, observation)
    return None


async def _apply_revision(
    context: Context, observation: InferenceServiceObservation, variant: Variant, model: ServedModel
) -> Verdict | None:
    service = observation.service
    autoscaler = build_autoscaler(service, variant, model)
    seen = observation.deployments.get(observation.wanted[variant.name] or "")
    if seen is not None and autoscaler is None and _has_autoscaler(context, service, seen):
        await delete_owned(context, service, AUTOSCALERS, seen.name)
    applied = await _apply_deployment(context, observation, variant, model)
    if isinstance(applied, Verdict):
        return applied
    for manifest in (build_service(service, variant, model), *([autoscaler] if autoscaler is not None else [])):
        applied = await apply_owned(context, service, manifest, kind_of(manifest))
        if isinstance(applied, Verdict):
            return applied
    return None


def _has_autoscaler(context: Context, service: InferenceService, deployment: DeploymentView) -> bool:
    """Whether a Deployment has an autoscaler; its own mark may be news that no watch has told yet."""
    return deployment.autoscaled or context.apply_cache.contains(owner_of(service), AUTOSCALERS, deployment.name)


async def _apply_deployment(
    context: Context, observation: InferenceServiceObservation, variant: Variant, model: ServedModel, *, tries: int = 5
) -> Manifest | Verdict:
    """Apply a variant's Deployment; where an autoscaler writes to it too, only to the version that was looked at."""
    service = observation.service
    live = await _live(context, observation, variant)
    replicas = _replicas(observation, variant, live)
    manifest = build_deployment(service, variant, model, context.settings, replicas=replicas)
    if live is not None and live.autoscaled:
        manifest["metadata"]["resourceVersion"] = live.version
    try:
        return await apply_owned(context, service, manifest, DEPLOYMENTS)
    except ClusterError as error:
        if error.code != 409 or tries == 1:
            raise
        return await _apply_deployment(context, observation, variant, model, tries=tries - 1)


async def _live(context: Context, observation: InferenceServiceObservation, variant: Variant) -> DeploymentView | None:
    """Return a variant's Deployment; one with an autoscaler as it is this moment, for that writes to it as well."""
    seen = observation.deployments.get(observation.wanted[variant.name] or "")
    if seen is None or not seen.autoscaled:
        return seen
    manifest = await context.cluster.get(DEPLOYMENTS, ObjectKey(observation.service.metadata.namespace, seen.name))
    return DeploymentView.of(manifest) if manifest is not None else None


def _replicas(
    observation: InferenceServiceObservation, variant: Variant, deployment: DeploymentView | None
) -> int | None:
    """Return the number of pods to ask for; None leaves it to the autoscaler, once that has taken it over.

    Until then the number has to be sent again each time: a field that nobody applies any more falls back to 1. An
    autoscaler does nothing at 0 pods, so it gets some to begin with.
    """
    is_up = deployment is not None and deployment.replicas > 0
    if variant.autoscaling is None or observation.stopped is not None or not is_up or deployment is None:
        return wanted_pods(observation, variant)
    return None if deployment.scaled_by_others else deployment.replicas


async def _scale_former(context: Context, observation: InferenceServiceObservation) -> None:
    """Stop and start also what a rollout has not replaced yet, and stop what no variant names any more."""
    pods = {variant.name: wanted_pods(observation, variant) for variant in observation.service.spec.variants}
    for former in observation.deployments.values():
        wanted = pods.get(former.variant, 0 if observation.stopped is not None else former.replicas)
        is_former = former.name not in observation.wanted.values()
        is_held = wanted == 0 and observation.holds(former.name)
        if is_former and not is_held and (former.replicas == 0) != (wanted == 0):
            key = ObjectKey(observation.service.metadata.namespace, former.name)
            await context.cluster.merge(DEPLOYMENTS, key, {"spec": {"replicas": wanted}})


async def remove_retired(context: Context, observation: InferenceServiceObservation) -> None:
    """Remove revisions that left the route and fell silent; date those that have just left it."""
    namespace = observation.service.metadata.namespace
    retired = retired_deployments(observation)
    for deployment in observation.deployments.values():
        if deployment.retired_at is not None and deployment not in retired:
            # Wanted again: when it retires next time, its drain begins anew.
            await context.cluster.annotate(DEPLOYMENTS, ObjectKey(namespace, deployment.name), {RETIRED_AT: None})
    for deployment in retired:
        key = ObjectKey(namespace, deployment.name)
        if deployment.retired_at is None:
            await context.cluster.annotate(DEPLOYMENTS, key, {RETIRED_AT: observation.now.isoformat()})
            continue
        silence = await context.servers.seconds_idle(observation.pods.get(deployment.name, ()))
        if is_drained(observation, deployment, silence):
            autoscalers = [AUTOSCALERS] if _has_autoscaler(context, observation.service, deployment) else []
            # The Deployment last: as long as it is there, what could not be deleted with it is deleted the next time.
            for kind in (*autoscalers, SERVICES, CONFIG_MAPS, DEPLOYMENTS):
                await delete_owned(context, observation.service, kind, deployment.name)
