"""Precision and memory layout of numbers: the fastest of the device."""

from __future__ import annotations

import torch

_LARGE_PIXELS = 96
"""Side from which a processor gains by bfloat16 and by a pixel's channels side by side; below, it loses.

ResNet-18 trained on two cores with AVX512-BF16: at 176 pixels 49 images/s as usual, 93 so; at 32 pixels 595 and,
with the channels side by side alone, 214.
"""


def autocast_dtype(
    device: str, *, side: int, has_bfloat16: bool, has_amx: bool = False, depthwise: bool = False
) -> torch.dtype | None:
    """Return the type that a device of that kind trains in; None for full precision.

    A GPU without bfloat16 (T4, V100, RTX 20) takes float16, whose gradients need a scaler: see ``grad_scaler``. On a
    processor with AVX512-BF16 but no AMX, the backward pass of depthwise convolutions is so much slower in bfloat16
    that a step is, too: batches of 32 at 176 pixels on two cores, images/s in bfloat16 and float32, are 34 and 42 for
    mobilenet-v2, 32 and 46 for mobilenet-v3-large, 19 and 24 for efficientnet-b0.

    Args:
        device: "cuda" or "cpu".
        side: of the images, in pixels.
        has_bfloat16: whether it computes with bfloat16 natively.
        has_amx: whether it multiplies matrices of bfloat16 as a whole.
        depthwise: whether a network of depthwise convolutions is trained; False for forward passes alone.
    """
    if device == "cuda":
        return torch.bfloat16 if has_bfloat16 else torch.float16
    gains = has_bfloat16 and side >= _LARGE_PIXELS and (has_amx or not depthwise)
    return torch.bfloat16 if gains else None


def training_dtype(device: torch.device, *, side: int, depthwise: bool = False) -> torch.dtype | None:
    """Return the type that this device trains in; None for full precision."""
    return autocast_dtype(
        device.type, side=side, has_bfloat16=_has_bfloat16(device), has_amx=_has_amx(), depthwise=depthwise
    )


def reduced(device: torch.device, *, side: int, enabled: bool = True, depthwise: bool = False) -> torch.autocast:
    """Return the context of reduced precision if the device gains by it, else of full precision."""
    dtype = training_dtype(device, side=side, depthwise=depthwise)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=enabled and dtype is not None)


def grad_scaler(device: torch.device, *, side: int) -> torch.amp.GradScaler:
    """Make the scaler that keeps gradients above float16's least number (arXiv:1710.03740); idle in other types."""
    return torch.amp.GradScaler(device.type, enabled=training_dtype(device, side=side) == torch.float16)


def memory_format(device: torch.device, *, side: int) -> torch.memory_format:
    """Return the memory layout of images of that side in pixels, and of the weights that meet them."""
    if device.type == "cuda" or side >= _LARGE_PIXELS:
        return torch.channels_last
    return torch.contiguous_format


def _has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
