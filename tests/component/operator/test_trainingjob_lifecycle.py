"""TrainingJobs: their configuration, interruptions, and objects that they must not change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from testing.kubernetes_api import Manifest, condition_of
from testing.samples import prepared, trained, training_job
from testing.simulated_controllers import Trainer, World, config_of

pytestmark = pytest.mark.usefixtures("operator")


# What is asked for


@pytest.mark.feature("T1")
@pytest.mark.feature("T2")
@pytest.mark.feature("T4")
def test_only_set_hyperparameters_reach_the_trainer(ready_world: World) -> None:
    """The preset decides the others."""
    hyperparameters = {
        "learningRateSchedule": "20:0.001,30:0.0001",
        "batchSize": 16,
        "optimizer": "adamw",
        "mixup": 0.2,
        "ema": 0.999,
    }
    ready_world.create(
        training_job(
            preset="inception-v3",
            hyperparameters=hyperparameters,
            metric="f1",
            earlyStopping={},
            checkpoint={"every": "200steps", "keep": 1},
            maxTrainingTime="1h30m",
        )
    )
    document = config_of(ready_world, "flowers-train")
    assert document["preset"] == "inception-v3"
    assert document["hyperparameters"].items() >= hyperparameters.items()
    # 299 pixels, the augmentation and the weight decay are inception-v3's own.
    assert not {"imageSize", "augmentation", "weightDecay", "epochs"} & document["hyperparameters"].keys()
    assert (document["metric"], document["earlyStopping"]) == ("f1", {"patience": 5})
    assert document["checkpoint"] == {"everySteps": 200, "keep": 1}
    assert document["maxTrainingSeconds"] == 5400


@pytest.mark.feature("T9")
@pytest.mark.feature("T15")
@pytest.mark.feature("T18")
def test_the_output_folder_the_label_and_the_promotion_are_as_asked(ready_world: World) -> None:
    output = {
        "uri": "s3://mine/out/",
        "logUri": "s3://mine/logs",
        "registeredModel": "blumen",
        "versionLabel": "1.0",
        "promote": {"alias": "champion", "atLeast": 0.9, "betterThanCurrent": True},
    }
    ready_world.create(training_job(output=output))
    document = config_of(ready_world, "flowers-train")
    assert document["output"] == {"uri": "s3://mine/out", "logUri": "s3://mine/logs"}
    assert document["mlflow"]["registeredModel"] == f"{ready_world.namespace}.blumen"
    assert document["mlflow"]["versionLabel"] == "1.0"
    assert document["mlflow"]["promote"] == output["promote"]
    promoted = {"alias": "champion", "moved": True, "message": "champion is version 4 now; there was none before"}
    ready_world.succeed("flowers-train", trained("4") | {"promoted": promoted})
    complete = ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    assert "champion is version 4 now" in complete["message"]


@pytest.mark.feature("T18")
def test_a_model_is_evaluated_on_another_dataset_without_training(ready_world: World) -> None:
    ready_world.create(training_job("again", evaluateOnly=True, initialModel={"uri": "s3://models/blumen/model"}))
    document = config_of(ready_world, "again-train")
    assert document["evaluateOnly"] is True
    assert document["initialModel"]["uri"] == "s3://models/blumen/model"
    result = trained(version=None) | {"reason": "Evaluated"}
    ready_world.succeed("again-train", result)
    ready_world.wait_for_condition("trainingjobs", "again", "Complete", "True", reason="Evaluated")
    assert ready_world.wait_for("trainingjobs", "again")["status"]["metrics"]["top1"] == 0.9375
    assert "again-register" not in ready_world.names("jobs")


@pytest.mark.feature("T3")
def test_a_job_reports_that_it_waits_for_an_unreachable_registry(ready_world: World) -> None:
    ready_world.create(training_job(initialModel={"mlflow": "models:/blumen@champion"}))
    running = ready_world.wait_for_condition(
        "trainingjobs", "flowers", "Running", "False", reason="RegistryNotConfigured"
    )
    assert "models:/blumen@champion" in running["message"]
    # Once the Secret has the address, it is asked there; nobody answers at this one, which the operator may contact.
    ready_world.use_mlflow("http://127.0.0.1:9")
    running = ready_world.wait_for_condition(
        "trainingjobs", "flowers", "Running", "False", reason="RegistryUnreachable"
    )
    assert "models:/blumen@champion" in running["message"]
    assert "flowers-train" not in ready_world.names("jobs")


@pytest.mark.feature("T5")
def test_what_is_put_over_the_pods_loosens_nothing(ready_world: World) -> None:
    template = {
        "labels": {"team": "a", "bloomery.dev/trainingjob": "another"},
        "annotations": {"example.com/note": "x"},
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
    }
    ready_world.create(training_job(podTemplate=template))
    made = ready_world.wait_for("jobs", "flowers-train")["spec"]["template"]
    assert made["metadata"]["labels"].items() >= {"team": "a", "bloomery.dev/trainingjob": "flowers"}.items()
    assert made["metadata"]["annotations"]["example.com/note"] == "x"
    pod = made["spec"]
    assert (pod["priorityClassName"], pod["runtimeClassName"]) == ("high", "nvidia")
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    # A lost node is given up after 30 s, whatever else is tolerated.
    assert {t.get("tolerationSeconds") for t in pod["tolerations"]} == {30}


# What interrupts


@pytest.mark.feature("T13")
def test_a_pod_on_a_lost_node_is_named_with_its_remedy(ready_world: World) -> None:
    """The remedy is the command that taints the node."""
    ready_world.create(training_job())
    pod = ready_world.start_pod("flowers-train")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "True")
    away = {"type": "Ready", "status": "False", "reason": "NodeNotReady", "message": ""}
    ready_world.patch("pods", pod, {"status": {"conditions": [away]}}, subresource="status")
    ready_world.begin_deletion("pods", pod)
    running = ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "False", reason="NodeLost")
    assert "kubectl taint node node-1 node.kubernetes.io/out-of-service" in running["message"]
    # The pod's end is known at last, and another one goes on.
    ready_world.delete("pods", pod)
    ready_world.start_pod("flowers-train")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "True")


@pytest.mark.feature("T14")
def test_a_suspended_job_shows_the_step_that_it_continues_from(ready_world: World, trainer: Trainer) -> None:
    """The step may be one that the trainer saved at its end."""

    def at(step: int) -> dict[str, Any]:
        saved = {"step": step, "uri": "s3://b/checkpoints/step.pt", "time": "2026-05-01T11:00:00Z"}
        return {"step": step, "totalSteps": 6000, "etaSeconds": 60, "imagesPerSecond": 9.0, "lastCheckpoint": saved}

    trainer.progress = lambda: at(400)
    ready_world.create(training_job())
    pod = ready_world.start_pod("flowers-train", ip=trainer.address)
    ready_world.wait_for("trainingjobs", "flowers", lambda job: job["status"].get("lastCheckpoint"))
    started = ready_world.wait_for("trainingjobs", "flowers")["status"]["startTime"]
    ready_world.patch("trainingjobs", "flowers", {"spec": {"suspend": True}})
    ready_world.wait_for_condition("trainingjobs", "flowers", "Suspended", "True")
    trainer.progress = lambda: at(417)
    ready_world.wait_for("trainingjobs", "flowers", lambda job: job["status"]["lastCheckpoint"]["step"] == 417)
    ready_world.delete("pods", pod)

    def rests(job: Manifest) -> bool:
        message = condition_of(job, "Suspended")["message"]
        return "no pods" in message and "from step 417" in message and "eta" not in job["status"]["progress"]

    status = ready_world.wait_for("trainingjobs", "flowers", rests)["status"]
    assert (status["phase"], status["progress"]["steps"]) == ("Suspended", "417/6000")
    # batch/v1 clears a suspended Job's start time, and sets another when it is resumed.
    assert status["startTime"] == started


@pytest.mark.feature("T6")
def test_a_refused_registration_shows_the_error_and_can_be_retried(
    ready_world: World,
) -> None:
    """A user deletes the Job of the registration to retry."""
    ready_world.create(training_job(podTemplate={"nodeSelector": {"team": "a"}}))
    ready_world.succeed("flowers-train", trained(version=None))
    place = ready_world.wait_for("jobs", "flowers-register")["spec"]["template"]["spec"]["nodeSelector"]
    assert place == {"team": "a"}
    error = {"error": {"reason": "MlflowRefused", "message": "MLflow refuses the model: no such experiment"}}
    ready_world.fail("flowers-register", error, exit_code=2)
    wait_for_message(ready_world, "NotRegistered", "no such experiment")
    before = ready_world.wait_for("jobs", "flowers-register")["metadata"]["uid"]
    ready_world.delete("jobs", "flowers-register")
    ready_world.wait_for("jobs", "flowers-register", lambda job: job["metadata"]["uid"] != before)
    ready_world.delete("pods", "flowers-register-0")  # what the garbage collector does
    ready_world.succeed("flowers-register", trained("4"))
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="Trained")


@pytest.mark.feature("T6")
def test_a_result_that_was_lost_with_its_pod_is_read_from_the_output_folder(ready_world: World) -> None:
    ready_world.create(training_job())
    lose_result(ready_world)
    ready_world.succeed("flowers-register", trained("4"))
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="Trained")
    status = ready_world.wait_for("trainingjobs", "flowers")["status"]
    assert (status["model"]["display"], status["metrics"]["top1"]) == ("flowers/4", trained("4")["metrics"]["top1"])


@pytest.mark.feature("T6")
def test_a_result_that_is_nowhere_is_reported_as_lost(ready_world: World) -> None:
    ready_world.create(training_job())
    lose_result(ready_world)
    error = {"error": {"reason": "NothingToRegister", "message": "there is no result.json in s3://models/flowers"}}
    ready_world.fail("flowers-register", error, exit_code=2)
    wait_for_message(ready_world, "ResultLost", "no result.json in s3://models/flowers")


def wait_for_message(world: World, reason: str, words: str) -> None:
    """Wait until the finished job shows a reason, and these words in its message."""

    def shows_words(job: Manifest) -> bool:
        complete = condition_of(job, "Complete")
        return complete["reason"] == reason and words in complete["message"]

    world.wait_for("trainingjobs", "flowers", shows_words)


def lose_result(world: World) -> None:
    """Let the training's pod go before anybody reads what it left."""
    world.delete("pods", world.start_pod("flowers-train"))
    world.complete_job("flowers-train")
    world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="ResultLost")


# What is left in peace


@pytest.mark.feature("T14")
def test_kueue_alone_owns_the_suspension_of_a_queued_job(ready_world: World) -> None:
    ready_world.create(training_job(queue="team-a"))
    ready_world.wait_for("jobs", "flowers-train")
    path = f"/apis/batch/v1/namespaces/{ready_world.namespace}/jobs/flowers-train"
    admitted = ready_world.client.patch(
        path,
        params={"fieldManager": "kueue"},
        content=json.dumps({"spec": {"suspend": False}}),
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert admitted.is_success, admitted.text
    ready_world.start_pod("flowers-train")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "True")
    # A change that the operator has to look at, and acts on.
    ready_world.patch("trainingjobs", "flowers", {"spec": {"tensorboard": True}})
    ready_world.wait_for("deployments", "flowers-tensorboard")
    job = ready_world.wait_for("jobs", "flowers-train")
    assert job["spec"]["suspend"] is False
    owners = [m["manager"] for m in job["metadata"]["managedFields"] if "f:suspend" in m["fieldsV1"].get("f:spec", {})]
    assert owners == ["kueue"]
    ready_world.succeed("flowers-train", trained(), pod="flowers-train-0")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")


@pytest.mark.feature("T16")
def test_a_time_to_live_set_after_the_end_counts(ready_world: World) -> None:
    ready_world.create(training_job())
    ready_world.succeed("flowers-train", trained())
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    ready_world.patch("trainingjobs", "flowers", {"spec": {"ttlSecondsAfterFinished": 600}})

    def settled(job: Manifest) -> bool:
        generation = job["metadata"]["generation"]
        seen = condition_of(job, "Complete")["observedGeneration"]
        return generation == 2 and job["status"]["observedGeneration"] == seen == generation

    # Who waits for a condition of the newest generation waits no longer than the operator needs.
    ready_world.wait_for("trainingjobs", "flowers", settled)
    ready_world.patch("trainingjobs", "flowers", {"spec": {"ttlSecondsAfterFinished": 0}})
    ready_world.wait_until_gone("trainingjobs", "flowers")


@pytest.mark.feature("T16")
@pytest.mark.feature("T11")
def test_a_new_version_of_its_dataset_restarts_no_finished_job(ready_world: World) -> None:
    ready_world.create(training_job())
    ready_world.succeed("flowers-train", trained())
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    ready_world.delete("jobs", "flowers-train")
    before = ready_world.wait_for("jobs", "flowers-prepare")["metadata"]["uid"]
    ready_world.patch("datasets", "flowers", {"spec": {"split": {"seed": 1}}})
    ready_world.wait_for("jobs", "flowers-prepare", lambda job: job["metadata"]["uid"] != before)
    ready_world.delete("pods", "flowers-prepare-0")  # what the garbage collector does
    ready_world.succeed("flowers-prepare", prepared("b"))
    ready_world.wait_for("datasets", "flowers", lambda dataset: dataset["status"]["version"] == "b" * 64)
    ready_world.create(training_job("next"))
    ready_world.wait_for("jobs", "next-train")
    assert "flowers-train" not in ready_world.names("jobs")
