"""The run in MLflow, kept by a thread of its own: a slow or absent server never holds up training.

What is to be recorded waits in memory until the server takes it. Only the end of the run waits for it,
and only for so long.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from bloomery_trainer.mlflow_artifacts import require_reachable
from bloomery_trainer.mlflow_server import experiment, in_words
from bloomery_trainer.tracking import lineage
from bloomery_trainer.tracking.logger import no_run_document
from bloomery_trainer.tracking.system_metrics import PREFIX, SystemMetrics

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

_CHUNK = 1000
_PARAMS = 100
_BUFFER = 1_000_000
_FLUSH_SECONDS = 1.0
_LONGEST_PAUSE = 30.0
_LAST_SECONDS = 30.0
_DIGEST = 36
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow's pages show the curves of a training first, not those of a language model's answers."""


@dataclass(frozen=True)
class RunRef:
    """A run in MLflow."""

    experiment_id: str
    run_id: str


@dataclass(frozen=True, kw_only=True)
class RunMetadata:
    """The metadata of a run from its start."""

    experiment: str
    name: str
    uid: str
    description: str | None
    tags: Mapping[str, str]
    parameters: Mapping[str, Any]
    datasets: tuple[lineage.DatasetInput, ...]
    began: float | None = None
    """The time of its begin, in seconds since 1970, if not now."""


@dataclass
class MlflowRun:
    """One run in MLflow; metrics are sent by a thread of its own from ``start`` until ``close``."""

    client: MlflowClient
    metadata: RunMetadata
    _metrics: deque[Metric] = field(default_factory=lambda: deque(maxlen=_BUFFER), init=False)
    _run: RunRef | None = field(default=None, init=False)
    _known: dict[str, tuple[int, float]] = field(default_factory=dict, init=False)
    _system: SystemMetrics | None = field(default=None, init=False)
    _wake: threading.Event = field(default_factory=threading.Event, init=False)
    _closing: threading.Event = field(default_factory=threading.Event, init=False)
    _sending: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def run(self) -> RunRef | None:
        """The run, once the server has made it."""
        return self._run

    def run_document(self) -> dict[str, str | None]:
        """Return the run's ids, or None for each until the server has made it."""
        if self._run is None:
            return no_run_document()
        return {"experimentId": self._run.experiment_id, "runId": self._run.run_id}

    def begin(self, step: int) -> None:
        """Do nothing: the server knows how far an earlier process came."""

    def start(self) -> None:
        """Start to record in the background, the metrics of the machine too."""
        self._system = SystemMetrics(self.log)
        self._system.start()
        threading.Thread(target=self._send_until_closed, name="mlflow", daemon=True).start()

    def log(self, metrics: Mapping[str, float], step: int, *, at: float | None = None) -> None:
        """Take metrics of a step and return at once; ``at`` is when they were measured, if not now."""
        moment = int((time.time() if at is None else at) * 1000)
        self._metrics.extend(Metric(key, value, moment, step) for key, value in metrics.items())

    def flush(self) -> RunRef:
        """Send all that waits, now; raise what MLflow raises."""
        with self._sending:
            return self._send_metrics()

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED, if there is one and the server answers soon enough."""
        self._closing.set()
        self._wake.set()
        if self._system is not None:
            self._system.stop()
        if self._run is None:
            return
        last = threading.Thread(target=self._report_end, args=(self._run, status), name="mlflow-end", daemon=True)
        last.start()
        last.join(_LAST_SECONDS)
        if last.is_alive():
            logger.warning("the end of the run could not be reported to MLflow: no answer in %.0f s", _LAST_SECONDS)

    def _report_end(self, run: RunRef, status: str) -> None:
        try:
            self.flush()
            self.client.set_terminated(run.run_id, status)
        except Exception as error:
            logger.warning("the end of the run could not be reported to MLflow: %s", in_words(error))

    def _send_until_closed(self) -> None:
        pause = _FLUSH_SECONDS
        while not self._closing.is_set():
            try:
                self.flush()
                pause = _FLUSH_SECONDS
            except Exception as error:
                if pause == _FLUSH_SECONDS:
                    logger.warning("MLflow does not take the run, training goes on without it: %s", in_words(error))
                pause = min(2 * pause, _LONGEST_PAUSE)
            self._wake.wait(pause)

    def _send_metrics(self) -> RunRef:
        if self._run is None:
            self._run = self._open_run()
        while self._metrics:
            chunk = [self._metrics[i] for i in range(min(_CHUNK, len(self._metrics)))]
            news = [metric for metric in map(self._continued, chunk) if self._is_new(metric)]
            if news:
                self.client.log_batch(self._run.run_id, metrics=news)
            for _ in chunk:
                self._metrics.popleft()
        return self._run

    def _continued(self, metric: Metric) -> Metric:
        """Continue the numbering of the machine's metrics after those of an earlier process."""
        if not metric.key.startswith(PREFIX):
            return metric
        last, _ = self._known.get(metric.key, (-1, 0.0))
        return Metric(metric.key, metric.value, metric.timestamp, metric.step + last + 1)

    def _is_new(self, metric: Metric) -> bool:
        """Return whether an earlier process has not logged it already; steps after a checkpoint are trained twice."""
        last, value = self._known.get(metric.key, (-1, 0.0))
        final = metric.step == 0 and metric.value != value
        return bool(metric.step > last or final)

    def _open_run(self) -> RunRef:
        home = experiment(self.client, self.metadata.experiment, _KIND)
        query = f"tags.`{lineage.UID_TAG}` = '{self.metadata.uid}'"
        runs = self.client.search_runs([home], query, max_results=1)
        if runs:
            # Only this has each metric's last step.
            run = self.client.get_run(runs[0].info.run_id)
            self._known = {metric.key: (metric.step, metric.value) for metric in run.data._metric_objs}
            self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            tags_of_run = {lineage.UID_TAG: self.metadata.uid}
            began = None if self.metadata.began is None else int(self.metadata.began * 1000)
            run = self.client.create_run(home, start_time=began, run_name=self.metadata.name, tags=tags_of_run)
        require_reachable(str(run.info.artifact_uri), str(self.client.tracking_uri))
        run_id = str(run.info.run_id)
        self._describe_run(run_id, known=run.data.params)
        logger.info("MLflow run %s in experiment %r", run_id, self.metadata.experiment)
        return RunRef(home, run_id)

    def _describe_run(self, run_id: str, *, known: Mapping[str, str]) -> None:
        metadata = self.metadata
        tags = dict(metadata.tags)
        if metadata.description:
            tags["mlflow.note.content"] = metadata.description
        # A parameter cannot be changed, and a newer image may have another default than the run began with.
        params = [Param(key, str(value)) for key, value in metadata.parameters.items() if key not in known]
        self.client.log_batch(run_id, params=params[:_PARAMS], tags=[RunTag(key, value) for key, value in tags.items()])
        context = [InputTag("mlflow.data.context", "training")]
        inputs = [DatasetInput(_dataset_entity(used), context) for used in metadata.datasets]
        self.client.log_inputs(run_id, inputs)


def _dataset_entity(used: lineage.DatasetInput) -> Dataset:
    return Dataset(
        name=used.name,
        digest=used.version[:_DIGEST],
        source_type=used.uri.partition(":")[0],
        source=json.dumps({"uri": used.uri}),
    )
