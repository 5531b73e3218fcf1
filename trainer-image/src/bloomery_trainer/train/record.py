"""Where a run is recorded: MLflow, or nowhere if no server is named. Nothing here ever fails a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from bloomery_trainer.config import TrainConfig
from bloomery_trainer.train.recipe import Recipe

if TYPE_CHECKING:
    from bloomery_trainer.train.tracking import Tracker

log = logging.getLogger(__name__)

WAIT_SECONDS = 600.0
"""How long the end of a run waits for MLflow, unless $BLOOMERY_MLFLOW_WAIT_SECONDS says otherwise."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What a run has made: the local model directory and the local reports, the model's digest and figures."""

    folder: Path
    reports: Path
    digest: str
    classes: int
    metrics: Mapping[str, float]


class Record(Protocol):
    """One run's record."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes metrics of a step; returns at once."""

    def run_document(self) -> dict[str, str | None]:
        """The run's ids, or None for each while there is no run."""

    def register(self, model: TrainedModel) -> str | None:
        """Hands over the model and its reports; the version it got, or None if it got none."""

    def report(self, reports: Path, metrics: Mapping[str, float]) -> None:
        """Hands over reports and figures without a model."""

    def log_file(self, path: Path) -> None:
        """Keeps a file with the run."""

    def close(self, status: str) -> None:
        """Ends the run as FINISHED or FAILED."""


class NoRecord:
    """Without a server: the output folder alone tells of the run."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Does nothing."""

    def run_document(self) -> dict[str, str | None]:
        """There is no run."""
        return {"experimentId": None, "runId": None}

    def register(self, model: TrainedModel) -> str | None:
        """Registers nothing."""

    def report(self, reports: Path, metrics: Mapping[str, float]) -> None:
        """Takes nothing."""

    def log_file(self, path: Path) -> None:
        """Does nothing."""

    def close(self, status: str) -> None:
        """Does nothing."""


class MlflowRecord:
    """A run in MLflow, as far as MLflow can be reached."""

    def __init__(self, tracker: Tracker, config: TrainConfig, recipe: Recipe, *, wait_seconds: float) -> None:
        self._tracker = tracker
        self._config = config
        self._recipe = recipe
        self._wait_seconds = wait_seconds

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes metrics of a step; returns at once."""
        self._tracker.log(metrics, step)

    def run_document(self) -> dict[str, str | None]:
        """The run's ids."""
        run = self._tracker.run
        if run is None:
            return {"experimentId": None, "runId": None}
        return {"experimentId": run.experiment_id, "runId": run.run_id}

    def register(self, model: TrainedModel) -> str | None:
        """Waits for MLflow, up to the limit, and registers the model with it."""
        from bloomery_trainer.train import registry

        about = registry.ModelAbout(
            name=self._config.mlflow.registered_model,
            description=_description(self._config, model.metrics),
            tags=_version_tags(self._config),
            digest=model.digest,
            folder=model.folder,
            image_size=self._recipe.image_size,
            classes=model.classes,
        )

        def attempt() -> str:
            run = self._tracker.flush()
            for path in sorted(model.reports.iterdir()):
                self._tracker.client.log_artifact(run.run_id, str(path))
            self._tracker.client.log_artifact(run.run_id, str(model.folder / "labels.txt"))
            return registry.register(self._tracker.client, run, about)

        self._tracker.log(model.metrics, 0)
        return registry.within(self._wait_seconds, attempt)

    def report(self, reports: Path, metrics: Mapping[str, float]) -> None:
        """Waits for MLflow, up to the limit, and logs the reports and figures to the run."""
        from bloomery_trainer.train import registry

        def attempt() -> bool:
            run = self._tracker.flush()
            for path in sorted(reports.iterdir()):
                self._tracker.client.log_artifact(run.run_id, str(path))
            return True

        self._tracker.log(metrics, 0)
        registry.within(self._wait_seconds, attempt)

    def log_file(self, path: Path) -> None:
        """Keeps a file with the run, if there is one."""
        run = self._tracker.run
        if run is None:
            return
        try:
            self._tracker.client.log_artifact(run.run_id, str(path))
        except Exception as error:
            log.warning("MLflow did not take %s: %s", path.name, error)

    def close(self, status: str) -> None:
        """Ends the run."""
        self._tracker.close(status)


def open_record(config: TrainConfig, recipe: Recipe, environment: Mapping[str, str]) -> Record:
    """Begins the run's record at $MLFLOW_TRACKING_URI."""
    uri = environment.get("MLFLOW_TRACKING_URI")
    if not uri:
        log.info("MLFLOW_TRACKING_URI is not set: nothing is recorded in MLflow")
        return NoRecord()
    # Imported here: it takes seconds, and without a server nobody needs it.
    from bloomery_trainer.train import tracking

    about = tracking.RunAbout(
        experiment=config.mlflow.experiment,
        name=config.name,
        uid=config.uid,
        description=config.description or config.display_name,
        tags=_run_tags(config),
        parameters=_parameters(config, recipe),
        dataset_name=config.datasets[0].name,
        dataset_version=config.datasets[0].version,
        dataset_uri=config.datasets[0].uri,
    )
    tracker = tracking.Tracker(tracking.connect(uri), about)
    tracker.start()
    wait = float(environment.get("BLOOMERY_MLFLOW_WAIT_SECONDS") or WAIT_SECONDS)
    return MlflowRecord(tracker, config, recipe, wait_seconds=wait)


def _parameters(config: TrainConfig, recipe: Recipe) -> dict[str, str]:
    parameters = {"preset": config.preset, "metric": config.metric, **recipe.parameters()}
    return {key: str(value) for key, value in parameters.items()}


def _run_tags(config: TrainConfig) -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    tags = {**_lineage(config), "bloomery.dev/uid": config.uid, "bloomery.dev/device": device}
    if config.display_name:
        tags["bloomery.dev/display-name"] = config.display_name
    return {**config.mlflow.tags, **tags}


def _version_tags(config: TrainConfig) -> dict[str, str]:
    tags = {**_lineage(config), "bloomery.dev/uri": f"{config.output.uri.rstrip('/')}/model"}
    if config.mlflow.version_label:
        tags["bloomery.dev/version-label"] = config.mlflow.version_label
    return {**config.mlflow.tags, **tags}


def _lineage(config: TrainConfig) -> dict[str, str]:
    return {
        "bloomery.dev/trainingjob": f"{config.namespace}/{config.name}",
        "bloomery.dev/dataset": config.datasets[0].name,
        "bloomery.dev/dataset-version": config.datasets[0].version,
    }


def _description(config: TrainConfig, metrics: Mapping[str, float]) -> str:
    text = config.description or config.display_name or ""
    made = (
        f"{config.preset}, trained by {config.namespace}/{config.name} on {config.datasets[0].name} "
        f"{config.datasets[0].version[:12]}: top1 {metrics['top1']:.4f}"
    )
    return f"{text}\n\n{made}" if text else made
