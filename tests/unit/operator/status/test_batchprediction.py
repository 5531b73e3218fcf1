"""Status of a BatchPrediction in each situation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bloomery_operator.api.reasons import Reason
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.status.batchprediction import BatchPredictionObservation, derive_status, has_all_counts
from bloomery_operator.status.workloads import JobView
from tests.unit.operator.samples import NOW, Manifest, batch_prediction, job

pytestmark = pytest.mark.feature("S22")

MODEL = ServedModel(uri="s3://models/flowers", name="flowers", version="4")
ALL = {"images": 98, "ignored": {"Format": 2}, "total": 100, "engine": "ONNX Runtime in float32", "digest": "sha256:d"}
SOME = ALL | {"images": 40, "ignored": {}}


def observe(
    manifest: Manifest | None = None, *pods: Manifest, spec: Any = None, status: Any = None, **fields: Any
) -> BatchPredictionObservation:
    view = JobView.of(manifest, pods) if manifest else None
    fields = {"model": MODEL} | fields
    return BatchPredictionObservation(prediction=batch_prediction(spec, status), job=view, **fields)


def pod(phase: str, index: int = 0, *, message: Any = None, exit_code: int | None = None, **status: Any) -> Manifest:
    state = {} if exit_code is None else {"terminated": {"exitCode": exit_code, "message": json.dumps(message)}}
    labels = {"app.kubernetes.io/name": "predict", "batch.kubernetes.io/job-completion-index": str(index)}
    container = {"name": "server", "state": state}
    return {
        "metadata": {"name": f"june-predict-{index}", "labels": labels, "creationTimestamp": f"{index}"},
        "status": {"phase": phase, "podIP": "10.0.0.1", "containerStatuses": [container]} | status,
    }


def running(**spec: Any) -> Manifest:
    return job(spec_hash="") | {"spec": spec}


UNSCHEDULABLE = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]}


@pytest.mark.parametrize(
    ("observation", "phase", "condition", "reason"),
    [
        (observe(model=Verdict(Reason.WAITING_FOR_TRAINING, "No.")), "Pending", "Running", "WaitingForTraining"),
        (observe(blocked_by=Verdict(Reason.SECRET_NOT_FOUND, "No.")), "Pending", "Running", "SecretNotFound"),
        (observe(), "Pending", "Running", "Pending"),
        (observe(running(), pod("Pending", **UNSCHEDULABLE)), "Pending", "Running", "Unschedulable"),
        (observe(running(), pod("Running"), pod("Pending", 1, **UNSCHEDULABLE)), "Running", "Running", "Predicting"),
        (observe(running(), pod("Succeeded"), pod("Running", 1)), "Running", "Running", "Predicting"),
        (observe(running(suspend=True)), "Suspended", "Suspended", "Suspended"),
        (observe(running(suspend=True), spec={"queue": "team-a"}), "Queued", "Running", "Queued"),
        (
            observe(job(spec_hash="", ended="Complete"), pod("Succeeded", message=ALL, exit_code=0)),
            "Complete", "Complete", "Predicted",
        ),
        (observe(job(spec_hash="", ended="Complete")), "Complete", "Complete", "ResultLost"),
        (
            observe(job(spec_hash="", ended="Complete"), pod("Succeeded", message=SOME, exit_code=0)),
            "Complete", "Complete", "ResultLost",
        ),
        (
            observe(
                job(spec_hash="", ended="Failed", failed=1, reason="PodFailurePolicy"),
                pod("Failed", 1, message={"error": {"reason": "OutputInUse", "message": "No."}}, exit_code=2),
            ),
            "Failed", "Failed", "OutputInUse",
        ),
        (
            observe(job(spec_hash="", ended="Failed", reason="DeadlineExceeded")),
            "Failed", "Failed", "DeadlineExceeded",
        ),
    ],
)  # fmt: skip
def test_conditions(observation: BatchPredictionObservation, phase: str, condition: str, reason: str) -> None:
    status = derive_status(observation, NOW)

    shown = status.condition(condition)
    assert (status.phase, shown and shown.reason) == (phase, reason)


def test_counts_are_those_of_the_pod_that_ended_last() -> None:
    """Each pod reports what all have done by then: the one with index 0 may have ended first."""
    pods = [pod("Succeeded", 0, message=SOME, exit_code=0), pod("Succeeded", 1, message=ALL, exit_code=0)]
    observation = observe(job(spec_hash="", ended="Complete"), *pods)

    status = derive_status(observation, NOW)

    assert (status.images, status.ignored_files, status.ignored, status.total) == (98, 2, {"Format": 2}, 100)
    assert status.progress is not None
    assert status.progress.files == "100/100"
    assert status.model is not None
    assert (status.model.display, status.model.digest) == ("flowers/4", "sha256:d")
    assert status.engine == "ONNX Runtime in float32"
    assert "Format 2" in (status.condition("Complete") or pytest.fail()).message


@pytest.mark.parametrize(("messages", "is_complete"), [([SOME, ALL], True), ([SOME], False), ([SOME, None], False)])
def test_result_is_complete_once_a_pod_has_reported_all_files(messages: list[Any], is_complete: bool) -> None:
    pods = [pod("Succeeded", index, message=message, exit_code=0) for index, message in enumerate(messages)]

    assert has_all_counts(JobView.of(job(spec_hash="", ended="Complete"), pods)) is is_complete


def test_progress_has_speed_and_eta_only_while_pods_run() -> None:
    report = {"stage": "predicting", "images": 40, "ignored": {"Format": 2}, "total": 102, "imagesPerSecond": 2.0}

    status = derive_status(observe(running(), pod("Running"), progress=report), NOW)
    suspended = derive_status(observe(running(suspend=True), status=status.to_json()), NOW)

    assert status.progress is not None
    assert (status.progress.files, status.progress.images_per_second, status.progress.eta) == ("42/102", 2.0, "30s")
    assert suspended.progress is not None
    assert suspended.progress.to_json() == {"files": "42/102"}
    assert suspended.images == 40


@pytest.mark.parametrize("report", [{"stage": "listing"}, {"images": "many"}, {}])
def test_report_without_counts_leaves_the_former_ones(report: dict[str, Any]) -> None:
    status = derive_status(observe(running(), pod("Running"), progress=report, status={"images": 7}), NOW)

    assert status.images == 7


def test_finished_prediction_stays_as_it_is() -> None:
    done = derive_status(observe(job(spec_hash="", ended="Complete"), pod("Succeeded", message=ALL, exit_code=0)), NOW)

    assert derive_status(observe(status=done.to_json()), NOW) == done


def test_accelerator_of_another_vendor_is_named() -> None:
    spec = {"resources": {"limits": {"amd.com/gpu": 1}}}

    status = derive_status(observe(running(), pod("Running"), spec=spec), NOW)

    assert "amd.com/gpu" in (status.condition("Running") or pytest.fail()).message
