"""Views of pods, Jobs and Deployments, also of those that others changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bloomery_operator.status.dataset import DatasetObservation
from bloomery_operator.status.dataset import derive_status as derive_dataset_status
from bloomery_operator.status.trainingjob import TrainingJobObservation
from bloomery_operator.status.trainingjob import derive_status as derive_training_status
from bloomery_operator.status.workloads import DeploymentView, JobView, PodView, pod_not_ready_reason
from tests.unit.operator.samples import NOW, Manifest, dataset, job, metadata, pod, training_job

PREPARED = {"version": "b" * 64, "uri": "s3://b/b", "images": 50, "classes": [{"name": "roses", "train": 9}]}
PROXY = {"name": "istio-proxy", "state": {"running": {}}, "restartCount": 9}
DONE = {"name": "trainer", "state": {"terminated": {"exitCode": 0, "message": json.dumps(PREPARED)}}}


def with_containers(phase: str, *containers: Manifest, init: tuple[Manifest, ...] = (), role: str = "") -> Manifest:
    """Return a pod with the statuses of several containers, which the kubelet sorts by name."""
    manifest = pod(phase)
    manifest["metadata"]["labels"] = {"app.kubernetes.io/name": role}
    manifest["status"] |= {"containerStatuses": list(containers), "initContainerStatuses": list(init)}
    return manifest


@pytest.mark.feature("O6")
@pytest.mark.parametrize(
    ("role", "name"),
    [("prepare", "trainer"), ("train", "trainer"), ("serve", "server"), ("tensorboard", "tensorboard")],
)
def test_our_container_is_read_whatever_is_injected_before_it(role: str, name: str) -> None:
    ours = {"name": name, "restartCount": 2, "lastState": {"terminated": {"exitCode": 3, "message": "mine"}}}
    others = [PROXY, {"name": "server" if name != "server" else "trainer", "restartCount": 7}]
    view = PodView.of(with_containers("Running", *others, ours, role=role))
    assert (view.restarts, view.exit_code, view.termination_message) == (2, 3, "mine")


@pytest.mark.feature("O6")
def test_preparation_with_an_injected_proxy_is_ready() -> None:
    manifest = job(spec_hash="j", ended="Complete")
    view = JobView.of(manifest, [with_containers("Succeeded", PROXY, DONE)])
    observation = DatasetObservation(dataset=dataset(), spec_hash="s", job_hash="j", job=view)
    assert derive_dataset_status(observation, NOW).phase == "Ready"


@pytest.mark.feature("O6")
def test_proxy_that_keeps_a_finished_pod_running_is_named() -> None:
    stuck = JobView.of(job(spec_hash="j"), [with_containers("Running", PROXY, DONE)])
    prepared = DatasetObservation(dataset=dataset(), spec_hash="s", job_hash="j", job=stuck)
    status = derive_dataset_status(prepared, NOW)
    assert (status.phase, status.conditions[0].reason) == ("Preparing", "SidecarRunning")
    assert "the container istio-proxy still runs" in status.conditions[0].message
    trained = TrainingJobObservation(training_job=training_job(), model_uri="s3://b/m", job=stuck)
    running = derive_training_status(trained, NOW).conditions[0]
    assert (running.status, running.reason) == ("True", "SidecarRunning")


@pytest.mark.feature("O6")
def test_native_sidecar_does_not_keep_a_pod_running() -> None:
    view = PodView.of(with_containers("Running", DONE, init=(PROXY,)))
    assert view.running_sidecars == ()


@pytest.mark.feature("O6")
@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ({"reason": "ImagePullBackOff", "message": "no such image"}, "ImageNotAvailable"),
        ({"reason": "CreateContainerConfigError", "message": "no such Secret"}, "PodNotConfigured"),
        ({"reason": "CrashLoopBackOff", "message": "back-off"}, "SidecarFailed"),
        ({"reason": "PodInitializing"}, None),
    ],
)
@pytest.mark.parametrize("is_init", [True, False])
def test_injected_container_that_does_not_start_is_named(waiting: Manifest, reason: str | None, is_init: bool) -> None:
    broken = {"name": "istio-init", "state": {"waiting": waiting}}
    ours = {"name": "trainer", "state": {"waiting": {"reason": "PodInitializing"}}}
    init, containers = ((broken,), (ours,)) if is_init else ((), (broken, ours))
    verdict = pod_not_ready_reason(PodView.of(with_containers("Pending", *containers, init=init)))
    assert (verdict.reason if verdict else None) == reason
    assert verdict is None or "'istio-init'" in verdict.message


@pytest.mark.feature("O6")
@pytest.mark.parametrize(
    ("pods", "spec", "lacks"),
    [
        ([], {}, True),
        ([pod("Pending")], {}, False),
        ([pod("Failed", exit_code=1)], {}, True),
        ([pod("Running")], {"parallelism": 2}, True),
        ([pod("Running"), pod("Succeeded", name="flowers-1")], {"parallelism": 2}, False),
        ([], {"suspend": True}, False),
    ],
    ids=["none", "one", "one that failed", "one of two", "both", "suspended"],
)
def test_job_lacks_pods_until_its_controller_has_created_all(pods: list[Manifest], spec: Any, lacks: bool) -> None:
    assert JobView.of(job(spec_hash="j") | {"spec": spec}, pods).lacks_pods is lacks
    assert not JobView.of(job(spec_hash="j", ended="Failed"), []).lacks_pods


@pytest.mark.feature("O6")
def test_changed_labels_and_annotations_are_ignored() -> None:
    odd = pod("Running")
    odd["metadata"]["labels"] = {"batch.kubernetes.io/job-completion-index": "first"}
    assert PodView.of(odd).index == 0
    for text, time in (("yesterday", None), ("2026-05-01T12:00:00", NOW), ("2026-05-01T12:00:00Z", NOW)):
        annotated = {"metadata": metadata(annotations={"bloomery.dev/retired-at": text}), "spec": {}}
        assert DeploymentView.of(annotated).retired_at == time


@pytest.mark.feature("O6")
@pytest.mark.parametrize(("created", "message"), [(1, "failed quota"), (2, "")], ids=["one of two", "all"])
def test_failure_of_an_older_template_is_none_of_new_pods(created: int, message: str) -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "failed quota"}
    status = {"updatedReplicas": created, "conditions": [failure]}
    view = DeploymentView.of({"metadata": metadata(), "spec": {"replicas": 2}, "status": status})
    assert view.rejection == message
