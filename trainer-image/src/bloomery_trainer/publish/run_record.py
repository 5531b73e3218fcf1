"""The record of a run: its loggers while it trains, and its publication when it ends.

Metrics go to TensorBoard's event files always, and to MLflow where a server is named. Nothing here ever fails a run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bloomery_trainer.config import TrainConfig
from bloomery_trainer.publish.mlflow_publisher import Images, MlflowPublisher, TrainedModel, open_publisher
from bloomery_trainer.recipe import Recipe
from bloomery_trainer.storage import Folder
from bloomery_trainer.tracking.logger import CompositeLogger, RunLogger

if TYPE_CHECKING:
    from bloomery_trainer.tracking.tensorboard import TensorBoardLogger

logger = logging.getLogger(__name__)


class RunRecord(CompositeLogger):
    """The loggers of a run as one, with the publication of what it has made; without arguments, nothing is recorded."""

    def __init__(self, events: TensorBoardLogger | None = None, publisher: MlflowPublisher | None = None) -> None:
        self._events = events
        self._publisher = publisher
        loggers: list[RunLogger] = [] if events is None else [events]
        super().__init__(loggers if publisher is None else [*loggers, publisher.run])

    def register(self, model: TrainedModel) -> str | None:
        """Hand over the model and its reports; return the version it got, or None if it got none."""
        if self._events is not None:
            self._events.complete()
        return None if self._publisher is None else self._publisher.register(model)

    def promote(self, version: str, model: TrainedModel, images: Images) -> dict[str, Any] | None:
        """Move the registry's alias to the version if it is good enough: {alias, moved, message}.

        Returns None if no promotion is asked for. ``images`` are needed only if the present model has to be judged
        again.
        """
        return None if self._publisher is None else self._publisher.promote(version, model, images)

    def report(self, reports: Path, metrics: Mapping[str, float], *, evaluated_on: str) -> None:
        """Hand over reports and figures without a model; the figures are of that split."""
        if self._events is not None:
            self._events.complete()
        if self._publisher is not None:
            self._publisher.report(reports, metrics, evaluated_on=evaluated_on)

    def log_file(self, path: Path) -> None:
        """Keep a file with the run."""
        if self._publisher is not None:
            self._publisher.log_file(path)


def open_record(
    config: TrainConfig,
    recipe: Recipe | None,
    environment: Mapping[str, str],
    *,
    output: Folder | None = None,
    scratch: Path | None = None,
    origin: str | None = None,
) -> RunRecord:
    """Open the record: at $MLFLOW_TRACKING_URI, and in ``scratch``/tensorboard with its copy in ``output``."""
    folder = None if scratch is None else scratch / "tensorboard"
    publisher = None
    if environment.get("MLFLOW_TRACKING_URI"):
        publisher = open_publisher(config, recipe, environment, events=folder, live=True, origin=origin)
    else:
        logger.info("MLFLOW_TRACKING_URI is not set: nothing is recorded in MLflow")
    if output is None or folder is None:
        return RunRecord(None, publisher)
    from bloomery_trainer.tracking.tensorboard import TensorBoardLogger

    return RunRecord(TensorBoardLogger(folder, output), publisher)
