"""Single steps of reconciling, on a cluster that only takes notes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from bloomery_operator.api import InvalidResource
from bloomery_operator.cluster.kinds import DATASETS, TRAINING_JOBS, ObjectKey, ResourceKind
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.reconcile import Context
from bloomery_operator.reconcile.context import publish_invalid
from bloomery_operator.reconcile.models import found_models, note_served, resolve_models
from bloomery_operator.resources.serve import ServedModel, recorded_model, revision_name
from bloomery_operator.status.inferenceservice import derive_status
from bloomery_operator.status.traffic import InferenceServiceObservation
from bloomery_operator.status.workload import DeploymentView
from tests.unit.operator.samples import NOW, Manifest, inference_service, metadata, settings

DEMO = ObjectKey("demo", "flowers")
UNREADABLE = InvalidResource("spec.preset: is not known")


class Notes:
    """A cluster without objects, and a registry, that keep what they are told."""

    def __init__(self) -> None:
        self.statuses: list[Manifest] = []
        self.annotated: dict[str, Mapping[str, str | None]] = {}
        self.tagged: list[str] = []

    async def get(self, kind: ResourceKind, key: ObjectKey) -> None:
        del kind, key

    async def apply_status(self, manifest: Manifest) -> Manifest:
        self.statuses.append(manifest["status"])
        return manifest

    async def annotate(self, kind: ResourceKind, key: ObjectKey, annotations: Mapping[str, str | None]) -> None:
        del kind
        self.annotated[key.name] = annotations

    async def tag_served(self, environment: Any, model: Any, *, service: str, variants: str) -> bool:
        del environment, model, service
        self.tagged.append(variants)
        return True


def context(notes: Notes, object_cache: ObjectCache | None = None) -> Context:
    async def silent(*_: Any) -> Any:
        return None

    return Context(
        cluster=notes,  # type: ignore[arg-type]  # what is tested here does nothing else
        object_cache=object_cache or ObjectCache(),
        settings=settings(),
        read_progress=silent,
        stop_trainer=silent,
        registry=notes,  # type: ignore[arg-type]
        servers=silent,  # type: ignore[arg-type]
        now=lambda: NOW,
    )


def published(kind: ResourceKind, status: Manifest) -> list[Manifest]:
    """Return the statuses that are written of an object which can not be read."""
    object_cache, notes = ObjectCache(), Notes()
    object_cache.put(kind, {"metadata": metadata(), "status": status})
    asyncio.run(publish_invalid(context(notes, object_cache), kind, DEMO, UNREADABLE))
    return notes.statuses


def test_an_object_that_can_not_be_read_says_so_and_keeps_what_its_status_knew() -> None:
    others = {"type": "Checked", "status": "True", "reason": "Fine", "message": ""}
    ready = {"type": "Ready", "status": "True", "reason": "Prepared", "message": ""}
    before = {"phase": "Ready", "preparedSpec": "abc", "uri": "s3://b/a", "conditions": [ready, others]}
    (status,) = published(DATASETS, before)
    assert (status["phase"], status["preparedSpec"], status["uri"]) == ("Failed", "abc", "s3://b/a")
    said = {c["type"]: c for c in status["conditions"]}
    assert said["Checked"] == others
    assert (said["Ready"]["status"], said["Ready"]["reason"]) == ("False", "InvalidSpec")
    assert said["Ready"]["message"] == "The object can not be read: spec.preset: is not known"
    assert published(DATASETS, status) == [], "once is enough"


def test_a_finished_training_that_can_not_be_read_any_more_stays_complete() -> None:
    complete = {"type": "Complete", "status": "True", "reason": "Trained", "message": ""}
    assert published(TRAINING_JOBS, {"phase": "Complete", "conditions": [complete], "model": {"name": "a"}}) == []
    running = {"type": "Complete", "status": "False", "reason": "Training", "message": ""}
    assert published(TRAINING_JOBS, {"phase": "Running", "conditions": [running]}) != []


def test_a_version_is_noted_as_served_though_another_variant_of_it_is_still_to_be_deployed() -> None:
    model = ServedModel(uri="s3://models/flowers", name="flowers", version="4")
    service, notes = inference_service({"v1": 50, "v2": 50}), Notes()
    name = revision_name(service, service.spec.variants[0], model)
    first = DeploymentView(name=name, variant="v1", replicas=1, ready=1, settled=True, retired_at=None)
    observation = InferenceServiceObservation(
        service=service, now=NOW, models={"v1": model, "v2": model}, deployments={name: first}, pods={}
    )
    asyncio.run(note_served(context(notes), observation))
    assert notes.tagged == ["v1"]
    assert notes.annotated == {name: {"bloomery.dev/served-tag": "v1"}}


NUMBERED = ServedModel(uri="s3://b/4", digest="sha256:4", name="flowers", version="4", run_id="r", dataset="flowers")
FOLDER = ServedModel(uri="s3://b/any")


def observe(model: ServedModel, *, found: ServedModel | None = None) -> InferenceServiceObservation:
    """Observe a service whose only model was found, and whose pods may have found out more of it."""
    service = inference_service()
    name = revision_name(service, service.spec.variants[0], model)
    return InferenceServiceObservation(
        service=service, now=NOW, models={"v1": model}, deployments={}, pods={}, found={name: found} if found else {}
    )


@pytest.mark.parametrize(
    ("model", "found"), [(NUMBERED, None), (FOLDER, None), (FOLDER, ServedModel(uri="", digest="sha256:found"))]
)
def test_a_pinned_model_outlives_its_deployment(model: ServedModel, found: ServedModel | None) -> None:
    observation = observe(model, found=found)
    later = observation.service.model_copy(update={"status": derive_status(observation)})
    assert asyncio.run(resolve_models(context(Notes()), later, ())).models == {"v1": model}


def test_the_status_tells_where_a_folder_comes_from_and_keeps_it_without_its_pods() -> None:
    found = ServedModel(uri="", digest="sha256:found", run_id="r", training_job="flowers", dataset="flowers")
    observation = observe(FOLDER, found=found)
    status = derive_status(observation)
    (told,) = status.variants
    assert (told.digest, told.run_id, told.training_job, told.dataset) == ("sha256:found", "r", "flowers", "flowers")
    later = replace(observation, service=observation.service.model_copy(update={"status": status}), found={})
    kept = replace(later, found=asyncio.run(found_models(context(Notes()), later)))
    assert derive_status(kept).variants == status.variants


def test_a_variant_in_other_words_is_looked_for_anew() -> None:
    observation = observe(NUMBERED)
    service = observation.service
    other = inference_service({"v2": 100}).spec.variants[0].model_copy(update={"name": "v1"})
    changed = service.model_copy(
        update={
            "status": derive_status(observation),
            "spec": service.spec.model_copy(update={"variants": (other,)}),
        }
    )
    found = asyncio.run(resolve_models(context(Notes()), changed, ())).models
    assert found == {"v1": ServedModel(uri="s3://models/v2")}


@pytest.mark.parametrize("edited", ["", "no JSON", "[]", '{"digest": "a"}', '{"uri": 5}'])
def test_an_annotation_that_can_not_be_read_is_no_record_of_a_model(edited: str) -> None:
    assert recorded_model({"bloomery.dev/model": edited}) is None


def test_what_another_operator_adds_to_the_record_of_a_model_does_no_harm() -> None:
    record = '{"uri": "s3://b/4", "licence": "MIT"}'
    assert recorded_model({"bloomery.dev/model": record}) == ServedModel(uri="s3://b/4")
