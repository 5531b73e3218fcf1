"""Model of a variant: its folder and lineage, the revision's name, and the records from which it is recovered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter, ValidationError

from bloomery_operator.api import InferenceService, TrainingJob
from bloomery_operator.api.inferenceservice import Variant, VariantStatus
from bloomery_operator.api.reasons import Reason
from bloomery_operator.domain.digest import digest_of
from bloomery_operator.domain.labels import MODEL, MODEL_SOURCE
from bloomery_operator.domain.names import MAX_NAME_LENGTH
from bloomery_operator.domain.verdict import Verdict

ServedVersion = tuple[str, str]
"""Name and version of a model in MLflow's registry."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A resolved model: the URI of its folder, and its lineage."""

    uri: str
    digest: str | None = None
    name: str | None = None
    version: str | None = None
    run_id: str | None = None
    training_job: str | None = None
    dataset: str | None = None
    dataset_version: str | None = None

    @property
    def display(self) -> str:
        """Short form for people: ``flowers/4``, or the folder."""
        return f"{self.name}/{self.version}" if self.name and self.version else self.uri

    @property
    def registered_version(self) -> ServedVersion | None:
        """Name and version in MLflow's registry, if the model is from there."""
        return (self.name, self.version) if self.name is not None and self.version is not None else None


_RECORD = TypeAdapter(ServedModel)


def revision_name(service: InferenceService, variant: Variant, model: ServedModel) -> str:
    """Return the name of a variant's revision; another model is another revision beside the old one."""
    stem = f"{service.metadata.name}--{variant.name}"
    # The longest names are cut, so the hash covers them too.
    revision = digest_of([stem, model.uri, model.digest], length=8)
    return f"{stem[: MAX_NAME_LENGTH - len(revision) - 1].rstrip('-')}-{revision}"


def model_hash(variant: Variant) -> str:
    """Return the hash of a variant's model source."""
    return digest_of(variant.model.to_json())


def model_record(model: ServedModel) -> str:
    """Return the annotation from which ``recorded_model`` reads a model."""
    return json.dumps({key: value for key, value in asdict(model).items() if value is not None})


def model_annotations(variant: Variant, model: ServedModel) -> dict[str, str]:
    """Return the annotations that record a Deployment's model and the source that it was resolved from."""
    return {
        MODEL_SOURCE: model_hash(variant),
        MODEL: model_record(model),
    }


def recorded_model(annotations: Mapping[str, str], variant: Variant | None = None) -> ServedModel | None:
    """Return the model that a Deployment records; with a variant, only if its model source is unchanged.

    A resolved model stays: a TrainingJob that its TTL removed stops no service.
    """
    if variant is not None and annotations.get(MODEL_SOURCE) != model_hash(variant):
        return None
    try:
        return _RECORD.validate_json(annotations.get(MODEL, ""))
    except ValidationError:
        # An annotation that was edited is ignored; fields that another operator added are ignored.
        return None


def model_from_status(service: InferenceService, variant: Variant) -> ServedModel | None:
    """Return the model that the status records for a variant, if the variant's model source is unchanged.

    This record outlives a Deployment that somebody deletes.
    """
    recorded = next((status for status in service.status.variants if status.name == variant.name), None)
    if recorded is None or recorded.uri is None or recorded.model_hash != model_hash(variant):
        return None
    registered = (recorded.model or "").rpartition("/") if recorded.model != recorded.uri else ("", "", "")
    model = replace(lineage_from_status(recorded), name=registered[0] or None, version=registered[2] or None)
    # A pod may have found the digest, which is then not part of the revision's name.
    candidates = (model, replace(model, digest=None))
    return next((model for model in candidates if revision_name(service, variant, model) == recorded.revision), None)


def lineage_from_status(recorded: VariantStatus) -> ServedModel:
    """Return the model and lineage that the status records for a variant, without its name in the registry."""
    return ServedModel(
        uri=recorded.uri or "",
        digest=recorded.digest,
        run_id=recorded.run_id,
        training_job=recorded.training_job,
        dataset=recorded.dataset,
        dataset_version=recorded.dataset_version,
    )


def model_from_training_job(training_job: TrainingJob | None, name: str) -> ServedModel | Verdict:
    """Return the model of a TrainingJob, or what its variant waits for."""
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
