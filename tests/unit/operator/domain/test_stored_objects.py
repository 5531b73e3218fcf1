"""Hashes of objects that an earlier version stored: an upgrade repeats no preparation, training or rollout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from bloomery_operator.api import Dataset, InferenceService, TrainingJob
from bloomery_operator.api.trainingjob import TrainedOn
from bloomery_operator.domain.served_model import ServedModel, model_hash, revision_name
from bloomery_operator.domain.spec_hash import DEFAULTS
from bloomery_operator.domain.starting_point import StartingPoint
from bloomery_operator.manifests import prepare_job, train_job
from bloomery_operator.manifests.job import TrainerTask
from tests.unit.operator.samples import DIGEST, settings

STORED = Path(__file__).parent / "stored"
Stored = dict[str, Any]


def stored_objects(kind: str) -> list[Any]:
    """Return the stored objects of a kind, each with the hashes that its own version computed."""
    return [
        pytest.param(entry, id=f"{path.stem}-{entry['object']['metadata']['name']}")
        for path in sorted(STORED.glob("*.yaml"))
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))
        if entry["object"]["kind"] == kind
    ]


def training_task(job: TrainingJob) -> TrainerTask:
    """Return the task of a job, on the dataset versions and the start that the stored hashes were computed with."""
    versions = [
        TrainedOn(name=reference.name, version=DIGEST, uri=f"s3://bloomery/datasets/demo/{reference.name}")
        for reference in job.spec.datasets
    ]
    start = StartingPoint(uri="s3://bloomery/models/demo/base", origin="base/1")
    return train_job.build_task(
        job, versions, start if job.spec.initial_model else None, settings(), stop_token="secret"
    )


@pytest.mark.feature("O4")
@pytest.mark.parametrize("entry", stored_objects("Dataset"))
def test_stored_dataset_keeps_its_hashes(entry: Stored) -> None:
    task = prepare_job.build_task(Dataset.parse(entry["object"]), settings())
    assert {"hash": task.hash, "job_hash": task.job_hash} == entry["hashes"]


@pytest.mark.feature("O4")
@pytest.mark.parametrize("entry", stored_objects("TrainingJob"))
def test_stored_training_job_keeps_its_hashes(entry: Stored) -> None:
    task = training_task(TrainingJob.parse(entry["object"]))
    assert {"hash": task.hash, "job_hash": task.job_hash} == entry["hashes"]


@pytest.mark.feature("O4")
@pytest.mark.parametrize("entry", stored_objects("InferenceService"))
def test_stored_service_gets_no_new_revision(entry: Stored) -> None:
    service = InferenceService.parse(entry["object"])
    hashes = {}
    for variant in service.spec.variants:
        model = ServedModel(uri=f"s3://models/{variant.name}", digest="sha256:" + "d" * 64)
        hashes[f"{variant.name}.model_hash"] = model_hash(variant)
        hashes[f"{variant.name}.revision"] = revision_name(service, variant, model)
    assert hashes == entry["hashes"]


@pytest.mark.parametrize("entry", stored_objects("TrainingJob"))
def test_stored_values_are_explicit_for_the_trainer(entry: Stored) -> None:
    hyperparameters = entry["object"]["spec"]["hyperparameters"]
    assert training_task(TrainingJob.parse(entry["object"])).config["hyperparameters"] == hyperparameters


@pytest.mark.parametrize("kind", [Dataset, TrainingJob])
def test_every_default_of_a_model_is_in_the_frozen_table(kind: type[Dataset | TrainingJob]) -> None:
    """A default that is not there would change the hash of every stored object: add it where a field is new."""
    spec = kind.model_fields["spec"].annotation
    hashed = prepare_job._HASHED_FIELDS if kind is Dataset else set(spec.model_fields) - train_job._UNHASHED_FIELDS  # type: ignore[union-attr]
    for path, value in _defaults(spec, ""):
        if path.partition(".")[0] in hashed:
            assert path in DEFAULTS[kind.KIND], f"{path} has the default {value!r}"


def _defaults(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if not field.is_required() and field.get_default(call_default_factory=True) is not None:
            yield f"{prefix}{name}", field.default
        nested = next((part for part in _parts(field.annotation) if issubclass(part, BaseModel)), None)
        if nested is not None:
            yield from _defaults(nested, f"{prefix}{name}.")


def _parts(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _parts(part)
