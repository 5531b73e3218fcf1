"""What each preset stands for: one of torchvision's architectures and the hyperparameters that suit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import torch
import torchvision  # type: ignore[import-untyped]
from torch import nn

from bloomery_trainer.config import PresetName

OptimizerName = Literal["sgd", "adamw"]
Augmentation = Literal["TrivialAugment", "Light", "Crops", "None"]

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
    """An architecture with its defaults.

    Attributes:
        architecture: torchvision's name of it.
        image_size: side in pixels that its published weights were trained for.
        smallest: side in pixels below which it can not be built.
        arguments: for torchvision's builder.
        auxiliary: weight of each auxiliary head's loss; None without such heads.
        auxiliary_size: side in pixels below which it has to do without the auxiliary heads.
        fine_tuning: the share of the learning rate that suits weights which were trained before.
    """

    architecture: str
    epochs: int
    warmup_epochs: float
    optimizer: OptimizerName
    optimizers: Mapping[OptimizerName, OptimizerDefaults]
    augmentation: Augmentation
    image_size: int = 224
    smallest: int = 32
    arguments: Mapping[str, Any] = field(default_factory=dict)
    auxiliary: float | None = None
    auxiliary_size: int = 0
    fine_tuning: float = 0.1

    def has_auxiliary(self, image_size: int) -> bool:
        """Whether there are auxiliary heads at that image size."""
        return self.auxiliary is not None and image_size >= self.auxiliary_size

    def build(self, classes: int, *, image_size: int) -> nn.Module:
        """Makes the network, untrained, for so many classes."""
        arguments = dict(self.arguments)
        if self.auxiliary is not None:
            arguments["aux_logits"] = self.has_auxiliary(image_size)
        model: nn.Module = torchvision.models.get_model(
            self.architecture, weights=None, num_classes=classes, **arguments
        )
        return model

    def head(self, *, image_size: int) -> frozenset[str]:
        """The names of the parameters whose shape depends on the number of classes."""
        with torch.device("meta"):
            two, three = (self.build(classes, image_size=image_size).state_dict() for classes in (2, 3))
        return frozenset(name for name, value in two.items() if value.shape != three[name].shape)


_SGD = OptimizerDefaults(learning_rate=0.1, momentum=0.9, weight_decay=1e-4)
_ADAMW = OptimizerDefaults(learning_rate=2e-3, momentum=0.9, weight_decay=0.05)


def _residual(architecture: str) -> Preset:
    """ResNets, as torchvision's references train them: https://pytorch.org/blog/how-to-train-state-of-the-art-models."""
    return Preset(
        architecture=architecture,
        epochs=30,
        warmup_epochs=1,
        optimizer="sgd",
        optimizers={"sgd": _SGD, "adamw": _ADAMW},
        augmentation="TrivialAugment",
        # Each block starts as the identity: deep networks then learn from the first step.
        arguments={"zero_init_residual": True},
    )


def _inception(architecture: str, *, image_size: int, smallest: int, auxiliary: float, auxiliary_size: int) -> Preset:
    """Inception networks (arXiv:1409.4842, arXiv:1512.00567), with their auxiliary heads while training."""
    return Preset(
        architecture=architecture,
        epochs=30,
        warmup_epochs=2,
        optimizer="sgd",
        optimizers={"sgd": OptimizerDefaults(0.08, 0.9, 4e-5), "adamw": OptimizerDefaults(1e-3, 0.9, 0.05)},
        augmentation="TrivialAugment",
        image_size=image_size,
        smallest=smallest,
        # transform_input undoes our normalising for the published weights, which were trained with another one.
        # init_weights draws from scipy-like truncated normals for minutes; PyTorch's own start serves as well.
        arguments={"transform_input": True, "init_weights": False},
        auxiliary=auxiliary,
        auxiliary_size=auxiliary_size,
    )


def _mobile(architecture: str) -> Preset:
    """MobileNet V3 (arXiv:1905.02244): AdamW instead of the paper's RMSprop, and batch norms that keep up."""
    return Preset(
        architecture=architecture,
        epochs=40,
        warmup_epochs=2,
        optimizer="adamw",
        optimizers={"sgd": OptimizerDefaults(0.1, 0.9, 4e-5), "adamw": OptimizerDefaults(2e-3, 0.9, 0.02)},
        augmentation="TrivialAugment",
        # torchvision's own momentum, 0.01, is for ImageNet's steps: after some hundred, which is all that a small set
        # has, the averages that evaluation uses would still be those of the start, and its answers chance.
        arguments={"norm_layer": partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)},
    )


def _mobile_v2() -> Preset:
    """MobileNet V2 (arXiv:1801.04381)."""
    return Preset(
        architecture="mobilenet_v2",
        epochs=40,
        warmup_epochs=2,
        optimizer="sgd",
        optimizers={"sgd": OptimizerDefaults(0.1, 0.9, 4e-5), "adamw": OptimizerDefaults(2e-3, 0.9, 0.02)},
        augmentation="TrivialAugment",
    )


def _efficient(architecture: str, *, image_size: int = 224) -> Preset:
    """EfficientNets (arXiv:1905.11946, arXiv:2104.00298)."""
    return Preset(
        architecture=architecture,
        epochs=40,
        warmup_epochs=2,
        optimizer="adamw",
        optimizers={"sgd": OptimizerDefaults(0.1, 0.9, 2e-5), "adamw": OptimizerDefaults(1.5e-3, 0.9, 0.05)},
        augmentation="TrivialAugment",
        image_size=image_size,
    )


def _convnext(architecture: str) -> Preset:
    """ConvNeXt (arXiv:2201.03545): AdamW and a long warm-up; without batch norm, it needs small steps."""
    return Preset(
        architecture=architecture,
        epochs=40,
        warmup_epochs=4,
        optimizer="adamw",
        optimizers={"sgd": OptimizerDefaults(0.05, 0.9, 1e-4), "adamw": OptimizerDefaults(5e-4, 0.9, 0.05)},
        augmentation="TrivialAugment",
    )


ALIASES: Mapping[str, PresetName] = MappingProxyType(
    {"general": "resnet50", "high-precision": "convnext-small", "high-performance": "mobilenet-v3-large"}
)
"""Presets by what they are for: a sound middle, the best figures, the most images a second."""

_TABLE: dict[str, Preset] = {
    "inception-v3": _inception("inception_v3", image_size=299, smallest=75, auxiliary=0.4, auxiliary_size=299),
    "googlenet": _inception("googlenet", image_size=224, smallest=32, auxiliary=0.3, auxiliary_size=32),
    "resnet18": _residual("resnet18"),
    "resnet34": _residual("resnet34"),
    "resnet50": _residual("resnet50"),
    "resnet101": _residual("resnet101"),
    "mobilenet-v2": _mobile_v2(),
    "mobilenet-v3-small": _mobile("mobilenet_v3_small"),
    "mobilenet-v3-large": _mobile("mobilenet_v3_large"),
    "efficientnet-b0": _efficient("efficientnet_b0"),
    "efficientnet-v2-s": _efficient("efficientnet_v2_s", image_size=384),
    "convnext-tiny": _convnext("convnext_tiny"),
    "convnext-small": _convnext("convnext_small"),
}

PRESETS: Mapping[str, Preset] = MappingProxyType({**_TABLE, **{alias: _TABLE[name] for alias, name in ALIASES.items()}})
