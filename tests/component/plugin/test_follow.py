"""The command ``follow``."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.api_server import ApiServer
from testing.operator_process import OperatorProcess
from testing.samples import batch_prediction, trained, training_job
from testing.simulated_controllers import Trainer, World
from tests.component.plugin.conftest import Objects, Plugin, condition

PROGRESS = {
    "stage": "training", "epoch": 2, "step": 480, "totalSteps": 6000, "steps": "480/6000",
    "imagesPerSecond": 812.4, "eta": "11m", "loss": 0.41234,
}  # fmt: skip
TRAINING = {
    "phase": "Running",
    "conditions": [condition("Running", "True", "Training", "The trainer is training.")],
    "progress": PROGRESS,
    "metric": "top1 0.93",
}
COMPLETE = {
    "phase": "Complete",
    "conditions": [condition("Complete", "True", "Trained", "Registered as version 4 of model 'flowers'.")],
    "metrics": {"top1": 0.94, "f1": 0.9312},
    "model": {"name": "flowers", "version": "4", "display": "flowers/4", "uri": "s3://bloomery/flowers/model"},
}
FAILED = {
    "phase": "Failed",
    "conditions": [condition("Failed", "True", "ClassNotFound", "There is no class 'rose' in Dataset 'flowers'.")],
}


@pytest.mark.feature("O5")
def test_training_is_followed_from_pending_to_model(bloomery: Plugin, objects: Objects) -> None:
    waits = condition("Running", "False", "DatasetNotReady", "Dataset 'flowers' is not ready yet.")
    objects.create(training_job())
    followed = bloomery.start("follow", "flowers")
    followed.wait_for("Pending: no operator has seen it yet.")
    objects.report("trainingjob", "flowers", {"phase": "Pending", "conditions": [waits]})
    followed.wait_for("Pending: Dataset 'flowers' is not ready yet.")
    objects.report("trainingjob", "flowers", TRAINING)
    line = followed.wait_for("Running: ")
    objects.report("trainingjob", "flowers", COMPLETE)

    followed.wait_for("files: s3://bloomery/flowers/model")
    assert followed.wait() == 0
    assert line == ("Running: training: epoch 2, step 480/6000, 812 images/s, 11m left, loss 0.4123, top1 0.93")
    assert "Complete: Trained: Registered as version 4 of model 'flowers'." in followed.lines
    assert ["top1", "0.9400"] in [row.split() for row in followed.lines]
    assert "model: flowers/4" in followed.lines


@pytest.mark.feature("S22")
def test_batch_prediction_is_followed_to_its_counts(bloomery: Plugin, objects: Objects) -> None:
    running = {
        "phase": "Running",
        "conditions": [condition("Running", "True", "Predicting", "The images are being predicted.")],
        "progress": {"files": "4200/10000", "imagesPerSecond": 61.5, "eta": "1m34s"},
        "total": 10000, "images": 4199, "ignoredFiles": 1, "ignored": {"Format": 1},
        "model": {"display": "flowers/4"},
    }  # fmt: skip
    complete = running | {
        "phase": "Complete",
        "conditions": [condition("Complete", "True", "Predicted", "9999 images are predicted.")],
    }
    objects.create(batch_prediction(), running)
    followed = bloomery.start("follow", "bp/june")
    line = followed.wait_for("Running: ")
    objects.report("batchprediction", "june", complete)

    followed.wait_for("model: flowers/4")
    assert followed.wait() == 0
    assert line == "Running: predicting: 4200/10000 files, 62 images/s, 1m34s left"
    assert "Complete: Predicted: 9999 images are predicted." in followed.lines
    assert ["Format", "1"] in [row.split() for row in followed.lines]


@pytest.mark.feature("S22")
def test_kind_that_cannot_be_followed_is_refused(bloomery: Plugin) -> None:
    ended = bloomery("follow", "isvc/flowers")

    assert ended.returncode == 1
    assert "as tj/NAME or bp/NAME" in ended.stderr


@pytest.mark.feature("O5")
def test_failed_training_exits_with_1_and_reason(bloomery: Plugin, objects: Objects) -> None:
    objects.create(training_job(), FAILED)

    ended = bloomery("follow", "flowers")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: flowers failed: ClassNotFound: There is no class 'rose' in Dataset 'flowers'.\n"


@pytest.mark.feature("O5")
def test_terminal_shows_progress_bar(bloomery: Plugin, objects: Objects) -> None:
    objects.create(training_job(), TRAINING)
    # With FORCE_COLOR, Rich treats the output as a terminal.
    followed = bloomery.start("follow", "flowers", FORCE_COLOR="1", TERM="xterm")
    followed.wait_for("step 480/6000")
    objects.report("trainingjob", "flowers", COMPLETE)

    followed.wait_for("model: flowers/4")
    assert followed.wait() == 0
    assert any("━" in line for line in followed.lines)


@pytest.mark.feature("O5")
def test_ctrl_c_does_not_stop_the_job(bloomery: Plugin, objects: Objects) -> None:
    objects.create(training_job(), TRAINING)
    followed = bloomery.start("follow", "flowers")
    followed.wait_for("step 480/6000")
    os.killpg(followed.process.pid, signal.SIGINT)

    followed.wait_for("flowers goes on; kubectl bloomery follow flowers shows it again.")
    assert followed.wait() == 130
    assert objects.get("trainingjob", "flowers")["spec"].get("stop", False) is False


@pytest.mark.feature("O5")
def test_deleted_job_ends_with_error(bloomery: Plugin, objects: Objects, crds: ApiServer) -> None:
    objects.create(training_job(), TRAINING)
    followed = bloomery.start("follow", "flowers")
    followed.wait_for("step 480/6000")
    crds.kubectl("delete", "tj", "flowers", "-n", objects.namespace, "--wait=false")

    followed.wait_for("error: flowers was deleted.")
    assert followed.wait() == 1


@pytest.mark.feature("O5")
def test_missing_job_is_named(bloomery: Plugin) -> None:
    ended = bloomery("follow", "tulips")

    assert ended.returncode == 1
    assert ended.stderr == "error: There is no TrainingJob 'tulips' in this namespace; -n names another one.\n"


@pytest.mark.feature("O5")
def test_user_without_rights_gets_api_servers_message(
    bloomery: Plugin, crds: ApiServer, program: Callable[[str], Path], tmp_path: Path
) -> None:
    crds.kubectl("create", "serviceaccount", "guest", "-n", bloomery.namespace)
    token = crds.kubectl("create", "token", "guest", "-n", bloomery.namespace).stdout.strip()
    text = crds.kubeconfig.read_text().replace(crds.token, token)
    (tmp_path / "guest").write_text(text)

    ended = bloomery("follow", "flowers", KUBECONFIG=str(tmp_path / "guest"))

    assert ended.returncode == 1
    assert 'cannot get resource "trainingjobs"' in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.feature("O5")
def test_missing_kubectl_and_cluster_are_named(bloomery: Plugin) -> None:
    no_kubectl = bloomery("follow", "flowers", PATH="/nowhere")
    no_cluster = bloomery("follow", "flowers", KUBECONFIG="/dev/null")

    assert (no_kubectl.returncode, no_kubectl.stderr) == (1, "error: kubectl is not on the PATH.\n")
    assert no_cluster.returncode == 1
    assert no_cluster.stderr.startswith("error: The connection to the server localhost:8080 was refused")
    assert len(no_cluster.stderr.splitlines()) == 1


@pytest.mark.feature("O6")
def test_quota_that_refuses_the_pod_is_shown(bloomery: Plugin, operator: OperatorProcess, ready_world: World) -> None:
    ready_world.create(training_job())
    job = ready_world.wait_for("jobs", "flowers-train")
    followed = bloomery.start("follow", "flowers")
    message = 'Error creating: pods "flowers-train-x" is forbidden: failed quota: cpus: must specify limits.cpu'
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": "flowers-train", "uid": job["metadata"]["uid"]}
    ready_world.create(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "flowers-train."},
            "involvedObject": reference | {"namespace": ready_world.namespace},
            "type": "Warning",
            "reason": "FailedCreate",
            "message": message,
            "source": {"component": "job-controller"},
        }
    )
    followed.wait_for(f"Pending: A pod cannot be created: {message}")


@pytest.mark.feature("O5")
def test_progress_of_real_operator_is_shown(
    bloomery: Plugin, operator: OperatorProcess, ready_world: World, trainer: Trainer
) -> None:
    trainer.progress = lambda: {k: v for k, v in PROGRESS.items() if k not in ("steps", "eta")} | {"etaSeconds": 660}
    ready_world.create(training_job())
    followed = bloomery.start("follow", "flowers")
    pod = ready_world.start_pod("flowers-train", ip=trainer.address)
    followed.wait_for("step 480/6000, 812 images/s, 11m0s left")
    ready_world.succeed("flowers-train", trained(), pod=pod)

    followed.wait_for("model: flowers/")
    assert followed.wait() == 0
