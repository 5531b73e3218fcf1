"""A training that is interrupted and resumed ends with the very weights of an undisturbed one, for every family."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import bloomery_trainer.torch_runtime  # noqa: F401  (settles how torch's threads wait, before torch is loaded)
from bloomery_trainer.commands.train import train
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.engine.trainer import Trainer
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.shutdown import Shutdown, Terminated

pytestmark = pytest.mark.feature("T13")

STEPS, INTERRUPTIONS = 14, (3, 8, 13)
"""96 images in batches of 16 are epochs of six steps: in the middle of each, and near the end of one."""

Trains = Callable[[str, int | None], dict[str, Any] | None]


@pytest.fixture
def trains(digits: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trains]:
    """Trains in this process, into a named folder; asked to end after a step, it returns None."""
    train_step = Trainer.train_step

    def of(preset: str, **hyperparameters: Any) -> Trains:
        def run(output: str, last_step: int | None) -> dict[str, Any] | None:
            shutdown = Shutdown()

            def step(trainer: Trainer, *arguments: Any) -> Any:
                outcome = train_step(trainer, *arguments)
                if trainer.state.step == last_step:
                    shutdown.terminate()
                return outcome

            monkeypatch.setattr(Trainer, "train_step", step)
            config = TrainConfig.model_validate({
                "kind": "train", "name": "a", "uid": "1", "datasets": [digits], "preset": preset,
                "initialModel": {"weights": "None"}, "checkpoint": {"everySeconds": 3600},
                "hyperparameters": {"batchSize": 16, "imageSize": 32, "augmentation": "Light", "maxSteps": STEPS,
                                    **hyperparameters},
                "mlflow": {"experiment": "a", "registeredModel": "a"}, "output": {"uri": f"file://{tmp_path}/{output}"},
            })  # fmt: skip
            try:
                return train(config, Progress(), shutdown)
            except Terminated:
                return None

        return run

    return of


@pytest.mark.parametrize(
    ("preset", "hyperparameters"),
    [
        pytest.param("resnet18", {}, id="resnet18"),
        pytest.param("mobilenet-v3-small", {}, id="mobilenet-v3-small"),
        pytest.param("resnet18", {"mixup": 0.2, "ema": 0.9}, id="mixup and ema", marks=pytest.mark.extended),
        pytest.param("googlenet", {}, id="googlenet", marks=pytest.mark.extended),
        pytest.param("convnext-tiny", {}, id="convnext-tiny", marks=pytest.mark.extended),
        pytest.param("efficientnet-b0", {}, id="efficientnet-b0", marks=pytest.mark.extended),
    ],
)
def test_resumed_thrice_a_training_ends_with_the_same_bits(
    trains: Callable[..., Trains], tmp_path: Path, preset: str, hyperparameters: dict[str, Any]
) -> None:
    run = trains(preset, **hyperparameters)
    undisturbed = run("undisturbed", None)
    assert [run("resumed", step) for step in INTERRUPTIONS] == [None] * 3
    resumed = run("resumed", None)

    assert undisturbed is not None
    assert resumed is not None
    attempts = json.loads((tmp_path / "resumed" / "attempts.json").read_text(encoding="utf-8"))
    assert [attempt["step"] for attempt in attempts] == [0, *INTERRUPTIONS]
    assert resumed["metrics"] == undisturbed["metrics"]
    expected, actual = (
        torch.load(tmp_path / folder / "model" / "state.pt", weights_only=True) for folder in ("undisturbed", "resumed")
    )
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
