"""Status of a Dataset in each situation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bloomery_operator.domain.cron import read_schedule
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.status.dataset import MAX_VERSIONS, DatasetObservation, derive_status
from bloomery_operator.status.workloads import JobView
from tests.unit.operator.samples import DIGEST, NOW, Manifest, dataset, job, pod, prepared_status

SPEC, JOB = "spec-hash", "job-hash"
RESULT = '{"version": "%s", "uri": "s3://b/b", "images": 50, "classes": [{"name": "roses", "train": 9}]}' % ("b" * 64)
ERROR = '{"error": {"reason": "TooFewImages", "message": "Too few."}}'


def observe(manifest: Manifest | None = None, *pods: Manifest, status: Any = None, **fields: Any) -> DatasetObservation:
    view = JobView.of(manifest, pods) if manifest else None
    return DatasetObservation(
        dataset=dataset(status=status), spec_hash=SPEC, **{"job_hash": JOB, "job": view, **fields}
    )


@pytest.mark.parametrize(
    ("observation", "phase", "reason"),
    [
        (observe(), "Pending", "Pending"),
        (observe(blocked_by=Verdict("SecretNotFound", "No.")), "Pending", "SecretNotFound"),
        (observe(job(spec_hash="former")), "Pending", "Pending"),
        (observe(job(spec_hash=JOB, deleting=True)), "Pending", "Pending"),
        (observe(job(spec_hash=JOB)), "Pending", "Pending"),
        (observe(job(spec_hash=JOB), pod("Pending")), "Pending", "Pending"),
        (
            observe(job(spec_hash=JOB), pod("Pending", waiting={"reason": "ErrImagePull", "message": "no"})),
            "Pending",
            "ImageNotAvailable",
        ),
        (observe(job(spec_hash=JOB), pod("Running")), "Preparing", "Preparing"),
        (observe(job(spec_hash=JOB), pod("Running"), progress={"total": "x"}), "Preparing", "Preparing"),
        (
            observe(job(spec_hash=JOB, ended="Failed"), pod("Failed", exit_code=3, message=ERROR)),
            "Failed",
            "TooFewImages",
        ),
        (
            observe(job(spec_hash=JOB, ended="Failed", reason="BackoffLimitExceeded"), pod("Failed", exit_code=1)),
            "Failed",
            "BackoffLimitExceeded",
        ),
        (observe(job(spec_hash=JOB, ended="Failed", reason="DeadlineExceeded")), "Failed", "DeadlineExceeded"),
        (observe(job(spec_hash=JOB, ended="Complete")), "Pending", "Pending"),
        (
            observe(job(spec_hash=JOB, ended="Complete"), pod("Succeeded", exit_code=0, message='{"version": 1}')),
            "Failed",
            "ResultLost",
        ),
        (
            observe(job(spec_hash=JOB, ended="Complete"), pod("Succeeded", exit_code=0, message=RESULT)),
            "Ready",
            "Prepared",
        ),
    ],
)
def test_reason_and_phase_of_each_situation(observation: DatasetObservation, phase: str, reason: str) -> None:
    status = derive_status(observation, NOW)
    (ready,) = status.conditions
    assert (status.phase, ready.type, ready.reason) == (phase, "Ready", reason)
    assert ready.is_true == (phase == "Ready")
    assert ready.observed_generation == status.observed_generation == 3


def test_progress_of_a_preparation_is_shown() -> None:
    progress = {"stage": "reading", "images": 7, "total": 40}
    status = derive_status(observe(job(spec_hash=JOB), pod("Running"), progress=progress), NOW)
    assert status.conditions[0].message == "7 of 40 images are prepared."
    assert status.progress is not None
    assert status.progress.images == 7


def test_new_version_comes_before_the_old_ones() -> None:
    finished = job(spec_hash=JOB, ended="Complete"), pod("Succeeded", exit_code=0, message=RESULT)
    status = derive_status(observe(*finished, status=prepared_status()), NOW)
    assert [(v.ordinal, v.version[0]) for v in status.versions] == [(2, "b"), (1, "a")]
    assert (status.version, status.images, status.class_count) == ("b" * 64, 50, 1)
    assert status.prepared_spec == SPEC


def test_same_content_is_the_same_version() -> None:
    message = RESULT.replace("b" * 64, DIGEST)
    finished = job(spec_hash=JOB, ended="Complete"), pod("Succeeded", exit_code=0, message=message)
    status = derive_status(observe(*finished, status=prepared_status()), NOW)
    assert [v.ordinal for v in status.versions] == [1]


def test_only_the_newest_versions_are_listed() -> None:
    versions = [
        {"ordinal": n, "version": f"{n:064}", "images": 1, "created": "2026-05-01T11:00:00Z", "uri": "s3://b/a"}
        for n in range(MAX_VERSIONS, 0, -1)
    ]
    finished = job(spec_hash=JOB, ended="Complete"), pod("Succeeded", exit_code=0, message=RESULT)
    status = derive_status(observe(*finished, status=prepared_status(versions=versions)), NOW)
    assert [v.ordinal for v in status.versions] == list(range(MAX_VERSIONS + 1, 1, -1))


def test_prepared_dataset_stays_ready_without_its_job() -> None:
    status = derive_status(observe(status=prepared_status(preparedSpec=SPEC)), NOW)
    assert status.phase == "Ready"


def test_unchanged_observation_keeps_the_status() -> None:
    finished = job(spec_hash=JOB, ended="Complete"), pod("Succeeded", exit_code=0, message=RESULT)
    first = derive_status(observe(*finished), NOW)
    again = derive_status(observe(*finished, status=first.to_json()), NOW.replace(hour=13))
    assert again == first


def test_status_is_read_back_as_written() -> None:
    finished = job(spec_hash=JOB, ended="Complete"), pod("Succeeded", exit_code=0, message=RESULT)
    status = derive_status(observe(*finished), NOW)
    assert dataset(status=status.to_json()).status == status


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (None, "a"),
        (1, "a"),
        ("1", "a"),
        (DIGEST, "a"),
        (DIGEST[:12], "a"),
        (DIGEST[:7], None),
        (2, None),
        ("b" * 64, None),
    ],
)
def test_version_is_found_by_ordinal_or_digest_prefix(reference: str | int | None, expected: str | None) -> None:
    version = dataset(status=prepared_status()).find_version(reference)
    assert (version.version[0] if version else None) == expected


LISTED = [
    {"ordinal": n, "version": f"{n:064}", "images": 1, "created": "2026-05-01T11:00:00Z", "uri": f"s3://b/{n:064}"}
    for n in range(25, 5, -1)
]
"""The newest versions, of which the first five are no longer listed."""


@pytest.mark.feature("D10")
@pytest.mark.parametrize(
    ("reference", "uri"),
    [
        ("d" * 64, f"s3://b/{'d' * 64}"),
        (f"{7:064}", f"s3://b/{7:064}"),
        (7, f"s3://b/{7:064}"),
        (3, None),
        ("d" * 12, None),
    ],
    ids=["not listed", "listed", "an ordinal", "the ordinal of one not listed", "the beginning of one not listed"],
)
def test_version_that_is_not_listed_is_found_by_its_whole_digest(reference: str | int, uri: str | None) -> None:
    version = dataset(status=prepared_status(version=f"{25:064}", versions=LISTED)).find_version(reference)
    assert (version.uri if version else None) == uri


@pytest.mark.feature("D10")
def test_unknown_digest_is_no_version_while_all_are_listed() -> None:
    assert dataset(status=prepared_status()).find_version("d" * 64) is None


DAILY = {"refresh": {"schedule": "0 11 * * *"}}
"""Due an hour before NOW, and an hour after the sample's creation."""


def refreshed(status: Manifest | None, view: Manifest | None = None, **fields: Any) -> DatasetObservation:
    schedule = read_schedule("0 11 * * *", None, field="spec.refresh.schedule")
    observation = observe(view, refresh_schedule=schedule, **fields)
    return replace(observation, dataset=dataset(DAILY, status=status))


@pytest.mark.feature("S23")
def test_a_refresh_that_is_due_is_recorded_once_no_preparation_runs() -> None:
    ready = prepared_status(preparedSpec=SPEC)
    due = NOW.replace(hour=11)
    assert derive_status(refreshed(ready), NOW).last_refresh_time == due
    assert derive_status(refreshed(ready), NOW.replace(hour=10, minute=59)).last_refresh_time is None
    # A running preparation is not interrupted, and one that failed is tried again.
    assert derive_status(refreshed({}, job(spec_hash=JOB)), NOW).last_refresh_time is None
    assert derive_status(refreshed({}, job(spec_hash=JOB, ended="Failed")), NOW).last_refresh_time == due
    assert derive_status(refreshed({}), NOW).last_refresh_time is None


@pytest.mark.feature("S23")
def test_refreshed_time_is_not_due_again_and_stays_without_schedule() -> None:
    status = prepared_status(preparedSpec=SPEC, lastRefreshTime="2026-05-01T11:00:00Z")
    recorded = NOW.replace(hour=11)
    assert derive_status(refreshed(status), NOW).last_refresh_time == recorded
    tomorrow = NOW.replace(day=2, hour=11)
    assert derive_status(refreshed(status), tomorrow).last_refresh_time == tomorrow
    # Else the hash of the preparation would change, and all images be read once more.
    assert derive_status(observe(status=status), tomorrow).last_refresh_time == recorded


@pytest.mark.feature("S23")
def test_a_wrong_refresh_schedule_is_reported_beside_a_ready_dataset() -> None:
    wrong = read_schedule("0 0 31 2 *", None, field="spec.refresh.schedule")
    status = derive_status(observe(status=prepared_status(preparedSpec=SPEC), refresh_schedule=wrong), NOW)
    assert status.phase == "Ready"
    assert [(c.type, c.status, c.reason) for c in status.conditions] == [
        ("Ready", "True", "Prepared"),
        ("RefreshScheduled", "False", "InvalidSchedule"),
    ]
