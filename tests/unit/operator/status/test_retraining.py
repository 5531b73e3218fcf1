"""Retrainings: which training is due and why, and the status, at any time of the clock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from bloomery_operator.api import Dataset, Retraining, TrainingJob
from bloomery_operator.api.reasons import Reason
from bloomery_operator.api.retraining import RetrainingStatus, Trigger
from bloomery_operator.domain.cron import read_schedule
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.trigger import mlflow_tags, read_triggered, training_name
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests.retraining import build_training_job
from bloomery_operator.status.conditions import with_kstatus_conditions
from bloomery_operator.status.retraining import RetrainingObservation, derive_status, next_trigger
from tests.unit.operator.samples import NOW, Manifest, dataset, metadata, prepared_status, retraining

pytestmark = pytest.mark.feature("S23")

A, B = "a" * 64, "b" * 64
CREATED = datetime.fromisoformat("2026-05-01T10:00:00Z")
CHAMPION = ServedModel(
    uri="s3://b/m", name="demo.flowers", version="3", training_job="demo/x", dataset="flowers", dataset_version=A
)


def flowers(version: str = A, images: int = 40, *, ready: bool = True) -> Dataset:
    """Return a Dataset with a newest version, and version A of 40 images before it."""
    versions = [{"ordinal": 1, "version": A, "images": 40, "created": "2026-05-01T11:00:00Z", "uri": "s3://b/a"}]
    if version != A:
        versions.insert(0, versions[0] | {"ordinal": 2, "version": version, "images": images})
    conditions = [{"type": "Ready", "status": str(ready), "reason": "Prepared", "message": ""}]
    return dataset(status=prepared_status(version=version, versions=versions, conditions=conditions))


def observe(
    spec: Retraining | None = None,
    *,
    jobs: tuple[TrainingJob, ...] = (),
    champion: ServedModel | Verdict | None = None,
    **datasets: Dataset,
) -> RetrainingObservation:
    made = spec or retraining(onNewVersion=True)
    schedule = made.spec.schedule
    return RetrainingObservation(
        retraining=made,
        jobs=read_triggered(jobs),
        datasets=datasets,
        schedule=read_schedule(schedule, made.spec.time_zone, field="spec.schedule") if schedule else None,
        champion=champion,
    )


def made_job(trigger: Trigger, *, phase: str | None = None, **status: Any) -> TrainingJob:
    """Return a Retraining's TrainingJob as the API server has it; ``phase`` is Complete or Failed."""
    manifest = build_training_job(retraining(onNewVersion=True), trigger, None)
    ended = {"type": phase, "status": "True", "reason": "Trained", "message": "So it is."}
    status = {"phase": phase, "conditions": [ended] if phase else []} | status
    return TrainingJob.parse(manifest | {"metadata": metadata() | manifest["metadata"], "status": status})


def due(observation: RetrainingObservation, now: datetime = NOW) -> Trigger:
    trigger = next_trigger(observation, now)
    assert trigger is not None
    return trigger


def later(observation: RetrainingObservation, *jobs: TrainingJob, now: datetime = NOW, **changes: Any) -> Any:
    """Return an observation after the status was written, in which other jobs exist."""
    status = derive_status(replace(observation, jobs=read_triggered(jobs)), now)
    known = observation.retraining.model_copy(update={"status": status})
    return replace(observation, retraining=known, jobs=read_triggered(jobs), **changes)


def test_a_version_is_new_until_a_training_was_made_for_it() -> None:
    observation = observe(flowers=flowers(B, 50))
    trigger = due(observation)
    assert (trigger.number, trigger.schedule_time) == (1, None)
    running = later(observation, made_job(trigger))
    assert next_trigger(running, NOW) is None
    failed = later(observation, made_job(trigger, phase="Failed"))
    assert next_trigger(failed, NOW) is None
    # Nor after its TrainingJob was deleted, as only the last ones are kept.
    assert next_trigger(later(failed), NOW) is None


def test_a_job_that_the_status_does_not_know_yet_counts() -> None:
    """The operator was killed between the creation and the status."""
    observation = observe(flowers=flowers(B, 50))
    trigger = due(observation)
    ended = replace(observation, jobs=read_triggered([made_job(trigger, phase="Complete")]))
    assert next_trigger(ended, NOW) is None
    assert derive_status(ended, NOW).trainings == 1


def test_before_the_first_training_the_champion_is_what_was_seen() -> None:
    spec = retraining(minNewImages=10, training={"output": {"promote": {"alias": "champion"}}})
    assert next_trigger(observe(spec, champion=CHAMPION, flowers=flowers(A)), NOW) is None
    assert next_trigger(observe(spec, champion=CHAMPION, flowers=flowers(B, 49)), NOW) is None
    assert due(observe(spec, champion=CHAMPION, flowers=flowers(B, 50))).cause == (
        "version bbbbbbbbbbbb of Dataset flowers with 10 more images"
    )
    missing = Verdict(Reason.MODEL_NOT_FOUND, "There is none.")
    assert due(observe(spec, champion=missing, flowers=flowers(A)))


def test_what_the_training_really_used_is_what_was_seen() -> None:
    """A version that came between the trigger and the start is not trained on twice."""
    observation = observe(flowers=flowers(A))
    used = [{"name": "flowers", "version": B, "uri": "s3://b/b"}]
    job = made_job(due(observation), phase="Complete", datasets=used)
    ended = replace(observation, jobs=read_triggered([job]), datasets={"flowers": flowers(B, 50)})
    assert next_trigger(ended, NOW) is None
    (seen,) = derive_status(ended, NOW).datasets
    assert (seen.version, seen.images) == (B, 50)


def test_datasets_that_are_pinned_or_not_ready_are_no_trigger() -> None:
    pinned = retraining(onNewVersion=True, training={"datasets": [{"name": "flowers", "version": 1}]})
    assert next_trigger(observe(pinned, flowers=flowers(B, 50)), NOW) is None
    assert next_trigger(observe(flowers=flowers(B, 50, ready=False)), NOW) is None
    assert next_trigger(observe(), NOW) is None


def test_a_trigger_that_could_not_see_a_dataset_forgets_nothing_of_it() -> None:
    """The TrainingJob of a schedule waits for the Dataset, and somebody deletes it meanwhile."""
    spec = retraining(schedule="0 11 * * *", minNewImages=200)
    trained = later(observe(spec, flowers=flowers(B, 10_000)), made_job(due(observe(spec, flowers=flowers(B, 10_000)))))
    unready = replace(trained, jobs=(), datasets={"flowers": flowers(B, 10_000, ready=False)})
    tomorrow = NOW + timedelta(days=1)
    trigger = due(unready, tomorrow)
    assert trigger.datasets == ()
    waiting = later(unready, made_job(trigger), now=tomorrow)

    ready_again = later(waiting, now=tomorrow, datasets={"flowers": flowers(B, 10_000)})

    assert next_trigger(ready_again, tomorrow) is None
    assert [(one.version, one.images) for one in ready_again.last_datasets] == [(B, 10_000)]


@pytest.mark.parametrize(
    ("references", "schedule", "reason", "words"),
    [
        ([{"name": "snakcs"}], None, "DatasetNotFound", "There is no Dataset 'snakcs' in this namespace"),
        ([{"name": "snakcs"}], "0 11 * * *", "DatasetNotFound", "spec.template.spec.datasets names it"),
        ([{"name": "flowers", "version": 1}], None, "InvalidSpec", "Leave out datasets[].version, or set"),
        ([{"name": "flowers", "version": 1}], "0 11 * * *", "Waiting", "The next training begins at"),
    ],
)
def test_what_can_never_be_a_trigger_is_reported(
    references: list[Any], schedule: str | None, reason: str, words: str
) -> None:
    when = {"schedule": schedule} if schedule else {"onNewVersion": True}
    spec = retraining(**when, training={"datasets": references})
    ready = derive_status(observe(spec, flowers=flowers()), NOW).condition("Ready")
    assert ready is not None and (ready.reason, ready.status) == (reason, str(reason == "Waiting"))
    assert words in ready.message


def test_a_dataset_that_failed_is_reported() -> None:
    failed = flowers(ready=False)
    failed = failed.model_copy(update={"status": failed.status.model_copy(update={"phase": "Failed"})})
    ready = derive_status(observe(flowers=failed), NOW).condition("Ready")
    assert ready is not None and (ready.reason, ready.status) == ("DatasetFailed", "False")


def test_the_schedule_counts_from_the_creation_and_catches_up_once() -> None:
    observation = observe(retraining(schedule="0 11 * * *"), flowers=flowers())
    assert next_trigger(observation, CREATED + timedelta(minutes=59)) is None
    trigger = due(observation, CREATED + timedelta(days=9, hours=5))
    assert trigger.cause == "schedule 2026-05-10T11:00:00Z"
    now = CREATED + timedelta(days=9, hours=6)
    ended = later(observation, made_job(trigger, phase="Complete"), now=now)
    assert next_trigger(ended, now) is None
    assert due(ended, now + timedelta(days=1)).number == 2


def test_all_triggers_that_are_due_are_one() -> None:
    observation = observe(retraining(schedule="0 11 * * *", onNewVersion=True), flowers=flowers(B, 50))
    trigger = due(observation)
    assert trigger.cause == "schedule 2026-05-01T11:00:00Z; version bbbbbbbbbbbb of Dataset flowers with 50 more images"
    assert next_trigger(later(observation, made_job(trigger, phase="Complete")), NOW) is None


def test_whatever_is_due_the_next_training_has_one_name() -> None:
    """Two operators, or one before and after a restart, may see other triggers at other times."""
    spec = retraining(schedule="* * * * *", onNewVersion=True)
    triggers = [
        due(observe(spec, flowers=flowers(version, 50)), NOW + timedelta(minutes=minutes))
        for version in (A, B)
        for minutes in (0, 1, 5)
    ]
    names = {build_training_job(spec, trigger, None)["metadata"]["name"] for trigger in triggers}
    assert len(triggers) == 6 and len({trigger.cause for trigger in triggers}) > 1
    assert names == {training_name(spec, 1)}
    assert training_name(spec, 2) not in names
    other = spec.model_copy(update={"metadata": spec.metadata.model_copy(update={"uid": "another"})})
    assert training_name(other, 1) not in names


def test_nothing_begins_while_it_is_suspended() -> None:
    suspended = retraining(schedule="0 11 * * *", onNewVersion=True, suspend=True)
    observation = observe(suspended, flowers=flowers(B, 50))
    assert next_trigger(observation, NOW) is None
    assert derive_status(observation, NOW).phase == "Suspended"


def test_an_edited_record_of_a_trigger_is_no_training_of_ours() -> None:
    trigger = due(observe(flowers=flowers(B, 50)))
    job = made_job(trigger)
    for text in (
        "",
        "[]",
        '{"number": "many", "cause": "c"}',
        '{"number": 9999999999, "cause": "c"}',
        '{"number": 1, "cause": "c", "scheduleTime": "2026-05-01T11:00:00"}',
    ):
        edited = job.model_copy(
            update={"metadata": job.metadata.model_copy(update={"annotations": {"bloomery.dev/trigger": text}})}
        )
        assert read_triggered([edited]) == ()
        assert mlflow_tags(edited) == {}


@pytest.mark.parametrize(
    ("promote", "expected"),
    [
        ({"betterThanCurrent": True}, 0.975),
        ({"betterThanCurrent": True, "confidence": 0.9}, 0.9),
        ({"betterThanCurrent": True, "leastGain": 0.01}, 0.975),
        ({}, None),
    ],
)
def test_a_comparison_with_the_champion_is_tested_by_default(
    promote: Mapping[str, Any], expected: float | None
) -> None:
    spec = retraining(onNewVersion=True, training={"output": {"promote": {"alias": "champion"} | dict(promote)}})
    job = build_training_job(spec, Trigger(number=1, cause="c"), None)
    assert job["spec"]["output"]["promote"].get("confidence") == expected
    assert job["spec"]["output"]["registeredModel"] == "flowers"


def test_a_training_starts_from_the_champion_unless_the_template_differs() -> None:
    def start(training: Manifest, champion: ServedModel | None) -> object:
        manifest = build_training_job(
            retraining(onNewVersion=True, training=training), Trigger(number=1, cause="c"), champion
        )
        return manifest["spec"].get("initialModel")

    assert start({}, CHAMPION) == {"mlflow": "models:/demo.flowers/3"}
    assert start({}, None) is None
    assert start({"initialModel": {"weights": "DEFAULT"}}, CHAMPION) == {"weights": "DEFAULT"}


def test_the_template_is_handed_on_as_it_is_written() -> None:
    training = {
        "hyperparameters": {"epochs": 2, "learningRate": 1},
        "resources": {"limits": {"cpu": 2}},
        "podTemplate": {"tolerations": [{"key": "gpu", "operator": "Exists"}]},
        "output": {"registeredModel": "tulips", "references": False},
        "evaluateOnly": False,
    }
    spec = retraining(onNewVersion=True, training=training)
    manifest = build_training_job(spec, Trigger(number=1, cause="c"), None)
    written = retraining_template(training)
    assert manifest["spec"] == written
    assert json.loads(json.dumps(manifest)) == manifest


def retraining_template(training: Manifest) -> Manifest:
    """Return the template's spec as the API server stores it."""
    return retraining(onNewVersion=True, training=training).spec.template.spec.model_dump(
        mode="json", by_alias=True, exclude_unset=True
    )


def test_conditions_and_history_show_the_last_results() -> None:
    observation = observe(flowers=flowers(B, 50))
    first = due(observation)
    failed = later(observation, made_job(first, phase="Failed"))
    status = derive_status(failed, NOW)
    result = status.condition("TrainingSucceeded")
    assert result is not None
    assert (result.status, result.reason) == ("False", "TrainingJobFailed")
    assert "the next trigger makes another one. So it is." in result.message
    second = first.model_copy(update={"number": 2})
    complete = made_job(second, phase="Complete", model={"name": "flowers", "version": "4", "display": "flowers/4"})
    both = later(failed, complete, made_job(first, phase="Failed"))
    status = derive_status(both, NOW)
    assert [(entry.phase, entry.model) for entry in status.history] == [("Complete", "flowers/4"), ("Failed", None)]
    assert status.is_true("TrainingSucceeded")
    # The result outlives its TrainingJob.
    assert derive_status(later(both), NOW).is_true("TrainingSucceeded")
    assert derive_status(later(both), NOW).history == ()


def test_the_champion_is_shown_as_far_as_mlflow_knows() -> None:
    spec = retraining(onNewVersion=True, training={"output": {"promote": {"alias": "champion"}}})
    known = later(observe(spec, champion=CHAMPION, flowers=flowers()))
    assert known.retraining.status.champion == "demo.flowers/3"
    for champion, shown in (
        (None, "demo.flowers/3"),
        (Verdict(Reason.REGISTRY_UNREACHABLE, "No answer."), "demo.flowers/3"),
        (Verdict(Reason.MODEL_NOT_FOUND, "There is none."), None),
    ):
        assert derive_status(replace(known, champion=champion), NOW).champion == shown


@pytest.mark.parametrize(
    ("changes", "phase", "kstatus"),
    [
        ({}, "Waiting", None),
        ({"blocked_by": Verdict(Reason.REGISTRY_UNREACHABLE, "No answer.")}, "Pending", "Reconciling"),
        ({"schedule": Verdict(Reason.INVALID_SCHEDULE, "None.", failed=True)}, "Failed", "Stalled"),
    ],
)
def test_kstatus_sees_a_condition_only_while_something_is_wrong(
    changes: Mapping[str, Any], phase: str, kstatus: str | None
) -> None:
    observation = replace(observe(retraining(schedule="0 0 * * *"), flowers=flowers()), **changes)
    status = with_kstatus_conditions(
        "Retraining", derive_status(observation, NOW), previous=RetrainingStatus(), now=NOW
    )
    assert status.phase == phase
    assert {c.type for c in status.conditions} - {"Ready"} == ({kstatus} if kstatus else set())
    assert status.within_limits() == status
