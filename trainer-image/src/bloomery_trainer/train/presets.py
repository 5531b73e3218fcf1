"""What each preset stands for: one of torchvision's architectures and the hyperparameters that suit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torchvision  # type: ignore[import-untyped]
from torch import nn

from bloomery_trainer.config import PresetName

OptimizerName = Literal["sgd", "adamw"]
Augmentation = Literal["TrivialAugment", "Light", "None"]

REFERENCE_BATCH = 256
"""The batch size that the table's learning rates hold for."""


@dataclass(frozen=True)
class OptimizerDefaults:
    """Learning rate at REFERENCE_BATCH, momentum (AdamW: beta1), weight decay."""

    learning_rate: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class Preset:
    """An architecture with its defaults; `arguments` go to torchvision's builder."""

    architecture: str
    epochs: int
    warmup_epochs: float
    optimizer: OptimizerName
    optimizers: Mapping[OptimizerName, OptimizerDefaults]
    augmentation: Augmentation
    image_size: int = 224
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self, classes: int) -> nn.Module:
        """Makes the network, untrained, for so many classes."""
        model: nn.Module = torchvision.models.get_model(self.architecture, num_classes=classes, **self.arguments)
        return model


def _resnet(architecture: str) -> Preset:
    return Preset(
        architecture=architecture,
        epochs=30,
        warmup_epochs=1,
        optimizer="sgd",
        optimizers={
            "sgd": OptimizerDefaults(learning_rate=0.1, momentum=0.9, weight_decay=1e-4),
            "adamw": OptimizerDefaults(learning_rate=2e-3, momentum=0.9, weight_decay=0.05),
        },
        augmentation="TrivialAugment",
        # Each block starts as the identity: deep networks then learn from the first step.
        arguments={"zero_init_residual": True},
    )


PRESETS: Mapping[PresetName, Preset] = MappingProxyType(
    {
        "resnet18": _resnet("resnet18"),
        "resnet50": _resnet("resnet50"),
    }
)
