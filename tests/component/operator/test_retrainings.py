"""Retrainings: one TrainingJob for each trigger, and its result in the status."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from testing.kubernetes_api import Manifest, condition_of
from testing.samples import dataset, prepared, retraining, trained
from testing.simulated_controllers import World, config_of
from testing.waiting import eventually

pytestmark = [pytest.mark.feature("S23"), pytest.mark.usefixtures("operator")]

DAILY = "0 0 * * *"
ERROR = {"error": {"reason": "BadShard", "message": "train-00000.tar is damaged."}}


def today() -> str:
    """Return the last time of the daily schedule."""
    return datetime.now(UTC).strftime("%Y-%m-%dT00:00:00Z")


def miss_schedule(world: World, name: str = "flowers") -> None:
    """Let the schedule have been due thrice since the last training, as after an absence of the operator."""
    long_ago = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%dT00:00:00Z")
    world.patch("retrainings", name, {"status": {"lastScheduleTime": long_ago}}, subresource="status")


def trainings(world: World) -> list[Manifest]:
    """Return the TrainingJobs of the Retraining, the oldest first."""
    jobs = [job for job in world.list("trainingjobs") if "bloomery.dev/trigger" in job["metadata"]["annotations"]]
    return sorted(jobs, key=lambda job: int(trigger_of(job)["number"]))


def trigger_of(job: Manifest) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(job["metadata"]["annotations"]["bloomery.dev/trigger"])
    return document


def wait_for_training(world: World, count: int = 1) -> str:
    """Wait until the Retraining has made its ``count``-th training and waits for its end; return its name."""
    status = world.wait_for(
        "retrainings", "flowers", lambda m: m["status"].get("trainings") == count and m["status"].get("active")
    )["status"]
    assert status["phase"] == "Training"
    return str(status["active"])


def wait_for_result(world: World, status: str) -> Manifest:
    """Wait until no training goes on and the last one has succeeded or failed; return the condition."""
    world.wait_for("retrainings", "flowers", lambda m: "active" not in m["status"])
    return world.wait_for_condition("retrainings", "flowers", "TrainingSucceeded", status)


def add_version(world: World, version: str, *, images: int) -> None:
    """Prepare another version of the Dataset."""
    former = world.wait_for("jobs", "flowers-prepare")["metadata"]["uid"]
    change = {"metadata": {"annotations": {"bloomery.dev/refresh": version}}}
    world.patch("datasets", "flowers", change)
    world.wait_for("jobs", "flowers-prepare", lambda job: job["metadata"]["uid"] != former)
    for pod in world.names("pods"):
        if pod.startswith("flowers-prepare"):
            world.delete("pods", pod)
    world.succeed("flowers-prepare", prepared(version, images=images))
    world.wait_for("datasets", "flowers", lambda d: d["status"]["version"] == version * 64)
    world.wait_for_condition("datasets", "flowers", "Ready", "True")


def test_a_missed_schedule_makes_one_training_of_the_template(ready_world: World) -> None:
    world = ready_world
    world.create(retraining(schedule=DAILY, training={"description": "Daily."}))
    waiting = world.wait_for_condition("retrainings", "flowers", "Ready", "True", reason="Waiting")
    assert (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT00:00:00Z") in waiting["message"]
    miss_schedule(world)
    name = wait_for_training(world)
    (job,) = trainings(world)
    retraining_ = world.get("retrainings", "flowers")
    assert retraining_ is not None
    (reference,) = job["metadata"]["ownerReferences"]
    assert (reference["kind"], reference["uid"], reference["controller"]) == (
        "Retraining",
        retraining_["metadata"]["uid"],
        True,
    )
    assert job["spec"]["description"] == "Daily."
    assert job["spec"]["output"]["registeredModel"] == "flowers"
    tags = config_of(world, f"{name}-train")["mlflow"]["tags"]
    assert tags == {"bloomery.dev/retraining": "flowers", "bloomery.dev/trigger": f"schedule {today()}"}

    world.succeed(f"{name}-train", trained())
    succeeded = wait_for_result(world, "True")
    assert succeeded["reason"] == "Trained" and name in succeeded["message"]
    status = world.wait_for("retrainings", "flowers")["status"]
    assert (status["phase"], status["lastScheduleTime"]) == ("Waiting", today())
    (entry,) = status["history"]
    assert (entry["name"], entry["cause"], entry["phase"], entry["model"]) == (
        name,
        f"schedule {today()}",
        "Complete",
        "flowers/1",
    )
    assert len(trainings(world)) == 1


def test_versions_that_come_during_a_training_begin_one_more(ready_world: World) -> None:
    world = ready_world
    world.create(retraining(onNewVersion=True))
    first = wait_for_training(world)
    for version, images in (("b", 50), ("c", 60)):
        add_version(world, version, images=images)
    assert [job["metadata"]["name"] for job in trainings(world)] == [first]
    world.succeed(f"{first}-train", trained("1"))
    second = wait_for_training(world, 2)
    (_, job) = trainings(world)
    assert trigger_of(job)["cause"] == "version cccccccccccc of Dataset flowers with 20 more images"
    world.wait_for("trainingjobs", second, lambda m: m["status"].get("datasets"))
    world.succeed(f"{second}-train", trained("2"))
    wait_for_result(world, "True")
    status = world.wait_for("retrainings", "flowers")["status"]
    assert status["datasets"] == [{"name": "flowers", "version": "c" * 64, "images": 60}]
    assert (status["phase"], status["trainings"]) == ("Waiting", 2)


def test_too_few_new_images_begin_no_training(ready_world: World) -> None:
    world = ready_world
    world.create(retraining(minNewImages=15))
    world.succeed(f"{wait_for_training(world)}-train", trained("1"))
    wait_for_result(world, "True")
    add_version(world, "b", images=50)
    add_version(world, "c", images=54)
    assert world.wait_for("retrainings", "flowers")["status"]["trainings"] == 1
    add_version(world, "d", images=55)
    wait_for_training(world, 2)
    assert trigger_of(trainings(world)[1])["cause"].endswith("with 15 more images")


def test_a_failed_training_is_reported_and_tried_at_the_next_trigger_only(ready_world: World) -> None:
    world = ready_world
    world.create(retraining(onNewVersion=True))
    first = wait_for_training(world)
    world.fail(f"{first}-train", ERROR, exit_code=3)
    failed = wait_for_result(world, "False")
    assert failed["reason"] == "TrainingJobFailed" and "train-00000.tar is damaged." in failed["message"]
    events = [event for event in world.list("events") if event["involvedObject"]["kind"] == "Retraining"]
    assert {event["type"] for event in events if event["reason"] == "TrainingJobFailed"} == {"Warning"}
    # A change of anything else is no trigger.
    changed = world.patch("retrainings", "flowers", {"spec": {"historyLimit": 2}})
    generation = changed["metadata"]["generation"]
    world.wait_for("retrainings", "flowers", lambda m: m["status"]["observedGeneration"] == generation)
    assert len(trainings(world)) == 1
    for number, version in ((2, "b"), (3, "c")):
        add_version(world, version, images=40 + 10 * number)
        name = wait_for_training(world, number)
        if number == 2:
            world.fail(f"{name}-train", ERROR, exit_code=3)
            again = wait_for_result(world, "False")
            assert name in again["message"]
    reported = [
        event["message"]
        for event in world.list("events")
        if event["involvedObject"]["kind"] == "Retraining" and event["reason"] == "TrainingJobFailed"
    ]
    # An Event of each failure: the next night's is news, too.
    assert len(reported) == len({message.split("'")[1] for message in reported}) == 2
    world.succeed(f"{name}-train", trained())
    wait_for_result(world, "True")
    phases = [entry["phase"] for entry in world.wait_for("retrainings", "flowers")["status"]["history"]]
    assert phases == ["Complete", "Failed"]


def test_two_triggers_at_once_make_one_training(world: World) -> None:
    world.create(retraining(schedule=DAILY, onNewVersion=True))
    missing = world.wait_for_condition("retrainings", "flowers", "Ready", "False", reason="DatasetNotFound")
    assert "There is no Dataset 'flowers' in this namespace" in missing["message"]
    world.patch("retrainings", "flowers", {"spec": {"suspend": True}})
    world.wait_for_condition("retrainings", "flowers", "Ready", "True", reason="Suspended")
    world.create(dataset())
    world.succeed("flowers-prepare", prepared())
    world.wait_for_condition("datasets", "flowers", "Ready", "True")
    miss_schedule(world)
    assert trainings(world) == []
    world.patch("retrainings", "flowers", {"spec": {"suspend": False}})
    name = wait_for_training(world)
    (job,) = trainings(world)
    assert trigger_of(job)["cause"] == (
        f"schedule {today()}; version aaaaaaaaaaaa of Dataset flowers with 40 more images"
    )
    world.succeed(f"{name}-train", trained())
    wait_for_result(world, "True")
    assert len(trainings(world)) == 1


def test_the_last_trainings_are_kept_and_a_deleted_one_is_not_repeated(ready_world: World) -> None:
    world = ready_world
    world.create(retraining(onNewVersion=True, historyLimit=1))
    first = wait_for_training(world)
    world.delete("trainingjobs", first)
    world.wait_for("retrainings", "flowers", lambda m: m["status"]["phase"] == "Waiting")
    assert trainings(world) == []
    names = []
    for number, version in enumerate("bc", start=2):
        add_version(world, version, images=40 + number)
        names.append(wait_for_training(world, number))
        world.succeed(f"{names[-1]}-train", trained(str(number)))
        wait_for_result(world, "True")
    world.wait_until_gone("trainingjobs", names[0])
    eventually(
        lambda: [entry["name"] for entry in world.wait_for("retrainings", "flowers")["status"]["history"]] == names[1:],
        "the history has the last one",
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"schedule": "0 0 31 2 *"}, "no cron schedule: Bad day-of-month"),
        ({"schedule": "0 0 * * 5-1"}, "no cron schedule: Bad day-of-week"),
        ({"schedule": DAILY, "timeZone": "Europe/Atlantis"}, "timeZone beside spec.schedule is 'Europe/Atlantis'"),
    ],
)
def test_a_schedule_that_is_none_is_reported_in_a_sentence(world: World, fields: dict[str, str], sentence: str) -> None:
    world.create(retraining(**fields))
    ready = world.wait_for_condition("retrainings", "flowers", "Ready", "False", reason="InvalidSchedule")
    assert sentence in ready["message"]
    manifest = world.wait_for("retrainings", "flowers")
    assert (manifest["status"]["phase"], condition_of(manifest, "Stalled")["status"]) == ("Failed", "True")
    world.patch("retrainings", "flowers", {"spec": {"schedule": DAILY, "timeZone": "Europe/Berlin"}})
    world.create(dataset())
    world.wait_for_condition("retrainings", "flowers", "Ready", "True", reason="Waiting")
