"""The final evaluation: what the exported model answers on the images that were held out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bloomery_model import Preprocess
from bloomery_model.references import REFERENCE_IMAGES, References
from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.data.decoders import normalise
from bloomery_trainer.data.loader import Loader, evaluation_loader
from bloomery_trainer.data.memory import MemoryBudget
from bloomery_trainer.data.scratch_cache import ScratchCache
from bloomery_trainer.distributed.world import World
from bloomery_trainer.engine.evaluation import Batch, Evaluation, answers, interval95
from bloomery_trainer.shutdown import Shutdown, Terminated

logger = logging.getLogger(__name__)

HeldOutSplit = Literal["validation", "test"]

_BATCH = 64
"""More images at a time take memory and gain a processor nothing."""


@dataclass(frozen=True)
class EvaluationResult:
    """A model's answers on the images that were held out."""

    validation: Evaluation
    test: Evaluation | None

    @property
    def split(self) -> HeldOutSplit:
        """The images of the final figures: those that chose nothing, where there are such."""
        return "validation" if self.test is None else "test"

    @property
    def final(self) -> Evaluation:
        """The answers on these images."""
        return self.validation if self.test is None else self.test


@dataclass(frozen=True)
class HeldOutImages:
    """The validation and test images, read by one process; decoded once where they fit in memory.

    Only the leader has the exported model, so it evaluates alone, on all processors of its node, while the other
    processes wait for its end (``World.leave``).
    """

    loaders: Mapping[HeldOutSplit, Loader]
    preprocess: Preprocess
    shutdown: Shutdown

    @classmethod
    def of(
        cls,
        dataset: LocalDataset,
        preprocess: Preprocess,
        shutdown: Shutdown,
        *,
        budget: MemoryBudget,
        cache: ScratchCache,
    ) -> HeldOutImages:
        """Open the splits of a dataset; where the budget holds them, this decodes them."""
        splits: tuple[HeldOutSplit, ...] = ("validation", "test")
        loaders = {
            split: evaluation_loader(
                dataset.splits[split],
                preprocess,
                batch=_BATCH,
                device=torch.device("cpu"),
                world=World(),
                budget=budget,
                cache=cache,
            )
            for split in splits
            if split in dataset.splits
        }
        return cls(loaders, preprocess, shutdown)

    def evaluate(self, network: nn.Module) -> EvaluationResult:
        """Evaluate a network on the CPU, in the arithmetic of its file; raise Terminated on SIGTERM."""
        evaluations: dict[HeldOutSplit, Evaluation] = {}
        for split, loader in self.loaders.items():
            batches = self._until_terminated(loader)
            meter = _Meter(network)
            pair = answers(meter, batches, self.preprocess, device=torch.device("cpu"), exact=True)
            evaluations[split] = Evaluation.of(*pair, energies=meter.energies, brightness=meter.brightness)
            _log(split, evaluations[split])
        return EvaluationResult(evaluations["validation"], evaluations.get("test"))

    def examples(self, count: int) -> Tensor:
        """Return the first validation images, at most ``count``, normalised: float32 [N, 3, crop, crop]."""
        images = self.loaders["validation"].dataset
        count = min(count, len(images))  # type: ignore[arg-type]  # torch's Dataset leaves its length to subclasses
        return normalise(torch.stack([images[index][0] for index in range(count)]), self.preprocess)

    def references(self, network: nn.Module, *, split: HeldOutSplit) -> References:
        """Return images, spread over a split, with the probabilities that a network gives them."""
        images = self.loaders[split].dataset
        count = len(images)  # type: ignore[arg-type]  # torch's Dataset leaves its length to subclasses
        chosen = np.linspace(0, count - 1, min(REFERENCE_IMAGES, count)).round().astype(int)
        pixels, labels = (torch.stack(parts) for parts in zip(*(images[int(i)] for i in chosen), strict=True))
        probabilities, _ = answers(network, [(pixels, labels)], self.preprocess, device=torch.device("cpu"), exact=True)
        return References(pixels.permute(0, 2, 3, 1).contiguous().numpy(), probabilities)

    def _until_terminated(self, loader: Loader) -> Iterator[Batch]:
        for batch in loader:
            if self.shutdown.terminating:
                raise Terminated
            yield batch


class _Meter(nn.Module):
    """A network that measures the images and logits that pass through it; probabilities alone do not show them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network
        self._energies: list[Tensor] = []
        self._brightness: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's logits, float32 [N, classes]."""
        logits: Tensor = self._network(images)
        self._energies.append(logits.float().logsumexp(dim=1).cpu())
        self._brightness.append(images.float().mean(dim=(1, 2, 3)).cpu())
        return logits

    @property
    def energies(self) -> NDArray[np.float32]:
        """Energies of the logits of all images so far, float32 [N]."""
        return np.asarray(torch.cat(self._energies).numpy(), np.float32)

    @property
    def brightness(self) -> NDArray[np.float32]:
        """Means of the normalised pixels of all images so far, float32 [N]."""
        return np.asarray(torch.cat(self._brightness).numpy(), np.float32)


def _log(split: str, evaluation: Evaluation) -> None:
    metrics = evaluation.metrics
    low, high = interval95(metrics["top1"], len(evaluation.labels))
    others = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name != "top1")
    logger.info(
        "%s images: top1 %.4f (95 %% interval %.4f to %.4f), %s", split, metrics["top1"], low, high, others
    )  # fmt: skip
