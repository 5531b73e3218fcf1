"""Whether fine-tuning learns: from a model of half of the handwritten digits to the other half, beside from scratch.

The images are scikit-learn's own handwritten digits (8 × 8 pixels, real handwriting), so nothing is downloaded.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from bench.prepared import prepared, run_trainer

STEPS = 30
SEEDS = (0, 1, 2)
KNOWN, NEW = [str(digit) for digit in range(5)], [str(digit) for digit in range(5, 10)]


def write_digits(folder: Path) -> None:
    """Writes the 1,797 digits as PNG files of 40 × 40 pixels, a folder for each."""
    data = load_digits()
    for number, (pixels, digit) in enumerate(zip(data.images, data.target, strict=True)):
        path = folder / str(digit) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((40, 40)).convert("RGB").save(path)


def _train(folder: Path, name: str, dataset: dict[str, Any], *, steps: int, seed: int, **changes: Any) -> float:
    hyperparameters = {
        "batchSize": 32,
        "imageSize": 32,
        "augmentation": "Light",
        "horizontalFlip": False,
        "maxSteps": steps,
        "learningRate": 0.02,
        "seed": seed,
    }
    config = {
        "kind": "train",
        "name": name,
        "uid": name,
        "datasets": [dataset],
        "preset": "resnet18",
        "hyperparameters": hyperparameters,
        "mlflow": {"experiment": "bench", "registeredModel": "bench"},
        "output": {"uri": f"file://{folder}/{name}"},
        **changes,
    }
    return float(run_trainer(config, folder / f"{name}-run")["metrics"]["top1"])


def main() -> None:
    """Prints one JSON object: top-1 after equal steps, from scratch and fine-tuned, for each seed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_digits(folder / "raw")
        dataset = prepared(folder / "raw", folder / "store")
        known, new = {**dataset, "classes": KNOWN}, {**dataset, "classes": NEW}
        base = _train(folder, "base", known, steps=250, seed=0)
        initial = {"uri": f"file://{folder}/base/model"}
        scratch = [_train(folder, f"scratch-{seed}", new, steps=STEPS, seed=seed) for seed in SEEDS]
        tuned = [_train(folder, f"tuned-{seed}", new, steps=STEPS, seed=seed, initialModel=initial) for seed in SEEDS]
    middle = {"scratch": statistics.median(scratch), "fineTuned": statistics.median(tuned)}
    results = {"steps": STEPS, "baseTop1": base, "scratchTop1": scratch, "fineTunedTop1": tuned, **middle}
    print(json.dumps({**results, "gain": round(middle["fineTuned"] - middle["scratch"], 4)}))


if __name__ == "__main__":
    main()
