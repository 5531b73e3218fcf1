"""Triggers of a Retraining: the next training and its cause, and what its TrainingJob records of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from bloomery_operator.api import Dataset, Retraining, TrainingJob
from bloomery_operator.api.retraining import DatasetState, Trigger
from bloomery_operator.domain.digest import digest_of
from bloomery_operator.domain.labels import TRIGGER
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.timestamps import format_time


@dataclass(frozen=True)
class TriggeredJob:
    """A TrainingJob of a Retraining, and its trigger."""

    job: TrainingJob
    trigger: Trigger


def read_triggered(jobs: Iterable[TrainingJob]) -> tuple[TriggeredJob, ...]:
    """Return the jobs that have a trigger, the newest first."""
    triggered = [TriggeredJob(job, trigger) for job in jobs if (trigger := read_trigger(job)) is not None]
    return tuple(sorted(triggered, key=lambda one: one.trigger.number, reverse=True))


def read_trigger(job: TrainingJob) -> Trigger | None:
    """Return the trigger of a TrainingJob; None if a Retraining did not make it, or somebody changed the record."""
    try:
        return Trigger.model_validate_json(job.metadata.annotations.get(TRIGGER, ""))
    except ValidationError:
        return None


def training_name(retraining: Retraining, number: int) -> str:
    """Return the name of a Retraining's training with an ordinal.

    Whatever triggers the next training, it has the next ordinal and so one name: two triggers, or two operators, cannot
    make two. With the uid, a former Retraining of the same name has other names.
    """
    return f"{retraining.metadata.name}-{digest_of([retraining.metadata.uid, number])}"


def mlflow_tags(job: TrainingJob) -> dict[str, str]:
    """Return the tags of the run and the model version that name the Retraining and the cause of the training."""
    retraining, trigger = job.metadata.labels.get(Retraining.OWNER_LABEL), read_trigger(job)
    if retraining is None or trigger is None:
        return {}
    return {Retraining.OWNER_LABEL: retraining, TRIGGER: trigger.cause}


def trained_datasets(newest: TriggeredJob, datasets: Mapping[str, Dataset]) -> tuple[DatasetState, ...]:
    """Return the Datasets as a training found them: those that it trained on, or those at its trigger."""
    at_trigger = {state.name: state for state in newest.trigger.datasets}
    trained = {one.name: _state(one.name, one.version, datasets) for one in newest.job.status.datasets}
    # A version that the Dataset no longer lists keeps its number of images from the trigger.
    return tuple(
        at_trigger[name] if name in at_trigger and at_trigger[name].version == state.version else state
        for name, state in (at_trigger | trained).items()
    )


def datasets_of_model(model: ServedModel, datasets: Mapping[str, Dataset]) -> tuple[DatasetState, ...]:
    """Return the Datasets that a model of the registry was trained on."""
    names, versions = ((text or "").split(",") for text in (model.dataset, model.dataset_version))
    pairs = zip(names, versions, strict=False)
    return tuple(_state(name, version, datasets) for name, version in pairs if name and version)


def _state(name: str, version: str, datasets: Mapping[str, Dataset]) -> DatasetState:
    dataset = datasets.get(name)
    listed = dataset.status.versions if dataset is not None else ()
    images = next((one.images for one in listed if one.version == version), None)
    return DatasetState(name=name, version=version, images=images)


def newest_datasets(retraining: Retraining, datasets: Mapping[str, Dataset]) -> tuple[DatasetState, ...]:
    """Return the newest version of each Dataset that is ready, and whose version the template leaves open."""
    open_names = [reference.name for reference in retraining.spec.template.spec.datasets if reference.version is None]
    ready = [datasets[name] for name in open_names if name in datasets and datasets[name].status.is_true("Ready")]
    newest = [(dataset.metadata.name, dataset.find_version(None)) for dataset in ready]
    return tuple(
        DatasetState(name=name, version=version.version, images=version.images)
        for name, version in newest
        if version is not None
    )


def dataset_cause(retraining: Retraining, newest: Sequence[DatasetState], former: Sequence[DatasetState]) -> str | None:
    """Return the new versions that trigger a training, in words, or None."""
    spec, before = retraining.spec, {state.name: state for state in former}
    changed = [one for one in newest if one.name not in before or before[one.name].version != one.version]
    if not spec.follows_datasets or not changed:
        return None
    gained = sum((one.images or 0) - ((one.name in before and before[one.name].images) or 0) for one in changed)
    if spec.min_new_images is not None and gained < spec.min_new_images:
        return None
    versions = ", ".join(f"version {one.version[:12]} of Dataset {one.name}" for one in changed)
    return f"{versions} with {gained} more images" if gained > 0 else versions


def schedule_cause(due: datetime) -> str:
    """Return a time of the schedule that triggers a training, in words."""
    return f"schedule {format_time(due)}"
