"""A TrainingJob's training as a task of the trainer image."""

from __future__ import annotations

from bloomery_operator.api import TrainingJob
from bloomery_operator.api.dataset import DatasetVersion
from bloomery_operator.api.trainingjob import TrainedOn
from bloomery_operator.resources.jobs import TrainerTask
from bloomery_operator.settings import Settings

COMMAND = "train"
_DATASET = "bloomery.dev/dataset"
_DATASET_VERSION = "bloomery.dev/dataset-version"
_DATASET_URI = "bloomery.dev/dataset-uri"


def output_uri(job: TrainingJob, settings: Settings) -> str:
    """Return the job's folder in the store; the uid keeps namesakes apart."""
    metadata = job.metadata
    return f"{settings.store_uri}/models/{metadata.namespace}/{metadata.name}/{metadata.uid}"


def build_task(job: TrainingJob, version: DatasetVersion, settings: Settings) -> TrainerTask:
    """Return the training that the job's spec asks for, on one prepared dataset version."""
    metadata, spec = job.metadata, job.spec
    dataset = TrainedOn(name=spec.datasets[0].name, version=version.version, uri=version.uri)
    names = {"displayName": spec.display_name, "description": spec.description}
    return TrainerTask(
        command=COMMAND,
        config={
            "kind": COMMAND,
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
            **{key: value for key, value in names.items() if value},
            "datasets": [dataset.to_json()],
            "preset": spec.preset,
            "hyperparameters": spec.hyperparameters.to_json(),
            "metric": spec.metric,
            "mlflow": {
                "experiment": f"{metadata.namespace}/{dataset.name}",
                "registeredModel": job.registered_model,
                "tags": {},
            }
            | ({"versionLabel": spec.output.version_label} if spec.output.version_label else {}),
            "output": {"uri": output_uri(job, settings)},
        },
        asked={
            "spec": spec.model_dump(mode="json", exclude_defaults=True),
            "dataset": dataset.to_json(),
        },
        resources=spec.resources,
        scratch=spec.scratch,
        backoff_limit=spec.backoff_limit,
        active_deadline_seconds=spec.active_deadline_seconds,
        annotations={
            _DATASET: dataset.name,
            _DATASET_VERSION: dataset.version,
            _DATASET_URI: dataset.uri,
        },
    )


def trained_on(annotations: dict[str, str]) -> TrainedOn | None:
    """Return the dataset version that a child Job was made for, from its annotations."""
    if _DATASET_VERSION not in annotations:
        return None
    return TrainedOn(name=annotations[_DATASET], version=annotations[_DATASET_VERSION], uri=annotations[_DATASET_URI])
