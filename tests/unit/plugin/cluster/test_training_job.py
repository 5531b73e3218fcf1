"""Summaries and copies of TrainingJobs."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_bloomery.cluster.training_job import copy_job, next_name, summarise


def job_with_status(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {"spec": spec} | ({"status": status} if status else {})


def condition(type_: str, status: str, message: str) -> dict[str, str]:
    return {"type": type_, "status": status, "reason": "Because", "message": message}


@pytest.mark.feature("O5")
def test_missing_figures_are_left_out() -> None:
    status = {"conditions": [condition("Running", "True", "")], "progress": {"stage": "evaluating", "epoch": 3}}

    assert summarise(job_with_status(status)).line == "Running: evaluating: epoch 3"


@pytest.mark.feature("S22")
def test_batch_prediction_without_counts_is_not_called_a_training() -> None:
    prediction = job_with_status({"conditions": [condition("Running", "True", "")]}) | {"kind": "BatchPrediction"}

    assert summarise(prediction).line == "Running: predicting"


@pytest.mark.feature("O6")
@pytest.mark.parametrize("reason", ["SidecarRunning", "TrainerUnreachable"])
def test_problem_of_a_running_job_is_shown_instead_of_its_progress(reason: str) -> None:
    running = condition("Running", "True", "A proxy still runs.") | {"reason": reason}
    status = {"conditions": [running], "progress": {"stage": "evaluating", "epoch": 3}}

    assert summarise(job_with_status(status)).line == "Running: A proxy still runs."


@pytest.mark.feature("O5")
def test_suspended_job_has_not_ended() -> None:
    status = {
        "phase": "Suspended",
        "conditions": [condition("Running", "False", "spec.suspend is true."), condition("Suspended", "True", "…")],
    }
    summary = summarise(job_with_status(status))

    assert summary.line == "Suspended: spec.suspend is true."
    assert not (summary.complete or summary.failed)


@pytest.mark.feature("O5")
def test_job_of_another_controller_names_it() -> None:
    assert summarise(job_with_status(managedBy="kueue.x-k8s.io/multikueue")).line == (
        "Pending: spec.managedBy leaves it to kueue.x-k8s.io/multikueue."
    )


@pytest.mark.feature("O5")
def test_false_condition_is_not_an_end() -> None:
    status = {"conditions": [condition("Failed", "False", ""), condition("Running", "True", "")]}

    assert summarise(job_with_status(status)).phase == "Running"


def finished_job(**output: Any) -> dict[str, Any]:
    return {
        "apiVersion": "bloomery.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "flowers", "namespace": "demo", "uid": "1", "labels": {"argocd": "x"}},
        "spec": {"datasets": [{"name": "flowers"}], "preset": "resnet18", "stop": True, "suspend": False}
        | ({"output": output} if output else {}),
        "status": {"phase": "Complete"},
    }


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("name", "existing", "expected"),
    [
        ("flowers", [], "flowers-2"),
        ("flowers", ["flowers", "flowers-2"], "flowers-3"),
        ("flowers-2", ["flowers-2"], "flowers-3"),
        ("resnet-v1", [], "resnet-v1-2"),
        ("a" * 40, [], "a" * 38 + "-2"),
    ],
)
def test_new_name_is_next_free_one(name: str, existing: list[str], expected: str) -> None:
    assert next_name(name, existing) == expected


@pytest.mark.feature("O5")
def test_status_metadata_stop_and_suspend_are_not_copied() -> None:
    new = copy_job(finished_job(), "flowers-2")

    assert new == {
        "apiVersion": "bloomery.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "flowers-2", "namespace": "demo"},
        "spec": {"datasets": [{"name": "flowers"}], "preset": "resnet18", "output": {"registeredModel": "flowers"}},
    }


@pytest.mark.feature("O5")
def test_copy_has_its_own_folder_and_version_label() -> None:
    old = finished_job(uri="s3://team/flowers/", logUri="s3://team/logs", versionLabel="1.0", registeredModel="blossom")

    assert copy_job(old, "flowers-2")["spec"]["output"] == {
        "uri": "s3://team/flowers-2",
        "logUri": "s3://team/logs-flowers-2",
        "registeredModel": "blossom",
    }
    assert old["spec"]["output"]["versionLabel"] == "1.0"
