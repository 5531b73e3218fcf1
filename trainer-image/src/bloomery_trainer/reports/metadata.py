"""Metadata and evaluations that a report presents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from bloomery_model.statistics import Reference
from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.engine import thresholds
from bloomery_trainer.engine.calibration import Calibration
from bloomery_trainer.engine.evaluation import Evaluation
from bloomery_trainer.engine.heat_maps import PictureOf
from bloomery_trainer.engine.suspects import Suspects


@dataclass(frozen=True, kw_only=True)
class ReportMetadata:
    """One model on one dataset.

    Attributes:
        title: what the page is called.
        preset: the model's network.
        metric: what the best epoch was chosen by.
        best_epoch: None if nothing was trained.
        dataset: with the splits that were evaluated; ``train`` may be missing where nothing was trained.
        validation: the answers on the validation images, in their order.
        test: the answers on the test images, in their order, where there are any.
        data_type: what the model that answered computes in, such as float32 or int8.
        start: what training started from: kind (Scratch, Published, …), origin and warning; None if nothing was
            trained.
        last_epoch: the last epoch's number (``epoch``) and its figures on the validation images, whose weights need not
            be the best ones.
        length: what the length of the training was set by: the number of maxSteps, "learningRateSchedule", or None for
            epochs.
        balance: how training balanced unequal classes: None, Loss or Sampling.
        calibration: the model's temperature, and its figures with and without it.
        picture: makes a picture of where the network looked; None if only a model file is known.
        suspects: training images with suspected labels; None if the labels were not examined.
        still_improving: whether the metric was still rising when training ended.
        notes: sentences that people should know.
    """

    title: str
    preset: str
    metric: str
    best_epoch: int | None
    dataset: LocalDataset
    validation: Evaluation
    test: Evaluation | None = None
    data_type: str = "float32"
    start: Mapping[str, str] | None = None
    last_epoch: Mapping[str, float] | None = None
    length: int | Literal["learningRateSchedule"] | None = None
    balance: str = "None"
    calibration: Calibration | None = None
    picture: PictureOf | None = None
    suspects: Suspects | None = None
    still_improving: bool = False
    notes: tuple[str, ...] = ()

    @property
    def split(self) -> str:
        """The images that the model is judged by: those that had no part in choosing it, where there are such."""
        return "validation" if self.test is None else "test"

    @property
    def judged(self) -> Evaluation:
        """The answers on these images."""
        return self.validation if self.test is None else self.test

    @cached_property
    def thresholds(self) -> dict[str, Any]:
        """The document of thresholds, for evaluation.json and the model's metadata."""
        return thresholds.document(self.judged, split=self.split)

    @property
    def statistics(self) -> dict[str, Any]:
        """Thresholds of confidence, and the reference for drift, by their names in the model's metadata."""
        judged = self.judged
        reference = Reference.of(judged.probabilities, energies=judged.energies, brightness=judged.brightness)
        return {"thresholds": self.thresholds, "reference": reference.document(split=self.split)}

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """All evaluations by split."""
        both = {"validation": self.validation, "test": self.test}
        return {split: evaluation for split, evaluation in both.items() if evaluation is not None}
