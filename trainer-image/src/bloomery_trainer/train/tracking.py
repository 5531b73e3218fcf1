"""The run in MLflow, kept by a thread of its own: a slow or absent server never holds up training.

What is to be recorded waits in memory until the server takes it. Only at the end does somebody wait for it,
and only for so long.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

# Read when mlflow is imported. Its own retries would block for minutes at a time; ours happen in the thread.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.logging_utils import disable_logging

from bloomery_trainer.errors import BadConfig

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

UID_TAG = "bloomery.dev/uid"
"""Marks a run as the one of a TrainingJob: a pod that is started again continues it."""

_CHUNK = 1000
_PARAMS = 100
_BUFFER = 1_000_000
_FLUSH_SECONDS = 1.0
_LONGEST_PAUSE = 30.0
_SYSTEM_SECONDS = 5
_DIGEST = 36


@dataclass(frozen=True)
class RunRef:
    """A run in MLflow."""

    experiment_id: str
    run_id: str


@dataclass(frozen=True, kw_only=True)
class RunAbout:
    """What a run is recorded with from its start."""

    experiment: str
    name: str
    uid: str
    description: str | None
    tags: Mapping[str, str]
    parameters: Mapping[str, Any]
    dataset_name: str
    dataset_version: str
    dataset_uri: str


@dataclass
class Tracker:
    """One run's record. `start` it, `log` to it, `flush` it, `close` it."""

    client: MlflowClient
    about: RunAbout
    _metrics: deque[Metric] = field(default_factory=lambda: deque(maxlen=_BUFFER), init=False)
    _run: RunRef | None = field(default=None, init=False)
    _monitor: SystemMetricsMonitor | None = field(default=None, init=False)
    _wake: threading.Event = field(default_factory=threading.Event, init=False)
    _closing: threading.Event = field(default_factory=threading.Event, init=False)
    _sending: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def run(self) -> RunRef | None:
        """The run, once the server has made it."""
        return self._run

    def start(self) -> None:
        """Begins to record in the background."""
        threading.Thread(target=self._work, name="mlflow", daemon=True).start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes metrics of a step; returns at once."""
        now = int(time.time() * 1000)
        self._metrics.extend(Metric(key, value, now, step) for key, value in metrics.items())

    def flush(self) -> RunRef:
        """Sends all that waits, now; raises what MLflow raises."""
        with self._sending:
            return self._send()

    def close(self, status: str) -> None:
        """Ends the run as FINISHED or FAILED, if there is one and the server listens."""
        self._closing.set()
        self._wake.set()
        try:
            if self._monitor is not None:
                self._monitor.finish()  # type: ignore[no-untyped-call]
            if self._run is not None:
                self.flush()
                self.client.set_terminated(self._run.run_id, status)
        except Exception as error:
            log.warning("MLflow could not be told that the run has ended: %s", in_words(error))

    def _work(self) -> None:
        pause = _FLUSH_SECONDS
        while not self._closing.is_set():
            try:
                self.flush()
                pause = _FLUSH_SECONDS
            except Exception as error:
                if pause == _FLUSH_SECONDS:
                    log.warning("MLflow does not answer, training goes on without it: %s", in_words(error))
                pause = min(2 * pause, _LONGEST_PAUSE)
            self._wake.wait(pause)

    def _send(self) -> RunRef:
        if self._run is None:
            self._run = self._begin()
            self._watch_system(self._run)
        while self._metrics:
            chunk = [self._metrics[i] for i in range(min(_CHUNK, len(self._metrics)))]
            self.client.log_batch(self._run.run_id, metrics=chunk)
            for _ in chunk:
                self._metrics.popleft()
        return self._run

    def _begin(self) -> RunRef:
        experiment = self._experiment()
        found = self.client.search_runs([experiment], f"tags.`{UID_TAG}` = '{self.about.uid}'", max_results=1)
        if found:
            run = found[0]
            self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            mine = {UID_TAG: self.about.uid}
            run = self.client.create_run(experiment, run_name=self.about.name, tags=mine)
        run_id = str(run.info.run_id)
        self._describe(run_id, known=run.data.params)
        log.info("MLflow run %s in experiment %r", run_id, self.about.experiment)
        return RunRef(experiment, run_id)

    def _experiment(self) -> str:
        known = self.client.get_experiment_by_name(self.about.experiment)
        if known is None:
            return str(self.client.create_experiment(self.about.experiment))
        if known.lifecycle_stage == "deleted":
            self.client.restore_experiment(known.experiment_id)
        return str(known.experiment_id)

    def _describe(self, run_id: str, *, known: Mapping[str, str]) -> None:
        about = self.about
        tags = dict(about.tags)
        if about.description:
            tags["mlflow.note.content"] = about.description
        # A parameter cannot be changed, and a newer image may have another default than the run began with.
        params = [Param(key, str(value)) for key, value in about.parameters.items() if key not in known]
        self.client.log_batch(run_id, params=params[:_PARAMS], tags=[RunTag(key, value) for key, value in tags.items()])
        dataset = Dataset(
            name=about.dataset_name,
            digest=about.dataset_version[:_DIGEST],
            source_type=about.dataset_uri.partition(":")[0],
            source=f'{{"uri": "{about.dataset_uri}"}}',
        )
        self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _watch_system(self, run: RunRef) -> None:
        self._monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
            run.run_id,
            sampling_interval=_SYSTEM_SECONDS,
            resume_logging=True,
            tracking_uri=self.client.tracking_uri,
        )
        self._monitor.start()  # type: ignore[no-untyped-call]


def connect(uri: str) -> MlflowClient:
    """A client of the server at `uri`, for tracking and for the registry; does not talk to it yet.

    Raises BadConfig where MLflow has no use for such an address.
    """
    # What goes wrong is said here, once, in words.
    disable_logging()  # type: ignore[no-untyped-call]
    for name in ("mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    try:
        return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as error:
        raise BadConfig("InvalidTrackingUri", f"MLFLOW_TRACKING_URI is of no use: {in_words(error)}") from error


def in_words(error: Exception) -> str:
    """The first line of an error, without the chain of what caused it."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    request, unanswered, _ = line.partition(" failed with exception")
    return f"{request} got no answer" if unanswered else line[:300]


def is_final(error: Exception) -> bool:
    """Whether the server answered, and would answer the same again."""
    if not isinstance(error, MlflowException):
        return False
    status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    return 400 <= status < 500 and status not in (408, 429)
