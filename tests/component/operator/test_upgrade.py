"""Upgrades of the operator: finished work is not repeated, and running Jobs continue."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.api_server import REPO, ApiServer, install_kinds
from testing.operator_process import OperatorProcess, running
from testing.samples import dataset, prepared
from testing.simulated_controllers import World
from testing.waiting import eventually

STORED = Path(__file__).resolve().parents[2] / "unit" / "operator" / "stored"
DIGEST = "a" * 64
SPEC_HASH = "bloomery.dev/spec-hash"
LABELS = {"Dataset": "bloomery.dev/dataset", "TrainingJob": "bloomery.dev/trainingjob"}

Stored = dict[str, Any]


def stored_objects(kind: str) -> list[Stored]:
    """Return the objects of a kind that earlier versions stored, with their hashes."""
    entries = [entry for path in sorted(STORED.glob("*.yaml")) for entry in yaml.safe_load(path.read_text("utf-8"))]
    return [entry for entry in entries if entry["object"]["kind"] == kind]


def create(world: World, entry: Stored) -> Stored:
    """Create a stored object under a name that shows its kind; return it with its new uid."""
    manifest = copy.deepcopy(entry["object"])
    metadata = manifest["metadata"]
    fields = {
        "name": f"{manifest['kind'][0].lower()}-{metadata['name']}",
        "annotations": metadata.get("annotations", {}),
    }
    return world.create(manifest | {"metadata": fields})


def report(world: World, plural: str, manifest: Stored, status: Stored) -> None:
    """Write the status that the earlier operator left, of a generation before, so that a reconcile shows in it."""
    world.patch(
        plural, manifest["metadata"]["name"], {"status": status | {"observedGeneration": 0}}, subresource="status"
    )


def wait_until_reconciled(world: World, plural: str, manifest: Stored) -> Stored:
    """Wait until the operator has looked at an object."""
    generation = manifest["metadata"]["generation"]
    return world.wait_for(
        plural, manifest["metadata"]["name"], lambda m: m["status"].get("observedGeneration") == generation
    )


def condition(type_: str, reason: str) -> Stored:
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {"type": type_, "status": "True", "reason": reason, "message": "So it is.", "lastTransitionTime": now}


def prepared_status(entry: Stored) -> Stored:
    uri = f"s3://bloomery/datasets/demo/flowers/{DIGEST}"
    version = {"ordinal": 1, "version": DIGEST, "images": 40, "created": "2026-05-01T11:00:00Z", "uri": uri}
    return {
        "phase": "Ready",
        "preparedSpec": entry["hashes"]["hash"],
        "version": DIGEST,
        "versions": [version],
        "uri": uri,
        "images": 40,
        "classCount": 2,
        "conditions": [condition("Ready", "Prepared")],
    }


def complete_status() -> Stored:
    complete = condition("Complete", "Trained")
    return {
        "phase": "Complete",
        "conditions": [complete],
        "completionTime": complete["lastTransitionTime"],
        "model": {"name": "flowers", "version": "1", "uri": "s3://bloomery/models/demo/flowers/uid/model"},
    }


def running_job(owner: Stored, command: str, job_hash: str) -> Stored:
    """Return the Job that the earlier operator made, as far as an operator looks at it."""
    name = owner["metadata"]["name"]
    labels = {
        "app.kubernetes.io/managed-by": "bloomery",
        "app.kubernetes.io/name": command,
        "app.kubernetes.io/instance": name,
        LABELS[owner["kind"]]: name,
    }
    reference = {
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": name, "uid": owner["metadata"]["uid"],
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    container = {"name": "trainer", "image": "example/trainer:1"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{name}-{command}",
            "labels": labels,
            "annotations": {SPEC_HASH: job_hash, "bloomery.dev/datasets": "[]"},
            "ownerReferences": [reference],
        },
        "spec": {
            "template": {
                "metadata": {"labels": labels},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            }
        },
    }


def start_and_pass_a_marker(operator: OperatorProcess, world: World) -> None:
    """Wait until a Dataset that came last has its Job: what came before has been looked at, too."""
    world.create(dataset("marker"))
    world.wait_for("jobs", "marker-prepare")


@pytest.mark.feature("O4")
def test_finished_objects_of_an_earlier_version_get_no_job(own_operator: OperatorProcess, world: World) -> None:
    datasets = [(entry, create(world, entry)) for entry in stored_objects("Dataset")]
    jobs = [(entry, create(world, entry)) for entry in stored_objects("TrainingJob")]
    for entry, manifest in datasets:
        report(world, "datasets", manifest, prepared_status(entry))
    for _, manifest in jobs:
        report(world, "trainingjobs", manifest, complete_status())

    with running(own_operator):
        for _, manifest in datasets:
            after = wait_until_reconciled(world, "datasets", manifest)
            assert (after["status"]["phase"], after["status"]["version"]) == ("Ready", DIGEST)
        for _, manifest in jobs:
            after = wait_until_reconciled(world, "trainingjobs", manifest)
            assert after["status"]["phase"] == "Complete"
        start_and_pass_a_marker(own_operator, world)
        assert world.names("jobs") == {"marker-prepare"}


@pytest.mark.feature("O4")
def test_running_jobs_of_an_earlier_version_go_on(own_operator: OperatorProcess, world: World) -> None:
    made = {}
    for kind, command in (("Dataset", "prepare"), ("TrainingJob", "train")):
        for entry in stored_objects(kind):
            job = world.create(running_job(create(world, entry), command, entry["hashes"]["job_hash"]))
            made[job["metadata"]["name"]] = job["metadata"]["uid"]

    with running(own_operator):
        start_and_pass_a_marker(own_operator, world)
        after = {job["metadata"]["name"]: job["metadata"]["uid"] for job in world.list("jobs")}
        assert {name: uid for name, uid in after.items() if name != "marker-prepare"} == made
        assert not [job for job in world.list("jobs") if "deletionTimestamp" in job["metadata"]]


@pytest.fixture
def kind_without_warnings(crds: ApiServer, world: World) -> Iterator[None]:
    """Install Datasets as an earlier release has them, without ``status.warnings``."""
    kind = yaml.safe_load((REPO / "crds" / "datasets.yaml").read_text(encoding="utf-8"))
    schema = kind["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["status"]["properties"]["warnings"]
    done = crds.kubectl("apply", "--server-side", "--filename=-", input=kind)
    assert done.returncode == 0, done.stderr
    probe = dataset(name="probe") | {"status": {"warnings": ["a"]}}
    probe["metadata"]["namespace"] = world.namespace
    world.create(dataset(name="probe"))

    def is_refused() -> bool:
        arguments = ("apply", "--server-side", "--subresource=status", "--dry-run=server", "--filename=-")
        return "not declared" in crds.kubectl(*arguments, input=json.dumps(probe)).stderr

    try:
        eventually(is_refused, "the API server refuses status.warnings")
        yield
    finally:
        install_kinds(crds)
        eventually(lambda: not is_refused(), "the API server takes status.warnings")


@pytest.mark.feature("O4")
@pytest.mark.usefixtures("kind_without_warnings")
def test_field_that_an_earlier_kind_lacks_is_left_out_alone(world: World, own_operator: OperatorProcess) -> None:
    world.create(dataset())
    with running(own_operator):
        world.succeed("flowers-prepare", prepared() | {"warnings": ["exclude matches no image: x"]})
        world.wait_for_condition("datasets", "flowers", "Ready", "True")
    status = world.wait_for("datasets", "flowers")["status"]
    assert status["images"] and "warnings" not in status
    assert "kind Dataset has no status.warnings, so it is not shown" in own_operator.log_text()


@pytest.fixture
def cluster_without_batch_predictions(crds: ApiServer) -> Iterator[None]:
    """Remove the kind that an earlier release does not have."""
    crd = "crd/batchpredictions.bloomery.dev"
    done = crds.kubectl("delete", crd, "--timeout=60s")
    assert done.returncode == 0, done.stderr
    yield
    install_kinds(crds)


@pytest.mark.feature("O4")
@pytest.mark.usefixtures("cluster_without_batch_predictions")
def test_operator_works_without_a_kind_that_an_earlier_release_lacks(
    world: World, own_operator: OperatorProcess
) -> None:
    with running(own_operator):
        world.create(dataset())
        world.succeed("flowers-prepare", prepared())
        world.wait_for_condition("datasets", "flowers", "Ready", "True")

    assert "the cluster has no kind BatchPrediction yet" in own_operator.log_text()
