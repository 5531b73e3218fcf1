"""Devices of a pod, and the errors if they cannot be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bloomery_trainer.torch_runtime  # noqa: F401  (settles how torch's threads wait, before torch is loaded)
from bloomery_trainer.distributed.devices import (
    Gpus,
    assigned_gpus,
    has_kernels,
    process_count,
    require_usable,
    required_driver,
    uses_mig,
)
from bloomery_trainer.errors import BadConfig

_RELEASE = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("environment", "files", "expected"),
    [
        ({}, [], False),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, [], False),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, ["null"], False),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-4f2c"}, [], True),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, ["nvidiactl", "nvidia0"], True),
        ({}, ["nvidiactl", "nvidia-uvm"], False),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ["nvidia0"], False),
        ({"CUDA_VISIBLE_DEVICES": ""}, ["nvidia0"], False),
    ],
)
def test_gpus_are_assigned_where_the_runtime_says_so(
    environment: dict[str, str], files: list[str], expected: bool
) -> None:
    assert assigned_gpus(environment, files) is expected


def test_assigned_gpus_that_cuda_cannot_use_are_refused() -> None:
    with pytest.raises(BadConfig, match=r"driver on your system is too old.*needs the NVIDIA driver") as caught:
        require_usable(Gpus(assigned=True, cuda=0, fault="The NVIDIA driver on your system is too old"))

    assert caught.value.reason == "GpuUnusable"
    require_usable(Gpus(assigned=False, cuda=0))
    require_usable(Gpus(assigned=True, cuda=1))


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((7, 0), False),
        ((7, 5), True),
        ((8, 0), True),
        ((8, 9), True),
        ((9, 0), True),
        ((11, 0), False),
        ((12, 1), True),
    ],
)
def test_kernels_run_on_newer_minor_versions_only(capability: tuple[int, int], expected: bool) -> None:
    assert has_kernels(capability, _RELEASE) is expected


def test_ptx_runs_on_every_newer_device() -> None:
    assert has_kernels((15, 0), [*_RELEASE, "compute_120"])
    assert not has_kernels((7, 0), ["compute_75"])
    assert not has_kernels((9, 1), ["sm_90a"])


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (Gpus(assigned=False, cuda=0), 1),
        (Gpus(assigned=True, cuda=8, nvml=8), 8),
        (Gpus(assigned=True, cuda=1, nvml=2), 1),
        (Gpus(assigned=True, cuda=1, nvml=1, mig=True), 1),
    ],
)
def test_slices_of_a_gpu_get_one_process(gpus: Gpus, expected: int) -> None:
    assert process_count(gpus) == expected


def test_slices_are_known_by_their_names() -> None:
    assert uses_mig({"NVIDIA_VISIBLE_DEVICES": "MIG-1b2c,MIG-3d4e"})
    assert not uses_mig({"NVIDIA_VISIBLE_DEVICES": "GPU-1b2c"})


def test_the_required_driver_is_named() -> None:
    assert "driver" in required_driver() or "without CUDA" in required_driver()


def test_pod_with_unusable_gpus_fails(tmp_path: Path) -> None:
    config = {
        "kind": "train", "name": "a", "uid": "1", "datasets": [{"name": "a", "version": "1", "uri": f"file://{tmp_path}"}],
        "preset": "resnet18", "mlflow": {"experiment": "a", "registeredModel": "a"},
        "output": {"uri": f"file://{tmp_path}/out"},
    }  # fmt: skip
    (tmp_path / "c.json").write_text(json.dumps(config))
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    # No device of that name exists on any machine, so CUDA finds none here either.
    environment |= {
        "NVIDIA_VISIBLE_DEVICES": "GPU-00000000-0000-0000-0000-000000000000",
        "CUDA_VISIBLE_DEVICES": "GPU-00000000-0000-0000-0000-000000000000",
        "TERMINATION_LOG": str(tmp_path / "message"),
        "BLOOMERY_PORT": "0",
    }
    command = [sys.executable, "-m", "bloomery_trainer", "train", str(tmp_path / "c.json")]
    code = subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False).returncode

    assert (code, json.loads((tmp_path / "message").read_text())["error"]["reason"]) == (2, "GpuUnusable")
