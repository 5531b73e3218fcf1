"""The end of a run in MLflow: its files, its model and the promotion of that."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bloomery_model.folder import LABELS
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.engine.evaluation import Evaluation
from bloomery_trainer.mlflow_server import connect, in_words
from bloomery_trainer.recipe import Recipe
from bloomery_trainer.tracking import lineage

if TYPE_CHECKING:
    from bloomery_trainer.tracking.mlflow_run import MlflowRun, RunRef

logger = logging.getLogger(__name__)

WAIT_SECONDS = 600.0
"""The time that the end of a run waits for MLflow, unless $BLOOMERY_MLFLOW_WAIT_SECONDS is set."""

Images = Callable[[], LocalDataset]
"""Returns the images that a model is judged by: its test images where there are any, else those for validation."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The products of a run: the local model directory and the local reports, the model's digest and metrics."""

    folder: Path
    reports: Path
    digest: str
    classes: int
    metrics: Mapping[str, float]
    evaluation: Evaluation | None = None
    """The answers that the figures are made of; None if they are no longer in memory."""
    evaluated_on: str | None = None
    """The split that the figures are of: test or validation."""
    quantization: Mapping[str, Any] | None = None
    """The result of quantization, if it was requested."""
    calibration: Mapping[str, Any] | None = None
    """The temperature that the model divides its logits by, and the figures with and without it."""
    statistics: Mapping[str, Any] = field(default_factory=dict)
    """Thresholds of confidence, the reference for drift, and what describes the references, by their names in
    metadata.json."""

    @property
    def is_int8(self) -> bool:
        """Whether model.onnx computes in int8."""
        return self.quantization is not None and bool(self.quantization["kept"])


@dataclass(frozen=True, kw_only=True)
class MlflowPublisher:
    """Publishes what a run has made, as far as MLflow can be reached.

    Attributes:
        run: the run in MLflow.
        config: of the training.
        wait_seconds: how long to wait for the server.
        events: the local folder of TensorBoard's event files.
    """

    run: MlflowRun
    config: TrainConfig
    wait_seconds: float
    events: Path | None

    def register(self, model: TrainedModel) -> str | None:
        """Register the model, waiting for MLflow up to the limit; return its version, or None if it got none."""
        try:
            return self.register_or_raise(model)
        except Exception as error:
            logger.warning("MLflow did not take the model: %s", in_words(error))
            return None

    def register_or_raise(self, model: TrainedModel) -> str:
        """Register the model; raise what MLflow raised last."""
        from bloomery_trainer.publish import registry

        config = self.config
        metadata = registry.ModelMetadata(
            name=config.mlflow.registered_model,
            model_description=lineage.describe_job(config),
            description=lineage.describe_version(config, model.metrics),
            tags=lineage.version_tags(config, model.digest, int8=model.is_int8, evaluated_on=model.evaluated_on),
            digest=model.digest,
            folder=model.folder,
        )

        def attempt() -> str:
            run = self._hand_over(model.reports, model.evaluated_on)
            self.run.client.log_artifact(run.run_id, str(model.folder / LABELS))
            return registry.register(self.run.client, run, metadata)

        self.run.log(model.metrics, 0)
        return registry.retry_for(self.wait_seconds, attempt)

    def promote(self, version: str, model: TrainedModel, images: Images) -> dict[str, Any] | None:
        """Move the registry's alias to the version if it is good enough: {alias, moved, message}.

        Returns None if no promotion is asked for. ``images`` are needed only if the present model has to be judged
        again.
        """
        promotion_config = self.config.mlflow.promote
        if promotion_config is None:
            return None
        from bloomery_trainer.publish import promotion, registry

        candidate = promotion.Candidate(
            name=self.config.mlflow.registered_model,
            version=version,
            metric=self.config.metric,
            value=model.metrics[self.config.metric],
            data=lineage.data_tags(self.config),
        )
        paired = promotion.PairedJudge(images, model.evaluation, model.folder, self.config.output.uri)
        judge = promotion.remembered(paired)
        try:
            return registry.retry_for(
                self.wait_seconds, lambda: promotion.promote(self.run.client, promotion_config, candidate, judge)
            )
        except Exception as error:
            alias = promotion_config.alias
            logger.warning("the alias %s could not be moved: %s", alias, in_words(error))
            return {"alias": alias, "moved": False, "message": f"MLflow did not move it: {in_words(error)}"}

    def report(self, reports: Path, metrics: Mapping[str, float], *, evaluated_on: str) -> None:
        """Log reports and figures without a model; the figures are of that split."""
        from bloomery_trainer.publish import registry

        self.run.log(metrics, 0)
        try:
            registry.retry_for(self.wait_seconds, lambda: self._hand_over(reports, evaluated_on))
        except Exception as error:
            logger.warning("MLflow did not take the report: %s", in_words(error))

    def log_file(self, path: Path) -> None:
        """Keep a file with the run, if there is one."""
        run = self.run.run
        if run is None:
            return
        try:
            self.run.client.log_artifact(run.run_id, str(path))
        except Exception as error:
            logger.warning("MLflow did not take %s: %s", path.name, in_words(error))

    def _hand_over(self, reports: Path, evaluated_on: str | None) -> RunRef:
        """Send the metrics that wait, which images they are of, the reports and the events."""
        run, client = self.run.flush(), self.run.client
        if evaluated_on is not None:
            client.set_tag(run.run_id, lineage.EVALUATED_ON_TAG, evaluated_on)
        for path in sorted(reports.iterdir()):
            client.log_artifact(run.run_id, str(path))
        matrix = _confusion_matrix(reports / "evaluation.json")
        if matrix is not None:
            client.log_text(run.run_id, matrix, "confusion-matrix.csv")
        if self.events is not None and self.events.is_dir():
            client.log_artifacts(run.run_id, str(self.events), "tensorboard")
        return run


def open_publisher(
    config: TrainConfig,
    recipe: Recipe | None,
    environment: Mapping[str, str],
    *,
    events: Path | None,
    live: bool,
    began: float | None = None,
    origin: str | None = None,
) -> MlflowPublisher:
    """Open the run at $MLFLOW_TRACKING_URI.

    Args:
        config: of the training.
        recipe: all hyperparameters; None if only the explicit ones are known.
        environment: of the process.
        events: the local folder of TensorBoard's event files.
        live: whether the training runs now.
        began: when it began, in seconds since 1970, if it is over.
        origin: what training started from, in words.
    """
    # Imported here: it takes seconds, and without a server nobody needs it.
    from bloomery_trainer.tracking import mlflow_run

    metadata = mlflow_run.RunMetadata(
        experiment=config.mlflow.experiment,
        name=config.name,
        uid=config.uid,
        description=lineage.describe_job(config),
        tags=lineage.run_tags(config, device=lineage.device_name() if live else None),
        parameters=lineage.parameters(config, recipe, origin=origin),
        datasets=lineage.dataset_inputs(config),
        began=began,
    )
    run = mlflow_run.MlflowRun(connect(environment["MLFLOW_TRACKING_URI"]), metadata)
    if live:
        run.start()
    wait = float(environment.get("BLOOMERY_MLFLOW_WAIT_SECONDS") or WAIT_SECONDS)
    return MlflowPublisher(run=run, config=config, wait_seconds=wait, events=events)


def _confusion_matrix(evaluation: Path) -> str | None:
    """Return the confusion matrix as CSV: rows are true classes, columns answers."""
    document = json.loads(evaluation.read_bytes()) if evaluation.exists() else {}
    matrix, names = document.get("confusionMatrix"), [entry["name"] for entry in document.get("classes", [])]
    if not matrix:
        return None
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["true \\ answer", *names])
    writer.writerows([name, *counts] for name, counts in zip(names, matrix, strict=True))
    return text.getvalue()
