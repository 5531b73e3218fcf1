"""Accelerators that a container requests: NVIDIA's GPUs, on which our images compute, and those of other vendors."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bloomery_operator.api import InvalidResource
from bloomery_operator.api.base import Resources
from bloomery_operator.manifests.pod import size_in_bytes

_NVIDIA = "nvidia.com/"
"""Prefix of whole GPUs (``gpu``), shared ones (``gpu.shared``) and slices (``mig-1g.10gb``)."""
_OTHER_ACCELERATOR = re.compile(
    r"^(amd\.com/|habana\.ai/|google\.com/tpu|huawei\.com/|cambricon\.com/|metax-tech\.com/|hygon\.com/)"
    r"|gpu|npu|tpu|neuron"
)
"""Resource names of other vendors' accelerators; a network card or a device file is none."""


def requests_nvidia(resources: Resources | None) -> bool:
    """Return whether a container gets an NVIDIA GPU, or a part of one."""
    return any(name.startswith(_NVIDIA) for name in _requested(resources))


def unused_accelerators(resources: Resources | None) -> tuple[str, ...]:
    """Return the resource names of accelerators that a container gets and our images cannot compute on."""
    names = (name for name in _requested(resources) if "/" in name and not name.startswith(_NVIDIA))
    return tuple(name for name in names if _OTHER_ACCELERATOR.search(name))


def _requested(resources: Resources | None) -> Iterator[str]:
    """Yield the names of the limits above 0: an extended resource has a limit, which is also its request."""
    for name, quantity in sorted(resources.limits.items()) if resources else ():
        try:
            amount = size_in_bytes(quantity)
        except InvalidResource:
            amount = 1
        if amount > 0:
            yield name
