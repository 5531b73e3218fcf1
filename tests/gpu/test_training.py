"""The GPU path on a real device: precision, NCCL, no hidden waiting, a whole training, too little memory.

Run by `make test-gpu` on a machine with a GPU; everywhere else, all of it is skipped.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import bloomery_trainer.torch_runtime  # noqa: F401  (settles how torch's threads wait, before torch is loaded)
from bloomery_trainer.distributed import devices
from bloomery_trainer.engine.trainer import Trainer
from bloomery_trainer.models import precision

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device: nothing was run")

Seen = Callable[[str], None]
Run = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]
WARM_UP_STEPS = 8
"""cuDNN measures its algorithms and the allocator grows in the first steps."""


def cuda() -> torch.device:
    return torch.device("cuda", 0)


def test_the_device_can_be_used_by_this_build(seen: Seen) -> None:
    gpus = devices.detect()
    properties = torch.cuda.get_device_properties(0)
    seen(
        f"{gpus.cuda} × {properties.name}, capability {properties.major}.{properties.minor}, "
        f"{properties.total_memory / 2**30:.0f} GiB; PyTorch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"kernels for {' '.join(torch.cuda.get_arch_list())}"
    )
    seen(f"assigned by the container runtime: {gpus.assigned}; counted by NVML: {gpus.nvml}; slices: {gpus.mig}")

    devices.require_usable(gpus)
    devices.require_kernels(0)
    assert gpus.cuda == torch.cuda.device_count()
    assert devices.process_count(gpus) in (1, gpus.cuda)


def test_training_uses_the_half_precision_that_the_device_has(seen: Seen) -> None:
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    layer = nn.Conv2d(3, 8, 3, device=cuda())
    with precision.reduced(cuda(), side=64):
        output = layer(torch.randn(4, 3, 64, 64, device=cuda()))
    seen(f"trains in {output.dtype}")

    assert output.dtype == (torch.bfloat16 if has_bfloat16 else torch.float16)
    assert bool(output.isfinite().all())
    assert precision.grad_scaler(cuda(), side=64).is_enabled() is not has_bfloat16


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_nccl_reduces_over_all_devices(seen: Seen, train_config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    count = torch.cuda.device_count()
    if count > 1:
        code, log = train_in_processes(train_config(maxSteps=6, batchSize=16 * count), tmp_path)
        assert code == 0, log[-3000:]
        assert f"on {count} × cuda" in log
    else:
        store = dist.TCPStore("127.0.0.1", free_port(), 1, is_master=True)
        dist.init_process_group("cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1)
        try:
            value = torch.full((1024,), 3.0, device=cuda())
            dist.all_reduce(value)
            assert value.sum().item() == 3072
        finally:
            dist.destroy_process_group()
    seen(f"NCCL {'.'.join(map(str, torch.cuda.nccl.version()))} with {count} process(es)")


def train_in_processes(config: dict[str, Any], folder: Path) -> tuple[int, str]:
    """Trains as a pod does: one process for each device."""

    path = folder / "several.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    environment = {**os.environ, "TERMINATION_LOG": str(folder / "several-message.json"), "BLOOMERY_PORT": "0"}
    command = [sys.executable, "-m", "bloomery_trainer", "train", str(path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    return ended.returncode, ended.stderr


def test_a_network_learns_drawn_shapes(
    seen: Seen, run: Run, train_config: Callable[..., dict[str, Any]], trainer_log: list[str], tmp_path: Path
) -> None:
    began = time.monotonic()
    code, message = run(train_config(maxSteps=150))
    seconds = time.monotonic() - began
    rates = [int(rate) for line in trainer_log for rate in re.findall(r"(\d+) images/s", line)]
    seen(
        f"resnet18 at 64 pixels: top1 {message.get('metrics', {}).get('top1')} after 150 steps, {seconds:.0f} s, "
        f"{max(rates, default=0)} images/s, {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB at most"
    )

    assert code == 0, message
    assert any("1 × cuda" in line for line in trainer_log)
    assert message["metrics"]["top1"] > 0.8
    assert (tmp_path / "output" / "model" / "model.onnx").exists()


def test_a_step_never_makes_the_host_wait_for_the_device(
    seen: Seen, run: Run, train_config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = Trainer.train_step
    checked = 0

    def strict(trainer: Trainer, *arguments: Any) -> Any:
        nonlocal checked
        if trainer.state.step < WARM_UP_STEPS:
            return train_step(trainer, *arguments)
        checked += 1
        torch.cuda.set_sync_debug_mode("error")
        try:
            return train_step(trainer, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Trainer, "train_step", strict)
    code, message = run(train_config(maxSteps=WARM_UP_STEPS + 12, mixup=0.2, ema=0.9))
    seen(f"steps without a synchronisation: {checked}")

    assert code == 0, message
    assert checked == 12


def test_float16_trains_with_scaled_gradients(
    seen: Seen, run: Run, train_config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_has_bfloat16", lambda _: False)
    assert precision.training_dtype(cuda(), side=64) == torch.float16
    code, message = run(train_config(maxSteps=100))
    seen(f"float16, forced: top1 {message.get('metrics', {}).get('top1')} after 100 steps")

    assert code == 0, message
    assert message["metrics"]["top1"] > 0.7


def test_a_batch_too_large_for_the_memory_is_trained_in_parts(
    seen: Seen, run: Run, train_config: Callable[..., dict[str, Any]], trainer_log: list[str]
) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    # 256 images at 224 pixels take more than 4 GiB even in half precision, a quarter of them does not.
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2.5 * 2**30 / total))
    try:
        code, message = run(train_config(maxSteps=3, batchSize=256, imageSize=224, augmentation="None"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    halvings = [line for line in trainer_log if line.startswith("out of memory on the GPU")]
    seen(f"with 2.5 GiB of memory: {'; '.join(halvings) or 'no halving'}")

    assert code == 0, message
    assert halvings
