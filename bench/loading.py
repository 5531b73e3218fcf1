"""The cost of feeding images to training: the rate of the real loop beside that of the same loop on ready batches."""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

import bloomery_trainer.torch_runtime  # noqa: F401  (settles how torch's threads wait, before torch is loaded)
from bench.images import write_photos
from bench.prepared import prepared
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.data.loader import TrainingBatches, training_batches
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
PRESETS = ("resnet18", "resnet50")
Place = Literal["in memory", "on disk", "decoded each time"]


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


def measure(preset: str, dataset: dict[str, Any], *, batch: int, where: Place) -> dict[str, float]:
    """Measure images a second of both loops, epoch by epoch in turns; the median of each, and the first by itself."""
    with tempfile.TemporaryDirectory() as scratch:
        context = _job(preset, dataset, batch=batch, scratch=Path(scratch))
        if where != "in memory":
            context = replace(context, memory=MemoryBudget(0, reserved_bytes=0))
        images = context.dataset(("train", "validation"))
        context = training.with_recipe(context, images, None)
        plan = training.make_plan(context, images, CompositeLogger(), lambda _: None)
        if where == "decoded each time":
            batches = training_batches(
                images.splits["train"], context.preprocess, context.recipe,
                device=context.device, world=context.world, budget=context.memory,
            )  # fmt: skip
            plan = replace(plan, batches=batches)
        model, _ = training.build_model(context, images, None)
        trainer = Trainer(model, plan)
        steps = len(plan.batches.order)
        plain = training_batches(
            images.splits["train"], context.preprocess, context.recipe, device=context.device, world=context.world
        )
        fixed = next(iter(plain.epoch(0)))
        ready = ReadyBatches(plan.batches.loader, plan.batches.order, plan.batches.unreadable, fixed, steps)
        plans = {"total": plan, "compute": replace(plan, batches=ready)}
        rates: dict[str, list[float]] = {name: [] for name in plans}
        _epoch(trainer, plans["compute"], steps)
        first = _epoch(trainer, plans["total"], steps)
        for _ in range(ROUNDS):
            for name, each in plans.items():
                rates[name].append(_epoch(trainer, each, steps))
    total, compute = (statistics.median(rates[name]) for name in ("total", "compute"))
    return {
        "totalIps": round(total, 1),
        "computeIps": round(compute, 1),
        "ratio": round(total / compute, 3),
        "firstEpochRatio": round(first / compute, 3),
    }


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
    """Print one JSON object: for each preset, images kept decoded in memory, on disk, or decoded again each time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", action="append", help="only these")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    batch, images = 16, 320
    if torch.cuda.is_available():
        batch, images = 256, 20_480
    os.environ["BLOOMERY_PORT"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder) / "raw", images=images, classes=4)
        dataset = prepared(Path(folder) / "raw", Path(folder) / "store")
        results = {
            f"{preset}, {where}": measure(preset, dataset, batch=batch, where=where)
            for preset in options.preset or PRESETS
            for where in get_args(Place)
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
