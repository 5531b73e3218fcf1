"""An InferenceService's traffic, conditions and fields."""

from __future__ import annotations

from bloomery_operator.api import Condition, TrainingJob
from bloomery_operator.api.common import Manifest
from bloomery_operator.api.inferenceservice import Autoscaling, InferenceServiceStatus, Variant, VariantStatus
from bloomery_operator.api.reasons import Reason, ReportedReason
from bloomery_operator.domain.labels import SERVE_ROLE, service_selector
from bloomery_operator.domain.names import keys_secret_name
from bloomery_operator.domain.served_model import ServedModel, model_hash
from bloomery_operator.domain.traffic import TOTAL_WEIGHT
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.status.conditions import condition, with_transition_times
from bloomery_operator.status.traffic import InferenceServiceObservation, is_programmed
from bloomery_operator.status.workloads import pod_not_ready_reason


def derive_status(observation: InferenceServiceObservation) -> InferenceServiceStatus:
    """Return the status that the observation amounts to."""
    service, now = observation.service, observation.now
    variants = tuple(_variant_status(observation, variant) for variant in service.spec.variants)
    conditions = _conditions(observation)
    replicas, ready = sum(v.replicas for v in variants), sum(v.ready for v in variants)
    return service.status.model_copy(
        update={
            "observed_generation": service.metadata.generation,
            "phase": _phase(observation, conditions),
            "started_at": observation.started_at,
            "stops_at": observation.stops_at,
            "rollout": observation.rollout,
            "url": _url(observation),
            "api_key_secret": keys_secret_name(service) if service.spec.auth == "ApiKey" else None,
            "replicas": replicas,
            "ready_replicas": ready,
            "ready": f"{ready}/{sum(wanted_pods(observation, v) for v in service.spec.variants)}",
            "selector": ",".join(f"{k}={v}" for k, v in service_selector(service, role=SERVE_ROLE).items()),
            "traffic": " ".join(f"{v.name}={v.weight}" for v in variants),
            "variants": variants,
            "conditions": with_transition_times(
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
    known = model if isinstance(model, ServedModel) else ServedModel(uri="")
    revision = observation.wanted[variant.name]
    found = observation.found.get(revision or "", known)
    mine = [d for d in observation.deployments.values() if d.variant == variant.name]
    return VariantStatus(
        name=variant.name,
        model=known.display or None,
        uri=known.uri or None,
        model_hash=model_hash(variant) if known.uri else None,
        run_id=known.run_id or found.run_id,
        training_job=known.training_job or found.training_job,
        dataset=known.dataset or found.dataset,
        dataset_version=known.dataset_version or found.dataset_version,
        digest=known.digest or found.digest,
        revision=revision,
        weight=variant_weight(observation, variant),
        replicas=sum(d.replicas for d in mine),
        ready=sum(d.ready for d in mine),
        message=trouble.message if trouble else None,
    )


def variant_weight(observation: InferenceServiceObservation, variant: Variant) -> int:
    """Return what a variant has of the traffic now, in percent, with all its revisions."""
    if not observation.has_gateway:
        return variant.weight
    mine = {d.name for d in observation.deployments.values() if d.variant == variant.name}
    return round(sum(share for name, share in observation.shares.items() if name in mine) * 100 / TOTAL_WEIGHT)


def wanted_pods(observation: InferenceServiceObservation, variant: Variant) -> int:
    """Return how many pods a variant should have: what the spec says, or what its autoscaler has decided."""
    if observation.stopped is not None:
        return 0
    deployment = observation.deployments.get(observation.wanted[variant.name] or "")
    present = deployment.replicas if deployment else 0
    if variant.autoscaling is None:
        held = deployment is not None and observation.service.is_off(variant) and observation.holds(deployment.name)
        return present if held else observation.service.replicas_of(variant)
    return present or _first_pods(observation, variant, variant.autoscaling)


def _first_pods(observation: InferenceServiceObservation, variant: Variant, scaling: Autoscaling) -> int:
    """Return with how many pods an autoscaled revision begins: as many as the one has whose load it will take."""
    mine = (d for d in observation.deployments.values() if d.variant == variant.name and observation.serves(d.name))
    return min(scaling.max, max([scaling.min, *(d.replicas for d in mine)]))


_PASSING = frozenset({"StoreUnavailable"})
"""What is not the model's failure: the store was away, and the server starts again until it is back."""


def variant_trouble(observation: InferenceServiceObservation, variant: Variant) -> Verdict | None:
    """Say what a variant waits for, or None when it serves its model with all its pods."""
    model = observation.models[variant.name]
    if isinstance(model, Verdict):
        return model
    deployment = observation.deployments.get(observation.wanted[variant.name] or "")
    if deployment is None:
        return Verdict(Reason.DEPLOYING, f"Variant {variant.name!r} is about to be deployed.")
    wanted = wanted_pods(observation, variant)
    if deployment.settled and deployment.ready >= wanted:
        return None
    pods = observation.pods.get(deployment.name, ())
    spoken = next((v for pod in pods if not pod.ready and (v := pod.error or pod_not_ready_reason(pod))), None)
    if spoken is not None:
        failed = spoken.failed and spoken.reason not in _PASSING
        return Verdict(spoken.reason, f"Variant {variant.name!r}: {spoken.message}", failed=failed)
    return Verdict(Reason.DEPLOYING, f"Variant {variant.name!r} has {deployment.ready} of {wanted} pods ready.")


def _conditions(observation: InferenceServiceObservation) -> tuple[Condition, ...]:
    troubles = [variant_trouble(observation, v) for v in observation.service.spec.variants]
    waiting = observation.obstacle or observation.stopped or next((t for t in troubles if t is not None), None)
    variants = condition("VariantsReady", waiting is None, waiting or _variants_verdict(observation))
    route_trouble = _route_trouble(observation)
    route = condition("RouteReady", route_trouble is None, route_trouble or _route_verdict(observation))
    progress = _progress(observation)
    aborted = progress if progress is not None and not progress.is_true else None
    blocking = next((c for c in (variants, route) if not c.is_true), aborted)
    serving = Verdict(Reason.SERVING, f"Answering at {_url(observation) or observation.service.path}.")
    ready = blocking.model_copy(update={"type": "Ready"}) if blocking else condition("Ready", True, serving)
    return (ready, variants, route, *([progress] if progress is not None else []))


def _progress(observation: InferenceServiceObservation) -> Condition | None:
    """Say how far a rollout is; there is nothing to say once it has ended well."""
    rollout = observation.rollout
    if rollout is None:
        return None
    reason = Reason.ROLLOUT_ABORTED if rollout.aborted else Reason.ROLLING_OUT
    return condition("Progressing", not rollout.aborted, Verdict(reason, rollout.message or ""))


def _variants_verdict(observation: InferenceServiceObservation) -> Verdict:
    said = "Every variant has all its pods ready."
    trouble = observation.registry_trouble
    return Verdict(trouble.reason, f"{said} {trouble.message}") if trouble else Verdict(Reason.ALL_READY, said)


def _route_verdict(observation: InferenceServiceObservation) -> Verdict:
    if not observation.has_gateway:
        return Verdict(
            Reason.NO_GATEWAY, "No gateway is set up: the only variant answers at the Service of the same name."
        )
    return Verdict(Reason.ACCEPTED, f"The gateway routes {observation.service.path}.")


def _route_trouble(observation: InferenceServiceObservation) -> Verdict | None:
    if not observation.has_gateway:
        if len(observation.service.spec.variants) == 1:
            return None
        return Verdict(
            Reason.GATEWAY_REQUIRED,
            "Several variants need a gateway to split the traffic: set the chart's gateway values.",
        )
    if observation.path_clash is not None:
        return observation.path_clash
    if observation.route is None:
        return Verdict(Reason.NOTHING_TO_ROUTE_TO, "The route is made once a variant has a ready pod.")
    if observation.stopped is None and not observation.has_taker:
        return Verdict(Reason.NOTHING_TO_ROUTE_TO, "Every variant that has a weight is scaled to 0 replicas.")
    return _refusal(observation.route)


def _refusal(route: Manifest) -> Verdict | None:
    """Read what the gateway's controller says of the route's present generation."""
    if not is_programmed(route):
        return Verdict(Reason.ROUTE_PENDING, "The gateway has not taken the route in yet.")
    generation = route["metadata"].get("generation", 1)
    conditions = [c for parent in route["status"]["parents"] for c in parent.get("conditions", [])]
    current = [c for c in conditions if c.get("observedGeneration", 0) >= generation]
    refused = next((c for c in current if c["type"] in ("Accepted", "ResolvedRefs") and c["status"] != "True"), None)
    if refused is None:
        return None
    return Verdict(ReportedReason(refused["reason"]), f"The gateway refuses the route: {refused.get('message', '')}")


def _phase(observation: InferenceServiceObservation, conditions: tuple[Condition, ...]) -> str:
    if observation.stopped is not None:
        return "Stopped"
    if conditions[0].is_true:
        return "Running"
    variants = observation.service.spec.variants
    if any(trouble.failed for v in variants if (trouble := variant_trouble(observation, v)) is not None):
        return "Degraded" if observation.ready else "Failed"
    served = all(observation.serves(observation.wanted[v.name]) for v in variants)
    return "Degraded" if served else "Deploying"


def _url(observation: InferenceServiceObservation) -> str | None:
    service = observation.service
    if observation.has_gateway:
        # A path that is taken leads to another service, which must not be sent this one's images and key.
        mine = observation.address and observation.path_clash is None
        return f"{observation.address.rstrip('/')}{service.path}" if mine else None
    return f"http://{service.metadata.name}.{service.metadata.namespace}.svc"


def model_of(training_job: TrainingJob | None, name: str) -> ServedModel | Verdict:
    """Return the model of a TrainingJob, or what it waits for."""
    if training_job is None:
        return Verdict(Reason.TRAINING_JOB_NOT_FOUND, f"There is no TrainingJob {name!r} in this namespace.")
    status = training_job.status
    if status.is_true("Failed"):
        failed = status.condition("Failed")
        return Verdict(Reason.TRAINING_JOB_FAILED, f"TrainingJob {name!r} failed: {failed.message if failed else ''}")
    if not status.is_true("Complete") or status.model is None or status.model.uri is None:
        where = f" (step {status.progress.steps})" if status.progress and status.progress.steps else ""
        return Verdict(Reason.WAITING_FOR_TRAINING, f"TrainingJob {name!r} is not complete yet{where}.")
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
