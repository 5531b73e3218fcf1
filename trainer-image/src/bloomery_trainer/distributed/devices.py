"""The devices that this pod was given, and whether this build of PyTorch can use them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bloomery_trainer.errors import BadConfig

_DRIVERS = {11: 450, 12: 525, 13: 580}
"""The oldest driver for each major version of CUDA: docs.nvidia.com/deploy/cuda-compatibility."""


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """The GPUs that the pod was given, and those that PyTorch sees.

    Attributes:
        assigned: whether the container runtime gave this pod GPUs.
        cuda: devices that CUDA enumerates for one process.
        nvml: devices that the driver's management library counts; -1 where it does not answer.
        mig: whether they are slices of a GPU (multi-instance GPU).
        fault: PyTorch's reason where CUDA cannot be used.
    """

    assigned: bool
    cuda: int
    nvml: int = -1
    mig: bool = False
    fault: str | None = None


def assigned_gpus(environment: Mapping[str, str], device_files: Iterable[str]) -> bool:
    """Return whether the container runtime gave this container GPUs.

    ``CUDA_VISIBLE_DEVICES`` set to nothing or to -1 asks for the processor. ``NVIDIA_VISIBLE_DEVICES=all`` means
    nothing: images set it for nodes of any kind.
    """
    if environment.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1", "NoDevFiles"):
        return False
    if environment.get("NVIDIA_VISIBLE_DEVICES", "") not in ("", "all", "none", "void"):
        return True
    return any(re.fullmatch(r"nvidia\d+", name) for name in device_files)


def uses_mig(environment: Mapping[str, str]) -> bool:
    """Return whether the container was given slices of a GPU."""
    names = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
    return any(part.strip().startswith("MIG-") for name in names for part in environment.get(name, "").split(","))


def detect(environment: Mapping[str, str] = os.environ, *, devices: Path = Path("/dev")) -> Gpus:
    """Ask the container's environment, the driver and CUDA; make no CUDA context."""
    assigned = assigned_gpus(environment, (path.name for path in devices.glob("nvidia*")))
    if torch.cuda.is_available():
        # device_count() counts by NVML until CUDA is initialised; of MIG slices, CUDA gives a process only one.
        return Gpus(
            assigned=assigned,
            cuda=int(torch._C._cuda_getDeviceCount()),
            nvml=torch.cuda.device_count(),
            mig=uses_mig(environment),
        )
    return Gpus(assigned=assigned, cuda=0, mig=uses_mig(environment), fault=_cuda_fault() if assigned else None)


def require_usable(gpus: Gpus) -> None:
    """Raise BadConfig if the pod was given GPUs that CUDA cannot use: training would take days on the processor."""
    if not gpus.assigned or gpus.cuda > 0:
        return
    raise BadConfig(
        "GpuUnusable",
        f"this pod was given GPUs that cannot be used: {gpus.fault or 'CUDA finds none'}; {required_driver()}. Update "
        "the node's driver, choose other nodes by podTemplate, or set CUDA_VISIBLE_DEVICES to -1 to train on the "
        "processor",
    )


def require_kernels(device: int) -> None:
    """Raise BadConfig if PyTorch has no kernels for that CUDA device; called in the process that will use it."""
    capability = torch.cuda.get_device_capability(device)
    if not has_kernels(capability, torch.cuda.get_arch_list()):
        raise BadConfig(
            "GpuUnusable",
            f"PyTorch {torch.__version__} has no kernels for {torch.cuda.get_device_name(device)} (compute capability "
            f"{capability[0]}.{capability[1]}), only for {', '.join(torch.cuda.get_arch_list())}: choose nodes with "
            "other GPUs by podTemplate",
        )


def has_kernels(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Return whether a build for these architectures (``sm_80``, ``compute_90``) runs on a device of that capability.

    Machine code runs on the same major version from its minor version on, PTX (``compute_…``) on everything newer;
    a letter behind the number binds to one version alone (CUDA Programming Guide, "Compute Capabilities").
    """
    return any(_runs_on(architecture, capability) for architecture in architectures)


def process_count(gpus: Gpus) -> int:
    """Return the number of training processes for this node: one for each GPU, one for MIG slices, one without GPUs.

    NCCL does not connect slices, and CUDA gives a process only one of them.
    """
    if gpus.mig or gpus.nvml > gpus.cuda:
        return 1
    return max(1, gpus.cuda)


def required_driver() -> str:
    """Return the oldest driver that this build of PyTorch works with, as a sentence."""
    version = torch.version.cuda
    driver = _DRIVERS.get(int(version.split(".")[0])) if version else None
    if driver is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    return f"PyTorch {torch.__version__} with CUDA {version} needs the NVIDIA driver {driver} or newer"


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", architecture)
    if match is None:
        return False
    kind, version, letter = match[1], (int(match[2]), int(match[3])), match[4]
    if letter == "a":
        return version == capability
    if kind == "compute" and not letter:
        return version <= capability
    return version[0] == capability[0] and version[1] <= capability[1]


def _cuda_fault() -> str:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")[:300]
    return "CUDA finds no device"
