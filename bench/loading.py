"""The cost of feeding images to training: the rate of the real loop beside that of the same loop on ready batches."""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bloomery_trainer.torch_runtime  # noqa: F401  (settles how torch's threads wait, before torch is loaded)
from bench.images import write_photos
from bench.prepared import prepared
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.data.loader import TrainingBatches
from bloomery_trainer.data.memory import MemoryBudget
from bloomery_trainer.distributed.world import World
from bloomery_trainer.engine import training
from bloomery_trainer.engine.context import RunContext, build_run_context
from bloomery_trainer.engine.trainer import Plan, Trainer
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.shutdown import Shutdown
from bloomery_trainer.storage import S3Access
from bloomery_trainer.tracking.logger import CompositeLogger

ROUNDS = 3


@dataclass(frozen=True)
class ReadyBatches(TrainingBatches):
    """The same batch again and again: no image is read, decoded or varied."""

    fixed: tuple[Tensor, Tensor]
    steps: int

    def epoch(self, number: int, *, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """As many batches as the real epoch has."""
        del number, first
        for _ in range(self.steps):
            yield self.fixed


def measure(preset: str, dataset: dict[str, Any], *, batch: int, steps: int, in_memory: bool) -> dict[str, float]:
    """Images a second of both loops, epoch by epoch in turns; the median of each."""
    with tempfile.TemporaryDirectory() as scratch:
        context = _job(preset, dataset, batch=batch, scratch=Path(scratch))
        if not in_memory:
            context = replace(context, memory=MemoryBudget(0, reserved_bytes=0))
        images = context.dataset(("train", "validation"))
        context = training.with_recipe(context, images, None)
        plan = training.make_plan(context, images, CompositeLogger(), lambda _: None)
        model, _ = training.build_model(context, images, None)
        trainer = Trainer(model, plan)
        fixed = next(iter(plan.batches.epoch(0)))
        ready = ReadyBatches(plan.batches.loader, plan.batches.order, plan.batches.unreadable, fixed, steps)
        plans = {"total": plan, "compute": replace(plan, batches=ready)}
        rates: dict[str, list[float]] = {name: [] for name in plans}
        _epoch(trainer, plans["compute"], steps)
        for _ in range(ROUNDS):
            for name, each in plans.items():
                rates[name].append(_epoch(trainer, each, steps))
    total, compute = (statistics.median(rates[name]) for name in ("total", "compute"))
    return {"totalIps": round(total, 1), "computeIps": round(compute, 1), "ratio": round(total / compute, 3)}


def _epoch(trainer: Trainer, plan: Plan, steps: int) -> float:
    trainer.plan = plan
    trainer.state.position = len(plan.batches.order) - steps
    began = time.perf_counter()
    trainer.train_one_epoch()
    if plan.device.type == "cuda":
        torch.cuda.synchronize()
    return steps * plan.batches.batch / (time.perf_counter() - began)


def _job(preset: str, dataset: dict[str, Any], *, batch: int, scratch: Path) -> RunContext:
    config = TrainConfig.model_validate(
        {
            "kind": "train",
            "name": "bench",
            "uid": "bench",
            "datasets": [dataset],
            "preset": preset,
            "hyperparameters": {"batchSize": batch, "maxSteps": 1_000_000},
            "checkpoint": {"everySteps": 1_000_000},
            "mlflow": {"experiment": "bench", "registeredModel": "bench"},
            "output": {"uri": f"file://{scratch}/output"},
        }
    )
    access = S3Access.from_environment({})
    return build_run_context(config, Progress(), Shutdown(), World(), access, scratch)


def main() -> None:
    """Prints one JSON object: for each preset, images kept decoded in memory or decoded again each time."""
    logging.disable(logging.INFO)
    presets, batch, steps = ["resnet18", "resnet50"], 16, 12
    if torch.cuda.is_available():
        batch, steps = 256, 40
    os.environ["BLOOMERY_PORT"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder) / "raw", images=max(400, 2 * batch * steps), classes=4)
        dataset = prepared(Path(folder) / "raw", Path(folder) / "store")
        results = {
            f"{preset}, {where}": measure(preset, dataset, batch=batch, steps=steps, in_memory=where == "in memory")
            for preset in presets
            for where in ("in memory", "decoded each time")
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
