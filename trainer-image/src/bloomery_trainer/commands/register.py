"""The ``register`` command: hands a finished training to MLflow, which could not be reached when it ended."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from bloomery_trainer.config import TrainConfig
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.storage import S3Access, open_folder


def register(config: TrainConfig) -> dict[str, Any]:
    """Register what lies in the output folder and return the training's result, now with its model version."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise BadConfig("InvalidTrackingUri", "MLFLOW_TRACKING_URI is not set: there is nowhere to register to")
    from bloomery_trainer.publish.deferred import register_later

    output = open_folder(config.output.uri, S3Access.from_environment(os.environ))
    with tempfile.TemporaryDirectory(prefix="bloomery-") as scratch:
        return register_later(config, output, Path(scratch))
