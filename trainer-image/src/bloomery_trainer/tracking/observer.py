"""What is told of training while it runs: to the log, to whoever asks for progress, to MLflow."""

from __future__ import annotations

import logging
import math
import time

from bloomery_trainer.engine.cooldown import Cooldown
from bloomery_trainer.engine.evaluation import Evaluation
from bloomery_trainer.engine.trainer import Step
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.publish.record import Record

log = logging.getLogger(__name__)

_NEWS_SECONDS = 10.0


class RunObserver:
    """Spreads the news of the training loop."""

    def __init__(self, progress: Progress, record: Record, *, metric: str, total_steps: int, epoch_steps: int) -> None:
        self._progress = progress
        self._record = record
        self._metric = metric
        self._total = total_steps
        self._epoch_steps = epoch_steps
        self._epochs = -(-total_steps // epoch_steps)
        self._began = self._logged = time.monotonic()
        self._first: int | None = None
        progress.update(stage="training", epoch=0, epochs=self._epochs, step=0, totalSteps=total_steps)

    def steps(self, steps: list[Step], *, images_per_second: float, compute_images_per_second: float) -> None:
        """Some steps were done."""
        last = steps[-1]
        if self._first is None:
            # Neither steps of an earlier process nor what came before the first step says how fast steps are.
            self._first, self._began = last.number, time.monotonic()
        for step in steps:
            self._record.log({"train/loss": step.loss, "train/learning_rate": step.learning_rate}, step.number)
        rates = {"images_per_second": images_per_second, "compute_images_per_second": compute_images_per_second}
        self._record.log({f"train/{name}": rate for name, rate in rates.items()}, last.number)
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
            mlflow=self._record.run_document(),
        )
        if last.number > self._first:
            self._progress.update(etaSeconds=round(eta))
        if time.monotonic() - self._logged > _NEWS_SECONDS:
            self._logged = time.monotonic()
            log.info(
                "epoch %d of %d, step %d of %d: loss %.4f, %.0f images/s, %d s to go",
                epoch, self._epochs, last.number, self._total, last.loss, images_per_second, eta,
            )  # fmt: skip

    def evaluating(self) -> None:
        """An epoch's evaluation begins."""
        self._progress.update(stage="evaluating")

    def cooling_down(self, cooldown: Cooldown) -> None:
        """The run will end before its last step."""
        self._total = cooldown.end
        log.info(
            "%s: the learning rate falls to nothing over the next %d steps, up to step %d",
            cooldown.reason, cooldown.steps, cooldown.end,
        )  # fmt: skip

    def epoch(
        self, number: int, step: int, evaluation: Evaluation, *, loss: float, data_wait: float, best: float
    ) -> None:
        """An epoch is done."""
        metrics = {f"validation/{name}": value for name, value in evaluation.metrics.items()}
        if math.isfinite(loss):
            # Without it, this process only evaluates what an earlier one has trained.
            metrics |= {"train/epoch_loss": loss, "train/data_wait": data_wait}
        self._record.log({"epoch": number, **metrics}, step)
        value = evaluation.metrics[self._metric]
        self._progress.update(epoch=number, metric=round(best, 5))
        log.info(
            "epoch %d of %d: training loss %.4f, validation loss %.4f, %s %.4f",
            number, self._epochs, loss, evaluation.metrics["loss"], self._metric, value,
        )  # fmt: skip
