"""The optimizer of a recipe, with rates and weight decay by parameter group."""

from __future__ import annotations

import torch
from torch import nn

from bloomery_trainer.recipe import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe, head: frozenset[str] = frozenset()) -> torch.optim.Optimizer:
    """Build SGD with Nesterov momentum or AdamW, one fused kernel a step.

    Norms, biases and layer scales do not decay. The parameters named in ``head`` have a rate of their own.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name in head, _decays(name, parameter)), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": recipe.head_learning_rate if is_head else recipe.learning_rate,
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (is_head, decays), parameters in sorted(groups.items(), key=_body_first)
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(settings, lr=recipe.learning_rate, betas=(recipe.momentum, 0.999), fused=True)
    nesterov = recipe.momentum > 0
    sgd = torch.optim.SGD(settings, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=nesterov, fused=True)
    if recipe.momentum > 0:
        # The fused kernel allocates them in the first step and leaves them unset where that step is skipped.
        for group in sgd.param_groups:
            for parameter in group["params"]:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def _body_first(group: tuple[tuple[bool, bool], list[nn.Parameter]]) -> tuple[bool, bool]:
    (is_head, decays), _ = group
    return is_head, not decays


def _decays(name: str, parameter: nn.Parameter) -> bool:
    # ConvNeXt's layer_scale is [C, 1, 1]: a scale of channels for all its dimensions, which its authors do not decay.
    return parameter.ndim > 1 and not name.endswith("layer_scale")
