"""The whole way from one apply to a served model, and its output in kubectl."""

from __future__ import annotations

import base64
import json

import pytest

from testing.api_server import ApiServer
from testing.kubernetes_api import condition_of
from testing.samples import dataset, inference_service, prepared, trained, training_job
from testing.simulated_controllers import World

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def served(world: World) -> World:
    """Give a namespace in which all three went their whole way after one apply."""
    for manifest in (inference_service(), training_job(), dataset()):
        world.create(manifest)
    world.wait_for_condition("trainingjobs", "flowers", "Running", "False", reason="DatasetNotReady")
    world.wait_for_condition("inferenceservices", "flowers", "Ready", "False", reason="WaitingForTraining")
    world.succeed("flowers-prepare", prepared())
    world.succeed("flowers-train", trained())
    revision = world.revision("flowers", "v1")
    world.set_ready(revision, 1)
    world.wait_for_weights("flowers", {revision: 100})
    world.accept_route("flowers")
    world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")
    return world


@pytest.mark.feature("T11")
def test_one_apply_of_all_three_ends_in_a_served_model(served: World, apiserver: ApiServer) -> None:
    flowers = served.get("datasets", "flowers")
    assert flowers is not None
    assert flowers["status"]["images"] == 40
    assert flowers["status"]["versions"][0]["ordinal"] == 1
    assert flowers["status"]["ignored"] == {"TooSmall": 1}

    job = served.get("trainingjobs", "flowers")
    assert job is not None
    status = job["status"]
    assert status["phase"] == "Complete"
    assert status["datasets"][0]["version"] == "a" * 64
    assert status["model"]["display"] == "flowers/1"
    assert status["metrics"]["top1"] == 0.9375
    assert status["mlflow"]["url"] == f"http://mlflow.example/#/experiments/7/runs/{'f' * 32}"
    assert not condition_of(job, "Failed")
    assert not condition_of(job, "Running")

    service = served.get("inferenceservices", "flowers")
    assert service is not None
    assert service["status"]["url"] == f"http://gateway.example/{served.namespace}/flowers"
    assert service["status"]["variants"][0]["model"] == "flowers/1"
    assert service["status"]["variants"][0]["trainingJob"] == "flowers"
    for type_ in ("Ready", "VariantsReady", "RouteReady"):
        assert condition_of(service, type_)["observedGeneration"] == service["metadata"]["generation"]

    for plural, condition in (("dset", "Ready"), ("tj", "Complete"), ("isvc", "Ready")):
        step = ("wait", f"--for=condition={condition}", "--timeout=5s", f"{plural}/flowers", "-n", served.namespace)
        done = apiserver.kubectl(*step)
        assert done.returncode == 0, done.stderr


def test_kubectl_get_shows_where_the_work_is(served: World, apiserver: ApiServer) -> None:
    def rows(plural: str) -> list[list[str]]:
        done = apiserver.kubectl("get", plural, "-n", served.namespace)
        assert done.returncode == 0, done.stderr
        return [line.split() for line in done.stdout.splitlines()]

    assert rows("dset")[0] == ["NAME", "PHASE", "IMAGES", "CLASSES", "AGE"]
    assert rows("dset")[1][:4] == ["flowers", "Ready", "40", "2"]
    assert rows("tj")[0] == ["NAME", "PHASE", "DATASET", "PRESET", "EPOCH", "STEP", "ETA", "METRIC", "MODEL", "AGE"]
    row = " ".join(rows("tj")[1])
    assert row.startswith("flowers Complete flowers resnet18")
    assert "top1 0.9375 flowers/1" in row
    assert rows("isvc")[0] == ["NAME", "PHASE", "READY", "TRAFFIC", "URL", "AGE"]
    url = f"http://gateway.example/{served.namespace}/flowers"
    assert rows("isvc")[1][:5] == ["flowers", "Running", "1/1", "v1=100", url]
    together = apiserver.kubectl("get", "bloomery", "-n", served.namespace)
    assert together.stdout.count("flowers") >= 3


def test_every_child_goes_with_its_owner(served: World) -> None:
    owners = {
        ("datasets", "Dataset"): [("jobs", "flowers-prepare")],
        ("trainingjobs", "TrainingJob"): [("jobs", "flowers-train")],
        ("inferenceservices", "InferenceService"): [
            ("deployments", served.revision("flowers", "v1")),
            ("services", served.revision("flowers", "v1")),
            ("httproutes", "flowers"),
            ("backendtrafficpolicies", "flowers"),
            ("secrets", "flowers-api-key"),
            ("secrets", "flowers-api-key-digests"),
            ("configmaps", f"{served.revision('flowers', 'v1')}-about"),
        ],
    }
    secrets = served.names("secrets")
    config_maps = served.names("configmaps")
    owners[("datasets", "Dataset")] += [("configmaps", n) for n in config_maps if n.startswith("flowers-prepare-")]
    owners[("trainingjobs", "TrainingJob")] += [("secrets", n) for n in secrets if n.startswith("flowers-train-")]
    assert [len(children) for children in owners.values()] == [2, 2, 7]
    for (plural, kind), children in owners.items():
        owner = served.get(plural, "flowers")
        assert owner is not None
        for child_plural, name in children:
            child = served.get(child_plural, name)
            assert child is not None
            (reference,) = child["metadata"]["ownerReferences"]
            assert (reference["kind"], reference["uid"]) == (kind, owner["metadata"]["uid"]), name
            assert reference["controller"], name


def test_the_pods_get_the_models_lineage_and_no_keys(served: World) -> None:
    (document,) = [
        json.loads(base64.b64decode(secret["data"]["config.json"]))
        for secret in served.list("secrets")
        if secret["metadata"]["name"].startswith("flowers-train-")
    ]
    job = served.get("trainingjobs", "flowers")
    assert job is not None
    assert document["uid"] == job["metadata"]["uid"]
    assert document["datasets"][0]["version"] == "a" * 64
    assert document["mlflow"]["experiment"] == f"{served.namespace}/flowers"

    deployment = served.get("deployments", served.revision("flowers", "v1"))
    assert deployment is not None
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    env = {entry["name"]: entry.get("value") for entry in server["env"]}
    assert env["MODEL_DIGEST"] == "sha256:" + "d" * 64
    assert (env["MODEL_NAME"], env["MODEL_VERSION"], env["TRAINING_JOB"]) == ("flowers", "1", "flowers")
    volumes = json.dumps(deployment["spec"]["template"]["spec"]["volumes"])
    assert "flowers-api-key-digests" in volumes
    assert '"flowers-api-key"' not in volumes


def test_nothing_that_goes_well_is_an_event(served: World) -> None:
    ours = ("Dataset", "TrainingJob", "InferenceService")
    events = [event for event in served.list("events") if event["involvedObject"]["kind"] in ours]
    # A wrong order is a warning, also if it is put right later.
    assert {event["type"] for event in events} <= {"Warning"}
    assert {event["reason"] for event in events} <= {"DatasetNotFound", "TrainingJobNotFound"}
