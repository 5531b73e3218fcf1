"""The loggers of a run: where its metrics go while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class RunLogger(Protocol):
    """Takes the metrics of one run. Its methods return quickly and never raise."""

    def begin(self, step: int) -> None:
        """Prepare for the steps after ``step``; called before the first ``log``, with 0 for a new training."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take metrics of a step."""

    def run_document(self) -> dict[str, str | None]:
        """Return the ids of the run in MLflow, or None for each while there is no run."""

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""


class CompositeLogger:
    """Several loggers as one; with none of them, metrics go nowhere."""

    def __init__(self, loggers: Sequence[RunLogger] = ()) -> None:
        self._loggers = tuple(loggers)

    def begin(self, step: int) -> None:
        """Prepare each logger for the steps after ``step``."""
        for run_logger in self._loggers:
            run_logger.begin(step)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Hand metrics of a step to each logger."""
        for run_logger in self._loggers:
            run_logger.log(metrics, step)

    def run_document(self) -> dict[str, str | None]:
        """Return the ids of the first logger that has some, or None for each."""
        documents = (run_logger.run_document() for run_logger in self._loggers)
        return next((document for document in documents if document["runId"] is not None), no_run_document())

    def close(self, status: str) -> None:
        """Close each logger."""
        for run_logger in self._loggers:
            run_logger.close(status)


def no_run_document() -> dict[str, str | None]:
    """Return the ids of a run that MLflow does not have."""
    return {"experimentId": None, "runId": None}
