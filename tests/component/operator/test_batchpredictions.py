"""BatchPredictions with the real operator and API server: the model, the Job, progress, counts and the end."""

from __future__ import annotations

from typing import Any

import pytest

from testing.kubernetes_api import Manifest, condition_of
from testing.operator_process import OperatorProcess
from testing.samples import batch_prediction, dataset, trained, training_job
from testing.simulated_controllers import Trainer, World
from testing.waiting import eventually

pytestmark = [pytest.mark.feature("S22"), pytest.mark.usefixtures("operator")]

DONE = {"images": 98, "ignored": {"Format": 2}, "total": 100, "engine": "ONNX Runtime in float32", "digest": "sha256:d"}
JOB = "june-predict"


def environment(job: Manifest) -> dict[str, Any]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def test_prediction_by_a_trained_model_waits_for_it_and_names_its_version(ready_world: World) -> None:
    ready_world.create(batch_prediction(model={"trainingJob": "flowers"}))
    ready_world.wait_for_condition("batchpredictions", "june", "Running", "False", reason="TrainingJobNotFound")
    ready_world.create(training_job())
    ready_world.wait_for_condition("batchpredictions", "june", "Running", "False", reason="WaitingForTraining")
    ready_world.succeed("flowers-train", trained())

    job = ready_world.wait_for("jobs", JOB)

    assert environment(job)["MODEL_URI"] == trained()["model"]["uri"]
    assert environment(job)["MODEL_DIGEST"] == trained()["model"]["digest"]
    shown = ready_world.wait_for("batchpredictions", "june", lambda bp: bp["status"].get("model"))
    assert shown["status"]["model"]["display"] == "flowers/1"


def test_job_has_an_index_for_each_pod_and_no_service_account(world: World) -> None:
    created = world.create(batch_prediction(parallelism=3))

    job = world.wait_for("jobs", JOB)

    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert environment(job)["BATCH_UID"] == created["metadata"]["uid"]
    assert environment(job)["BATCH_PODS"] == "3"
    pod = spec["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_progress_of_all_pods_is_read_from_one_that_runs(world: World, trainer: Trainer) -> None:
    trainer.progress = lambda: {"stage": "predicting", "images": 40, "total": 100, "imagesPerSecond": 4.0}
    world.create(batch_prediction(parallelism=2))
    first = world.start_pod(JOB, index=0)
    world.end_pod(first, exit_code=0, message=DONE | {"images": 20, "ignored": {}})
    world.start_pod(JOB, ip=trainer.address, index=1)

    status = world.wait_for("batchpredictions", "june", lambda bp: bp["status"].get("progress"))["status"]

    assert status["progress"] == {"files": "40/100", "imagesPerSecond": 4.0, "eta": "15s"}
    assert (status["phase"], status["images"]) == ("Running", 40)
    assert condition_of({"status": status}, "Reconciling")["status"] == "True"


def test_complete_prediction_has_the_counts_of_all_pods_and_stays(world: World) -> None:
    world.create(batch_prediction(parallelism=2))
    pods = [world.start_pod(JOB, index=index) for index in (0, 1)]
    for pod, images in zip(pods, (40, 98), strict=True):
        world.end_pod(pod, exit_code=0, message=DONE | {"images": images})
    world.complete_job(JOB)

    complete = world.wait_for_condition("batchpredictions", "june", "Complete", "True", reason="Predicted")

    status = world.wait_for("batchpredictions", "june")["status"]
    assert (status["phase"], status["images"], status["ignored"]) == ("Complete", 98, {"Format": 2})
    assert "s3://photos/predictions/june/predictions" in complete["message"]
    assert not condition_of({"status": status}, "Reconciling")
    # Its Job may be removed: it does not run again.
    world.delete("jobs", JOB)
    world.create(dataset("tulips"))
    world.wait_for("jobs", "tulips-prepare")
    assert JOB not in world.names("jobs")


def test_failed_prediction_has_the_reason_of_its_pod_and_is_stalled(world: World) -> None:
    world.create(batch_prediction())
    world.fail(JOB, {"error": {"reason": "OutputInUse", "message": "the folder is another's"}}, exit_code=2)

    failed = world.wait_for_condition("batchpredictions", "june", "Failed", "True", reason="OutputInUse")

    assert failed["message"] == "the folder is another's"
    world.wait_for_condition("batchpredictions", "june", "Stalled", "True")


def test_suspended_prediction_has_no_pods_and_goes_on_later(world: World) -> None:
    world.create(batch_prediction(suspend=True))
    world.wait_for_condition("batchpredictions", "june", "Suspended", "True")
    assert world.wait_for("jobs", JOB)["spec"]["suspend"] is True

    world.patch("batchpredictions", "june", {"spec": {"suspend": False}})

    world.wait_for("jobs", JOB, lambda job: job["spec"]["suspend"] is False)
    world.wait_for_condition("batchpredictions", "june", "Suspended", "False", reason="Resumed")


def test_queued_prediction_waits_for_kueue(world: World) -> None:
    world.create(batch_prediction(queue="team-a"))

    job = world.wait_for("jobs", JOB)

    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert job["spec"]["suspend"] is True
    world.wait_for("batchpredictions", "june", lambda bp: bp["status"].get("phase") == "Queued")


def test_missing_secret_of_the_output_is_named(world: World) -> None:
    output = {"uri": "s3://mine/out", "secretRef": {"name": "mine"}}
    world.create(batch_prediction(output=output))
    blocked = world.wait_for_condition("batchpredictions", "june", "Running", "False", reason="SecretNotFound")
    assert "'mine'" in blocked["message"] and "spec.output.secretRef" in blocked["message"]

    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}}
    world.create(secret | {"stringData": {"accessKey": "k", "secretKey": "s"}})
    eventually(
        lambda: "'mine' in namespace" in message_of(world) and "has only accessKey, secretKey" in message_of(world),
        "its entries are named: pods would take the keys of the namespace's store",
    )

    world.patch("secrets", "mine", {"stringData": {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}})

    world.wait_for("jobs", JOB)


def message_of(world: World) -> str:
    return str(condition_of(world.get("batchpredictions", "june") or {}, "Running").get("message"))


def test_prediction_whose_job_was_deleted_goes_on_with_its_model(ready_world: World) -> None:
    world = ready_world
    world.create(training_job())
    world.succeed("flowers-train", trained())
    world.create(batch_prediction(model={"trainingJob": "flowers"}))
    world.start_pod(JOB, index=0)
    world.wait_for("batchpredictions", "june", lambda bp: bp["status"].get("startTime"))
    world.delete("trainingjobs", "flowers")
    world.wait_until_gone("trainingjobs", "flowers")
    first = world.wait_for("jobs", JOB)["metadata"]["uid"]

    world.delete("jobs", JOB)

    job = world.wait_for("jobs", JOB, lambda job: job["metadata"]["uid"] != first)
    assert environment(job)["MODEL_URI"] == trained()["model"]["uri"]
    shown = world.wait_for("batchpredictions", "june")["status"]["model"]
    assert shown["display"] == "flowers/1"


def test_finished_prediction_is_deleted_after_its_ttl(world: World) -> None:
    world.create(batch_prediction(ttlSecondsAfterFinished=0))
    world.succeed(JOB, DONE)

    world.wait_until_gone("batchpredictions", "june")


def test_model_of_the_registry_that_is_not_there_is_reported(world: World, operator: OperatorProcess) -> None:
    world.create(batch_prediction(model={"mlflow": "models:/flowers/4"}))

    world.wait_for_condition("batchpredictions", "june", "Running", "False", reason="RegistryNotConfigured")

    eventually(lambda: JOB not in world.names("jobs"), "no Job is created without a model")
