"""A batch in parts, one after the other, where memory does not hold it whole: the gradient is the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bloomery_trainer.errors import BadConfig

logger = logging.getLogger(__name__)

SMALLEST = 2
"""Batch norm needs two values of each channel, and a small image has only one pixel at the end of the network."""

Forward = Callable[[Tensor, Tensor], Tensor]
"""The share of the whole batch's loss that some of its images have."""


def split(images: Tensor, labels: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Split a batch into parts of nearly the same size, none larger than ``size``.

    A part is [images [n, 3, H, W], labels [n] or [n, classes]].
    """
    parts = -(-len(images) // size)
    return list(zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True))


def accumulate(
    network: nn.Module, forward: Forward, parts: list[tuple[Tensor, Tensor]], scaler: torch.amp.GradScaler
) -> Tensor:
    """Add the gradients of all parts to the parameters; return the whole loss, a scalar on the device.

    Several processes exchange gradients with the last part only.
    """
    total: Tensor | None = None
    for number, (images, labels) in enumerate(parts, start=1):
        with _without_exchange(network) if number < len(parts) else nullcontext():
            loss = forward(images, labels)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None
    return total


def halved(size: int, *, side: int) -> int:
    """Return a smaller part after one that did not fit in the memory of a GPU.

    Raise BadConfig if it is the smallest.
    """
    if size <= SMALLEST:
        raise BadConfig(
            "OutOfMemory",
            f"the memory of the GPU does not hold a step of {size} images of {side} pixels; lower "
            "hyperparameters.imageSize, or use a smaller preset or a larger GPU",
        )
    smaller = max(SMALLEST, size // 2)
    logger.warning("out of memory on the GPU with %d images at a time: going on with %d", size, smaller)
    return smaller


def agreed(size: int, *, fits: Callable[[int], bool], any_of: Callable[[list[bool]], list[bool]], side: int) -> int:
    """Return the largest of ``size``, its half, quarter, … that fits on every process; all of them ask this together.

    Args:
        size: to begin with.
        fits: tries a part of so many images here.
        any_of: for each flag, whether any process has it set.
        side: of the images in pixels, for the message where not even the smallest fits.
    """
    while any_of([not fits(size)])[0]:
        size = halved(size, side=side)
    return size


def fits(network: nn.Module, forward: Forward, part: tuple[Tensor, Tensor], scaler: torch.amp.GradScaler) -> bool:
    """Return whether a GPU holds a step of this part.

    Tries it, and leaves weights, statistics and random numbers as they are.

    No gradients are exchanged.
    """
    device = part[0].device
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            _without_exchange(network),
            _without_shared_statistics(network),
        ):
            scaler.scale(forward(*part)).backward()  # type: ignore[no-untyped-call]
        held = True
    except torch.OutOfMemoryError:
        held = False
    network.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    with torch.no_grad():
        for buffer, copy in buffers:
            buffer.copy_(copy)
    return held


@contextmanager
def _without_shared_statistics(network: nn.Module) -> Iterator[None]:
    """Keep SyncBatchNorm from asking other processes in the block: one that is out of memory would never answer."""
    norms = [module for module in network.modules() if isinstance(module, nn.SyncBatchNorm) and module.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def _without_exchange(network: nn.Module) -> AbstractContextManager[None]:
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
