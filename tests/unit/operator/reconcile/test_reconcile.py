"""Steps of reconciles, with a cluster that records calls."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from bloomery_operator.api import InferenceService, InvalidResource
from bloomery_operator.api.inferenceservice import InferenceServiceStatus
from bloomery_operator.cluster.kinds import DATASETS, TRAINING_JOBS, ObjectKey, ResourceKind
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.domain.served_model import ServedModel, recorded_model, revision_name
from bloomery_operator.domain.service_lifecycle import Lifecycle
from bloomery_operator.reconcile import Context
from bloomery_operator.reconcile.model_resolution import discover_models, resolve_models
from bloomery_operator.reconcile.status_writer import publish_invalid
from bloomery_operator.status.inferenceservice import Outcome, derive_status
from bloomery_operator.status.service_facts import ServiceFacts
from bloomery_operator.status.traffic_plan import plan_traffic
from tests.unit.operator.samples import NOW, Manifest, inference_service, metadata, settings, training_job

DEMO = ObjectKey("demo", "flowers")
UNREADABLE = InvalidResource("spec.preset: is not known")


class Recorder:
    """A cluster without objects, which records what is written."""

    def __init__(self) -> None:
        self.statuses: list[Manifest] = []

    async def get(self, kind: ResourceKind, key: ObjectKey) -> None:
        del kind, key

    async def apply_status(self, manifest: Manifest) -> Manifest:
        self.statuses.append(manifest["status"])
        return manifest


def context(recorder: Recorder, object_cache: ObjectCache | None = None) -> Context:
    async def silent(*_: Any) -> Any:
        return None

    return Context(
        cluster=recorder,  # type: ignore[arg-type]  # what is tested here does nothing else
        object_cache=object_cache or ObjectCache(),
        settings=settings(),
        read_progress=silent,
        stop_trainer=silent,
        registry=recorder,  # type: ignore[arg-type]
        servers=silent,  # type: ignore[arg-type]
        now=lambda: NOW,
    )


def status_of(facts: ServiceFacts) -> InferenceServiceStatus:
    return derive_status(facts, plan_traffic(facts), Outcome(route=facts.route))


def published(kind: ResourceKind, status: Manifest) -> list[Manifest]:
    """Return the statuses that are written for an object that cannot be read."""
    object_cache, recorder = ObjectCache(), Recorder()
    object_cache.put(kind, {"metadata": metadata(), "status": status})
    asyncio.run(publish_invalid(context(recorder, object_cache), kind, DEMO, UNREADABLE))
    return recorder.statuses


def test_unreadable_object_gets_a_condition_and_keeps_its_status() -> None:
    others = {"type": "Checked", "status": "True", "reason": "Fine", "message": ""}
    ready = {"type": "Ready", "status": "True", "reason": "Prepared", "message": ""}
    before = {"phase": "Ready", "preparedSpec": "abc", "uri": "s3://b/a", "conditions": [ready, others]}
    (status,) = published(DATASETS, before)
    assert (status["phase"], status["preparedSpec"], status["uri"]) == ("Failed", "abc", "s3://b/a")
    conditions = {c["type"]: c for c in status["conditions"]}
    assert conditions["Checked"] == others
    assert (conditions["Ready"]["status"], conditions["Ready"]["reason"]) == ("False", "InvalidSpec")
    assert conditions["Ready"]["message"] == "The object cannot be read: spec.preset: is not known"
    assert published(DATASETS, status) == [], "once is enough"


def test_unreadable_finished_training_stays_complete() -> None:
    complete = {"type": "Complete", "status": "True", "reason": "Trained", "message": ""}
    assert published(TRAINING_JOBS, {"phase": "Complete", "conditions": [complete], "model": {"name": "a"}}) == []
    running = {"type": "Complete", "status": "False", "reason": "Training", "message": ""}
    assert published(TRAINING_JOBS, {"phase": "Running", "conditions": [running]}) != []


NUMBERED = ServedModel(uri="s3://b/4", digest="sha256:4", name="flowers", version="4", run_id="r", dataset="flowers")
FOLDER = ServedModel(uri="s3://b/any")


def observe(model: ServedModel, *, discovered: ServedModel | None = None) -> ServiceFacts:
    """Observe a service whose only model was found, and whose pods may have found out more of it."""
    service = inference_service()
    name = revision_name(service, service.spec.variants[0], model)
    return ServiceFacts(
        service=service,
        now=NOW,
        lifecycle=Lifecycle(started_at=None),
        models={"v1": model},
        deployments={},
        pods={},
        discovered_models={name: discovered} if discovered else {},
    )


@pytest.mark.parametrize(
    ("model", "discovered"), [(NUMBERED, None), (FOLDER, None), (FOLDER, ServedModel(uri="", digest="sha256:found"))]
)
def test_recorded_model_outlives_its_deployment(model: ServedModel, discovered: ServedModel | None) -> None:
    facts = observe(model, discovered=discovered)
    later = facts.service.model_copy(update={"status": status_of(facts)})
    assert asyncio.run(resolve_models(context(Recorder()), later, ())).models == {"v1": model}


def test_status_keeps_the_discovered_lineage_without_pods() -> None:
    lineage = ServedModel(uri="", digest="sha256:found", run_id="r", training_job="flowers", dataset="flowers")
    facts = observe(FOLDER, discovered=lineage)
    status = status_of(facts)
    (noted,) = status.variants
    assert (noted.digest, noted.run_id, noted.training_job, noted.dataset) == (
        "sha256:found",
        "r",
        "flowers",
        "flowers",
    )
    later = replace(facts, service=facts.service.model_copy(update={"status": status}), discovered_models={})
    discovered = asyncio.run(discover_models(context(Recorder()), later.service, later.models, later.pods))
    without_pods = replace(later, discovered_models=discovered.models)
    assert status_of(without_pods).variants == status.variants


def test_changed_model_source_is_resolved_again() -> None:
    facts = observe(NUMBERED)
    service = facts.service
    other = inference_service({"v2": 100}).spec.variants[0].model_copy(update={"name": "v1"})
    changed = service.model_copy(
        update={
            "status": status_of(facts),
            "spec": service.spec.model_copy(update={"variants": (other,)}),
        }
    )
    models = asyncio.run(resolve_models(context(Recorder()), changed, ())).models
    assert models == {"v1": ServedModel(uri="s3://models/v2")}


@pytest.mark.feature("S12")
def test_name_and_version_of_a_later_registration_are_learned() -> None:
    """The model is the same, so the revision and its pods are, too."""
    uri, digest = "s3://b/flowers", "sha256:" + "d" * 64
    variants = [{"name": "v1", "model": {"trainingJob": "flowers"}, "weight": 100}]
    service = inference_service(variants=variants)
    complete = {"type": "Complete", "status": "True", "reason": "NotRegistered", "message": ""}

    def resolve(service: InferenceService, **model: str) -> ServedModel:
        job = training_job(status={"conditions": [complete], "model": {"uri": uri, "digest": digest} | model})
        manifest = {"metadata": metadata(), "spec": job.spec.to_json(), "status": job.status.to_json()}
        object_cache = ObjectCache()
        object_cache.put(TRAINING_JOBS, manifest)
        return asyncio.run(resolve_models(context(Recorder(), object_cache), service, ())).models["v1"]

    first = resolve(service)
    assert first.registered_version is None
    facts = replace(observe(first), service=service)
    deployed = service.model_copy(update={"status": status_of(facts)})
    later = resolve(deployed, name="flowers", version="4")
    assert later.registered_version == ("flowers", "4")
    assert revision_name(service, service.spec.variants[0], later) == facts.revisions["v1"]
    # Another training under the same name does not replace what is deployed.
    assert resolve(deployed, uri="s3://b/other", name="flowers", version="5") == first


@pytest.mark.parametrize("edited", ["", "no JSON", "[]", '{"digest": "a"}', '{"uri": 5}'])
def test_unreadable_model_annotation_is_ignored(edited: str) -> None:
    assert recorded_model({"bloomery.dev/model": edited}) is None


def test_unknown_field_of_a_model_annotation_is_ignored() -> None:
    record = '{"uri": "s3://b/4", "licence": "MIT"}'
    assert recorded_model({"bloomery.dev/model": record}) == ServedModel(uri="s3://b/4")
