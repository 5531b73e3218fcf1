"""Plan of an InferenceService's traffic: the rollout's next state, the weights, the route, and retired Deployments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from bloomery_operator.api.inferenceservice import Autoscaling, RolloutStatus, Variant
from bloomery_operator.domain.labels import APPROVED
from bloomery_operator.domain.rollout import (
    RolloutInput,
    canary_revisions,
    next_rollout_state,
    stable_revisions,
    weights_at,
    weights_of,
)
from bloomery_operator.domain.traffic import Backend, Mirror, Traffic, Weights, normalise_weights
from bloomery_operator.manifests.http_route import routed_revisions, routed_weights
from bloomery_operator.status.service_facts import ServiceFacts, is_programmed
from bloomery_operator.status.workloads import DeploymentView

MIN_IDLE = timedelta(seconds=10)
"""A retired revision is removed once the gateway knows, and its pods have had no request for this long,"""
MAX_DRAIN = timedelta(hours=6)
"""or has been retired for this long: some client may never let go."""


@dataclass(frozen=True, kw_only=True)
class TrafficPlan:
    """Decisions about an InferenceService's traffic; made once in a reconcile, from its facts."""

    rollout: RolloutStatus | None = None
    """The rollout's state from now on."""
    serving: Mapping[str, str | None] = field(default_factory=dict)
    """For each variant the revision that serves it, outside of a rollout."""
    weights: Weights = field(default_factory=dict)
    """The split that the gateway should have now."""
    traffic: Traffic = field(default_factory=Traffic)
    """The content of the route; without backends the route stays as it is."""


def plan_traffic(facts: ServiceFacts) -> TrafficPlan:
    """Decide on the traffic, with the rollout's next state."""
    return plan_for_rollout(facts, _next_rollout(facts))


def plan_for_rollout(facts: ServiceFacts, rollout: RolloutStatus | None) -> TrafficPlan:
    """Decide on the traffic in a given state of the rollout."""
    serving = _serving_revisions(facts, rollout)
    weights = _current_weights(facts, rollout, _target_weights(facts, serving))
    return TrafficPlan(
        rollout=rollout, serving=serving, weights=weights, traffic=_route_traffic(facts, serving, weights)
    )


def _next_rollout(facts: ServiceFacts) -> RolloutStatus | None:
    """Return the rollout's next state; a stopped service continues its rollout once it is started."""
    if facts.is_stopped or not facts.has_gateway:
        return facts.rollout
    rollout = RolloutInput(
        plan=facts.service.spec.rollout,
        state=facts.rollout,
        routed=normalise_weights(routed_weights(facts.route)),
        target=_target_weights(facts, _serving_revisions(facts, facts.rollout)),
        generation=facts.service.metadata.generation,
        existing=frozenset(facts.deployments),
        desired=frozenset(facts.revisions.values()),
        ready=facts.ready,
        request_stats=facts.request_stats,
        lost=facts.lost_canaries,
        approved=facts.service.metadata.annotations.get(APPROVED, ""),
    )
    return next_rollout_state(rollout, facts.now)


def _serving_revisions(facts: ServiceFacts, rollout: RolloutStatus | None) -> dict[str, str | None]:
    return {variant.name: _serving_revision(facts, variant, rollout) for variant in facts.service.spec.variants}


def _serving_revision(facts: ServiceFacts, variant: Variant, rollout: RolloutStatus | None) -> str | None:
    """Return the revision that serves a variant: the desired one, or the former one until that can take over."""
    desired = facts.revisions.get(variant.name)
    former = [d.name for d in facts.deployments_of(variant) if d.name != desired]
    # After an abort, the revisions that the rollout replaced come before those that it brought.
    original = {entry.revision for entry in rollout.from_} if rollout else set()
    candidates = sorted(
        filter(facts.can_serve, former), key=lambda name: (name not in facts.routed, name not in original)
    )
    if not candidates or desired in facts.routed:
        return desired
    # It takes over the whole load at once, so all of its pods must be ready.
    deployment = facts.deployment_of(variant)
    is_complete = deployment is not None and deployment.settled and deployment.ready >= max(1, deployment.replicas)
    return desired if is_complete else candidates[0]


def _target_weights(facts: ServiceFacts, serving: Mapping[str, str | None]) -> dict[str, int]:
    """Return the split of the spec; revisions that cannot serve leave their weight to the others in proportion."""
    weights: dict[str, int] = {}
    for variant in facts.service.spec.variants:
        revision = serving[variant.name]
        if revision is not None and facts.can_serve(revision) and not facts.service.is_off(variant):
            weights[revision] = variant.weight
    return normalise_weights(weights)


def _current_weights(facts: ServiceFacts, rollout: RolloutStatus | None, target: Weights) -> dict[str, int]:
    """Return the split that the gateway should have now; a stopped service retains its split."""
    if facts.is_stopped:
        retained = _retained_weights(facts, rollout)
        if retained:
            return retained
    return weights_at(rollout, target)


def _retained_weights(facts: ServiceFacts, rollout: RolloutStatus | None) -> dict[str, int]:
    """Return the present split, without revisions that are gone and variants that the spec no longer has."""
    present = weights_at(rollout, {}) if rollout else routed_weights(facts.route)
    existing = normalise_weights({name: weight for name, weight in present.items() if name in facts.deployments})
    variants = {variant.name for variant in facts.service.spec.variants}
    return {name: weight for name, weight in existing.items() if facts.deployments[name].variant in variants}


def _route_traffic(facts: ServiceFacts, serving: Mapping[str, str | None], weights: Weights) -> Traffic:
    """Return the content of the route; empty if no revision can serve.

    Every variant that has a Deployment is on it, so that its header selects it, also with a weight of 0.
    """
    if not weights:
        return Traffic()
    direct, mirrors = {}, []
    for variant in facts.service.spec.variants:
        revision = _revision_for_header(facts, variant, serving[variant.name], weights)
        if revision is None:
            continue
        direct[variant.name] = revision
        if variant.mirror_percent and facts.can_serve(revision):
            mirrors.append(Mirror(revision, variant.mirror_percent))
    backends = {revision: weights.get(revision, 0) for revision in [*direct.values(), *weights]}
    return Traffic(
        backends=tuple(
            Backend(facts.deployments[revision].variant, revision, weight)
            for revision, weight in backends.items()
            if revision in facts.deployments
        ),
        direct=direct,
        mirrors=tuple(mirrors),
    )


def _revision_for_header(facts: ServiceFacts, variant: Variant, serving: str | None, weights: Weights) -> str | None:
    """Return the revision that a variant's header selects: the one with most weight, else the serving one."""
    names = {d.name for d in facts.deployments_of(variant)}
    weighted = {revision: weight for revision, weight in weights.items() if weight and revision in names}
    chosen = max(weighted, key=lambda revision: (weighted[revision], revision == serving), default=serving)
    return chosen if chosen in facts.deployments else None


def replicas_now(facts: ServiceFacts, variant: Variant) -> int:
    """Return the number of pods that a variant may have now: none while others must end before."""
    return 0 if facts.pods_to_end(variant) else desired_replicas(facts, variant)


def desired_replicas(facts: ServiceFacts, variant: Variant) -> int:
    """Return the number of pods that a variant should have: the spec's, or its autoscaler's."""
    if facts.is_stopped:
        return 0
    deployment = facts.deployment_of(variant)
    present = deployment.replicas if deployment else 0
    if variant.autoscaling is None:
        is_kept = deployment is not None and facts.service.is_off(variant) and facts.must_keep_pods(deployment.name)
        return present if is_kept else facts.service.replicas_of(variant)
    return present or _initial_replicas(facts, variant, variant.autoscaling)


def _initial_replicas(facts: ServiceFacts, variant: Variant, scaling: Autoscaling) -> int:
    """Return the first number of pods of an autoscaled revision: that of the revision whose load it takes."""
    serving = (d for d in facts.deployments_of(variant) if facts.can_serve(d.name))
    return min(scaling.max, max([scaling.min, *(d.replicas for d in serving)]))


def compared_revision(facts: ServiceFacts, plan: TrafficPlan, variant: Variant) -> str | None:
    """Return the revision with whose answers the pods of a variant compare theirs: the one that they replace.

    None if no rollout is judged by that, or what is replaced was deployed by a release that cannot be asked.
    """
    limits = facts.service.spec.rollout.abort_on if facts.service.spec.rollout else None
    revision = facts.revisions.get(variant.name)
    if limits is None or limits.disagreement is None or revision is None:
        return None
    return _replaced_revision(facts, plan, variant, revision)


def _replaced_revision(facts: ServiceFacts, plan: TrafficPlan, variant: Variant, revision: str) -> str | None:
    rollout = plan.rollout
    if rollout is None:
        # Its pods start with the address of what they will replace.
        serving = plan.serving.get(variant.name)
        return serving if serving != revision and serving in facts.comparable else None
    if revision not in canary_revisions(rollout):
        return None
    weights, stable = weights_of(rollout.from_), stable_revisions(rollout) & facts.comparable
    return max(stable, key=lambda name: (weights[name], name), default=None)


def retired_deployments(facts: ServiceFacts, plan: TrafficPlan) -> tuple[DeploymentView, ...]:
    """Return the Deployments that neither a variant nor the route needs any more."""
    needed = {*facts.revisions.values(), *plan.weights, *routed_revisions(facts.route)}
    needed |= {*plan.traffic.direct.values(), *(backend.revision for backend in plan.traffic.backends)}
    return tuple(d for d in facts.deployments.values() if d.name not in needed)


def is_drained(facts: ServiceFacts, deployment: DeploymentView, seconds_idle: float | None) -> bool:
    """Return whether a retired Deployment may be removed: the gateway knows, and its pods have been idle.

    Args:
        facts: the service's facts.
        deployment: one of its Deployments.
        seconds_idle: seconds since its pods got their last request; None if that is not known.
    """
    if deployment.retired_at is None:
        return False
    age = facts.now - deployment.retired_at
    known_idle = timedelta(seconds=seconds_idle) if seconds_idle is not None else timedelta()
    is_idle = min(age, known_idle) >= MIN_IDLE and is_programmed(facts.route)
    return is_idle or age >= MAX_DRAIN
