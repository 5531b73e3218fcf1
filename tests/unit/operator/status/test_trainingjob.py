"""Status of a TrainingJob in each situation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bloomery_operator.api import Dataset
from bloomery_operator.api.durations import go_duration, seconds_of
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.starting_point import StartingPoint, starting_point_from_job, starting_point_from_registry
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.status.trainer_results import TrainResult
from bloomery_operator.status.trainingjob import TrainingJobObservation, derive_status, registered
from bloomery_operator.status.workloads import JobView
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

LABELLED = {"output": {"versionLabel": "1.0"}}


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
        training_job=training_job(spec, status),
        model_uri="s3://b/own/model",
        datasets={"flowers": on} if on else {},
        job=view,
        **fields,
    )


def ended(message: Any, exit_code: int = 0) -> tuple[Manifest, Manifest]:
    text = message if isinstance(message, str) else json.dumps(message)
    phase, how = ("Failed", "Failed") if exit_code else ("Succeeded", "Complete")
    return job(spec_hash="x", ended=how, failed=exit_code and 1), pod(phase, exit_code=exit_code, message=text)


def suspended() -> Manifest:
    """A Job that batch/v1 or Kueue holds back."""
    return job(spec_hash="x") | {"spec": {"suspend": True}}


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
        (observe(on=READY, blocked_by=Verdict("NameTaken", "No.")), "Pending", "Running", "NameTaken"),
        (observe(on=READY, start=Verdict("InitialModelNotReady", "No.")), "Pending", "Running", "InitialModelNotReady"),
        (
            observe(on=READY, spec={"datasets": [{"name": "flowers"}, {"name": "more"}]}),
            "Pending",
            "Running",
            "DatasetNotFound",
        ),
        (observe(on=READY, spec={"stop": True}), "Failed", "Failed", "StoppedBeforeStart"),
        (
            observe(job(spec_hash="x"), pod("Pending"), spec={"stop": True}),
            "Failed",
            "Failed",
            "StoppedBeforeStart",
        ),
        (observe(job(spec_hash="x"), pod("Running"), spec={"stop": True}), "Running", "Running", "Training"),
        (observe(suspended(), spec={"queue": "team-a"}), "Queued", "Running", "Queued"),
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
def test_reason_and_phase_of_each_situation(
    observation: TrainingJobObservation, phase: str, condition: str, reason: str
) -> None:
    status = derive_status(observation, NOW)
    (only,) = status.conditions
    assert (status.phase, only.type, only.reason) == (phase, condition, reason)
    assert only.is_true == (phase not in ("Pending", "Queued"))


@pytest.mark.feature("T8")
def test_stop_of_a_training_that_ran_keeps_its_start_time() -> None:
    before = derive_status(observe(job(spec_hash="x"), pod("Running")), NOW)
    assert before.start_time == NOW.replace(hour=11)
    after = derive_status(observe(job(spec_hash="x"), spec={"stop": True}, status=before.to_json()), NOW)
    assert (after.phase, after.start_time) == ("Pending", before.start_time)


@pytest.mark.feature("T14")
def test_suspended_job_names_its_checkpoint() -> None:
    saved = {"lastCheckpoint": {"step": 400, "uri": "s3://b/checkpoints/400", "time": "2026-05-01T11:00:00Z"}}
    status = derive_status(observe(suspended(), spec={"suspend": True}, status=saved), NOW)
    assert status.phase == "Suspended"
    assert status.is_true("Suspended")
    condition = status.condition("Suspended")
    assert condition is not None
    assert "goes on from step 400" in condition.message


@pytest.mark.feature("T14")
def test_resumed_job_is_not_suspended() -> None:
    before = derive_status(observe(suspended(), spec={"suspend": True}), NOW)
    after = derive_status(observe(job(spec_hash="x"), pod("Running"), status=before.to_json()), NOW)
    assert after.phase == "Running"
    assert [(c.type, c.status) for c in after.conditions] == [("Running", "True"), ("Suspended", "False")]


@pytest.mark.feature("T13")
def test_starts_that_no_failure_explains_are_preemptions() -> None:
    progress = {"step": 410, "totalSteps": 6000, "starts": 4, "lastCheckpoint": {"step": 400, "uri": "s3://b/c"}}
    status = derive_status(observe(job(spec_hash="x", failed=1), pod("Running"), progress=progress), NOW)
    assert (status.restarts, status.preemptions) == (1, 2)
    assert status.last_checkpoint is not None
    assert status.last_checkpoint.step == 400


@pytest.mark.feature("T12")
@pytest.mark.feature("O6")
def test_unused_accelerator_is_named_while_the_trainer_runs() -> None:
    resources = {"limits": {"amd.com/gpu": 2, "memory": "8Gi"}}
    status = derive_status(observe(job(spec_hash="x"), pod("Running"), spec={"resources": resources}), NOW)
    (running,) = [c for c in status.conditions if c.type == "Running"]
    assert (running.status, running.reason) == ("True", "Training")
    assert "does not compute on amd.com/gpu" in running.message


def test_failure_of_several_nodes_names_the_cause() -> None:
    def node(number: int, words: Any, code: int) -> Manifest:
        made = pod("Failed", name=f"flowers-{number}", exit_code=code, message=json.dumps(words))
        made["metadata"]["labels"] = {"batch.kubernetes.io/job-completion-index": str(number)}
        return made

    lost = node(0, {"error": {"reason": "PeerLost", "message": "Another went away."}}, 75)
    cause = node(1, {"error": {"reason": "BadShard", "message": "It is damaged."}}, 3)
    status = derive_status(observe(job(spec_hash="x", ended="Failed"), cause, lost), NOW)
    (failed,) = status.conditions
    assert (failed.reason, failed.message) == ("BadShard", "It is damaged.")


@pytest.mark.feature("T13")
def test_lost_node_is_named_with_the_command() -> None:
    stuck = pod("Running")
    stuck["metadata"]["deletionTimestamp"] = "2026-05-01T11:59:00Z"
    stuck["spec"] = {"nodeName": "node-7"}
    stuck["status"]["conditions"] = [{"type": "Ready", "status": "False", "reason": "NodeNotReady"}]
    (running,) = derive_status(observe(job(spec_hash="x"), stuck), NOW).conditions
    assert running.reason == "NodeLost"
    assert "kubectl taint node node-7 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute" in running.message


@pytest.mark.feature("T3")
def test_start_from_another_job_waits_until_it_is_complete() -> None:
    assert getattr(starting_point_from_job("base", None), "reason", None) == "InitialModelNotFound"
    assert getattr(starting_point_from_job("base", training_job()), "reason", None) == "InitialModelNotReady"
    failed = training_job(
        status={"conditions": [{"type": "Failed", "status": "True", "reason": "X", "message": "No."}]}
    )
    assert getattr(starting_point_from_job("base", failed), "reason", None) == "InitialModelFailed"
    done = training_job(status=derive_status(observe(*ended(RESULT)), NOW).to_json())
    assert starting_point_from_job("base", done) == StartingPoint(
        uri="s3://b/model", digest="sha256:d", origin="TrainingJob base (flowers/4)"
    )


@pytest.mark.feature("T8")
def test_early_end_keeps_its_reason_and_steps() -> None:
    result = RESULT | {"reason": "TrainingTimeReached", "progress": {"epoch": 2, "step": 480, "totalSteps": 6000}}
    before = {"progress": {"step": 470, "totalSteps": 6000, "steps": "470/6000"}}
    status = derive_status(observe(*ended(result), status=before), NOW)
    assert (status.phase, status.conditions[0].reason) == ("Complete", "TrainingTimeReached")
    assert status.progress is not None
    assert status.progress.steps == "480/6000"


def test_steps_are_shown_without_progress_before() -> None:
    result = RESULT | {"progress": {"epoch": 8, "step": 352, "totalSteps": 352}}
    status = derive_status(observe(*ended(result)), NOW)
    assert status.progress is not None
    assert (status.progress.epoch, status.progress.steps) == (8, "352/352")


@pytest.mark.feature("T19")
def test_start_from_published_weights_is_in_status_and_message() -> None:
    start = {"kind": "published", "origin": "weights DEFAULT of resnet18", "warning": None}
    status = derive_status(observe(*ended(RESULT | {"initialModel": start, "notes": []})), NOW)
    assert status.initial_model == "weights DEFAULT of resnet18"
    assert "It started from weights DEFAULT of resnet18." in status.conditions[0].message


@pytest.mark.feature("T19")
def test_start_from_scratch_without_weights_is_a_warning() -> None:
    start = {"kind": "scratch", "origin": "scratch", "warning": "no published weights were found."}
    status = derive_status(observe(*ended(RESULT | {"initialModel": start})), NOW)
    assert status.initial_model == "scratch"
    assert status.conditions[0].message.endswith("It started from scratch. Warning: no published weights were found.")


def test_start_in_the_notes_is_not_repeated() -> None:
    note = "Training starts from weights DEFAULT of resnet18; the head is new, as its classes are others."
    start = {"origin": "weights DEFAULT of resnet18"}
    status = derive_status(observe(*ended(RESULT | {"initialModel": start, "notes": [note]})), NOW)
    assert status.conditions[0].message.count("weights DEFAULT of resnet18") == 1


def test_resolved_start_stays_in_the_status() -> None:
    start = {"origin": "weights DEFAULT of resnet18"}
    status = derive_status(observe(*ended(RESULT | {"initialModel": start}), started_from="base/3"), NOW)
    assert status.initial_model == "base/3"


@pytest.mark.feature("T22")
def test_recipe_of_a_running_training_is_shown() -> None:
    recipe = {"batchSize": 32, "learningRate": 0.0125, "optimizer": "sgd", "horizontalFlip": True, "epochs": None}
    progress = {"stage": "training", "step": 1, "recipe": recipe, "initialModel": {"origin": "scratch"}}
    running = observe(job(spec_hash="x"), pod("Running"), on=READY, progress=progress)
    status = derive_status(running, NOW)
    shown = {"batchSize": "32", "learningRate": "0.0125", "optimizer": "sgd", "horizontalFlip": "true"}
    assert (status.recipe, status.initial_model) == (shown, "scratch")
    after = derive_status(observe(*ended(RESULT), status=status.to_json()), NOW)
    assert (after.recipe, after.initial_model) == (shown, "scratch")


def test_recipe_is_cut_to_the_crds_limits() -> None:
    recipe = {f"field{number}": "x" * 300 for number in range(40)}
    status = derive_status(observe(*ended(RESULT | {"recipe": recipe})), NOW).within_limits()
    assert status.recipe is not None
    assert (len(status.recipe), len(status.recipe["field0"])) == (32, 256)


@pytest.mark.feature("T18")
def test_imported_model_is_evaluated_but_not_trained_on() -> None:
    imported = ServedModel(uri="s3://models/imported", digest="sha256:d", name="flowers", version="2")
    reference = "models:/flowers/2"
    refused = starting_point_from_registry(imported, reference)
    assert isinstance(refused, Verdict) and refused.reason == "ModelNotOurs"
    start = starting_point_from_registry(imported, reference, evaluate_only=True)
    assert start == StartingPoint(uri="s3://models/imported", digest="sha256:d", origin="flowers/2")
    elsewhere = starting_point_from_registry(
        ServedModel(uri="mlflow-artifacts:/1/model"), reference, evaluate_only=True
    )
    assert isinstance(elsewhere, Verdict) and elsewhere.reason == "ModelNotOurs"


@pytest.mark.feature("T18")
def test_evaluation_needs_no_registration() -> None:
    result = UNREGISTERED | {"reason": "Evaluated"}
    status = derive_status(observe(*ended(result)), NOW)
    assert status.conditions[0].reason == "Evaluated"


def test_later_registration_changes_reason_and_model_only() -> None:
    before = derive_status(observe(*ended(UNREGISTERED)), NOW)
    result = TrainResult.model_validate(RESULT)
    job = observe(spec=LABELLED).training_job
    after = registered(job, before, result, NOW, mlflow_public_url="http://mlflow/")
    assert after.conditions[0].reason == "Trained"
    assert after.mlflow is not None
    assert after.mlflow.url is not None and after.mlflow.url.startswith("http://mlflow/#/experiments/")
    assert after.model is not None
    assert (after.model.display, after.model.version_label) == ("flowers/4", "1.0")
    assert (after.metrics, after.completion_time) == (before.metrics, before.completion_time)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("3600s", 3600)])
def test_durations_are_parsed(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


def test_finished_job_has_model_metrics_and_run() -> None:
    status = derive_status(observe(*ended(RESULT), spec=LABELLED, mlflow_public_url="http://mlflow/"), NOW)
    assert status.model is not None
    assert (status.model.display, status.model.uri) == ("flowers/4", "s3://b/model")
    assert status.model.version_label == "1.0"
    assert status.metrics == {"top1": 0.9375, "loss": 0.2}
    assert status.metric == "top1 0.9375"
    assert status.mlflow is not None
    assert status.mlflow.url == "http://mlflow/#/experiments/7/runs/abc"
    assert status.completion_time == NOW.replace(hour=11, minute=30)


def test_model_without_a_version_has_a_uri() -> None:
    status = derive_status(observe(*ended(UNREGISTERED), spec=LABELLED), NOW)
    assert status.model is not None
    assert status.model.version_label is None
    assert (status.model.uri, status.model.digest, status.model.display) == ("s3://b/model", "sha256:d", None)
    assert status.mlflow is None


def test_lost_result_leaves_the_uri_of_the_model() -> None:
    status = derive_status(observe(*ended("done")), NOW)
    assert status.model is not None
    assert status.model.uri == "s3://b/own/model"


def test_metric_that_is_not_a_number_is_left_out() -> None:
    text = json.dumps(RESULT | {"metrics": {"top1": 0.5, "loss": float("nan")}})
    status = derive_status(observe(*ended(text)), NOW)
    assert status.metrics == {"top1": 0.5}
    json.dumps(status.to_json(), allow_nan=False)


def test_finished_status_is_final() -> None:
    done = derive_status(observe(*ended(RESULT)), NOW)
    later = derive_status(observe(status=done.to_json()), NOW.replace(hour=13))
    assert later == done


def test_running_job_does_not_need_its_dataset() -> None:
    status = derive_status(observe(job(spec_hash="x"), pod("Running")), NOW)
    assert status.phase == "Running"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (4.9, "4s"),
        (60, "1m0s"),
        (660, "11m0s"),
        (3723, "1h2m3s"),
        (86400, "24h0m0s"),
        (float("inf"), "87600h0m0s"),
        (float("nan"), "0s"),
    ],
)
def test_durations_are_printed(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


def test_pending_pod_does_not_change_the_status() -> None:
    begun = derive_status(observe(job(spec_hash="x"), on=READY), NOW)
    assert derive_status(observe(job(spec_hash="x"), pod("Pending"), on=READY), NOW) == begun


def test_last_progress_stays_until_the_job_has_ended() -> None:
    running = observe(job(spec_hash="x"), pod("Running"), on=READY, progress={"stage": "evaluating", "step": 40})
    running_status = derive_status(running, NOW)
    assert running_status.conditions[0].message == "The trainer is evaluating."
    after = observe(job(spec_hash="x"), pod("Succeeded"), on=READY, status=running_status.to_json())
    assert derive_status(after, NOW) == running_status
