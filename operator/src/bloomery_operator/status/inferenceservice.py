"""Status of an InferenceService: conditions and printed fields, from facts, plan and outcome."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, timedelta
from typing import Literal

from bloomery_operator.api import Condition
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.inferenceservice import InferenceServiceStatus, Variant, VariantStatus
from bloomery_operator.api.reasons import Reason, ReportedReason
from bloomery_operator.domain.labels import REVISION, SERVE_ROLE, VARIANT, service_selector
from bloomery_operator.domain.names import keys_secret_name
from bloomery_operator.domain.served_model import ServedModel, model_hash
from bloomery_operator.domain.traffic import TOTAL_WEIGHT
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests.accelerators import unused_accelerators
from bloomery_operator.manifests.http_route import OPTIONAL_FIELDS, missing_fields
from bloomery_operator.status.conditions import condition, with_transition_times
from bloomery_operator.status.service_facts import ServiceFacts, is_programmed
from bloomery_operator.status.traffic_plan import (
    MAX_DRAIN,
    TrafficPlan,
    desired_replicas,
    plan_for_rollout,
    retired_deployments,
)
from bloomery_operator.status.workloads import DeploymentView, pod_not_ready_reason, pods_refused

_TRANSIENT_REASONS = frozenset({"StoreUnavailable"})
"""Failures of a server that are not its model's: the store is down, and the server restarts until it is back."""
_LONG_DRAIN = timedelta(minutes=1)
"""A drain that takes longer is shown in a condition."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of writing the children: the route as it is now, and what blocks the rest."""

    route: Manifest | None
    blocked_by: Verdict | None = None
    """A missing Secret, a rejected manifest."""


@dataclass(frozen=True, kw_only=True)
class _VariantAssessment:
    variant: Variant
    desired_replicas: int
    weight_percent: int
    not_ready: Verdict | None


@dataclass(frozen=True, kw_only=True)
class _Assessment:
    """Everything that the status is derived from, after the outcome."""

    facts: ServiceFacts
    plan: TrafficPlan
    blocked_by: Verdict | None
    variants: tuple[_VariantAssessment, ...]


def derive_status(facts: ServiceFacts, plan: TrafficPlan, outcome: Outcome) -> InferenceServiceStatus:
    """Return the status."""
    service = facts.service
    facts, plan = after_outcome(facts, plan, outcome)
    assessment = _assess(facts, plan, outcome.blocked_by)
    variants = tuple(_variant_status(facts, assessed) for assessed in assessment.variants)
    phase, conditions = _phase_and_conditions(assessment)
    ready = sum(v.ready for v in variants)
    scaled = _scaled_revision(facts, plan)
    selector = service_selector(service, role=SERVE_ROLE) | scaled.labels
    return service.status.model_copy(
        update={
            "observed_generation": service.metadata.generation,
            "phase": phase,
            "started_at": facts.lifecycle.started_at,
            "stops_at": facts.lifecycle.stops_at,
            "rollout": plan.rollout,
            "url": _url(facts),
            "api_key_secret": keys_secret_name(service) if service.spec.auth == "ApiKey" else None,
            "replicas": sum(v.replicas for v in variants),
            "ready_replicas": ready,
            "ready": f"{ready}/{sum(assessed.desired_replicas for assessed in assessment.variants)}",
            "scaled_replicas": scaled.replicas,
            "selector": ",".join(f"{key}={value}" for key, value in selector.items()),
            "traffic": " ".join(f"{v.name}={v.weight}" for v in variants),
            "variants": variants,
            "conditions": with_transition_times(
                conditions,
                previous=service.status.conditions,
                generation=service.metadata.generation,
                now=facts.now,
            ),
        }
    )


@dataclass(frozen=True, kw_only=True)
class _ScaledRevision:
    """The pods that the scale subresource shows."""

    labels: dict[str, str]
    replicas: int


def _scaled_revision(facts: ServiceFacts, plan: TrafficPlan) -> _ScaledRevision:
    """Return the pods of one variant that spec.replicas applies to, the one with the largest weight.

    An autoscaler multiplies the number of the pods that it selects, and sets the result for each variant: with the pods
    of all variants and former revisions it would make too many.
    """
    variants = facts.service.spec.variants
    followers = [v for v in variants if v.replicas is None and v.autoscaling is None]
    variant = max(followers or variants, key=lambda v: v.weight)
    revision = plan.serving.get(variant.name) or facts.revisions.get(variant.name)
    deployment = facts.deployments.get(revision or "")
    return _ScaledRevision(
        labels={REVISION: revision} if revision is not None else {VARIANT: variant.name},
        replicas=deployment.replicas if deployment is not None else 0,
    )


def after_outcome(facts: ServiceFacts, plan: TrafficPlan, outcome: Outcome) -> tuple[ServiceFacts, TrafficPlan]:
    """Return facts and plan with the route of the outcome, which may have been applied, withdrawn or left."""
    facts = replace(facts, route=outcome.route)
    return facts, plan_for_rollout(facts, plan.rollout)


def _assess(facts: ServiceFacts, plan: TrafficPlan, blocked_by: Verdict | None) -> _Assessment:
    variants = tuple(
        _VariantAssessment(
            variant=variant,
            desired_replicas=(desired := desired_replicas(facts, variant)),
            weight_percent=_weight_percent(facts, plan, variant),
            not_ready=_variant_not_ready(facts, variant, desired),
        )
        for variant in facts.service.spec.variants
    )
    return _Assessment(facts=facts, plan=plan, blocked_by=blocked_by, variants=variants)


def _weight_percent(facts: ServiceFacts, plan: TrafficPlan, variant: Variant) -> int:
    """Return the weight of all of a variant's revisions, in percent."""
    if not facts.has_gateway:
        return variant.weight
    names = {d.name for d in facts.deployments_of(variant)}
    return round(sum(weight for name, weight in plan.weights.items() if name in names) * 100 / TOTAL_WEIGHT)


def _variant_not_ready(facts: ServiceFacts, variant: Variant, desired: int) -> Verdict | None:
    """Return what a variant waits for, or None if it serves its model with all its pods."""
    if variant.name in facts.unresolved:
        return facts.unresolved[variant.name]
    deployment = facts.deployment_of(variant)
    former = facts.pods_to_end(variant)
    if former and not facts.is_stopped:
        message = f"Variant {variant.name!r} waits for {former} former pods to end (strategy: Recreate)."
        return Verdict(Reason.DEPLOYING, message)
    if deployment is None:
        return Verdict(Reason.DEPLOYING, f"Variant {variant.name!r} is about to be deployed.")
    if deployment.settled and deployment.ready >= desired:
        return None
    problem = _pod_problem(facts, deployment)
    if problem is not None:
        failed = problem.failed and problem.reason not in _TRANSIENT_REASONS
        return Verdict(problem.reason, f"Variant {variant.name!r}: {problem.message}", failed=failed)
    message = f"Variant {variant.name!r} has {deployment.ready} of {desired} pods ready."
    return Verdict(Reason.DEPLOYING, message)


def _pod_problem(facts: ServiceFacts, deployment: DeploymentView) -> Verdict | None:
    """Return the error that a pod reported, or why a pod does not start or cannot be created."""
    waiting = (pod for pod in facts.pods.get(deployment.name, ()) if not pod.ready)
    problem = next((verdict for pod in waiting if (verdict := pod.error or pod_not_ready_reason(pod))), None)
    return problem or pods_refused(deployment.rejection)


def _variant_status(facts: ServiceFacts, assessed: _VariantAssessment) -> VariantStatus:
    variant, deployments = assessed.variant, facts.deployments_of(assessed.variant)
    model = facts.models.get(variant.name, ServedModel(uri=""))
    revision = facts.revisions.get(variant.name)
    discovered = facts.discovered_models.get(revision or "", model)
    return VariantStatus(
        name=variant.name,
        model=model.display or None,
        uri=model.uri or None,
        model_hash=model_hash(variant) if model.uri else None,
        run_id=model.run_id or discovered.run_id,
        training_job=model.training_job or discovered.training_job,
        dataset=model.dataset or discovered.dataset,
        dataset_version=model.dataset_version or discovered.dataset_version,
        digest=model.digest or discovered.digest,
        image=(deployment.image if (deployment := facts.deployment_of(variant)) else "") or None,
        revision=revision,
        weight=assessed.weight_percent,
        replicas=sum(d.replicas for d in deployments),
        ready=sum(d.ready for d in deployments),
        message=assessed.not_ready.message if assessed.not_ready else None,
    )


def _phase_and_conditions(assessment: _Assessment) -> tuple[str, tuple[Condition, ...]]:
    """Return the phase and the conditions: Ready first, then those that it depends on."""
    variants = _variants_ready(assessment)
    route = _route_ready(assessment.facts, assessment.plan)
    progressing = _progressing(assessment.plan)
    draining = _draining(assessment.facts, assessment.plan)
    aborted = progressing if progressing is not None and not progressing.is_true else None
    blocking = next((c for c in (variants, route) if not c.is_true), aborted)
    phase = _phase(assessment, is_blocked=blocking is not None)
    ready = _ready(assessment, phase, blocking)
    return phase, (ready, variants, route, *(c for c in (progressing, draining) if c is not None))


def _ready(assessment: _Assessment, phase: str, blocking: Condition | None) -> Condition:
    """Return the condition Ready: True if the service answers, or is stopped as its spec describes."""
    facts = assessment.facts
    if facts.lifecycle.stopped is not None:
        return condition("Ready", True, facts.lifecycle.stopped)
    if blocking is not None:
        status: Literal["True", "False"] = "True" if phase == "Degraded" else "False"
        return blocking.model_copy(update={"type": "Ready", "status": status})
    address = _url(facts) or facts.service.path
    return condition("Ready", True, Verdict(Reason.SERVING, f"Answering at {address}."))


def _variants_ready(assessment: _Assessment) -> Condition:
    facts = assessment.facts
    not_ready = next((assessed.not_ready for assessed in assessment.variants if assessed.not_ready is not None), None)
    waiting = assessment.blocked_by or facts.lifecycle.stopped or not_ready
    if waiting is not None:
        return condition("VariantsReady", False, waiting)
    message = "Every variant has all its pods ready."
    warning = facts.registry_error or facts.metrics_error or _unused_accelerator(facts)
    verdict = Verdict(warning.reason, f"{message} {warning.message}") if warning else Verdict(Reason.ALL_READY, message)
    return condition("VariantsReady", True, verdict)


def _unused_accelerator(facts: ServiceFacts) -> Verdict | None:
    """Return a warning about the first variant whose pods hold an accelerator on which the server cannot compute."""
    for variant in facts.service.spec.variants:
        names = unused_accelerators(variant.resources)
        if names:
            return Verdict(
                Reason.ACCELERATOR_UNUSED,
                f"Variant {variant.name!r} computes on the processor: the model server supports NVIDIA's GPUs only, "
                f"not {', '.join(names)}. Remove it from resources.limits.",
            )
    return None


def _route_ready(facts: ServiceFacts, plan: TrafficPlan) -> Condition:
    not_ready = _route_not_ready(facts)
    if not_ready is not None:
        return condition("RouteReady", False, not_ready)
    if not facts.has_gateway:
        message = "No gateway is set up: the only variant answers at the Service of the same name."
        if facts.service.spec.rollout is not None:
            message += " spec.rollout has no effect without a gateway: a new model takes over at once."
        return condition("RouteReady", True, Verdict(Reason.NO_GATEWAY, message))
    if facts.path_warning is not None:
        return condition("RouteReady", True, facts.path_warning)
    lacking = missing_fields(facts.route or {}, plan.traffic.mirrors)
    notes = [f"This cluster's Gateway API has no {field}: {OPTIONAL_FIELDS[field]}." for field in lacking]
    message = " ".join([f"The gateway routes {facts.service.path}.", *notes])
    return condition("RouteReady", True, Verdict(Reason.ACCEPTED, message))


def _route_not_ready(facts: ServiceFacts) -> Verdict | None:
    if not facts.has_gateway:
        if len(facts.service.spec.variants) == 1:
            return None
        message = "Several variants need a gateway to split the traffic: set the chart's gateway values."
        return Verdict(Reason.GATEWAY_REQUIRED, message, failed=True)
    if facts.path_conflict is not None:
        return facts.path_conflict
    if facts.route is None:
        return Verdict(Reason.NOTHING_TO_ROUTE_TO, "The route is made once a variant has a ready pod.")
    if not facts.is_stopped and not facts.has_serving_variant:
        message = "Every variant that has a weight is scaled to 0 replicas."
        return Verdict(Reason.NOTHING_TO_ROUTE_TO, message, failed=True)
    return _route_rejection(facts.route)


def _route_rejection(route: Manifest) -> Verdict | None:
    """Return why the gateway's controller rejects the route's present generation."""
    if not is_programmed(route):
        return Verdict(Reason.ROUTE_PENDING, "The gateway has not taken the route in yet.")
    generation = route["metadata"].get("generation", 1)
    conditions = [c for parent in route["status"]["parents"] for c in parent.get("conditions", [])]
    current = [c for c in conditions if c.get("observedGeneration", 0) >= generation]
    rejected = next((c for c in current if c["type"] in ("Accepted", "ResolvedRefs") and c["status"] != "True"), None)
    if rejected is None:
        return None
    message = f"The gateway refuses the route: {rejected.get('message', '')}"
    return Verdict(ReportedReason(rejected["reason"]), message, failed=True)


def _progressing(plan: TrafficPlan) -> Condition | None:
    """Return the condition of a rollout; None after it has ended well."""
    if plan.rollout is None:
        return None
    reason = Reason.ROLLOUT_ABORTED if plan.rollout.aborted else Reason.ROLLING_OUT
    return condition("Progressing", not plan.rollout.aborted, Verdict(reason, plan.rollout.message or ""))


def _draining(facts: ServiceFacts, plan: TrafficPlan) -> Condition | None:
    """Return the condition of replaced pods that cannot end yet; None while no drain takes long."""
    since = {d.name: d.retired_at for d in retired_deployments(facts, plan) if d.retired_at is not None}
    long = {name: time for name, time in since.items() if facts.now - time >= _LONG_DRAIN}
    if not long:
        return None
    cause = (
        "they still get requests, or their metrics cannot be read"
        if is_programmed(facts.route)
        else "the gateway has not taken the new route in yet"
    )
    names, end = ", ".join(sorted(long)), (min(long.values()) + MAX_DRAIN).astimezone(UTC)
    message = f"The replaced pods of {names} stay: {cause}. They end at {end:%Y-%m-%dT%H:%M:%SZ} at the latest."
    return condition("Draining", True, Verdict(Reason.DRAINING, message))


def _phase(assessment: _Assessment, *, is_blocked: bool) -> str:
    """Return the phase; Degraded only if the service still answers."""
    facts = assessment.facts
    if facts.is_stopped:
        return "Stopped"
    if not is_blocked:
        return "Running"
    has_failed = any(assessed.not_ready.failed for assessed in assessment.variants if assessed.not_ready is not None)
    route = _route_not_ready(facts)
    if (has_failed and not facts.ready) or (route is not None and route.failed):
        return "Failed"
    served = all(facts.can_serve(facts.revisions.get(v.name)) for v in facts.service.spec.variants)
    answers = route is None and bool(facts.ready)
    return "Degraded" if answers and (has_failed or served) else "Deploying"


def _url(facts: ServiceFacts) -> str | None:
    service = facts.service
    if not facts.has_gateway:
        return f"http://{service.metadata.name}.{service.metadata.namespace}.svc"
    # A path in conflict leads to another service, which must not get this one's images and key.
    if not facts.gateway_address or facts.path_conflict is not None:
        return None
    return f"{facts.gateway_address.rstrip('/')}{service.path}"
