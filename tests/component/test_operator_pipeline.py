"""The whole way, from one apply to a served model, and what kubectl shows of it."""

from __future__ import annotations

from tests.component.conftest import ApiServer
from tests.component.operator_harness import (
    OperatorProcess,
    World,
    condition_of,
    dataset,
    inference_service,
    prepared,
    trained,
    training_job,
)


def test_one_apply_of_all_three_ends_in_a_served_model(operator: OperatorProcess, world: World) -> None:
    for manifest in (inference_service(), training_job(), dataset()):
        world.create(manifest)
    waiting = world.wait_for_condition("trainingjobs", "flowers", "Running", "False", reason="DatasetNotReady")
    assert "'flowers'" in waiting["message"]
    world.wait_for_condition("inferenceservices", "flowers", "Ready", "False", reason="WaitingForTraining")
    assert world.names("jobs") == {"flowers-prepare"} or world.wait_for("jobs", "flowers-prepare")

    world.succeed("flowers-prepare", prepared())
    world.wait_for_condition("datasets", "flowers", "Ready", "True")
    world.succeed("flowers-train", trained())
    world.wait_for_condition("trainingjobs", "flowers", "Complete", "True", reason="Trained")

    revision = world.revision("flowers", "v1")
    world.wait_for("secrets", "flowers-api-key")
    world.wait_for("services", revision)
    world.set_ready(revision, 1)
    world.wait_for_weights("flowers", {revision: 100})
    world.accept_route("flowers")
    ready = world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")
    assert "http://gateway.example" in ready["message"]
