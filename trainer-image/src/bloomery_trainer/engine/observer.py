"""Reports on training while it runs: to the log, to the progress server, and to the loggers of the run."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

from bloomery_trainer.engine.cooldown import Cooldown
from bloomery_trainer.engine.evaluation import Evaluation
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.tracking.logger import RunLogger

logger = logging.getLogger(__name__)

_LOG_INTERVAL_SECONDS = 10.0


@dataclass(frozen=True)
class Step:
    """One optimizer step, as it is reported."""

    number: int
    loss: float
    learning_rate: float


class Observer:
    """Gets the events of training and does nothing: for processes that leave reporting to the leader.

    Methods of subclasses return quickly and never raise.
    """

    def steps(self, steps: list[Step], *, images_per_second: float, compute_images_per_second: float) -> None:
        """Report some steps; the second rate leaves out the time spent waiting for images."""

    def evaluating(self) -> None:
        """Report that the steps of an epoch are done and its evaluation begins."""

    def epoch(
        self, number: int, step: int, evaluation: Evaluation, *, loss: float, data_wait: float, best: float
    ) -> None:
        """Report an epoch.

        Args:
            number: of the epoch, counted from 1.
            step: the steps done.
            evaluation: on the validation images.
            loss: the mean training loss.
            data_wait: the share of time spent waiting for images.
            best: the best value of the job's metric so far.
        """

    def cooling_down(self, cooldown: Cooldown) -> None:
        """Report that the run ends before its last step: the learning rate now falls to nothing."""


class RunObserver(Observer):
    """Reports the events of training on the leader."""

    def __init__(
        self, progress: Progress, run_logger: RunLogger, *, metric: str, total_steps: int, epoch_steps: int
    ) -> None:
        self._progress = progress
        self._run_logger = run_logger
        self._metric = metric
        self._total = total_steps
        self._epoch_steps = epoch_steps
        self._epochs = -(-total_steps // epoch_steps)
        self._began = self._logged = time.monotonic()
        self._first: int | None = None
        progress.update(stage="training", epoch=0, epochs=self._epochs, step=0, totalSteps=total_steps)

    def steps(self, steps: list[Step], *, images_per_second: float, compute_images_per_second: float) -> None:
        """Log losses, learning rates and image rates; update the progress and the time to go."""
        last = steps[-1]
        if self._first is None:
            # Neither steps of an earlier process nor what came before the first step shows how fast steps are.
            self._first, self._began = last.number, time.monotonic()
        for step in steps:
            self._run_logger.log({"train/loss": step.loss, "train/learning_rate": step.learning_rate}, step.number)
        rates = {"images_per_second": images_per_second, "compute_images_per_second": compute_images_per_second}
        self._run_logger.log({f"train/{name}": rate for name, rate in rates.items()}, last.number)
        pace = (time.monotonic() - self._began) / max(1, last.number - self._first)
        eta = pace * (self._total - last.number)
        epoch = (last.number - 1) // self._epoch_steps + 1
        self._progress.update(
            stage="training",
            epoch=epoch,
            step=last.number,
            imagesPerSecond=round(images_per_second, 1),
            computeImagesPerSecond=round(compute_images_per_second, 1),
            loss=round(last.loss, 5),
            mlflow=self._run_logger.run_document(),
        )
        if last.number > self._first:
            self._progress.update(etaSeconds=round(eta))
        if time.monotonic() - self._logged > _LOG_INTERVAL_SECONDS:
            self._logged = time.monotonic()
            logger.info(
                "epoch %d of %d, step %d of %d: loss %.4f, %.0f images/s, %d s to go",
                epoch, self._epochs, last.number, self._total, last.loss, images_per_second, eta,
            )  # fmt: skip

    def evaluating(self) -> None:
        """Update the stage."""
        self._progress.update(stage="evaluating")

    def cooling_down(self, cooldown: Cooldown) -> None:
        """Log why the run ends and when."""
        self._total = cooldown.end
        logger.info(
            "%s: the learning rate falls to nothing over the next %d steps, up to step %d",
            cooldown.reason, cooldown.steps, cooldown.end,
        )  # fmt: skip

    def epoch(
        self, number: int, step: int, evaluation: Evaluation, *, loss: float, data_wait: float, best: float
    ) -> None:
        """Log the figures of the epoch; update the progress with the best value so far."""
        metrics = {f"validation/{name}": value for name, value in evaluation.metrics.items()}
        if math.isfinite(loss):
            # Without it, this process only evaluates what an earlier one has trained.
            metrics |= {"train/epoch_loss": loss, "train/data_wait": data_wait}
        self._run_logger.log({"epoch": number, **metrics}, step)
        value = evaluation.metrics[self._metric]
        self._progress.update(epoch=number, metric=round(best, 5))
        logger.info(
            "epoch %d of %d: training loss %.4f, validation loss %.4f, %s %.4f",
            number, self._epochs, loss, evaluation.metrics["loss"], self._metric, value,
        )  # fmt: skip
