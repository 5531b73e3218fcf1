"""Retrainings with a real registry: the champion to start from, and to beat."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bloomery_operator.manifests.retraining import DEFAULT_CONFIDENCE
from bloomery_trainer.config import Promotion
from bloomery_trainer.publish.comparison import Comparison, compare
from bloomery_trainer.publish.promotion import Candidate, promote
from testing.operator_process import OperatorProcess, running
from testing.samples import dataset, prepared, retraining, trained
from testing.servers import MlflowServer
from testing.simulated_controllers import World
from tests.component.mlflow.conftest import Registry

pytestmark = pytest.mark.feature("S23")

PROMOTE = {"output": {"promote": {"alias": "champion", "betterThanCurrent": True}}}
SEEDS = 20
IMAGES, CLASSES = 400, 10


@pytest.fixture
def registry(mlflow: MlflowServer, world: World) -> Registry:
    """Give a registered model of the namespace, without a champion."""
    return Registry(mlflow.client(), f"{world.namespace}.flowers")


@pytest.fixture
def own_operator(own_operator: OperatorProcess) -> OperatorProcess:
    """Give an operator that soon sees that an alias moved."""
    own_operator.set("BLOOMERY_RESYNC_SECONDS", "1")
    own_operator.set("BLOOMERY_REGISTRY_SECONDS", "0.5")
    return own_operator


@pytest.fixture
def ready_world(world: World, mlflow: MlflowServer, own_operator: OperatorProcess) -> World:
    """Give a namespace with a prepared Dataset, and with the server."""
    world.use_mlflow(mlflow.uri)
    with running(own_operator):
        world.create(dataset())
        world.succeed("flowers-prepare", prepared())
        world.wait_for_condition("datasets", "flowers", "Ready", "True")
    return world


def test_a_training_starts_from_the_champion_of_its_time(
    ready_world: World, own_operator: OperatorProcess, registry: Registry
) -> None:
    world = ready_world
    registry.champion(registry.add())
    with running(own_operator):
        world.create(retraining(onNewVersion=True, training=PROMOTE))
        # The champion was trained on the version that is there.
        world.wait_for("retrainings", "flowers", lambda m: m["status"].get("champion") == f"{registry.name}/1")
        assert world.names("trainingjobs") == set()
        registry.champion(registry.add())
        world.wait_for("retrainings", "flowers", lambda m: m["status"].get("champion") == f"{registry.name}/2")
        world.patch("datasets", "flowers", {"spec": {"append": [{"uri": "s3://flowers/more"}]}})
        world.wait_for_condition("datasets", "flowers", "Ready", "False")
        world.delete("pods", "flowers-prepare-0")
        world.succeed("flowers-prepare", prepared("b", images=50))
        name = world.wait_for("retrainings", "flowers", lambda m: m["status"].get("active"))["status"]["active"]
        job = world.wait_for("trainingjobs", name)
        assert job["spec"]["initialModel"] == {"mlflow": f"models:/{registry.name}/2"}
        assert job["spec"]["output"]["promote"]["confidence"] == DEFAULT_CONFIDENCE
        world.succeed(f"{name}-train", trained("3"))
        started = world.wait_for_condition("trainingjobs", name, "Complete", "True")
        assert started["reason"] == "Trained"
        assert world.wait_for("trainingjobs", name)["status"]["initialModel"] == f"{registry.name}/2"


def test_without_a_champion_a_training_starts_as_any_other(
    ready_world: World, own_operator: OperatorProcess, registry: Registry
) -> None:
    with running(own_operator):
        ready_world.create(retraining(onNewVersion=True, training=PROMOTE))
        status = ready_world.wait_for("retrainings", "flowers", lambda m: m["status"].get("active"))["status"]
        assert "initialModel" not in ready_world.wait_for("trainingjobs", status["active"])["spec"]
        assert "champion" not in status
        assert registry.name


def test_no_training_begins_while_the_champion_cannot_be_looked_up(
    ready_world: World, own_operator: OperatorProcess, mlflow: MlflowServer, registry: Registry
) -> None:
    registry.champion(registry.add())
    ready_world.use_mlflow("http://127.0.0.1:9")
    with running(own_operator):
        ready_world.create(retraining(onNewVersion=True, training=PROMOTE))
        ready_world.wait_for_condition("retrainings", "flowers", "Ready", "False", reason="RegistryUnreachable")
        ready_world.wait_for_condition("retrainings", "flowers", "Reconciling", "True")
        assert ready_world.names("trainingjobs") == set()
        ready_world.use_mlflow(mlflow.uri)
        ready_world.wait_for_condition("retrainings", "flowers", "Ready", "True", reason="Waiting")


def answers(labels: NDArray[np.int64], right: float, generator: np.random.Generator) -> NDArray[np.float32]:
    """Return the probabilities of a model that is right about a share of the images, by chance about which."""
    wrong = (labels + generator.integers(1, CLASSES, len(labels))) % CLASSES
    predictions = np.where(generator.random(len(labels)) < right, labels, wrong)
    return np.eye(CLASSES, dtype=np.float32)[predictions]


def moves(mlflow: MlflowServer, name: str, metric: str, *, champion: float, candidate: float, least_gain: float) -> int:
    """Return the number of seeds with which the alias moves from a champion to a candidate."""
    client, moved = mlflow.client(), 0
    policy = Promotion.model_validate(
        {"alias": "champion", "betterThanCurrent": True, "leastGain": least_gain, "confidence": DEFAULT_CONFIDENCE}
    )
    for seed in range(SEEDS):
        registry = Registry(client, f"{name}-{seed}")
        first, second = registry.add(), registry.add()
        registry.champion(first)
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, CLASSES, IMAGES)
        present, new = (answers(labels, right, generator) for right in (champion, candidate))

        def judge(
            _: object, metric: str, new: NDArray[np.float32] = new, present: NDArray[np.float32] = present,
            labels: NDArray[np.int64] = labels,
        ) -> tuple[Comparison, str]:  # fmt: skip
            return compare(metric, new, present, labels), "test"

        version = Candidate(name=registry.name, version=second, metric=metric, value=candidate, data={})
        promote(client, policy, version, judge)
        moved += client.get_model_version_by_alias(registry.name, "champion").version == second
    return moved


@pytest.mark.parametrize("metric", ["top1", "f1"])
def test_a_champion_that_is_as_good_stays(mlflow: MlflowServer, metric: str) -> None:
    assert moves(mlflow, f"same-{metric}", metric, champion=0.9, candidate=0.9, least_gain=0) <= 2


@pytest.mark.parametrize("metric", ["top1", "f1"])
def test_a_better_model_becomes_champion(mlflow: MlflowServer, metric: str) -> None:
    assert moves(mlflow, f"better-{metric}", metric, champion=0.88, candidate=0.96, least_gain=0.01) >= SEEDS - 1
