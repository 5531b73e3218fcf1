"""Two nodes of one processor each beside one: the rate of the same training on the same batches."""

from __future__ import annotations

import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bloomery_trainer.torch_runtime  # noqa: F401  (settles how torch's threads wait, before torch is loaded)
from bench.images import write_photos
from bench.prepared import prepared
from bloomery_trainer import config as documents
from bloomery_trainer.distributed.world import joined
from bloomery_trainer.engine import training
from bloomery_trainer.engine.context import build_run_context
from bloomery_trainer.engine.trainer import Trainer
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.shutdown import Shutdown
from bloomery_trainer.storage import S3Access
from bloomery_trainer.tracking.logger import CompositeLogger

BATCH, STEPS, ROUNDS = 32, 6, 3


def work(path: Path) -> dict[str, float]:
    """One node: images a second over all nodes, and the share of a step that is spent on each other."""
    logging.disable(logging.INFO)
    config = documents.load(path)
    assert isinstance(config, documents.TrainConfig)
    with tempfile.TemporaryDirectory() as scratch, joined(config, os.environ) as world:
        access = S3Access.from_environment({})
        context = build_run_context(config, Progress(), Shutdown(), world, access, Path(scratch))
        images = context.dataset(("train", "validation"))
        context = training.with_recipe(context, images, None)
        plan = training.make_plan(context, images, CompositeLogger(), lambda _: None)
        model, _ = training.build_model(context, images, None)
        trainer = Trainer(model, plan)
        rates = [_rate(trainer) for _ in range(ROUNDS + 1)][1:]
    return {"ips": statistics.median(rates)}


def _rate(trainer: Trainer) -> float:
    batches = trainer.plan.batches
    trainer.state.position = len(batches.order) - STEPS
    began = time.perf_counter()
    trainer.train_one_epoch()
    return STEPS * batches.batch / (time.perf_counter() - began)


def measure(dataset: dict[str, Any], folder: Path, *, preset: str, nodes: int) -> float:
    """Images a second of a training on so many nodes, each pinned to a processor of its own."""
    return _rates(dataset, folder, preset=preset, nodes=nodes, processes=nodes)[0]


def apart(dataset: dict[str, Any], folder: Path, *, preset: str) -> float:
    """Images a second of two trainings that know nothing of each other, on two processors at the same time.

    What these lose is the machine's: shared caches and memory. What two nodes lose beyond that is the exchange.
    """
    return sum(_rates(dataset, folder, preset=preset, nodes=1, processes=2))


def _rates(dataset: dict[str, Any], folder: Path, *, preset: str, nodes: int, processes: int) -> list[float]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    path = folder / f"{preset}-{nodes}.json"
    path.write_text(json.dumps(_config(dataset, folder, preset=preset, nodes=nodes, port=port)), encoding="utf-8")
    started = [
        subprocess.Popen(
            ["taskset", "--cpu-list", str(node), sys.executable, "-m", "bench.distribution", str(path)],
            env={**os.environ, "JOB_COMPLETION_INDEX": str(node % nodes), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for node in range(processes)
    ]
    answers = [process.communicate()[0] for process in started]
    return [float(json.loads(answer.splitlines()[-1])["ips"]) for answer in answers]


def _config(dataset: dict[str, Any], folder: Path, *, preset: str, nodes: int, port: int) -> dict[str, Any]:
    return {
        "kind": "train",
        "name": "bench",
        "uid": "bench",
        "datasets": [dataset],
        "preset": preset,
        "hyperparameters": {"batchSize": BATCH, "maxSteps": 1_000_000},
        "checkpoint": {"everySteps": 1_000_000},
        "nodes": nodes,
        "rendezvous": f"127.0.0.1:{port}",
        "mlflow": {"experiment": "bench", "registeredModel": "bench"},
        "output": {"uri": f"file://{folder}/output"},
    }


def main() -> None:
    """Prints one JSON object: for each preset, both rates and how close two come to twice one."""
    if len(sys.argv) > 1:
        print(json.dumps(work(Path(sys.argv[1]))))
        return
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "raw", images=320, classes=4)
        dataset = prepared(folder / "raw", folder / "store")
        for preset in ("resnet18", "resnet50"):
            one, two = (measure(dataset, folder, preset=preset, nodes=nodes) for nodes in (1, 2))
            separate = apart(dataset, folder, preset=preset)
            results[preset] = {
                "oneNodeIps": round(one, 1),
                "twoNodesIps": round(two, 1),
                "twoApartIps": round(separate, 1),
                "ofTwice": round(two / (2 * one), 3),
                "ofTwoApart": round(two / separate, 3),
            }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
