"""The training loss, in shares that add up over the parts of a batch."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.transforms import v2  # type: ignore[import-untyped]

from bloomery_trainer.recipe import Recipe


class TrainingLoss(nn.Module):
    """Cross-entropy with label smoothing, the mean over a batch; mixes images if the recipe asks for it.

    Class weights whose mean over the images is 1 leave the size of the loss as it is. The sum is divided by the number
    of images, not by their weights, so that neither micro-batches nor processes change the gradient.
    """

    def __init__(
        self, recipe: Recipe, *, classes: int, auxiliary: float | None = None, weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self._criterion = nn.CrossEntropyLoss(weights, label_smoothing=recipe.label_smoothing, reduction="sum")
        self._auxiliary = auxiliary or 0.0
        self._mixup = v2.MixUp(alpha=recipe.mixup, num_classes=classes) if recipe.mixup else None

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Blend a whole batch pairwise with its labels (arXiv:1710.09412), or return it as it is."""
        if self._mixup is None:
            return images, labels
        images, labels = self._mixup(images, labels)
        return images, labels

    def forward(self, outputs: Tensor | tuple[Tensor, ...], labels: Tensor, *, batch: int) -> Tensor:
        """Return the share of these images in the loss of a batch of ``batch`` images: a scalar."""
        if isinstance(outputs, Tensor):
            return self._cross_entropy(outputs, labels) / batch
        main, *others = (self._cross_entropy(output, labels) for output in outputs if output is not None)
        total = main
        for other in others:
            total = total + self._auxiliary * other
        return total / batch

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self._criterion(logits, labels)
        return loss
