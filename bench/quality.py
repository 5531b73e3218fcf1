"""`make bench-quality`: how good the models of real photographs are, by defaults, and how long they take.

It needs a folder with `train/` and `validation/`, a folder for each class below them (FLOWERS=…), and a file of
ImageNet weights of MobileNetV2 (WEIGHTS=…). Both stay outside the repository. ONLY=head,all runs some parts only.

Every part is a whole job against a real MLflow server and a real S3 store: from prepared shards to the registered
model. Each reports top-1 on all validation images (the rules of the dataset are off), Wilson's 95 % interval, the
seconds and the images a second that training saw.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.transfer import write_digits
from bloomery_trainer.engine.evaluation import interval95
from testing.processes import free_port
from testing.servers import ROOT, MlflowServer, S3Server, install_mlflow

FLOWERS = Path(os.environ.get("FLOWERS") or ROOT.parent / "shared/data/flowers")
WEIGHTS = Path(os.environ.get("WEIGHTS") or ROOT.parent / "shared/data/mobilenet_v2_imagenet_backbone.pt")
SEEDS = (0, 1, 2)
FEW_IMAGES = 40
SCRATCH_STEPS = 2730
DIGIT_STEPS = 352

OLD_DIGITS_RECIPE: dict[str, Any] = {
    "batchSize": 32,
    "labelSmoothing": 0.1,
    "optimizer": "sgd",
    "learningRate": 0.0125,
    "momentum": 0.9,
    "weightDecay": 1e-4,
    "warmupEpochs": 1,
    "augmentation": "TrivialAugment",
}
"""The defaults of version 0.1.0 for ResNets, as explicit fields."""


@dataclass(frozen=True)
class Services:
    """Where the jobs store and record."""

    folder: Path
    store: S3Server
    environment: dict[str, str]

    def run(self, config: dict[str, Any], name: str) -> dict[str, Any]:
        """Run one command of the trainer; return its termination message."""
        return run_trainer(config, self.folder / name, {**os.environ, **self.environment})


def run_trainer(config: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run one command of the trainer, with its files in a folder of its own; return its termination message."""
    folder.mkdir(parents=True, exist_ok=True)
    path, message = folder / "config.json", folder / "message.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    variables = {**environment, "TERMINATION_LOG": str(message), "BLOOMERY_PORT": "0"}
    command = [sys.executable, "-m", "bloomery_trainer", str(config["kind"]), str(path)]
    with (folder / "log").open("wb") as log:
        code = subprocess.run(command, env=variables, stdout=log, stderr=log, check=False).returncode
    if code:
        raise SystemExit(f"{folder.name} ended with {code}: {(folder / 'log').read_text()[-3000:]}")
    document: dict[str, Any] = json.loads(message.read_text(encoding="utf-8"))
    return document


@contextmanager
def services() -> Iterator[Services]:
    """Start MLflow and the store in a temporary folder, with the weights file in the store."""
    with tempfile.TemporaryDirectory(prefix="bench-quality-") as name:
        folder = Path(name)
        mlflow = MlflowServer(install_mlflow(), folder, free_port())
        store = S3Server(free_port(), "bench", folder / "s3", folder / "s3.log")
        try:
            mlflow.start()
            store.start()
            store.bucket("bench")
            store.put("bench", {f"weights/{WEIGHTS.name}": WEIGHTS.read_bytes()})
            yield Services(folder, store, {**store.environment(), "MLFLOW_TRACKING_URI": mlflow.uri})
        finally:
            mlflow.kill()
            store.kill()


def prepare(at: Services, raw: Path, name: str, *, layout: str = "Auto") -> dict[str, Any]:
    """Prepare a local folder into the store with all rules off; an entry of `datasets`."""
    message = at.run(
        {
            "kind": "prepare",
            "name": name,
            "source": {"uri": f"file://{raw}", "layout": layout},
            "rules": {"check": False},
            "output": {"uri": f"s3://bench/datasets/{name}"},
        },
        f"prepare-{name}",
    )
    return {"name": name, "version": message["version"], "uri": message["uri"]}


def train(at: Services, name: str, dataset: dict[str, Any], preset: str, **fields: Any) -> dict[str, Any]:
    """Train by defaults and the given fields; return the figures of the whole job."""
    began = time.monotonic()
    message = at.run(
        {
            "kind": "train",
            "name": name,
            "uid": name,
            "datasets": [dataset],
            "preset": preset,
            "mlflow": {"experiment": f"bench/{name}", "registeredModel": name},
            "output": {"uri": f"s3://bench/models/{name}"},
            **fields,
        },
        name,
    )
    seconds = time.monotonic() - began
    if message["model"]["version"] is None:
        raise SystemExit(f"{name} was not registered: {message['notes']}")
    images = _evaluated_images(at, name)
    top1 = float(message["metrics"]["top1"])
    steps = message["progress"].get("step") or 0
    low, high = interval95(top1, images)
    return {
        "top1": top1,
        "interval": [round(low, 4), round(high, 4)],
        "seconds": round(seconds, 1),
        "imagesPerSecond": round(_images_seen(at, name, steps) / seconds, 1),
        "images": images,
        "steps": steps,
        "lastEpoch": message.get("lastEpoch"),
        "notes": message["notes"],
    }


def _evaluated_images(at: Services, name: str) -> int:
    document = json.loads((at.store.folder / "bench/models" / name / "evaluation.json").read_text(encoding="utf-8"))
    return int(document["images"])


def _images_seen(at: Services, name: str, steps: int) -> float:
    """Images of all training steps, or feature views, by the recipe that the job has written down."""
    metadata = json.loads((at.store.folder / "bench/models" / name / "model/metadata.json").read_text(encoding="utf-8"))
    return steps * float(metadata["recipe"]["batchSize"])


def backbone() -> dict[str, Any]:
    """Start from the weights file."""
    return {"initialModel": {"uri": f"s3://bench/weights/{WEIGHTS.name}"}}


def head(at: Services) -> dict[str, Any]:
    """A head on frozen features; the mean of three seeds, the figures of the first."""
    dataset = prepare(at, FLOWERS, "flowers")
    recipes = [{"trainable": "Head", "seed": seed} for seed in SEEDS]
    runs = [
        train(at, f"head-{recipe['seed']}", dataset, "mobilenet-v2", hyperparameters=recipe, **backbone())
        for recipe in recipes
    ]
    return {**runs[0], "top1": statistics.mean(run["top1"] for run in runs), "runs": [run["top1"] for run in runs]}


def fine_tune(at: Services) -> dict[str, Any]:
    """All weights, from the backbone."""
    return train(at, "all", prepare(at, FLOWERS, "flowers"), "mobilenet-v2", **backbone())


def few(at: Services) -> dict[str, Any]:
    """All weights on 40 training images of each class, three draws."""
    runs = []
    for seed in SEEDS:
        folder = at.folder / f"few-{seed}"
        shutil.copytree(FLOWERS / "validation", folder / "validation")
        for place in sorted((FLOWERS / "train").iterdir()):
            (folder / "train" / place.name).mkdir(parents=True)
            for path in random.Random(seed).sample(sorted(place.iterdir()), FEW_IMAGES):
                shutil.copy(path, folder / "train" / place.name)
        dataset = prepare(at, folder, f"few-{seed}")
        runs.append(train(at, f"few-{seed}", dataset, "mobilenet-v2", **backbone()))
        print(f"few, seed {seed}: {runs[-1]['top1']:.4f} in {runs[-1]['seconds']} s", flush=True)
    return {**runs[0], "top1": statistics.mean(run["top1"] for run in runs), "runs": [run["top1"] for run in runs]}


def scratch(at: Services) -> dict[str, Any]:
    """resnet18 at 128 pixels from scratch, its length by default."""
    return _scratch(at, "scratch")


def scratch_steps(at: Services) -> dict[str, Any]:
    """The same at the number of steps that version 0.1.0 took."""
    return _scratch(at, "scratch-steps", maxSteps=SCRATCH_STEPS)


def _scratch(at: Services, name: str, **hyperparameters: Any) -> dict[str, Any]:
    return train(
        at,
        name,
        prepare(at, FLOWERS, "flowers"),
        "resnet18",
        initialModel={"weights": "None"},
        hyperparameters={"imageSize": 128, **hyperparameters},
    )


def digits(at: Services) -> dict[str, Any]:
    """The handwritten digits at equal steps: today's defaults beside those of version 0.1.0, medians of three seeds."""
    write_digits(at.folder / "digits")
    dataset = prepare(at, at.folder / "digits", "digits")
    common = {"imageSize": 32, "horizontalFlip": False, "maxSteps": DIGIT_STEPS}
    recipes = {"now": common, "before": {**common, **OLD_DIGITS_RECIPE}}
    results: dict[str, Any] = {}
    for name, recipe in recipes.items():
        runs = [
            train(
                at,
                f"digits-{name}-{seed}",
                dataset,
                "resnet18",
                initialModel={"weights": "None"},
                hyperparameters={**recipe, "seed": seed},
            )
            for seed in SEEDS
        ]
        results[name] = {"top1": statistics.median(run["top1"] for run in runs), "runs": [run["top1"] for run in runs]}
    return {**results["now"], "before": results["before"]}


PARTS: dict[str, Callable[[Services], dict[str, Any]]] = {
    "head": head,
    "all": fine_tune,
    "few": few,
    "scratchSteps": scratch_steps,
    "scratch": scratch,
    "digits": digits,
}


def _row(name: str, result: dict[str, Any]) -> str:
    interval = "–".join(f"{edge:.3f}" for edge in result["interval"]) if "interval" in result else ""
    seconds, rate = result.get("seconds", ""), result.get("imagesPerSecond", "")
    return f"{name:14}{result['top1']:8.4f}  {interval:13}{seconds:>9}{rate:>10}"


def require_photographs() -> None:
    """Skip the benchmark, with a word, where there are no photographs or no weights."""
    if not FLOWERS.is_dir() or not WEIGHTS.is_file():
        raise SystemExit(f"skipped: {FLOWERS} or {WEIGHTS} is missing; set FLOWERS and WEIGHTS to where they are")


def main() -> None:
    """Print a table and, as the last line, one JSON object."""
    require_photographs()
    names = [name for name in (os.environ.get("ONLY") or ",".join(PARTS)).split(",") if name]
    unknown = set(names) - set(PARTS)
    if unknown:
        raise SystemExit(f"ONLY names {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    results: dict[str, Any] = {"processors": len(os.sched_getaffinity(0))}
    with services() as at:
        for name in names:
            results[name] = PARTS[name](at)
            print(_row(name, results[name]), flush=True)
    print(f"\n{'':14}{'top1':>8}  {'interval':13}{'seconds':>9}{'images/s':>10}")
    for name in names:
        print(_row(name, results[name]))
    print(json.dumps(results, ensure_ascii=False))


if __name__ == "__main__":
    main()
