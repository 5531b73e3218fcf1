"""Who answers: from the revisions that exist and are ready to what the gateway is to send where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from bloomery_operator.api import InferenceService
from bloomery_operator.api.common import Manifest
from bloomery_operator.api.inferenceservice import RolloutStatus, Variant
from bloomery_operator.resources.route import Backend, Mirror, Traffic, routed_backends, routed_names
from bloomery_operator.resources.serve import ServedModel, revision_name
from bloomery_operator.status.rollout import Passage, RequestStats, advance, shares_at, whole
from bloomery_operator.status.verdicts import Verdict
from bloomery_operator.status.workload import DeploymentView, PodView

QUIET = timedelta(seconds=10)
"""A revision that left the route stays until its pods have seen no request for that long,"""
LONGEST_DRAIN = timedelta(seconds=60)
"""but no longer than this."""


@dataclass(frozen=True, kw_only=True)
class InferenceServiceObservation:
    """All that an InferenceService's traffic and status depend on."""

    service: InferenceService
    now: datetime
    models: Mapping[str, ServedModel | Verdict]
    """For each variant its model, or what it waits for."""
    deployments: Mapping[str, DeploymentView]
    """The service's Deployments by name, those of former models too."""
    pods: Mapping[str, tuple[PodView, ...]]
    """The pods of each Deployment, by its name."""
    found: Mapping[str, ServedModel] = field(default_factory=dict)
    """What pods found out about models that came without a digest, by revision."""
    figures: Mapping[str, RequestStats] = field(default_factory=dict)
    """What revisions counted since the rollout's step began."""
    rollout: RolloutStatus | None = None
    """The rollout's state that holds now."""
    route: Manifest | None = None
    has_gateway: bool = False
    address: str = ""
    """What stands before the path on the gateway; empty while the gateway has no address."""
    obstacle: Verdict | None = None
    """What kept the children from being written: a missing Secret, a refused manifest."""
    path_clash: Verdict | None = None
    registry_trouble: Verdict | None = None
    """Why an alias can not be followed just now; what runs goes on."""
    started_at: datetime | None = None
    stops_at: datetime | None = None
    stopped: Verdict | None = None
    """Why the service is meant to be off the air."""

    @cached_property
    def ready(self) -> frozenset[str]:
        """The revisions that have a ready pod."""
        return frozenset(d.name for d in self.deployments.values() if d.ready > 0)

    @cached_property
    def routed(self) -> frozenset[str]:
        """The revisions that have a share of the traffic."""
        return frozenset(name for name, weight in routed_backends(self.route).items() if weight > 0)

    @cached_property
    def wanted(self) -> Mapping[str, str | None]:
        """For each variant the revision that it should serve, once its model is known."""
        return {variant.name: self.revision(variant) for variant in self.service.spec.variants}

    def revision(self, variant: Variant) -> str | None:
        """Name of the revision that the variant should serve, once its model is known."""
        model = self.models[variant.name]
        return revision_name(self.service, variant, model) if isinstance(model, ServedModel) else None

    def serves(self, revision: str | None) -> bool:
        """Whether a revision may have traffic: a pod is ready, or it has traffic already."""
        # Pods that fail later keep their weight: moving it away would overload the others.
        return revision in self.deployments and (revision in self.ready or revision in self.routed)

    @cached_property
    def has_taker(self) -> bool:
        """Whether a variant that has a weight should have pods."""
        return any(v.weight > 0 and not self.service.is_off(v) for v in self.service.spec.variants)

    def holds(self, revision: str) -> bool:
        """Whether a revision that should have no pods keeps them yet: others are to have its share first."""
        if self.stopped is not None or not self.has_taker:
            return False
        return revision in self.routed or not is_programmed(self.route)

    def answering_revision(self, variant: Variant) -> str | None:
        """Name of the revision that answers for a variant: the wanted one, or until it can, the one before."""
        wanted = self.wanted[variant.name]
        former = [d.name for d in self.deployments.values() if d.variant == variant.name and d.name != wanted]
        # What a rollout that is given up had replaced goes before what it had brought.
        replaced = {share.revision for share in self.rollout.from_} if self.rollout else set()
        serving = sorted(filter(self.serves, former), key=lambda name: (name not in self.routed, name not in replaced))
        if not serving or wanted in self.routed:
            return wanted
        # It takes over a load, not a first request: with one pod of ten it would fall.
        deployment = self.deployments.get(wanted or "")
        complete = deployment is not None and deployment.settled and deployment.ready >= max(1, deployment.replicas)
        return wanted if complete else serving[0]

    @cached_property
    def target(self) -> dict[str, int]:
        """The split that the spec asks for; those that can not serve leave theirs to the others in proportion."""
        weights: dict[str, int] = {}
        for variant in self.service.spec.variants:
            revision = self.answering_revision(variant)
            if revision is not None and self.serves(revision) and not self.service.is_off(variant):
                weights[revision] = variant.weight
        return whole(weights)

    @cached_property
    def current(self) -> dict[str, int]:
        """The split in force, of the revisions that still exist."""
        shares = shares_at(self.rollout, {}) if self.rollout else routed_backends(self.route)
        return whole({revision: weight for revision, weight in shares.items() if revision in self.deployments})

    @cached_property
    def kept(self) -> dict[str, int]:
        """Of the split in force, the variants that are still wanted."""
        names = {variant.name for variant in self.service.spec.variants}
        return {name: weight for name, weight in self.current.items() if self.deployments[name].variant in names}

    @cached_property
    def shares(self) -> dict[str, int]:
        """The split that the gateway should have now."""
        if self.stopped is not None and self.kept:
            return self.kept
        return shares_at(self.rollout, self.target)


def next_rollout(observation: InferenceServiceObservation) -> RolloutStatus | None:
    """Return the rollout's state from now on; a service that is off the air goes on when it is back."""
    if observation.stopped is not None or not observation.has_gateway:
        return observation.rollout
    passage = Passage(
        plan=observation.service.spec.rollout,
        state=observation.rollout,
        routed=whole(routed_backends(observation.route)),
        target=observation.target,
        generation=observation.service.metadata.generation,
        existing=frozenset(observation.deployments),
        wanted=frozenset(name for name in observation.wanted.values() if name),
        ready=observation.ready,
        figures=observation.figures,
    )
    return advance(passage, observation.now)


def plan_traffic(observation: InferenceServiceObservation) -> Traffic:
    """Return what the route should say; where nobody can take any traffic, it is empty and the route stays as it is.

    Every variant that exists is on it, so that its header finds it, also without any share.
    """
    shares = observation.shares
    if not shares:
        return Traffic()
    direct, mirrors = {}, []
    for variant in observation.service.spec.variants:
        revision = _addressed(observation, variant)
        if revision is None:
            continue
        direct[variant.name] = revision
        if variant.mirror_percent and observation.serves(revision):
            mirrors.append(Mirror(revision, variant.mirror_percent))
    backends = {revision: shares.get(revision, 0) for revision in [*direct.values(), *shares]}
    return Traffic(
        backends=tuple(
            Backend(observation.deployments[revision].variant, revision, weight)
            for revision, weight in backends.items()
            if revision in observation.deployments
        ),
        direct=direct,
        mirrors=tuple(mirrors),
    )


def retired_deployments(observation: InferenceServiceObservation) -> tuple[DeploymentView, ...]:
    """Return the Deployments that neither a variant nor the route needs any more."""
    needed = {*observation.wanted.values(), *observation.shares, *routed_names(observation.route)}
    planned = plan_traffic(observation)
    needed |= {*planned.direct.values(), *(backend.revision for backend in planned.backends)}
    return tuple(d for d in observation.deployments.values() if d.name not in needed)


def is_drained(observation: InferenceServiceObservation, deployment: DeploymentView, silence: float) -> bool:
    """Whether a retired Deployment may be removed: the gateway knows, and its pods saw no request for a while.

    Args:
        silence: for how many seconds its pods have seen no request.
    """
    if deployment.retired_at is None:
        return False
    age = observation.now - deployment.retired_at
    quiet = min(age, timedelta(seconds=silence)) >= QUIET and is_programmed(observation.route)
    return quiet or age >= LONGEST_DRAIN


def is_programmed(route: Manifest | None) -> bool:
    """Whether the gateway's controller has seen the route as it is now (GEP-1364)."""
    if route is None:
        return True
    generation = route["metadata"].get("generation", 1)
    parents = route.get("status", {}).get("parents", [])
    conditions = [c for parent in parents for c in parent.get("conditions", [])]
    return any(c["type"] == "Accepted" and c.get("observedGeneration", 0) >= generation for c in conditions)


def _addressed(observation: InferenceServiceObservation, variant: Variant) -> str | None:
    """Name of the revision that a variant's header picks: the larger one in force, else the one that would answer."""
    mine = {
        revision: weight
        for revision, weight in observation.shares.items()
        if weight and revision in observation.deployments and observation.deployments[revision].variant == variant.name
    }
    answering = observation.answering_revision(variant)
    chosen = max(mine, key=lambda revision: (mine[revision], revision == answering), default=answering)
    return chosen if chosen in observation.deployments else None
