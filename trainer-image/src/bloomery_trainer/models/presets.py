"""Presets: each is one of torchvision's architectures with the hyperparameters that suit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import torch
import torchvision  # type: ignore[import-untyped]
from torch import nn

from bloomery_trainer.errors import BadConfig

OptimizerName = Literal["sgd", "adamw"]
Augmentation = Literal["TrivialAugment", "Crops", "Light", "None"]
Start = Literal["scratch", "pretrained", "head-probe"]
"""Random weights; pretrained ones, with a new or a known head; pretrained ones with a head that was fitted first."""

REFERENCE_BATCH = 32
"""The batch size that the tables' learning rates hold for."""


@dataclass(frozen=True)
class Rates:
    """Learning rates at REFERENCE_BATCH of the body and of the head, and weight decay."""

    body: float
    head: float
    weight_decay: float


RatesByStart = Mapping[Start, Rates]


def _sgd(scratch: float, fine_tuning: float, *, weight_decay: float, fine_tuning_decay: float) -> RatesByStart:
    """Make rates: ten times faster for a new head than for a pretrained body; for a fitted head, those of the body."""
    return {
        "scratch": Rates(scratch, scratch, weight_decay),
        "pretrained": Rates(fine_tuning, 10 * fine_tuning, fine_tuning_decay),
        "head-probe": Rates(fine_tuning, fine_tuning, fine_tuning_decay),
    }


def _adamw(scratch: float, fine_tuning: float, *, weight_decay: float) -> RatesByStart:
    return _sgd(scratch, fine_tuning, weight_decay=weight_decay, fine_tuning_decay=weight_decay)


RATES: Mapping[str, Mapping[OptimizerName, RatesByStart]] = {
    "resnet": {
        "sgd": _sgd(0.05, 0.01, weight_decay=5e-4, fine_tuning_decay=1e-4),
        "adamw": _adamw(7e-4, 1e-4, weight_decay=0.05),
    },
    "inception": {
        "sgd": _sgd(0.03, 0.01, weight_decay=4e-5, fine_tuning_decay=4e-5),
        "adamw": _adamw(3.5e-4, 1e-4, weight_decay=0.05),
    },
    "mobilenet-v2": {
        "sgd": _sgd(0.05, 0.01, weight_decay=4e-5, fine_tuning_decay=4e-5),
        "adamw": _adamw(7e-4, 1e-4, weight_decay=0.02),
    },
    "mobilenet-v3": {
        "sgd": _sgd(0.05, 0.01, weight_decay=4e-5, fine_tuning_decay=4e-5),
        "adamw": _adamw(7e-4, 1e-4, weight_decay=0.02),
    },
    "efficientnet": {
        "sgd": _sgd(0.05, 0.01, weight_decay=2e-5, fine_tuning_decay=2e-5),
        "adamw": _adamw(5e-4, 1e-4, weight_decay=0.05),
    },
    "convnext": {
        "sgd": _sgd(0.02, 0.005, weight_decay=1e-4, fine_tuning_decay=1e-4),
        "adamw": _adamw(2e-4, 5e-5, weight_decay=0.05),
    },
}
"""Rates by family, optimizer and start."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """An architecture with its defaults.

    Attributes:
        architecture: torchvision's name of it.
        optimizer: the one that suits it.
        rates: learning rates and weight decay by optimizer and start.
        image_size: side in pixels that its published weights were trained for.
        smallest: side in pixels below which it cannot be built.
        warmup_share: of all steps, those in which the learning rate rises; at most a tenth.
        arguments: for torchvision's builder.
        auxiliary: weight of each auxiliary head's loss; None without such heads.
        auxiliary_size: side in pixels below which it has to do without the auxiliary heads.
        depthwise: whether most of its convolutions have a filter for each channel.
    """

    architecture: str
    optimizer: OptimizerName
    rates: Mapping[OptimizerName, RatesByStart]
    image_size: int = 224
    smallest: int = 32
    warmup_share: float = 0.05
    arguments: Mapping[str, Any] = field(default_factory=dict)
    auxiliary: float | None = None
    auxiliary_size: int = 0
    depthwise: bool = False

    def has_auxiliary(self, image_size: int) -> bool:
        """Return whether there are auxiliary heads at that image size."""
        return self.auxiliary is not None and image_size >= self.auxiliary_size

    def build(self, classes: int, *, image_size: int) -> nn.Module:
        """Make the network, untrained, for so many classes."""
        arguments = dict(self.arguments)
        if self.auxiliary is not None:
            arguments["aux_logits"] = self.has_auxiliary(image_size)
        model: nn.Module = torchvision.models.get_model(
            self.architecture, weights=None, num_classes=classes, **arguments
        )
        return model

    def head(self, *, image_size: int) -> frozenset[str]:
        """Return the names of the parameters whose shape depends on the number of classes."""
        with torch.device("meta"):
            two, three = (self.build(classes, image_size=image_size).state_dict() for classes in (2, 3))
        return frozenset(name for name, value in two.items() if value.shape != three[name].shape)


def _residual(architecture: str) -> Preset:
    """Make a ResNet (arXiv:1512.03385) or a ResNeXt (arXiv:1611.05431)."""
    return Preset(
        architecture=architecture,
        optimizer="sgd",
        rates=RATES["resnet"],
        # Each block starts as the identity: deep networks then learn from the first step.
        arguments={"zero_init_residual": True},
    )


def _inception(architecture: str, *, image_size: int, smallest: int, auxiliary: float, auxiliary_size: int) -> Preset:
    """Make an Inception network (arXiv:1409.4842, arXiv:1512.00567), with its auxiliary heads while training."""
    return Preset(
        architecture=architecture,
        optimizer="sgd",
        rates=RATES["inception"],
        image_size=image_size,
        smallest=smallest,
        # transform_input undoes our normalising for the published weights, which were trained with another one.
        # init_weights draws from scipy-like truncated normals for minutes; PyTorch's own start serves as well.
        arguments={"transform_input": True, "init_weights": False},
        auxiliary=auxiliary,
        auxiliary_size=auxiliary_size,
    )


def _mobile(architecture: str) -> Preset:
    """Make a MobileNet V3 (arXiv:1905.02244): AdamW instead of the paper's RMSprop, and batch norms that keep up."""
    return Preset(
        architecture=architecture,
        optimizer="adamw",
        rates=RATES["mobilenet-v3"],
        depthwise=True,
        # torchvision's own momentum, 0.01, is for ImageNet's steps: after some hundred, which is all that a small set
        # has, the averages that evaluation uses would still be those of the start, and its answers chance.
        arguments={"norm_layer": partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)},
    )


def _mobile_v2() -> Preset:
    """Make a MobileNet V2 (arXiv:1801.04381)."""
    return Preset(architecture="mobilenet_v2", optimizer="sgd", rates=RATES["mobilenet-v2"], depthwise=True)


def _efficient(architecture: str, *, image_size: int = 224) -> Preset:
    """Make an EfficientNet (arXiv:1905.11946, arXiv:2104.00298)."""
    return Preset(
        architecture=architecture,
        optimizer="adamw",
        rates=RATES["efficientnet"],
        image_size=image_size,
        depthwise=True,
    )


def _convnext(architecture: str) -> Preset:
    """Make a ConvNeXt (arXiv:2201.03545): AdamW and a long warm-up; without batch norm, it needs small steps."""
    return Preset(architecture=architecture, optimizer="adamw", rates=RATES["convnext"], warmup_share=0.1)


ALIASES: Mapping[str, str] = MappingProxyType(
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
    "resnext50": _residual("resnext50_32x4d"),
    "mobilenet-v2": _mobile_v2(),
    "mobilenet-v3-small": _mobile("mobilenet_v3_small"),
    "mobilenet-v3-large": _mobile("mobilenet_v3_large"),
    "efficientnet-b0": _efficient("efficientnet_b0"),
    "efficientnet-v2-s": _efficient("efficientnet_v2_s", image_size=384),
    "convnext-tiny": _convnext("convnext_tiny"),
    "convnext-small": _convnext("convnext_small"),
}

PRESETS: Mapping[str, Preset] = MappingProxyType({**_TABLE, **{alias: _TABLE[name] for alias, name in ALIASES.items()}})


def find_preset(name: str) -> Preset:
    """Return the preset of a name or second name.

    Raises:
        BadConfig: there is none.
    """
    if name not in PRESETS:
        raise BadConfig("InvalidConfig", f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
