"""Facts about an InferenceService: its spec, models, Deployments, pods and route as they were observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from bloomery_operator.api import InferenceService
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.durations import go_duration
from bloomery_operator.api.inferenceservice import RolloutStatus, Variant
from bloomery_operator.api.reasons import Reason
from bloomery_operator.domain.rollout import RequestStats
from bloomery_operator.domain.served_model import ServedModel, revision_name
from bloomery_operator.domain.service_lifecycle import Lifecycle
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests.http_route import routed_weights
from bloomery_operator.status.workloads import DeploymentView, PodView

_BLOCKING_REASONS = frozenset({Reason.SECRET_NOT_FOUND, Reason.NAME_TAKEN, Reason.REPLACING, Reason.REFUSED})
"""Reasons for which a reconcile ended before it wrote everything."""
LOST_AFTER = timedelta(seconds=60)
"""Time that a pod has to come back, on another node after a drain for example, before a rollout is aborted."""


@dataclass(frozen=True, kw_only=True)
class ServiceFacts:
    """Everything observed about an InferenceService; made once in a reconcile."""

    service: InferenceService
    now: datetime
    lifecycle: Lifecycle
    models: Mapping[str, ServedModel]
    """The model of each variant, if it is resolved."""
    unresolved: Mapping[str, Verdict] = field(default_factory=dict)
    """For each other variant, what its model waits for."""
    registry_error: Verdict | None = None
    """Why an alias cannot be resolved now; its variant keeps its former model."""
    deployments: Mapping[str, DeploymentView]
    """The service's Deployments by name, also those of former models."""
    pods: Mapping[str, tuple[PodView, ...]]
    """The pods of each Deployment, by its name."""
    discovered_models: Mapping[str, ServedModel] = field(default_factory=dict)
    """By revision, the digest and lineage that pods found of models that were named without a digest."""
    request_stats: Mapping[str, RequestStats] = field(default_factory=dict)
    """Requests to each revision since the rollout's step began."""
    metrics_error: Verdict | None = None
    """Why what pods count is not known."""
    route: Manifest | None = None
    has_gateway: bool = False
    gateway_address: str = ""
    """URL of the gateway without the service's path; empty while the gateway has no address."""
    path_conflict: Verdict | None = None
    """Why the service gets no route."""
    path_warning: Verdict | None = None
    """Why its route stays, although a new one with this path would not be made."""
    was_applied: bool = False
    """Whether the Deployments were last applied from the present spec, as far as the status shows."""

    @property
    def rollout(self) -> RolloutStatus | None:
        """The stored state of the rollout."""
        return self.service.status.rollout

    @property
    def is_stopped(self) -> bool:
        """Whether the service should have no pods."""
        return self.lifecycle.stopped is not None

    @cached_property
    def revisions(self) -> Mapping[str, str]:
        """For each variant with a resolved model the revision that it should serve."""
        return desired_revisions(self.service, self.models)

    @cached_property
    def ready(self) -> frozenset[str]:
        """The revisions that have a ready pod."""
        return frozenset(d.name for d in self.deployments.values() if d.ready > 0)

    @cached_property
    def comparable(self) -> frozenset[str]:
        """The revisions whose pods can be asked for the classes of images."""
        return frozenset(d.name for d in self.deployments.values() if d.is_comparable)

    @cached_property
    def routed(self) -> frozenset[str]:
        """The revisions that have a weight on the route."""
        return frozenset(name for name, weight in routed_weights(self.route).items() if weight > 0)

    @cached_property
    def has_serving_variant(self) -> bool:
        """Whether a variant that has a weight should have pods."""
        return any(v.weight > 0 and not self.service.is_off(v) for v in self.service.spec.variants)

    @cached_property
    def lost_canaries(self) -> Mapping[str, str]:
        """The revisions to which a rollout moves traffic whose pods have failed or do not come back, and how."""
        names = [entry.revision for entry in self.rollout.to] if self.rollout is not None else []
        return {name: how for name in names if (how := self._how_lost(name))}

    def _how_lost(self, revision: str) -> str | None:
        deployment = self.deployments.get(revision)
        if deployment is None:
            return "has no Deployment any more"
        if deployment.ready > 0 or self.rollout is None:
            return None
        failed = next((pod for pod in self.pods.get(revision, ()) if not pod.deleting and pod.has_failed), None)
        if failed is not None:
            return f"has no ready pod left, and pod {failed.name} ended with exit code {failed.exit_code}"
        missing_for = self.now - (deployment.unavailable_since or self.rollout.since)
        if missing_for < LOST_AFTER:
            return None
        return f"has had no ready pod for {go_duration(missing_for.total_seconds())}"

    def deployment_of(self, variant: Variant) -> DeploymentView | None:
        """Return the Deployment of the revision that a variant should serve."""
        return self.deployments.get(self.revisions.get(variant.name, ""))

    def deployments_of(self, variant: Variant) -> list[DeploymentView]:
        """Return the Deployments of all of a variant's revisions."""
        return [d for d in self.deployments.values() if d.variant == variant.name]

    def can_serve(self, revision: str | None) -> bool:
        """Return whether a revision may have traffic: it has a ready pod, or it has traffic already."""
        # Pods that fail later keep their weight: to move it would overload the others.
        return revision in self.deployments and (revision in self.ready or revision in self.routed)

    def outgoing(self, variant: Variant) -> list[DeploymentView]:
        """Return the Deployments whose pods must end before those of a variant start: former ones, with Recreate."""
        deployment = self.deployment_of(variant)
        if not self.service.recreates_pods or variant.name not in self.revisions or (deployment and deployment.ready):
            return []
        others = {v.name for v in self.service.spec.variants} - {variant.name}
        former = (d for d in self.deployments.values() if d.name not in self.revisions.values())
        return [d for d in former if d.variant not in others]

    def pods_to_end(self, variant: Variant) -> int:
        """Return the number of pods that must end before those of a variant start."""
        # The watch of pods may not have shown all of a Deployment's pods yet.
        return sum(max(d.replicas, self._pods_on_nodes(d.name)) for d in self.outgoing(variant))

    def _pods_on_nodes(self, revision: str) -> int:
        pods = self.pods.get(revision, ())
        return sum(pod.phase in ("Pending", "Running") and not pod.node_lost for pod in pods)

    def must_keep_pods(self, revision: str) -> bool:
        """Return whether a revision that should have no pods keeps them until others have its weight."""
        if self.is_stopped or not self.has_serving_variant:
            return False
        return revision in self.routed or not is_programmed(self.route)


def desired_revisions(service: InferenceService, models: Mapping[str, ServedModel]) -> dict[str, str]:
    """Return for each variant with a resolved model the revision that it should serve."""
    return {
        variant.name: revision_name(service, variant, models[variant.name])
        for variant in service.spec.variants
        if variant.name in models
    }


def was_applied(service: InferenceService) -> bool:
    """Return whether an earlier reconcile applied the Deployments from the present spec, as its status shows."""
    ready = service.status.condition("VariantsReady")
    is_blocked = ready is not None and ready.reason in _BLOCKING_REASONS
    return service.status.observed_generation == service.metadata.generation and not is_blocked


def is_programmed(route: Manifest | None) -> bool:
    """Return whether the gateway's controller has seen the route's present generation (GEP-1364)."""
    if route is None:
        return True
    generation = route["metadata"].get("generation", 1)
    parents = route.get("status", {}).get("parents", [])
    conditions = [c for parent in parents for c in parent.get("conditions", [])]
    return any(c["type"] == "Accepted" and c.get("observedGeneration", 0) >= generation for c in conditions)
