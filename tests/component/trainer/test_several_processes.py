"""Several processes start from one model, resume from one checkpoint and end as one process would."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from testing.processes import free_port
from tests.component.trainer.conftest import TOKEN, Trainer, Trainers
from tests.component.trainer.test_interruption import starts

Config = Callable[..., dict[str, Any]]
PAIR = {"BLOOMERY_PROCESSES": "2", "OMP_NUM_THREADS": "1"}

FAMILIES = [
    pytest.param("resnet18", 32, 1, id="resnet18-once"),
    *(
        pytest.param(preset, side, 3, id=preset, marks=pytest.mark.extended)
        for preset, side in (
            ("resnet18", 32),
            ("mobilenet-v3-small", 32),
            ("googlenet", 64),
            ("convnext-tiny", 32),
            ("efficientnet-b0", 32),
        )
    ),
]


@pytest.fixture
def start_pod(trainers: Trainers) -> Callable[[Mapping[str, Any]], Trainer]:
    """Starts a training on one pod with two processes."""
    return lambda config: trainers.start(config, PAIR)


@pytest.fixture
def start_nodes(trainers: Trainers) -> Callable[[Mapping[str, Any]], list[Trainer]]:
    """Starts a training on two nodes of one process each; the first one is the leader."""

    def start(config: Mapping[str, Any]) -> list[Trainer]:
        together = {**config, "nodes": 2, "rendezvous": f"127.0.0.1:{free_port()}"}
        return [
            trainers.start(together, {"JOB_COMPLETION_INDEX": str(number), "OMP_NUM_THREADS": "1"}) for number in (0, 1)
        ]

    return start


@pytest.fixture
def model_uri(trainers: Trainers, train_config: Config, tmp_path: Path) -> str:
    """The folder of a model that was trained for a step."""
    trainers.run(train_config("first", {"maxSteps": 1}))
    return f"file://{tmp_path}/first/model"


@pytest.mark.feature("T3")
@pytest.mark.feature("T12")
def test_two_processes_of_one_pod_start_from_a_model(
    start_pod: Callable[..., Trainer], train_config: Config, model_uri: str
) -> None:
    pod = start_pod(train_config("pair", {"maxSteps": 3}, initialModel={"uri": model_uri}))

    assert pod.wait() == 0, pod.log[-2000:]
    assert "with its 3 classes" in " ".join(pod.message["notes"])


@pytest.mark.feature("T8")
@pytest.mark.feature("T23")
def test_all_processes_stop_computing_features_together(
    start_pod: Callable[..., Trainer], train_config: Config, model_uri: str
) -> None:
    # No setting of steps: the head alone is fitted, on features that take a while at this size.
    by_steps = dict.fromkeys(("maxSteps", "augmentation", "learningRate"))
    head = {**by_steps, "imageSize": 224, "trainable": "Head"}
    pod = start_pod(train_config("stopped", head, initialModel={"uri": model_uri}))
    pod.until(lambda progress: bool(progress))
    assert pod.post_stop(TOKEN) == 202

    assert pod.wait() == 0, pod.log[-2000:]
    assert pod.message["reason"] == "Stopped"
    # A batch of four images by the leader; of the other process what it had when it knew.
    note = re.search(r"It was stopped after (\d+) of (\d+) training images", " ".join(pod.message["notes"]))
    assert note is not None, pod.message["notes"]
    assert 4 < int(note[1]) < int(note[2])


@pytest.mark.extended
@pytest.mark.feature("T3")
@pytest.mark.feature("T12")
def test_two_nodes_start_from_a_model(
    start_nodes: Callable[..., list[Trainer]], train_config: Config, model_uri: str
) -> None:
    nodes = start_nodes(train_config("nodes", {"maxSteps": 3}, initialModel={"uri": model_uri}))

    assert [node.wait() for node in nodes] == [0, 0], nodes[1].log[-2000:]
    assert "with its 3 classes" in " ".join(nodes[0].message["notes"])


@pytest.mark.feature("T13")
@pytest.mark.parametrize(("preset", "side", "times"), FAMILIES)
def test_two_processes_terminated_end_as_undisturbed(
    trainers: Trainers, train_config: Config, tmp_path: Path, preset: str, side: int, times: int
) -> None:
    hyperparameters = {"maxSteps": 40, "imageSize": side}
    changes = {"preset": preset, "checkpoint": {"everySeconds": 3600}}
    undisturbed = trainers.run(train_config("undisturbed", hyperparameters, **changes), PAIR).message
    points = sorted(random.Random(7).sample(range(1, 21), times))
    config = train_config("terminated", hyperparameters, **changes)
    for point in points:
        pod = trainers.start(config, PAIR)
        # A loss is there once this start has done steps of its own.
        pod.until(lambda progress, point=point: progress.get("step", 0) >= point and "loss" in progress)
        assert pod.terminate() == 143, pod.log[-2000:]
    ended = trainers.run(config, PAIR).message

    assert ended["metrics"] == undisturbed["metrics"]
    assert ended["starts"] == times + 1
    assert starts(tmp_path / "terminated")[1:] == sorted(set(starts(tmp_path / "terminated")[1:]))


@pytest.mark.extended
@pytest.mark.feature("T13")
def test_two_nodes_terminated_resume_at_one_step(
    start_nodes: Callable[..., list[Trainer]], train_config: Config, tmp_path: Path
) -> None:
    config = train_config("nodes", {"maxSteps": 16}, checkpoint={"everySeconds": 3600})
    first = start_nodes(config)
    first[0].until(lambda progress: progress.get("step", 0) >= 4)
    assert first[1].terminate() == 143
    assert first[0].wait() == 143
    second = start_nodes(config)

    assert [node.wait() for node in second] == [0, 0], second[1].log[-2000:]
    assert second[0].message["starts"] == 2
    assert starts(tmp_path / "nodes")[1] >= 4
