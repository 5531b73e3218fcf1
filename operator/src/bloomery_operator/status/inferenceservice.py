"""Status of an InferenceService: conditions and printed fields, from facts, plan and outcome."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bloomery_operator.api import Condition
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.inferenceservice import InferenceServiceStatus, Variant, VariantStatus
from bloomery_operator.api.reasons import Reason, ReportedReason
from bloomery_operator.domain.labels import SERVE_ROLE, service_selector
from bloomery_operator.domain.names import keys_secret_name
from bloomery_operator.domain.served_model import ServedModel, model_hash
from bloomery_operator.domain.traffic import TOTAL_WEIGHT
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.status.conditions import condition, with_transition_times
from bloomery_operator.status.service_facts import ServiceFacts, is_programmed
from bloomery_operator.status.traffic_plan import TrafficPlan, desired_replicas, plan_for_rollout
from bloomery_operator.status.workloads import DeploymentView, pod_not_ready_reason

_TRANSIENT_REASONS = frozenset({"StoreUnavailable"})
"""Failures of a server that are not its model's: the store is down, and the server restarts until it is back."""


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
    conditions = _conditions(assessment)
    ready = sum(v.ready for v in variants)
    selector = service_selector(service, role=SERVE_ROLE)
    return service.status.model_copy(
        update={
            "observed_generation": service.metadata.generation,
            "phase": _phase(assessment, conditions),
            "started_at": facts.lifecycle.started_at,
            "stops_at": facts.lifecycle.stops_at,
            "rollout": plan.rollout,
            "url": _url(facts),
            "api_key_secret": keys_secret_name(service) if service.spec.auth == "ApiKey" else None,
            "replicas": sum(v.replicas for v in variants),
            "ready_replicas": ready,
            "ready": f"{ready}/{sum(assessed.desired_replicas for assessed in assessment.variants)}",
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
    """Return the error that a pod reported, or why a pod does not start."""
    waiting = (pod for pod in facts.pods.get(deployment.name, ()) if not pod.ready)
    return next((verdict for pod in waiting if (verdict := pod.error or pod_not_ready_reason(pod))), None)


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
        revision=revision,
        weight=assessed.weight_percent,
        replicas=sum(d.replicas for d in deployments),
        ready=sum(d.ready for d in deployments),
        message=assessed.not_ready.message if assessed.not_ready else None,
    )


def _conditions(assessment: _Assessment) -> tuple[Condition, ...]:
    """Return the conditions: Ready first, then those that it depends on."""
    variants = _variants_ready(assessment)
    route = _route_ready(assessment.facts)
    progressing = _progressing(assessment.plan)
    aborted = progressing if progressing is not None and not progressing.is_true else None
    blocking = next((c for c in (variants, route) if not c.is_true), aborted)
    ready = blocking.model_copy(update={"type": "Ready"}) if blocking else _serving(assessment.facts)
    return (ready, variants, route, *([progressing] if progressing is not None else []))


def _serving(facts: ServiceFacts) -> Condition:
    address = _url(facts) or facts.service.path
    return condition("Ready", True, Verdict(Reason.SERVING, f"Answering at {address}."))


def _variants_ready(assessment: _Assessment) -> Condition:
    facts = assessment.facts
    not_ready = next((assessed.not_ready for assessed in assessment.variants if assessed.not_ready is not None), None)
    waiting = assessment.blocked_by or facts.lifecycle.stopped or not_ready
    if waiting is not None:
        return condition("VariantsReady", False, waiting)
    message, error = "Every variant has all its pods ready.", facts.registry_error
    verdict = Verdict(error.reason, f"{message} {error.message}") if error else Verdict(Reason.ALL_READY, message)
    return condition("VariantsReady", True, verdict)


def _route_ready(facts: ServiceFacts) -> Condition:
    not_ready = _route_not_ready(facts)
    if not_ready is not None:
        return condition("RouteReady", False, not_ready)
    if not facts.has_gateway:
        message = "No gateway is set up: the only variant answers at the Service of the same name."
        return condition("RouteReady", True, Verdict(Reason.NO_GATEWAY, message))
    if facts.path_warning is not None:
        return condition("RouteReady", True, facts.path_warning)
    return condition("RouteReady", True, Verdict(Reason.ACCEPTED, f"The gateway routes {facts.service.path}."))


def _route_not_ready(facts: ServiceFacts) -> Verdict | None:
    if not facts.has_gateway:
        if len(facts.service.spec.variants) == 1:
            return None
        message = "Several variants need a gateway to split the traffic: set the chart's gateway values."
        return Verdict(Reason.GATEWAY_REQUIRED, message)
    if facts.path_conflict is not None:
        return facts.path_conflict
    if facts.route is None:
        return Verdict(Reason.NOTHING_TO_ROUTE_TO, "The route is made once a variant has a ready pod.")
    if not facts.is_stopped and not facts.has_serving_variant:
        return Verdict(Reason.NOTHING_TO_ROUTE_TO, "Every variant that has a weight is scaled to 0 replicas.")
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
    return Verdict(ReportedReason(rejected["reason"]), message)


def _progressing(plan: TrafficPlan) -> Condition | None:
    """Return the condition of a rollout; None after it has ended well."""
    if plan.rollout is None:
        return None
    reason = Reason.ROLLOUT_ABORTED if plan.rollout.aborted else Reason.ROLLING_OUT
    return condition("Progressing", not plan.rollout.aborted, Verdict(reason, plan.rollout.message or ""))


def _phase(assessment: _Assessment, conditions: tuple[Condition, ...]) -> str:
    facts = assessment.facts
    if facts.is_stopped:
        return "Stopped"
    if any(c.type == "Ready" and c.is_true for c in conditions):
        return "Running"
    if any(assessed.not_ready.failed for assessed in assessment.variants if assessed.not_ready is not None):
        return "Degraded" if facts.ready else "Failed"
    served = all(facts.can_serve(facts.revisions.get(v.name)) for v in facts.service.spec.variants)
    return "Degraded" if served else "Deploying"


def _url(facts: ServiceFacts) -> str | None:
    service = facts.service
    if not facts.has_gateway:
        return f"http://{service.metadata.name}.{service.metadata.namespace}.svc"
    # A path in conflict leads to another service, which must not get this one's images and key.
    if not facts.gateway_address or facts.path_conflict is not None:
        return None
    return f"{facts.gateway_address.rstrip('/')}{service.path}"
