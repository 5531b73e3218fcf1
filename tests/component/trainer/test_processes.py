"""Several processes train one model: on one node, or as the pods of several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.processes import free_port
from tests.component.trainer.conftest import Trainers
from tests.component.trainer.test_interruption import starts

Config = Callable[..., dict[str, Any]]


@pytest.fixture
def two_nodes(train_config: Config) -> Callable[..., dict[str, Any]]:
    """A training on two nodes, which meet on this machine."""
    rendezvous = f"127.0.0.1:{free_port()}"

    def config(output: str, *arguments: Any, **changes: Any) -> dict[str, Any]:
        return train_config(output, *arguments, **{"nodes": 2, "rendezvous": rendezvous, **changes})

    return config


def node(number: int) -> dict[str, str]:
    """Return the variables that Kubernetes sets for a pod of an Indexed Job."""
    return {"JOB_COMPLETION_INDEX": str(number), "OMP_NUM_THREADS": "1"}


@pytest.mark.feature("T12")
def test_two_nodes_reach_the_metric_of_one_on_equal_batches(
    trainers: Trainers, train_config: Config, two_nodes: Config, tmp_path: Path
) -> None:
    alone = trainers.run(train_config("alone")).message
    nodes = [trainers.start(two_nodes("together"), node(number)) for number in (0, 1)]

    assert [trainer.wait() for trainer in nodes] == [0, 0], nodes[1].log[-2000:]
    together = nodes[0].message
    assert together["lastCheckpoint"]["step"] == alone["lastCheckpoint"]["step"]
    assert together["metrics"]["top1"] == pytest.approx(alone["metrics"]["top1"], abs=0.12)
    assert "on 2 × cpu" in nodes[0].log
    assert (tmp_path / "together" / "model" / "metadata.json").exists()


@pytest.mark.extended
@pytest.mark.feature("T13")
def test_both_nodes_continue_from_one_checkpoint_after_a_loss(
    trainers: Trainers, two_nodes: Config, tmp_path: Path
) -> None:
    """The other node ends when it loses its peer."""
    first = [trainers.start(two_nodes("lost"), node(number)) for number in (0, 1)]
    first[0].until(lambda progress: progress.get("step", 0) >= 16)
    first[1].kill()

    assert first[0].wait() == 75, first[0].log[-2000:]
    assert first[0].message["error"]["reason"] == "PeerLost"
    again = [trainers.start(two_nodes("lost"), node(number)) for number in (0, 1)]
    assert [trainer.wait() for trainer in again] == [0, 0], again[0].log[-2000:]
    assert starts(tmp_path / "lost")[1] >= 7


@pytest.mark.extended
@pytest.mark.feature("T13")
def test_termination_of_one_node_makes_all_save_the_same_step(
    trainers: Trainers, two_nodes: Config, tmp_path: Path
) -> None:
    config = two_nodes("terminated", checkpoint={"everySeconds": 3600})
    nodes = [trainers.start(config, node(number)) for number in (0, 1)]
    nodes[0].until(lambda progress: progress.get("step", 0) >= 5)

    assert nodes[1].terminate() == 143
    assert nodes[0].wait() == 143
    assert len(list((tmp_path / "terminated" / "checkpoints").glob("*.pt"))) == 1


@pytest.mark.extended
@pytest.mark.feature("T12")
def test_two_processes_on_one_node_are_one_training(trainers: Trainers, train_config: Config) -> None:
    ended = trainers.run(train_config("pair", {"maxSteps": 12}), {"BLOOMERY_PROCESSES": "2"})

    assert ended.message["reason"] == "Trained"
    assert "on 2 × cpu" in ended.log


@pytest.mark.extended
def test_a_batch_that_cannot_be_shared_is_refused_in_words(trainers: Trainers, train_config: Config) -> None:
    trainer = trainers.start(train_config("odd", {"batchSize": 15}), {"BLOOMERY_PROCESSES": "2"})

    assert trainer.wait() == 2
    assert "make it a multiple of 2" in trainer.message["error"]["message"]
