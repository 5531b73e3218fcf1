"""An InferenceService's traffic, conditions and fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from bloomery_operator.api import Condition, InferenceService, TrainingJob
from bloomery_operator.api.common import Manifest
from bloomery_operator.api.inferenceservice import InferenceServiceStatus, Variant, VariantStatus
from bloomery_operator.resources.keys import keys_secret_name
from bloomery_operator.resources.route import Backend, routed_backends
from bloomery_operator.resources.serve import ServedModel, pod_selector, revision_name
from bloomery_operator.status.verdicts import Verdict, condition, dated
from bloomery_operator.status.workload import DeploymentView, PodView, pod_trouble

DRAIN = timedelta(seconds=15)
"""How long a revision stays after it left the route, for requests that proxies still send it."""


@dataclass(frozen=True, kw_only=True)
class InferenceServiceObservation:
    """All that an InferenceService's traffic and status depend on."""

    service: InferenceService
    models: Mapping[str, ServedModel | Verdict]
    """For each variant its model, or what it waits for."""
    deployments: Mapping[str, DeploymentView]
    """The service's Deployments by name, those of former models too."""
    pods: Mapping[str, tuple[PodView, ...]]
    """The pods of each Deployment, by its name."""
    route: Manifest | None = None
    has_gateway: bool = False
    address: str = ""
    """What stands before the path on the gateway; empty while the gateway has no address."""
    obstacle: Verdict | None = None
    """What kept the children from being written: a missing Secret, a refused manifest."""
    path_clash: Verdict | None = None

    def revision(self, variant: Variant) -> str | None:
        """Name of the revision that the variant should serve, once its model is known."""
        model = self.models[variant.name]
        return revision_name(self.service, variant, model) if isinstance(model, ServedModel) else None

    def serves(self, revision: str | None) -> bool:
        """Whether a revision may have traffic: a pod is ready, or it has traffic already."""
        deployment = self.deployments.get(revision or "")
        if deployment is None:
            return False
        # Pods that fail later keep their weight: moving it away would overload the others.
        return deployment.ready > 0 or routed_backends(self.route).get(deployment.name, 0) > 0

    def answering_revision(self, variant: Variant) -> str | None:
        """Name of the revision that answers for a variant: the wanted one, or until it can, the one before."""
        wanted = self.revision(variant)
        if self.serves(wanted):
            return wanted
        former = (d.name for d in self.deployments.values() if d.variant == variant.name and d.name != wanted)
        return next((name for name in former if self.serves(name)), wanted)


def plan_backends(observation: InferenceServiceObservation) -> tuple[Backend, ...]:
    """Return the backends of the route; a variant that can not serve yet has weight 0.

    Weights on a route are relative, so what a waiting variant would get goes to the others in proportion. Where
    nobody can take any, the plan is empty and the route stays as it is.
    """
    planned = [
        Backend(variant.name, revision, variant.weight if observation.serves(revision) else 0)
        for variant in observation.service.spec.variants
        if (revision := observation.answering_revision(variant)) in observation.deployments and revision
    ]
    return tuple(planned) if any(backend.weight for backend in planned) else ()


def retired_deployments(observation: InferenceServiceObservation) -> tuple[DeploymentView, ...]:
    """Return the Deployments that neither a variant nor the route needs any more."""
    wanted = {observation.revision(variant) for variant in observation.service.spec.variants}
    routed = {backend.revision for backend in plan_backends(observation)} | set(routed_backends(observation.route))
    return tuple(d for d in observation.deployments.values() if d.name not in wanted | routed)


def is_drained(deployment: DeploymentView, now: datetime) -> bool:
    """Whether a retired Deployment left the route long enough ago to be removed."""
    return deployment.retired_at is not None and now - deployment.retired_at >= DRAIN


def derive_status(observation: InferenceServiceObservation, now: datetime) -> InferenceServiceStatus:
    """Return the status that the observation amounts to."""
    service = observation.service
    variants = tuple(_variant_status(observation, variant) for variant in service.spec.variants)
    conditions = _conditions(observation)
    replicas, ready = sum(v.replicas for v in variants), sum(v.ready for v in variants)
    return service.status.model_copy(
        update={
            "observed_generation": service.metadata.generation,
            "phase": _phase(observation, conditions),
            "url": _url(observation),
            "api_key_secret": keys_secret_name(service) if service.spec.auth == "ApiKey" else None,
            "replicas": replicas,
            "ready_replicas": ready,
            "ready": f"{ready}/{sum(service.replicas_of(v) for v in service.spec.variants)}",
            "selector": pod_selector(service),
            "traffic": " ".join(f"{v.name}={v.weight}" for v in variants),
            "variants": variants,
            "conditions": dated(
                conditions,
                previous=service.status.conditions,
                generation=service.metadata.generation,
                now=now,
            ),
        }
    )


def _variant_status(observation: InferenceServiceObservation, variant: Variant) -> VariantStatus:
    model = observation.models[variant.name]
    trouble = variant_trouble(observation, variant)
    deployment = observation.deployments.get(observation.answering_revision(variant) or "")
    backends = {b.variant: b.weight for b in plan_backends(observation)}
    known = model if isinstance(model, ServedModel) else ServedModel(uri="")
    return VariantStatus(
        name=variant.name,
        model=known.display or None,
        run_id=known.run_id,
        training_job=known.training_job,
        dataset=known.dataset,
        digest=known.digest,
        weight=backends.get(variant.name, 0) if observation.has_gateway else variant.weight,
        replicas=deployment.replicas if deployment else 0,
        ready=deployment.ready if deployment else 0,
        message=trouble.message if trouble else None,
    )


def variant_trouble(observation: InferenceServiceObservation, variant: Variant) -> Verdict | None:
    """Say what a variant waits for, or None when it serves its model with all its pods."""
    model = observation.models[variant.name]
    if isinstance(model, Verdict):
        return model
    deployment = observation.deployments.get(observation.revision(variant) or "")
    if deployment is None:
        return Verdict("Deploying", f"Variant {variant.name!r} is about to be deployed.")
    wanted = observation.service.replicas_of(variant)
    if deployment.settled and deployment.ready >= wanted:
        return None
    pods = observation.pods.get(deployment.name, ())
    spoken = next((v for pod in pods if not pod.ready and (v := pod.error or pod_trouble(pod))), None)
    if spoken is not None:
        return Verdict(spoken.reason, f"Variant {variant.name!r}: {spoken.message}", failed=spoken.failed)
    return Verdict("Deploying", f"Variant {variant.name!r} has {deployment.ready} of {wanted} pods ready.")


def _conditions(observation: InferenceServiceObservation) -> tuple[Condition, ...]:
    troubles = [variant_trouble(observation, v) for v in observation.service.spec.variants]
    waiting = observation.obstacle or next((t for t in troubles if t is not None), None)
    variants = condition(
        "VariantsReady", waiting is None, waiting or Verdict("AllReady", "Every variant has all its pods ready.")
    )
    route_trouble = _route_trouble(observation)
    route = condition("RouteReady", route_trouble is None, route_trouble or _route_verdict(observation))
    blocking = next((c for c in (variants, route) if not c.is_true), None)
    ready = condition(
        "Ready",
        blocking is None,
        Verdict(blocking.reason, blocking.message)
        if blocking
        else Verdict("Serving", f"Answering at {_url(observation) or observation.service.path}."),
    )
    return (ready, variants, route)


def _route_verdict(observation: InferenceServiceObservation) -> Verdict:
    if not observation.has_gateway:
        return Verdict("NoGateway", "No gateway is set up: the only variant answers at its Service's address.")
    return Verdict("Accepted", f"The gateway routes {observation.service.path}.")


def _route_trouble(observation: InferenceServiceObservation) -> Verdict | None:
    if not observation.has_gateway:
        if len(observation.service.spec.variants) == 1:
            return None
        return Verdict(
            "GatewayRequired",
            "Several variants need a gateway to split the traffic: set the chart's gateway values.",
        )
    if observation.path_clash is not None:
        return observation.path_clash
    if observation.route is None:
        return Verdict("NothingToRouteTo", "The route is made once a variant has a ready pod.")
    return _refusal(observation.route)


def _refusal(route: Manifest) -> Verdict | None:
    """Read what the gateway's controller says of the route's present generation (GEP-1364)."""
    generation = route["metadata"].get("generation", 1)
    parents = route.get("status", {}).get("parents", [])
    conditions = [c for parent in parents for c in parent.get("conditions", [])]
    current = [c for c in conditions if c.get("observedGeneration", 0) >= generation]
    if not any(c["type"] == "Accepted" for c in current):
        return Verdict("RoutePending", "The gateway has not taken the route in yet.")
    refused = next((c for c in current if c["type"] in ("Accepted", "ResolvedRefs") and c["status"] != "True"), None)
    if refused is None:
        return None
    return Verdict(refused["reason"], f"The gateway refuses the route: {refused.get('message', '')}")


def _phase(observation: InferenceServiceObservation, conditions: tuple[Condition, ...]) -> str:
    if conditions[0].is_true:
        return "Running"
    served = all(observation.serves(observation.revision(v)) for v in observation.service.spec.variants)
    return "Degraded" if served else "Deploying"


def _url(observation: InferenceServiceObservation) -> str | None:
    service = observation.service
    if observation.has_gateway:
        return f"{observation.address.rstrip('/')}{service.path}" if observation.address else None
    revision = observation.answering_revision(service.spec.variants[0])
    return f"http://{revision}.{service.metadata.namespace}.svc" if revision else None


def model_of(training_job: TrainingJob | None, name: str) -> ServedModel | Verdict:
    """Return the model of a TrainingJob, or what it waits for."""
    if training_job is None:
        return Verdict("TrainingJobNotFound", f"There is no TrainingJob {name!r} in this namespace.")
    status = training_job.status
    if status.is_true("Failed"):
        failed = status.condition("Failed")
        return Verdict("TrainingJobFailed", f"TrainingJob {name!r} failed: {failed.message if failed else ''}")
    if not status.is_true("Complete") or status.model is None or status.model.uri is None:
        where = f" (step {status.progress.steps})" if status.progress and status.progress.steps else ""
        return Verdict("WaitingForTraining", f"TrainingJob {name!r} is not complete yet{where}.")
    return ServedModel(
        uri=status.model.uri,
        digest=status.model.digest,
        name=status.model.name,
        version=status.model.version,
        run_id=status.mlflow.run_id if status.mlflow else None,
        training_job=name,
        dataset=",".join(dataset.name for dataset in status.datasets) or None,
        dataset_version=",".join(dataset.version for dataset in status.datasets) or None,
    )
