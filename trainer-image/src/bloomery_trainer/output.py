"""What lies in the output folder of a training, by name."""

from __future__ import annotations

from bloomery_trainer.config import TrainConfig

RESULT = "result.json"
"""Written last, as the proof that the training has ended."""

LOG = "train.log"

CHECKPOINTS = "checkpoints"
"""The folder of saved states, `step-000001234.pt` each."""

EVENTS = "tensorboard"
"""The folder of TensorBoard's event files."""


def model_uri(config: TrainConfig) -> str:
    """Where the model's own folder is."""
    return f"{config.output.uri.rstrip('/')}/model"
