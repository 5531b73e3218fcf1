"""The memory of a training step, worked out without running it, and the part of a batch that fits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bloomery_trainer.engine.micro_batch import SMALLEST
from bloomery_trainer.models.presets import OptimizerName, Preset
from bloomery_trainer.recipe import Recipe

PROCESS_BYTES = 600 * 2**20
"""Python, torch and what else is loaded."""

GPU_PROCESS_BYTES = 3 * 2**30
"""Host memory of a process that trains on a GPU: CUDA's libraries and a checkpoint that is being written."""

ACTIVATION_FACTOR = 1.3
"""Peak of a step by what the forward pass saves: gradients of activations, copies in other layouts, fragments.

Measured on a processor over whole steps: resnet50 at 224 pixels with 16 images takes 2.57 GiB in float32 and 1.89 GiB
in bfloat16, at 176 pixels with 32 images 2.9 GiB; convnext-small 5.6 GiB.
"""

COPIES: Mapping[OptimizerName, int] = {"sgd": 7, "adamw": 9}
"""Tensors of the size of the network: weights, gradient, momentum (AdamW: two), the best weights, and the checkpoint
that is being written, of weights, momentum and best weights.
"""

STEP_SHARE = 0.85
"""Of the memory limit, the most that a step may take; what is left is for images."""


def step_memory_bytes(
    preset: Preset, image_size: int, batch: int, *, bf16: bool, optimizer: OptimizerName | None = None
) -> int:
    """Return the peak memory in bytes of a process that trains with steps of ``batch`` images of that side in pixels.

    Args:
        preset: the architecture.
        image_size: side in pixels of training images.
        batch: images that go through the network at a time.
        bf16: whether activations are in bfloat16 (or float16).
        optimizer: the preset's own where it is None.
    """
    weights, per_image = _sizes(preset, image_size, is_reduced=bf16)
    return _peak_bytes(weights, per_image * batch, optimizer or preset.optimizer)


def fitting_batch(preset: Preset, recipe: Recipe, batch: int, *, is_reduced: bool, limit_bytes: float) -> int:
    """Return the whole batch, or its half, quarter, … that fits in the limit; at least SMALLEST images."""
    weights, per_image = _sizes(preset, recipe.training_size, is_reduced=is_reduced)
    size = batch
    while size > SMALLEST and _peak_bytes(weights, per_image * size, recipe.optimizer) > STEP_SHARE * limit_bytes:
        size = max(SMALLEST, -(-size // 2))
    return size


def _peak_bytes(weights: int, activations: float, optimizer: OptimizerName) -> int:
    return int(PROCESS_BYTES + COPIES[optimizer] * weights + ACTIVATION_FACTOR * activations)


def _sizes(preset: Preset, image_size: int, *, is_reduced: bool) -> tuple[int, float]:
    """Return the bytes of the weights in float32, and bytes that the forward pass saves for each image.

    On the meta device tensors have shapes and no content: this takes a second and no memory.
    """
    dtype = torch.bfloat16 if is_reduced else torch.float32
    with torch.device("meta"):
        model = preset.build(1000, image_size=image_size).train().to(dtype)
        images = torch.zeros(SMALLEST, 3, image_size, image_size, dtype=dtype)
    own = {value.untyped_storage()._cdata for value in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        outputs = model(images)
    del outputs
    weights = 4 * sum(value.numel() for value in model.parameters())
    return weights, sum(storage.nbytes() for storage in saved.values()) / SMALLEST
