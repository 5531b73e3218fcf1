"""Names and time stamps in the output folder of a training."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bloomery_trainer.config import TrainConfig

RESULT = "result.json"
"""Written last, as the proof that the training has ended."""

LOG = "train.log"

CHECKPOINTS = "checkpoints"
"""The folder of saved states, ``step-000001234.pt`` each."""

EVENTS = "tensorboard"
"""The folder of TensorBoard's event files."""


def model_uri(config: TrainConfig) -> str:
    """Return the address of the model's own folder."""
    return f"{config.output.uri.rstrip('/')}/model"


def timestamp() -> str:
    """Return the current time as checkpoints and attempts are marked with it, such as ``2026-01-31T12:00:00Z``."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
