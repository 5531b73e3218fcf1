"""Where a run is recorded: MLflow, or nowhere if no server is named; and always in TensorBoard's event files.

Nothing here ever fails a run.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bloomery_trainer.config import TrainConfig
from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.engine.evaluation import Evaluation
from bloomery_trainer.mlflow_server import connect, in_words
from bloomery_trainer.model_folder import LABELS
from bloomery_trainer.recipe import Recipe
from bloomery_trainer.storage import Folder
from bloomery_trainer.tracking import lineage

if TYPE_CHECKING:
    from bloomery_trainer.tracking.mlflow_run import RunRef, Tracker
    from bloomery_trainer.tracking.tensorboard import EventLog, Scalar

log = logging.getLogger(__name__)

WAIT_SECONDS = 600.0
"""How long the end of a run waits for MLflow, unless $BLOOMERY_MLFLOW_WAIT_SECONDS says otherwise."""

Images = Callable[[], LocalDataset]
"""Gives the images that a model is judged by: its test images where there are any, else those for validation."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What a run has made: the local model directory and the local reports, the model's digest and figures."""

    folder: Path
    reports: Path
    digest: str
    classes: int
    metrics: Mapping[str, float]
    evaluation: Evaluation | None = None
    """The answers that the figures are made of; None where they are no longer in memory."""
    evaluated_on: str | None = None
    """The split that the figures are of: test or validation."""
    quantization: Mapping[str, Any] | None = None
    """What came of it, where another form of numbers was asked for."""

    @property
    def is_int8(self) -> bool:
        """Whether model.onnx computes in int8."""
        return self.quantization is not None and bool(self.quantization["kept"])


class Record(Protocol):
    """One run's record."""

    def begin(self, step: int) -> None:
        """Training goes on after `step`, or begins after 0; called before the first `log`."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes metrics of a step; returns at once."""

    def run_document(self) -> dict[str, str | None]:
        """The run's ids, or None for each while there is no run."""

    def register(self, model: TrainedModel) -> str | None:
        """Hands over the model and its reports; the version it got, or None if it got none."""

    def promote(self, version: str, model: TrainedModel, images: Images) -> dict[str, Any] | None:
        """Moves the registry's alias to the version if it is good enough: {alias, moved, message}.

        None where no promotion is asked for. `images` are needed only if the present model has to be judged anew.
        """

    def report(self, reports: Path, metrics: Mapping[str, float], *, evaluated_on: str) -> None:
        """Hands over reports and figures without a model; the figures are of that split."""

    def log_file(self, path: Path) -> None:
        """Keeps a file with the run."""

    def close(self, status: str) -> None:
        """Ends the run as FINISHED, FAILED or KILLED."""


class NoRecord:
    """Without a server: the output folder alone tells of the run."""

    def begin(self, step: int) -> None:
        """Does nothing."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Does nothing."""

    def run_document(self) -> dict[str, str | None]:
        """There is no run."""
        return {"experimentId": None, "runId": None}

    def register(self, model: TrainedModel) -> str | None:
        """Registers nothing."""

    def promote(self, version: str, model: TrainedModel, images: Images) -> dict[str, Any] | None:
        """There is no registry."""

    def report(self, reports: Path, metrics: Mapping[str, float], *, evaluated_on: str) -> None:
        """Takes nothing."""

    def log_file(self, path: Path) -> None:
        """Does nothing."""

    def close(self, status: str) -> None:
        """Does nothing."""


class EventRecord:
    """Another record, with every metric also in TensorBoard's event files."""

    def __init__(self, events: EventLog, other: Record) -> None:
        self._events = events
        self._other = other

    def begin(self, step: int) -> None:
        """Voids what an earlier process logged of later steps."""
        self._events.begin(step)
        self._other.begin(step)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes metrics of a step; returns at once."""
        self._events.log(metrics, step)
        self._other.log(metrics, step)

    def run_document(self) -> dict[str, str | None]:
        """The run's ids."""
        return self._other.run_document()

    def register(self, model: TrainedModel) -> str | None:
        """Completes the events, which go with the model."""
        self._events.complete()
        return self._other.register(model)

    def promote(self, version: str, model: TrainedModel, images: Images) -> dict[str, Any] | None:
        """Moves the registry's alias if the version is good enough."""
        return self._other.promote(version, model, images)

    def report(self, reports: Path, metrics: Mapping[str, float], *, evaluated_on: str) -> None:
        """Hands over reports and figures without a model."""
        self._events.complete()
        self._other.report(reports, metrics, evaluated_on=evaluated_on)

    def log_file(self, path: Path) -> None:
        """Keeps a file with the run."""
        self._other.log_file(path)

    def close(self, status: str) -> None:
        """Ends the run."""
        self._events.close()
        self._other.close(status)


class MlflowRecord:
    """A run in MLflow, as far as MLflow can be reached."""

    def __init__(self, tracker: Tracker, config: TrainConfig, *, wait_seconds: float, events: Path | None) -> None:
        self._tracker = tracker
        self._config = config
        self._wait_seconds = wait_seconds
        self._events = events

    def begin(self, step: int) -> None:
        """MLflow itself is asked how far an earlier process came."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes metrics of a step; returns at once."""
        self._tracker.log(metrics, step)

    def replay(self, scalar: Scalar) -> None:
        """Takes one value of a run that is over."""
        self._tracker.log({scalar.name: scalar.value}, scalar.step, at=scalar.time)

    def run_document(self) -> dict[str, str | None]:
        """The run's ids."""
        run = self._tracker.run
        if run is None:
            return {"experimentId": None, "runId": None}
        return {"experimentId": run.experiment_id, "runId": run.run_id}

    def register(self, model: TrainedModel) -> str | None:
        """Waits for MLflow, up to the limit, and registers the model with it."""
        try:
            return self.register_or_raise(model)
        except Exception as error:
            log.warning("MLflow did not take the model: %s", in_words(error))
            return None

    def register_or_raise(self, model: TrainedModel) -> str:
        """The same, raising what MLflow raised last."""
        from bloomery_trainer.publish import registry

        config = self._config
        about = registry.ModelAbout(
            name=config.mlflow.registered_model,
            model_description=lineage.describe_job(config),
            description=lineage.describe_version(config, model.metrics),
            tags=lineage.version_tags(config, model.digest, int8=model.is_int8, evaluated_on=model.evaluated_on),
            digest=model.digest,
            folder=model.folder,
        )

        def attempt() -> str:
            run = self._hand_over(model.reports, model.evaluated_on)
            self._tracker.client.log_artifact(run.run_id, str(model.folder / LABELS))
            return registry.register(self._tracker.client, run, about)

        self._tracker.log(model.metrics, 0)
        return registry.within(self._wait_seconds, attempt)

    def promote(self, version: str, model: TrainedModel, images: Images) -> dict[str, Any] | None:
        """Moves the registry's alias if the version is good enough; what hinders it is said in the message."""
        wanted = self._config.mlflow.promote
        if wanted is None:
            return None
        from bloomery_trainer.publish import promotion, registry

        candidate = promotion.Candidate(
            name=self._config.mlflow.registered_model,
            version=version,
            metric=self._config.metric,
            value=model.metrics[self._config.metric],
            data=lineage.data_tags(self._config),
        )
        judge = promotion.remembered(
            promotion.PairedJudge(images, model.evaluation, model.folder, self._config.output.uri)
        )
        try:
            return registry.within(
                self._wait_seconds, lambda: promotion.promote(self._tracker.client, wanted, candidate, judge)
            )
        except Exception as error:
            log.warning("the alias %s could not be moved: %s", wanted.alias, in_words(error))
            return {"alias": wanted.alias, "moved": False, "message": f"MLflow did not move it: {in_words(error)}"}

    def report(self, reports: Path, metrics: Mapping[str, float], *, evaluated_on: str) -> None:
        """Waits for MLflow, up to the limit, and logs the reports and figures to the run."""
        from bloomery_trainer.publish import registry

        self._tracker.log(metrics, 0)
        try:
            registry.within(self._wait_seconds, lambda: self._hand_over(reports, evaluated_on))
        except Exception as error:
            log.warning("MLflow did not take the report: %s", in_words(error))

    def log_file(self, path: Path) -> None:
        """Keeps a file with the run, if there is one."""
        run = self._tracker.run
        if run is None:
            return
        try:
            self._tracker.client.log_artifact(run.run_id, str(path))
        except Exception as error:
            log.warning("MLflow did not take %s: %s", path.name, in_words(error))

    def close(self, status: str) -> None:
        """Ends the run."""
        self._tracker.close(status)

    def _hand_over(self, reports: Path, evaluated_on: str | None) -> RunRef:
        """Sends the metrics that wait, which images they are of, the reports and the events."""
        run, client = self._tracker.flush(), self._tracker.client
        if evaluated_on is not None:
            client.set_tag(run.run_id, lineage.EVALUATED_ON_TAG, evaluated_on)
        for path in sorted(reports.iterdir()):
            client.log_artifact(run.run_id, str(path))
        matrix = _confusion_matrix(reports / "evaluation.json")
        if matrix is not None:
            client.log_text(run.run_id, matrix, "confusion-matrix.csv")
        if self._events is not None and self._events.is_dir():
            client.log_artifacts(run.run_id, str(self._events), "tensorboard")
        return run


def open_record(
    config: TrainConfig,
    recipe: Recipe | None,
    environment: Mapping[str, str],
    *,
    output: Folder | None = None,
    scratch: Path | None = None,
    origin: str | None = None,
) -> Record:
    """Begins the run's record: at $MLFLOW_TRACKING_URI, and in `scratch`/tensorboard with its copy in `output`."""
    events = None if scratch is None else scratch / "tensorboard"
    record: Record
    if environment.get("MLFLOW_TRACKING_URI"):
        record = mlflow_record(config, recipe, environment, events=events, live=True, origin=origin)
    else:
        log.info("MLFLOW_TRACKING_URI is not set: nothing is recorded in MLflow")
        record = NoRecord()
    if output is None or events is None:
        return record
    from bloomery_trainer.tracking.tensorboard import EventLog

    return EventRecord(EventLog(events, output), record)


def mlflow_record(
    config: TrainConfig,
    recipe: Recipe | None,
    environment: Mapping[str, str],
    *,
    events: Path | None,
    live: bool,
    began: float | None = None,
    origin: str | None = None,
) -> MlflowRecord:
    """The run's record at $MLFLOW_TRACKING_URI; `live` while it trains, `began` where that is over.

    Without a recipe, only the explicit hyperparameters are recorded.
    `origin` says in words what training started from.
    """
    # Imported here: it takes seconds, and without a server nobody needs it.
    from bloomery_trainer.tracking import mlflow_run

    about = mlflow_run.RunAbout(
        experiment=config.mlflow.experiment,
        name=config.name,
        uid=config.uid,
        description=lineage.describe_job(config),
        tags=lineage.run_tags(config, device=lineage.device_name() if live else None),
        parameters=lineage.parameters(config, recipe, origin=origin),
        datasets=lineage.dataset_inputs(config),
        began=began,
    )
    tracker = mlflow_run.Tracker(connect(environment["MLFLOW_TRACKING_URI"]), about)
    if live:
        tracker.start()
    wait = float(environment.get("BLOOMERY_MLFLOW_WAIT_SECONDS") or WAIT_SECONDS)
    return MlflowRecord(tracker, config, wait_seconds=wait, events=events)


def _confusion_matrix(evaluation: Path) -> str | None:
    """The confusion matrix as CSV: rows are true classes, columns answers."""
    document = json.loads(evaluation.read_bytes()) if evaluation.exists() else {}
    matrix, names = document.get("confusionMatrix"), [entry["name"] for entry in document.get("classes", [])]
    if not matrix:
        return None
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["true \\ answer", *names])
    writer.writerows([name, *counts] for name, counts in zip(names, matrix, strict=True))
    return text.getvalue()
