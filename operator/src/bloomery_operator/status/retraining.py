"""Status of a Retraining, and the training that is due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from bloomery_operator.api import Condition, Dataset, Retraining
from bloomery_operator.api.reasons import Reason, ReportedReason
from bloomery_operator.api.retraining import DatasetState, RetrainingStatus, Training, Trigger
from bloomery_operator.domain.cron import CronSchedule
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.timestamps import format_time
from bloomery_operator.domain.trigger import (
    TriggeredJob,
    dataset_cause,
    datasets_of_model,
    newest_datasets,
    schedule_cause,
    trained_datasets,
)
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.status.conditions import TRAINING_SUCCEEDED, condition, with_transition_times


@dataclass(frozen=True, kw_only=True)
class RetrainingObservation:
    """Everything that a Retraining's status depends on."""

    retraining: Retraining
    jobs: tuple[TriggeredJob, ...]
    """Its TrainingJobs that exist, the newest first."""
    datasets: Mapping[str, Dataset]
    """The template's Datasets by name, as far as they exist."""
    schedule: CronSchedule | Verdict | None
    """The schedule, or why it is none; None without one."""
    champion: ServedModel | Verdict | None = None
    """The version with the alias of ``promote``, or why it cannot be resolved; None if it was not looked up."""
    blocked_by: Verdict | None = None
    """Why a training that is due could not begin."""

    @property
    def active(self) -> TriggeredJob | None:
        """The TrainingJob that has not ended."""
        return next((one for one in self.jobs if not one.job.status.is_finished), None)

    @property
    def ended(self) -> tuple[TriggeredJob, ...]:
        """The TrainingJobs that have ended, the newest first."""
        return tuple(one for one in self.jobs if one.job.status.is_finished)

    @property
    def last_job(self) -> TriggeredJob | None:
        """The last TrainingJob that was made, if it still exists."""
        newest = self.jobs[0] if self.jobs else None
        return newest if newest is not None and newest.trigger.number == self.trainings else None

    @property
    def trainings(self) -> int:
        """The number of trainings so far, also of one that the status does not count yet."""
        return max([self.retraining.status.trainings or 0, *(one.trigger.number for one in self.jobs)])

    @property
    def last_schedule_time(self) -> datetime | None:
        """The last time of the schedule for which a training was made."""
        times = [self.retraining.status.last_schedule_time, *(one.trigger.schedule_time for one in self.jobs)]
        return max((time for time in times if time is not None), default=None)

    @property
    def last_datasets(self) -> tuple[DatasetState, ...]:
        """The Datasets as the last training saw them, or an earlier one where it saw none."""
        names = {reference.name for reference in self.retraining.spec.template.spec.datasets}
        states = {state.name: state for state in self.retraining.status.datasets if state.name in names}
        trained = trained_datasets(self.last_job, self.datasets) if self.last_job is not None else ()
        return tuple((states | {state.name: state for state in trained}).values())


def next_trigger(observation: RetrainingObservation, now: datetime) -> Trigger | None:
    """Return the trigger of the training that is due; None while another one goes on."""
    retraining, schedule, champion = observation.retraining, observation.schedule, observation.champion
    if retraining.spec.suspend or observation.active is not None or isinstance(schedule, Verdict):
        return None
    since = observation.last_schedule_time or retraining.metadata.creation_timestamp or now
    due = schedule.due(since=since, now=now) if schedule is not None else None
    former = observation.last_datasets
    if not observation.trainings and isinstance(champion, ServedModel):
        former = datasets_of_model(champion, observation.datasets)
    newest = newest_datasets(retraining, observation.datasets)
    causes = (schedule_cause(due) if due is not None else None, dataset_cause(retraining, newest, former))
    cause = "; ".join(filter(None, causes))
    if not cause:
        return None
    return Trigger(number=observation.trainings + 1, cause=cause, schedule_time=due, datasets=newest)


def derive_status(observation: RetrainingObservation, now: datetime) -> RetrainingStatus:
    """Return the status."""
    retraining, active = observation.retraining, observation.active
    previous, generation = retraining.status, retraining.metadata.generation
    phase, ready = _readiness(observation, now)
    conditions = with_transition_times(
        (ready, *_last_result(observation)), previous=previous.conditions, generation=generation, now=now
    )
    return RetrainingStatus(
        observed_generation=generation,
        phase=phase,
        conditions=conditions,
        trainings=observation.trainings or None,
        active=active.job.metadata.name if active is not None else None,
        last_schedule_time=observation.last_schedule_time,
        champion=_champion(observation),
        datasets=observation.last_datasets,
        history=_history(observation),
    )


def _readiness(observation: RetrainingObservation, now: datetime) -> tuple[str, Condition]:
    """Return the phase, and the condition that explains it."""
    active, schedule = observation.active, observation.schedule
    if isinstance(schedule, Verdict):
        return "Failed", condition("Ready", False, schedule)
    if active is not None:
        message = f"TrainingJob {active.job.metadata.name!r} has not ended. Its cause: {active.trigger.cause}."
        return "Training", condition("Ready", True, Verdict(Reason.TRAINING, message))
    if observation.retraining.spec.suspend:
        message = "spec.suspend is true, so no training begins."
        return "Suspended", condition("Ready", True, Verdict(Reason.SUSPENDED, message))
    if observation.blocked_by is not None:
        return "Pending", condition("Ready", False, observation.blocked_by)
    hindrance = _hindrance(observation)
    if hindrance is not None:
        return "Pending", condition("Ready", False, hindrance)
    message = f"The next training begins {_next_triggers(observation, now)}."
    return "Waiting", condition("Ready", True, Verdict(Reason.WAITING, message))


def _hindrance(observation: RetrainingObservation) -> Verdict | None:
    """Return why no training can begin, or none can train, until somebody acts."""
    spec, datasets = observation.retraining.spec, observation.datasets
    references = spec.template.spec.datasets
    missing = [repr(reference.name) for reference in references if reference.name not in datasets]
    if missing:
        message = f"There is no Dataset {', '.join(missing)} in this namespace: spec.template.spec.datasets names it."
        return Verdict(Reason.DATASET_NOT_FOUND, message)
    if spec.schedule is None and all(reference.version is not None for reference in references):
        message = "Each Dataset of spec.template has a version, so that no new one begins a training. "
        return Verdict(Reason.INVALID_SPEC, f"{message}Leave out datasets[].version, or set spec.schedule.")
    for reference in references:
        ready = datasets[reference.name].status.condition("Ready")
        if reference.version is None and datasets[reference.name].status.phase == "Failed" and ready is not None:
            message = f"Dataset {reference.name!r} failed, and has no new version until that is fixed: {ready.message}"
            return Verdict(Reason.DATASET_FAILED, message)
    return None


def _next_triggers(observation: RetrainingObservation, now: datetime) -> str:
    spec, schedule = observation.retraining.spec, observation.schedule
    words = [f"at {format_time(schedule.next(after=now))}"] if isinstance(schedule, CronSchedule) else []
    if spec.follows_datasets:
        images = f" that has at least {spec.min_new_images} more images" if spec.min_new_images else ""
        words.append(f"with a new version of a Dataset{images}")
    return ", or ".join(words)


def _last_result(observation: RetrainingObservation) -> tuple[Condition, ...]:
    """Return the condition with the result of the last training that ended."""
    if not observation.ended:
        # It was deleted, or there was none.
        former = observation.retraining.status.condition(TRAINING_SUCCEEDED)
        return (former,) if former is not None else ()
    ended = observation.ended[0].job
    name, failed = ended.metadata.name, ended.status.condition("Failed")
    if failed is not None and failed.is_true:
        message = f"TrainingJob {name!r} failed; the next trigger makes another one. {failed.message}"
        return (condition(TRAINING_SUCCEEDED, False, Verdict(Reason.TRAINING_JOB_FAILED, message)),)
    complete = ended.status.condition("Complete")
    reason, message = (complete.reason, complete.message) if complete is not None else ("Complete", "")
    verdict = Verdict(ReportedReason(reason), f"TrainingJob {name!r} is complete. {message}")
    return (condition(TRAINING_SUCCEEDED, True, verdict),)


def _champion(observation: RetrainingObservation) -> str | None:
    champion, spec = observation.champion, observation.retraining.spec.template.spec
    if isinstance(champion, ServedModel):
        return champion.display
    is_missing = isinstance(champion, Verdict) and champion.reason == Reason.MODEL_NOT_FOUND
    return None if spec.output.promote is None or is_missing else observation.retraining.status.champion


def _history(observation: RetrainingObservation) -> tuple[Training, ...]:
    return tuple(
        Training(
            name=one.job.metadata.name,
            cause=one.trigger.cause,
            phase=one.job.status.phase,
            model=one.job.status.model.display if one.job.status.model is not None else None,
            completion_time=one.job.status.completion_time,
        )
        for one in observation.ended[: observation.retraining.spec.history_limit]
    )
