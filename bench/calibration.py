"""`make bench-calibration`: how far the scores of a model of real photographs can be trusted.

It needs a folder with `train/` and `validation/`, a folder for each class below them (FLOWERS=…), and a file of
ImageNet weights of MobileNetV2 (WEIGHTS=…), as `make bench-quality` does; both stay outside the repository. KEEP=folder
keeps the model and the logs in a new folder.

A head is fitted on the backbone, then the same held-out images are asked of the trainer, of a model server on the
exported folder, of an offline kit of it, and of its int8 form with a temperature of its own. The expected calibration
error is worked out here by a plain script, not by the trainer's code: 15 bins, cross-fitted on halves, the mean of ten
random ones. It fails where an error is above 0.05, where two places answer differently, or where calibration has
changed a label.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

from bench.quality import FLOWERS, WEIGHTS, require_photographs, run_trainer
from bloomery_model import Preprocess, decode
from bloomery_model.folder import MODEL, PREPROCESS
from bloomery_trainer.engine.calibration import fit_temperature
from bloomery_trainer.models import export, quantize
from testing.processes import free_port, running_program
from testing.servers import until_answered

MOST_ERROR = 0.05
"""Of the expected calibration error after calibration."""
MOST_DIFFERENCE = 1e-3
"""Of one score between two places that answer with the same file."""
BINS, HALVES = 15, 10
INT8_IMAGES = 128

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """Probabilities [N, C] of the held-out images, by the classes in alphabetical order, and their true classes [N]."""

    scores: Scores
    labels: NDArray[np.int64]

    @property
    def top1(self) -> float:
        """The share that is right."""
        return float((self.scores.argmax(axis=1) == self.labels).mean())

    def tempered(self, temperature: float) -> Answers:
        """Return the answers with logits divided by a temperature."""
        logits = np.log(np.maximum(self.scores, 1e-12)) / temperature
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return Answers(shares / shares.sum(axis=1, keepdims=True), self.labels)

    def part(self, places: NDArray[np.int64]) -> Answers:
        """Return the answers for some of the images."""
        return Answers(self.scores[places], self.labels[places])

    @property
    def error(self) -> float:
        """The expected calibration error."""
        sure, right = self.scores.max(axis=1), self.scores.argmax(axis=1) == self.labels
        bins = np.minimum((sure * BINS).astype(int), BINS - 1)
        sums = [abs(sure[bins == place].sum() - right[bins == place].sum()) for place in range(BINS)]
        return float(sum(sums) / len(sure))

    @property
    def cross_fitted_error(self) -> float:
        """The same after calibration: the temperature is fitted on one half and judged on the other."""
        random = np.random.default_rng(1)
        errors = []
        for _ in range(HALVES):
            one, other = np.array_split(random.permutation(len(self.labels)), 2)
            halves = [
                self.part(judged).tempered(self.part(fitted).temperature)
                for fitted, judged in ((one, other), (other, one))
            ]
            joined = Answers(
                *(np.concatenate([getattr(half, name) for half in halves]) for name in ("scores", "labels"))
            )
            errors.append(joined.error)
        return float(np.mean(errors))

    @property
    def temperature(self) -> float:
        """The temperature that makes the true classes most likely."""

        def loss(log_temperature: float) -> float:
            scores = self.tempered(float(np.exp(log_temperature))).scores
            return float(-np.log(np.maximum(scores[np.arange(len(self.labels)), self.labels], 1e-12)).sum())

        return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def train_head(scratch: Path) -> Path:
    """Fit a head on the backbone's features of the flowers; return the output folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    prepared = run_trainer(
        {
            "kind": "prepare",
            "name": "flowers",
            "source": {"uri": f"file://{FLOWERS}"},
            "rules": {"check": False},
            "output": {"uri": f"file://{scratch}/dataset"},
        },
        scratch / "prepare",
        environment,
    )
    output = scratch / "output"
    output.mkdir()
    run_trainer(
        {
            "kind": "train",
            "name": "head",
            "uid": "head",
            "datasets": [{"name": "flowers", "version": prepared["version"], "uri": prepared["uri"]}],
            "preset": "mobilenet-v2",
            "hyperparameters": {"trainable": "Head"},
            "initialModel": {"uri": f"file://{WEIGHTS}"},
            "mlflow": {"experiment": "bench/calibration", "registeredModel": "flowers"},
            "output": {"uri": f"file://{output}"},
        },
        scratch / "train",
        environment,
    )
    return output


def labelled(split: str) -> list[tuple[Path, str]]:
    """Return the photographs of ``train`` or ``validation`` with their classes."""
    return [(path, path.parent.name) for path in sorted((FLOWERS / split).glob("*/*"))]


def held_out() -> list[tuple[Path, str]]:
    """Return the validation images with their classes."""
    return labelled("validation")


def ask(url: str, images: Sequence[tuple[Path, str]]) -> Answers:
    """Send each image to a server."""
    classes = sorted({label for _, label in images})
    rows = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for path, _ in images:
            scores = client.post("/predict", content=path.read_bytes()).raise_for_status().json()["scores"]
            rows.append([scores[name] for name in classes])
    return Answers(np.asarray(rows), np.asarray([classes.index(label) for _, label in images]))


@contextmanager
def serving(command: Sequence[str], port: int, log: Path, **environment: str) -> Iterator[str]:
    """Run a server until the block ends; yield its address once it is ready."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    url = f"http://127.0.0.1:{port}"
    with running_program(["env", *variables, sys.executable, "-m", "bloomery_serving", *command], log=log) as process:
        until_answered(f"{url}/v2/health/ready", process, log=log)
        yield url


def ask_server(model: Path, images: Sequence[tuple[Path, str]], scratch: Path) -> Answers:
    """Ask a model server of the folder."""
    port = free_port()
    folder = tempfile.mkdtemp(dir=scratch)
    settings = {"MODEL_URI": f"file://{model}", "MODEL_DIR": folder, "PORT": str(port), "METRICS_PORT": "0"}
    with serving([], port, scratch / "server.log", **settings) as url:
        return ask(url, images)


def ask_kit(model: Path, images: Sequence[tuple[Path, str]], scratch: Path) -> Answers:
    """Pack a kit of the folder, unpack it and ask it; this environment's packages stand for the kit's own."""
    (scratch / "base/linux-cpu").mkdir(parents=True)
    archive = scratch / "kit.zip"
    command = [sys.executable, "-m", "bloomery_serving", "kit", "--base", str(scratch / "base")]
    subprocess.run([*command, "--model", f"file://{model}", "--output", str(archive)], check=True, capture_output=True)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(scratch / "kit")
    (folder,) = (scratch / "kit").iterdir()
    port = free_port()
    with serving(["start", "--folder", str(folder), "--port", str(port)], port, scratch / "kit.log") as url:
        return ask(url, images)


def write_int8(output: Path, images: Sequence[tuple[Path, str]], scratch: Path) -> tuple[Path, Path]:
    """Write the model's int8 form as the trainer does, before and after its own temperature is fitted and put in.

    A training keeps int8 only where it is about as right and faster; here it is measured in any case.
    """
    folders = scratch / "int8-before", scratch / "int8"
    for folder in folders:
        shutil.copytree(output / "model", folder, ignore=shutil.ignore_patterns("*.onnx", "metadata.json"))
    before, after = folders
    preprocess = Preprocess.read((before / PREPROCESS).read_bytes())
    plain = scratch / "plain.onnx"
    onnx.save(without_temperature(onnx.load(output / "model" / MODEL)), plain)
    paths = sorted((FLOWERS / "train").glob("*/*"))
    chosen = [paths[place] for place in np.linspace(0, len(paths) - 1, INT8_IMAGES).round().astype(int)]
    quantize.write_int8(plain, before / MODEL, (preprocess.tensor(decode(path.read_bytes()))[None] for path in chosen))
    answers = ask_server(before, images, scratch)
    shutil.copy(before / MODEL, after / MODEL)
    export.divide_logits(after / MODEL, fit_temperature(answers.scores.astype(np.float32), answers.labels))
    return folders


def without_temperature(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an exported network as it was before its logits were divided."""
    graph = model.graph
    division = graph.node.pop()
    logits, temperature = division.input
    for node in graph.node:
        node.output[:] = [division.output[0] if name == logits else name for name in node.output]
    (constant,) = (tensor for tensor in graph.initializer if tensor.name == temperature)
    graph.initializer.remove(constant)
    return model


def trainer_answers(output: Path, images: Sequence[tuple[Path, str]]) -> tuple[list[str], NDArray[np.float64]]:
    """Return the label and its score that the trainer wrote down for each image."""
    with (output / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = {Path(row["image"]).name: row for row in csv.DictReader(file)}
    by_image = [rows[path.name] for path, _ in images]
    return [row["predicted"] for row in by_image], np.asarray([float(row["score"]) for row in by_image])


def measure(scratch: Path) -> dict[str, Any]:
    """Return all figures."""
    images = held_out()
    output = train_head(scratch)
    evaluation = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    calibration = evaluation["calibration"]
    classes = sorted({label for _, label in images})
    server = ask_server(output / "model", images, scratch)
    kit = ask_kit(output / "model", images, scratch)
    before = server.tempered(1 / calibration["temperature"])
    labels, scores = trainer_answers(output, images)
    int8_before, int8 = (ask_server(folder, images, scratch) for folder in write_int8(output, images, scratch))
    return {
        "images": len(images),
        "temperature": calibration["temperature"],
        "errorBefore": before.error,
        "error": before.cross_fitted_error,
        "reported": {"before": calibration["before"]["error"], "after": calibration["after"]["error"]},
        "top1": {
            "before": before.top1,
            "server": server.top1,
            "kit": kit.top1,
            "trainer": evaluation["metrics"]["top1"],
        },
        "otherLabels": {
            "afterCalibration": int((before.scores.argmax(axis=1) != server.scores.argmax(axis=1)).sum()),
            "trainerAndServer": sum(
                label != classes[place] for label, place in zip(labels, server.scores.argmax(axis=1), strict=True)
            ),
            "int8AfterCalibration": int((int8_before.scores.argmax(axis=1) != int8.scores.argmax(axis=1)).sum()),
        },
        "largestDifference": {
            "trainerAndServer": float(np.abs(scores - server.scores.max(axis=1)).max()),
            "kitAndServer": float(np.abs(kit.scores - server.scores).max()),
        },
        "int8": {
            "top1": int8.top1,
            "errorBefore": int8_before.error,
            "error": int8_before.cross_fitted_error,
            "temperature": int8_before.temperature,
        },
    }


def shortcomings(figures: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each figure that is not as it should be."""
    errors = {
        "the model": figures["error"],
        "the report": figures["reported"]["after"],
        "int8": figures["int8"]["error"],
    }
    return [
        *(f"{name}: expected calibration error {error:.4f}" for name, error in errors.items() if error > MOST_ERROR),
        *(f"{name}: {count} other labels" for name, count in figures["otherLabels"].items() if count),
        *(
            f"{name}: scores differ by {difference:.6f}"
            for name, difference in figures["largestDifference"].items()
            if difference > MOST_DIFFERENCE
        ),
    ]


def main() -> None:
    """Print, as the last line, one JSON object; exit with 1 where a figure is not as it should be."""
    require_photographs()
    keep = os.environ.get("KEEP")
    with tempfile.TemporaryDirectory(prefix="bench-calibration-") as name:
        scratch = Path(keep or name)
        scratch.mkdir(exist_ok=True)
        figures = measure(scratch)
    faults = shortcomings(figures)
    print(json.dumps({**figures, "faults": faults}, ensure_ascii=False))
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
