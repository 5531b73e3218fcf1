"""TrainingJobs: status of a job that waits, trains, fails and has ended."""

from __future__ import annotations

import base64
import json
import time

import pytest

from testing.kubernetes_api import Manifest, condition_of
from testing.samples import dataset, prepared, trained, training_job
from testing.simulated_controllers import Trainer, World, config_of
from testing.waiting import eventually

pytestmark = pytest.mark.usefixtures("operator")

PROGRESS_SECONDS = 0.5


def test_a_job_names_its_missing_dataset_and_starts_with_it(world: World) -> None:
    world.create(training_job())
    running = world.wait_for_condition("trainingjobs", "flowers", "Running", "False", reason="DatasetNotFound")
    assert "'flowers'" in running["message"]
    assert world.wait_for("trainingjobs", "flowers")["status"]["phase"] == "Pending"
    world.create(dataset())
    world.succeed("flowers-prepare", prepared())
    world.wait_for("jobs", "flowers-train")


def test_a_failed_dataset_fails_no_job_but_is_named_by_it(world: World) -> None:
    world.create(dataset())
    world.create(training_job())
    world.fail("flowers-prepare", {"error": {"reason": "NoImages", "message": "There are none."}}, exit_code=3)
    running = world.wait_for_condition("trainingjobs", "flowers", "Running", "False", reason="DatasetFailed")
    assert running["message"].endswith("There are none.")


def test_a_missing_version_is_reported_with_the_existing_ones(ready_world: World) -> None:
    ready_world.create(training_job(datasets=[{"name": "flowers", "version": 2}]))
    running = ready_world.wait_for_condition(
        "trainingjobs", "flowers", "Running", "False", reason="DatasetVersionNotFound"
    )
    assert "1 (aaaaaaaaaaaa)" in running["message"]


def test_a_job_trains_on_its_version_during_the_next_preparation(ready_world: World) -> None:
    ready_world.patch("datasets", "flowers", {"spec": {"split": {"seed": 1}}})
    ready_world.wait_for_condition("datasets", "flowers", "Ready", "False")
    ready_world.create(training_job("newest"))
    ready_world.create(training_job("first", datasets=[{"name": "flowers", "version": 1}]))
    job = ready_world.wait_for("trainingjobs", "first", lambda job: job.get("status", {}).get("datasets"))
    assert job["status"]["datasets"][0]["version"] == "a" * 64
    ready_world.wait_for_condition("trainingjobs", "newest", "Running", "False", reason="DatasetNotReady")
    assert "newest-train" not in ready_world.names("jobs")


@pytest.mark.parametrize(
    ("exit_code", "reason", "message"),
    [
        (2, "UnknownPreset", "The preset 'resnet' is not known."),
        (3, "BadShard", "train-00000.tar is damaged."),
    ],
)
def test_a_users_mistake_fails_the_job_with_the_trainers_message(
    ready_world: World, exit_code: int, reason: str, message: str
) -> None:
    ready_world.create(training_job())
    ready_world.fail("flowers-train", {"error": {"reason": reason, "message": message}}, exit_code=exit_code)
    failed = ready_world.wait_for_condition("trainingjobs", "flowers", "Failed", "True", reason=reason)
    assert failed["message"] == message
    status = ready_world.wait_for("trainingjobs", "flowers")["status"]
    assert status["phase"] == "Failed"
    assert status["completionTime"]
    assert "model" not in status


def test_a_crash_is_reported_with_its_exit_code_and_last_line(ready_world: World) -> None:
    ready_world.create(training_job())
    ready_world.fail("flowers-train", "loading\nRuntimeError: out of memory", exit_code=1)
    failed = ready_world.wait_for_condition("trainingjobs", "flowers", "Failed", "True")
    assert failed["message"].endswith("ended with exit code 1: RuntimeError: out of memory")


@pytest.mark.feature("T6")
def test_progress_of_the_running_pod_is_shown(ready_world: World, trainer: Trainer) -> None:
    ready_world.create(training_job())
    trainer.progress = lambda: {
        "stage": "training",
        "epoch": 1,
        "epochs": 3,
        "step": 480,
        "totalSteps": 6000,
        "imagesPerSecond": 812.0,
        "etaSeconds": 660,
        "loss": float("nan"),
        "metric": 0.93,
        "mlflow": {"experimentId": "7", "runId": "abc"},
    }
    ready_world.start_pod("flowers-train", ip=trainer.address)

    def step(expected: str) -> Manifest:
        def shown(job: Manifest) -> bool:
            return job["status"].get("progress", {}).get("steps") == expected

        status: Manifest = ready_world.wait_for("trainingjobs", "flowers", shown)["status"]
        return status

    status = step("480/6000")
    assert status["phase"] == "Running"
    assert status["progress"]["eta"] == "11m0s"
    assert "loss" not in status["progress"]
    assert status["metric"] == "top1 0.9300"
    assert status["mlflow"]["runId"] == "abc"

    trainer.progress = lambda: {"step": "many", "epoch": []}
    requests = trainer.requests
    eventually(lambda: trainer.requests > requests + 1, "an answer of no agreed form was taken")
    nowhere = {"experimentId": None, "runId": None}
    trainer.progress = lambda: {"stage": "evaluating", "step": 6000, "totalSteps": 6000, "mlflow": nowhere}
    assert step("6000/6000")["mlflow"]["runId"] == "abc"
    ready_world.succeed("flowers-train", trained(), pod="flowers-train-0")
    done = ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    assert done["reason"] == "Trained"


def test_failure_before_any_figures_has_the_trainers_message(ready_world: World, trainer: Trainer) -> None:
    trainer.progress = lambda: {"stage": "starting"}
    ready_world.create(training_job())
    pod = ready_world.start_pod("flowers-train", ip=trainer.address)
    ready_world.wait_for("trainingjobs", "flowers", lambda job: job.get("status", {}).get("progress"))
    message = {"error": {"reason": "OutputTaken", "message": "Take another."}}
    ready_world.fail("flowers-train", message, exit_code=2, pod=pod)
    ready_world.wait_for_condition("trainingjobs", "flowers", "Failed", "True", reason="OutputTaken")


def test_steady_progress_of_a_trainer_causes_no_extra_requests(ready_world: World, trainer: Trainer) -> None:
    trainer.progress = lambda: {"step": trainer.requests, "totalSteps": 6000}
    ready_world.create(training_job())
    ready_world.start_pod("flowers-train", ip=trainer.address)
    eventually(lambda: trainer.requests > 0, "the trainer is asked")
    before, since = trainer.requests, time.monotonic()
    eventually(lambda: trainer.requests >= before + 4, "it is asked again and again")
    assert time.monotonic() - since > 4 * PROGRESS_SECONDS * 0.9
    ready_world.succeed("flowers-train", trained(), pod="flowers-train-0")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")


def test_an_unregistered_job_is_complete_and_reports_it(ready_world: World) -> None:
    ready_world.create(training_job())
    result = trained(version=None) | {"mlflow": {"experimentId": None, "runId": None}}
    ready_world.succeed("flowers-train", result)
    complete = ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="NotRegistered")
    assert "MLflow" in complete["message"]
    model = ready_world.wait_for("trainingjobs", "flowers")["status"]["model"]
    assert model["digest"].startswith("sha256:")
    assert "version" not in model


def test_the_last_words_count_even_if_they_come_with_the_end(ready_world: World) -> None:
    ready_world.create(training_job())
    pod = ready_world.start_pod("flowers-train")
    ready_world.end_pod(pod, exit_code=0, message=trained())
    ready_world.complete_job("flowers-train")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="Trained")


@pytest.mark.feature("T16")
def test_a_finished_job_is_unaffected_by_changes_of_its_children(ready_world: World) -> None:
    ready_world.create(training_job())
    ready_world.succeed("flowers-train", trained())
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    before = ready_world.wait_for("trainingjobs", "flowers")["status"]
    ready_world.delete("jobs", "flowers-train")
    ready_world.delete("pods", "flowers-train-0")
    ready_world.delete("datasets", "flowers")
    # Something that is seen only after all of these: the operator has looked at the job again by then.
    ready_world.create(dataset("tulips"))
    ready_world.wait_for("jobs", "tulips-prepare")
    ready_world.patch("trainingjobs", "flowers", {"metadata": {"annotations": {"example/seen": "1"}}})
    assert "flowers-train" not in ready_world.names("jobs")
    assert ready_world.wait_for("trainingjobs", "flowers")["status"] == before


@pytest.mark.feature("T16")
def test_a_job_is_gone_when_its_time_to_live_is_over(ready_world: World) -> None:
    ready_world.create(training_job(ttlSecondsAfterFinished=3))
    ready_world.succeed("flowers-train", trained())
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    ready_world.wait_until_gone("trainingjobs", "flowers")


def test_a_new_job_is_distinct_from_a_deleted_namesake(ready_world: World) -> None:
    ready_world.create(training_job())
    ready_world.succeed("flowers-train", trained())
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    ready_world.delete("trainingjobs", "flowers")
    ready_world.create(training_job())
    running = ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "False", reason="Replacing")
    assert "still being removed" in running["message"]
    # What the garbage collector does.
    ready_world.delete("jobs", "flowers-train")
    ready_world.delete("pods", "flowers-train-0")
    for name in ready_world.names("secrets"):
        if name.startswith("flowers-train-"):
            ready_world.delete("secrets", name)
    ready_world.succeed("flowers-train", trained("2"))
    complete = ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    assert "version 2" in complete["message"]


def test_a_refused_job_shows_the_api_servers_message_and_recovers(ready_world: World) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": ready_world.namespace},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }
    quotas = f"/api/v1/namespaces/{ready_world.namespace}/resourcequotas"
    assert ready_world.client.post(quotas, json=quota).is_success
    ready_world.client.patch(
        f"{quotas}/none/status",
        content=json.dumps({"status": {"hard": {"count/jobs.batch": "0"}, "used": {"count/jobs.batch": "0"}}}),
        headers={"Content-Type": "application/merge-patch+json"},
    )
    ready_world.create(training_job())
    running = ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "False", reason="Refused")
    assert "exceeded quota" in running["message"]
    assert ready_world.client.delete(f"{quotas}/none").is_success
    ready_world.wait_for("jobs", "flowers-train")
    assert not condition_of(ready_world.get("trainingjobs", "flowers"), "Failed")


# Interrupting, stopping, queueing


@pytest.mark.feature("T14")
def test_a_suspended_job_frees_its_pods_and_can_be_resumed(ready_world: World) -> None:
    ready_world.create(training_job(suspend=True))
    ready_world.wait_for_condition("trainingjobs", "flowers", "Suspended", "True")
    assert ready_world.wait_for("jobs", "flowers-train")["spec"]["suspend"] is True
    assert ready_world.wait_for("trainingjobs", "flowers")["status"]["phase"] == "Suspended"
    ready_world.patch("trainingjobs", "flowers", {"spec": {"suspend": False}})
    ready_world.wait_for("jobs", "flowers-train", lambda job: job["spec"]["suspend"] is False)
    ready_world.start_pod("flowers-train")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "True")
    ready_world.patch("trainingjobs", "flowers", {"spec": {"suspend": True}})
    ready_world.wait_for("jobs", "flowers-train", lambda job: job["spec"]["suspend"] is True)


@pytest.mark.feature("T14")
def test_a_queued_job_has_kueues_label_and_its_suspension_is_kueues(ready_world: World) -> None:
    ready_world.create(training_job(queue="team-a"))
    job = ready_world.wait_for("jobs", "flowers-train")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert job["spec"]["suspend"] is True
    running = ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "False", reason="Queued")
    assert "'team-a'" in running["message"]
    assert ready_world.wait_for("trainingjobs", "flowers")["status"]["phase"] == "Queued"
    # Kueue admits it, then takes it back; ours never says anything about it.
    ready_world.patch("jobs", "flowers-train", {"spec": {"suspend": False}})
    ready_world.start_pod("flowers-train")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "True")
    ready_world.patch("jobs", "flowers-train", {"spec": {"suspend": True}})
    ready_world.wait_for("trainingjobs", "flowers", lambda job: job["status"]["phase"] == "Queued")
    assert ready_world.wait_for("jobs", "flowers-train")["spec"]["suspend"] is True


@pytest.mark.feature("T14")
def test_a_job_of_another_controller_is_left_alone(ready_world: World) -> None:
    ready_world.create(training_job(managedBy="kueue.x-k8s.io/multikueue"))
    # Something that is seen only after it: the operator has looked at the job by then.
    ready_world.create(dataset("tulips"))
    ready_world.wait_for("jobs", "tulips-prepare")
    assert "flowers-train" not in ready_world.names("jobs")
    # What the CRD sets, so that nobody takes the job for finished.
    assert ready_world.wait_for("trainingjobs", "flowers")["status"] == {"observedGeneration": -1}


@pytest.mark.feature("T8")
def test_a_running_trainer_is_stopped_with_the_jobs_own_token(ready_world: World, trainer: Trainer) -> None:
    trainer.progress = lambda: {"stage": "training", "step": 7, "totalSteps": 6000}
    ready_world.create(training_job())
    ready_world.start_pod("flowers-train", ip=trainer.address)
    ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "True")
    ready_world.patch("trainingjobs", "flowers", {"spec": {"stop": True}})
    eventually(lambda: trainer.stopped, "the trainer gets the request to stop")
    (name,) = (name for name in ready_world.names("secrets") if name.startswith("flowers-train-"))
    secret = ready_world.wait_for("secrets", name)
    token = base64.b64decode(secret["data"]["BLOOMERY_STOP_TOKEN"]).decode()
    assert trainer.stopped[0] == ("/stop", f"Bearer {token}")
    assert len(token) >= 32
    ready_world.succeed("flowers-train", trained() | {"reason": "Stopped"}, pod="flowers-train-0")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="Stopped")


@pytest.mark.feature("T8")
def test_a_job_stopped_before_it_began_has_failed_and_nothing_runs(ready_world: World) -> None:
    ready_world.create(training_job(suspend=True))
    ready_world.wait_for("jobs", "flowers-train")
    ready_world.patch("trainingjobs", "flowers", {"spec": {"stop": True}})
    ready_world.wait_for_condition("trainingjobs", "flowers", "Failed", "True", reason="StoppedBeforeStart")
    ready_world.wait_until_gone("jobs", "flowers-train")


@pytest.mark.feature("T8")
def test_a_stopped_suspended_job_gets_a_pod_for_its_model(ready_world: World) -> None:
    """The pod publishes the model."""
    ready_world.create(training_job())
    ready_world.start_pod("flowers-train")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "True")
    ready_world.patch("trainingjobs", "flowers", {"spec": {"suspend": True}})
    ready_world.wait_for("jobs", "flowers-train", lambda job: job["spec"]["suspend"] is True)
    ready_world.patch("trainingjobs", "flowers", {"spec": {"stop": True}})
    ready_world.wait_for("jobs", "flowers-train", lambda job: job["spec"]["suspend"] is False)


# Several datasets, several nodes, earlier models


@pytest.mark.feature("D12")
def test_a_job_waits_for_all_datasets_and_trains_on_chosen_classes(ready_world: World) -> None:
    ready_world.create(training_job(datasets=[{"name": "flowers", "classes": ["roses"]}, {"name": "more"}]))
    running = ready_world.wait_for_condition("trainingjobs", "flowers", "Running", "False", reason="DatasetNotFound")
    assert "'more'" in running["message"]
    ready_world.create(dataset("more"))
    ready_world.succeed("more-prepare", prepared("b"))
    document = config_of(ready_world, "flowers-train")
    assert [(d["name"], d.get("classes")) for d in document["datasets"]] == [("flowers", ["roses"]), ("more", None)]
    shown = ready_world.wait_for("trainingjobs", "flowers", lambda job: job["status"].get("datasets"))
    names = [d["name"] for d in shown["status"]["datasets"]]
    assert names == ["flowers", "more"]


@pytest.mark.feature("T12")
def test_several_nodes_are_an_indexed_job_whose_pods_find_each_other(ready_world: World) -> None:
    ready_world.create(training_job(nodes=2, resources={"limits": {"nvidia.com/gpu": 4}}))
    spec = ready_world.wait_for("jobs", "flowers-train")["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    template = spec["template"]["spec"]
    assert template["subdomain"] == "flowers-train"
    assert template["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    service = ready_world.wait_for("services", "flowers-train")["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    document = config_of(ready_world, "flowers-train")
    rendezvous = f"flowers-train-0.flowers-train.{ready_world.namespace}.svc:29500"
    assert (document["nodes"], document["rendezvous"]) == (2, rendezvous)


@pytest.mark.feature("T3")
def test_a_job_starts_from_another_one_once_that_is_complete(ready_world: World) -> None:
    ready_world.create(training_job("tuned", initialModel={"trainingJob": "flowers"}))
    ready_world.wait_for_condition("trainingjobs", "tuned", "Running", "False", reason="InitialModelNotFound")
    ready_world.create(training_job())
    ready_world.wait_for_condition("trainingjobs", "tuned", "Running", "False", reason="InitialModelNotReady")
    ready_world.succeed("flowers-train", trained())
    initial = config_of(ready_world, "tuned-train")["initialModel"]
    assert initial["uri"].endswith("/model")
    assert initial["digest"] == "sha256:" + "d" * 64
    ready_world.wait_for("trainingjobs", "tuned", lambda job: "flowers/1" in job["status"].get("initialModel", ""))


@pytest.mark.feature("T5")
def test_processors_gpus_scratch_and_the_pods_place_are_as_asked(ready_world: World) -> None:
    resources = {"requests": {"cpu": 2}, "limits": {"memory": "8Gi", "nvidia.com/gpu": 2}}
    place = {"nodeSelector": {"gpu": "h200"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}
    ready_world.create(training_job(resources=resources, scratch="20Gi", podTemplate=place))
    pod = ready_world.wait_for("jobs", "flowers-train")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "2"}
    assert next(v for v in pod["volumes"] if v["name"] == "scratch")["emptyDir"]["sizeLimit"] == "20Gi"
    assert pod["nodeSelector"] == {"gpu": "h200"}
    assert {"key": "gpu", "operator": "Exists"} in pod["tolerations"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.feature("T6")
def test_a_model_that_mlflow_missed_is_registered_by_another_job(ready_world: World) -> None:
    ready_world.create(training_job())
    ready_world.succeed("flowers-train", trained(version=None))
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="NotRegistered")
    job = ready_world.wait_for("jobs", "flowers-register")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "register"
    ready_world.succeed("flowers-register", trained("4"))
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="Trained")
    status = ready_world.wait_for("trainingjobs", "flowers")["status"]
    assert (status["model"]["display"], status["phase"]) == ("flowers/4", "Complete")


def test_a_model_of_the_release_before_is_registered_with_its_config_map(ready_world: World) -> None:
    ready_world.create(training_job())
    job = ready_world.wait_for("jobs", "flowers-train")
    name = f"flowers-train-{job['metadata']['annotations']['bloomery.dev/spec-hash']}"
    ready_world.delete("secrets", name)
    ready_world.succeed("flowers-train", trained(version=None))
    registration = ready_world.wait_for("jobs", "flowers-register")
    (volume,) = (v for v in registration["spec"]["template"]["spec"]["volumes"] if v["name"] == "config")
    assert volume["configMap"]["name"] == name


@pytest.mark.feature("T13")
def test_lost_pods_and_failures_are_counted_apart(ready_world: World, trainer: Trainer) -> None:
    saved = {"step": 400, "uri": "s3://b/checkpoints/step-000000400.pt", "time": "2026-05-01T11:00:00Z"}
    trainer.progress = lambda: {"step": 410, "totalSteps": 6000, "starts": 3, "lastCheckpoint": saved}
    ready_world.create(training_job())
    ready_world.start_pod("flowers-train", ip=trainer.address)
    ready_world.patch("jobs", "flowers-train", {"status": {"failed": 1}}, subresource="status")

    def counted(job: Manifest) -> bool:
        status = job.get("status", {})
        return (status.get("restarts"), status.get("preemptions")) == (1, 1)

    status = ready_world.wait_for("trainingjobs", "flowers", counted)["status"]
    assert status["lastCheckpoint"]["step"] == 400
    rules = ready_world.wait_for("jobs", "flowers-train")["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob", "Ignore", "Ignore"]
    ready_world.succeed("flowers-train", trained() | {"starts": 3}, pod="flowers-train-0")
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")


@pytest.mark.feature("T7")
def test_the_tensorboard_field_counts_after_the_end_as_well(ready_world: World) -> None:
    ready_world.create(training_job())
    ready_world.succeed("flowers-train", trained())
    ready_world.wait_for_condition("trainingjobs", "flowers", "Complete", "True")
    ready_world.patch("trainingjobs", "flowers", {"spec": {"tensorboard": True}})

    def names_tensorboard(job: Manifest) -> bool:
        return "service/flowers-tensorboard 6006:6006" in job["status"].get("tensorboardURL", "")

    ready_world.wait_for("trainingjobs", "flowers", names_tensorboard)
    (container,) = ready_world.wait_for("deployments", "flowers-tensorboard")["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "tensorboard"
    ready_world.wait_for("services", "flowers-tensorboard")
    ready_world.patch("trainingjobs", "flowers", {"spec": {"tensorboard": False}})
    ready_world.wait_until_gone("deployments", "flowers-tensorboard")
    ready_world.wait_until_gone("services", "flowers-tensorboard")
    ready_world.wait_for("trainingjobs", "flowers", lambda job: "tensorboardURL" not in job["status"])


@pytest.mark.feature("T7")
def test_a_deleted_service_of_a_tensorboard_is_made_again(ready_world: World) -> None:
    ready_world.create(training_job(tensorboard=True))
    before = ready_world.wait_for("services", "flowers-tensorboard")["metadata"]["uid"]
    ready_world.wait_for("trainingjobs", "flowers", lambda job: "tensorboardURL" in job.get("status", {}))
    ready_world.delete("services", "flowers-tensorboard")
    ready_world.wait_for("services", "flowers-tensorboard", lambda service: service["metadata"]["uid"] != before)


@pytest.mark.feature("T7")
def test_a_tensorboard_takes_no_foreign_object(ready_world: World) -> None:
    """The job reports the conflict until the name is free."""
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        # As a copy of ours would be: with our labels, but not made by us.
        "metadata": {"name": "flowers-tensorboard", "labels": {"app.kubernetes.io/managed-by": "bloomery"}},
        "spec": {"ports": [{"port": 80}]},
    }
    before = ready_world.create(theirs)["metadata"]["resourceVersion"]
    ready_world.create(training_job(tensorboard=True))
    board = ready_world.wait_for_condition("trainingjobs", "flowers", "TensorBoardReady", "False", reason="NameTaken")
    assert "'flowers-tensorboard'" in board["message"]
    job = ready_world.wait_for("trainingjobs", "flowers")
    assert "tensorboardURL" not in job["status"]

    ready_world.patch("trainingjobs", "flowers", {"spec": {"tensorboard": False}})
    ready_world.wait_until_gone("deployments", "flowers-tensorboard")
    ready_world.wait_for("trainingjobs", "flowers", lambda job: not condition_of(job, "TensorBoardReady"))
    assert ready_world.wait_for("services", "flowers-tensorboard")["metadata"]["resourceVersion"] == before

    ready_world.patch("trainingjobs", "flowers", {"spec": {"tensorboard": True}})
    ready_world.wait_for_condition("trainingjobs", "flowers", "TensorBoardReady", "False", reason="NameTaken")
    ready_world.delete("services", "flowers-tensorboard")
    ready_world.wait_for("trainingjobs", "flowers", lambda job: "tensorboardURL" in job["status"])
