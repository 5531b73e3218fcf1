"""Training mode of a network of which only a part is trained."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth  # type: ignore[import-untyped]


def set_training_mode(model: nn.Module) -> None:
    """Set training mode, except for what a frozen body must not change.

    Batch norms without trainable weights keep their statistics. Where the body is frozen, nothing is dropped: what the
    head learns from must be what it will see.
    """
    model.train()
    has_frozen_weights = any(not parameter.requires_grad for parameter in model.parameters())
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train(any(parameter.requires_grad for parameter in module.parameters()))
        elif has_frozen_weights and isinstance(module, _DropoutNd | StochasticDepth):
            module.eval()
