"""What a TrainingJob's status says of each situation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bloomery_operator.api import Dataset
from bloomery_operator.status.trainingjob import TrainingJobObservation, derive_status, go_duration
from bloomery_operator.status.verdicts import Verdict
from bloomery_operator.status.workload import JobView
from tests.unit.operator.samples import NOW, Manifest, dataset, job, pod, prepared_status, training_job

RESULT: dict[str, Any] = {
    "mlflow": {"experimentId": "7", "runId": "abc"},
    "model": {"name": "flowers", "version": "4", "uri": "s3://b/model", "digest": "sha256:d"},
    "metrics": {"top1": 0.9375, "loss": 0.2},
    "reason": "Trained",
}
UNREGISTERED = RESULT | {
    "mlflow": {"experimentId": None, "runId": None},
    "model": RESULT["model"] | {"version": None},
    "reason": "NotRegistered",
}


def observe(
    manifest: Manifest | None = None,
    *pods: Manifest,
    on: Dataset | None = None,
    spec: Any = None,
    status: Any = None,
    **fields: Any,
) -> TrainingJobObservation:
    view = JobView.of(manifest, pods) if manifest else None
    return TrainingJobObservation(
        training_job=training_job(spec, status), model_uri="s3://b/own/model", dataset=on, job=view, **fields
    )


def ended(message: Any, exit_code: int = 0) -> tuple[Manifest, Manifest]:
    text = message if isinstance(message, str) else json.dumps(message)
    phase, how = ("Failed", "Failed") if exit_code else ("Succeeded", "Complete")
    return job(spec_hash="x", ended=how, failed=exit_code and 1), pod(phase, exit_code=exit_code, message=text)


READY = dataset(status=prepared_status())
FAILED = dataset(
    status={
        "phase": "Failed",
        "conditions": [{"type": "Ready", "status": "False", "reason": "NoImages", "message": "There are none."}],
    }
)


@pytest.mark.parametrize(
    ("observation", "phase", "condition", "reason"),
    [
        (observe(), "Pending", "Running", "DatasetNotFound"),
        (observe(on=FAILED), "Pending", "Running", "DatasetFailed"),
        (observe(on=dataset()), "Pending", "Running", "DatasetNotReady"),
        (
            observe(on=READY, spec={"datasets": [{"name": "flowers", "version": 9}]}),
            "Pending",
            "Running",
            "DatasetVersionNotFound",
        ),
        (observe(on=READY, obstacle=Verdict("NameTaken", "No.")), "Pending", "Running", "NameTaken"),
        (observe(on=READY), "Pending", "Running", "Pending"),
        (observe(job(spec_hash="x")), "Pending", "Running", "Pending"),
        (observe(job(spec_hash="x"), pod("Pending")), "Pending", "Running", "Pending"),
        (observe(job(spec_hash="x"), pod("Running")), "Running", "Running", "Training"),
        (observe(*ended(RESULT)), "Complete", "Complete", "Trained"),
        (observe(*ended(UNREGISTERED)), "Complete", "Complete", "NotRegistered"),
        (observe(*ended("done")), "Complete", "Complete", "ResultLost"),
        (observe(*ended({"error": {"reason": "BadShard", "message": "No."}}, 3)), "Failed", "Failed", "BadShard"),
    ],
)
def test_the_reason_names_what_it_waits_for_or_how_it_ended(
    observation: TrainingJobObservation, phase: str, condition: str, reason: str
) -> None:
    status = derive_status(observation, NOW)
    (only,) = status.conditions
    assert (status.phase, only.type, only.reason) == (phase, condition, reason)
    assert only.is_true == (phase != "Pending")


def test_a_finished_job_has_its_model_metrics_and_run() -> None:
    status = derive_status(observe(*ended(RESULT), mlflow_public_url="http://mlflow/"), NOW)
    assert status.model is not None
    assert (status.model.display, status.model.uri) == ("flowers/4", "s3://b/model")
    assert status.metrics == {"top1": 0.9375, "loss": 0.2}
    assert status.metric == "top1 0.9375"
    assert status.mlflow is not None
    assert status.mlflow.url == "http://mlflow/#/experiments/7/runs/abc"
    assert status.completion_time == NOW.replace(hour=11, minute=30)


def test_a_model_without_a_version_can_still_be_served() -> None:
    status = derive_status(observe(*ended(UNREGISTERED)), NOW)
    assert status.model is not None
    assert (status.model.uri, status.model.digest, status.model.display) == ("s3://b/model", "sha256:d", None)
    assert status.mlflow is None


def test_a_lost_result_leaves_the_address_of_the_model() -> None:
    status = derive_status(observe(*ended("done")), NOW)
    assert status.model is not None
    assert status.model.uri == "s3://b/own/model"


def test_a_figure_that_is_not_a_number_is_left_out() -> None:
    text = json.dumps(RESULT | {"metrics": {"top1": 0.5, "loss": float("nan")}})
    status = derive_status(observe(*ended(text)), NOW)
    assert status.metrics == {"top1": 0.5}
    json.dumps(status.to_json(), allow_nan=False)


def test_a_finished_status_is_final() -> None:
    done = derive_status(observe(*ended(RESULT)), NOW)
    later = derive_status(observe(status=done.to_json()), NOW.replace(hour=13))
    assert later == done


def test_a_job_that_has_started_needs_its_dataset_no_more() -> None:
    status = derive_status(observe(job(spec_hash="x"), pod("Running")), NOW)
    assert status.phase == "Running"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (-3, "0s"), (4.9, "4s"), (60, "1m0s"), (660, "11m0s"), (3723, "1h2m3s"), (86400, "24h0m0s")],
)
def test_durations_are_written_as_kubernetes_users_know_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text
