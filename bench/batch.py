"""`make bench-batch`: a batch prediction beside a bare loop, and its memory; the last line is one JSON object.

Both read the same JPEG files from the local disk and compute by the same engine, on the same processors, each as a
process whose whole time counts. The bare loop has a thread for each processor that reads, decodes, resizes and computes
one image after the other, and writes nothing. Then a run is killed at three random points, and a run over more images
shows whether memory grows with their number.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from bench.hostile import MIB, MemorySampler
from bench.images import write_photos
from bench.servers import CORES

PHOTOS = 200
"""Different photographs; all further files are links to them."""
LEAST_RATIO = 0.85
MOST_GROWTH = 1.2
"""Memory of the run over more images, as a multiple of that of the other."""
KILLS = 3


def compute_bare(model_folder: Path, source: Path) -> None:
    """Predict all files of a folder by a loop in a thread for each processor."""
    from bloomery_model import open_image, to_rgb
    from bloomery_serving.model import Model

    model = Model.load(model_folder, digest="", threads=1)

    def predict(path: Path) -> None:
        image = to_rgb(open_image(path.read_bytes()), min_side=model.preprocess.min_decode_side)
        model.predict([model.preprocess.tensor(image)])

    with ThreadPoolExecutor(len(CORES)) as threads:
        for _ in threads.map(predict, sorted(source.rglob("*.jpg"))):
            pass


def start(command: list[str], **environment: str) -> subprocess.Popen[bytes]:
    """Start a process of this Python on the processors of the measurement."""
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, **environment},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, CORES),
    )


def batch_environment(model: Path, source: Path, output: Path) -> dict[str, str]:
    """Return the settings of a batch prediction."""
    return {
        "MODEL_URI": f"file://{model}", "MODEL_DIR": f"{output}-model", "SOURCE_URI": f"file://{source}",
        "OUTPUT_URI": f"file://{output}", "PROGRESS_PORT": "0", "ENGINE": "OnnxRuntime",
        "MEMORY_BYTES": str(2 * 1024**3), "TERMINATION_LOG": f"{output}-message",
    }  # fmt: skip


def seconds_of(process: subprocess.Popen[bytes], began: float) -> float:
    """Wait for a process; return its seconds."""
    if process.wait():
        raise SystemExit(f"a process ended with {process.returncode}")
    return time.perf_counter() - began


def measure_rates(model: Path, source: Path, scratch: Path, *, images: int, pairs: int) -> dict[str, Any]:
    """Return images a second of both, in turn, and the highest memory of the batch predictions."""
    bare, batch, peaks = [], [], []
    for number in range(pairs):
        began = time.perf_counter()
        bare.append(images / seconds_of(start(["-m", "bench.batch", "--bare", str(model), str(source)]), began))
        began = time.perf_counter()
        process = start(["-m", "bloomery_serving", "batch"], **batch_environment(model, source, scratch / str(number)))
        with MemorySampler(process.pid) as memory:
            batch.append(images / seconds_of(process, began))
        peaks.append(memory.peak / MIB)
        print(f"pair {number + 1}: bare {bare[-1]:.1f}, batch {batch[-1]:.1f} images/s", flush=True)
    ratios = sorted(one / other for one, other in zip(batch, bare, strict=True))
    return {
        "bare": round(max(bare), 1),
        "batch": round(max(batch), 1),
        "ratio": round(ratios[len(ratios) // 2], 3),
        "peakMiB": round(max(peaks)),
    }


def measure_kills(model: Path, source: Path, output: Path, *, seconds: float, seed: int) -> dict[str, int]:
    """Kill a batch prediction at random points of its time; return the images that were lost or doubled at the end."""
    points = random.Random(seed)
    environment = batch_environment(model, source, output)
    for _ in range(KILLS):
        process = start(["-m", "bloomery_serving", "batch"], **environment)
        time.sleep(points.uniform(0, seconds))
        process.kill()
        process.wait()
    seconds_of(start(["-m", "bloomery_serving", "batch"], **environment), time.perf_counter())
    answers = Counter(
        json.loads(line)["file"]
        for path in (output / "predictions").iterdir()
        for line in path.read_text().splitlines()
    )
    files = {str(path.relative_to(source)) for path in source.rglob("*.jpg")}
    return {"lost": len(files - answers.keys()), "doubled": sum(count > 1 for count in answers.values())}


def link_photos(photos: Path, target: Path, *, images: int) -> Path:
    """Make a folder of so many files, which are links to some photographs."""
    files = sorted(photos.rglob("*.jpg"))
    for number, photo in enumerate(islice(cycle(files), images)):
        path = target / f"{number % 10}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(photo)
    return target


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure rates, kills and memory."""
    # Only here: the bare loop is to start without torch.
    from bench.serving import write_models

    write_photos(folder / "photos", images=PHOTOS, classes=1)
    model = write_models(folder, {options.preset: options.preset})[options.preset]
    source = link_photos(folder / "photos", folder / "source", images=options.images)
    figures = measure_rates(model, source, folder / "pairs", images=options.images, pairs=options.pairs)
    kills = measure_kills(
        model, source, folder / "killed", seconds=options.images / figures["batch"] / 2, seed=options.seed
    )
    large: Mapping[str, Any] = {}
    if options.large:
        many = link_photos(folder / "photos", folder / "large", images=options.large)
        process = start(["-m", "bloomery_serving", "batch"], **batch_environment(model, many, folder / "many"))
        with MemorySampler(process.pid) as memory:
            seconds = seconds_of(process, time.perf_counter())
        large = {"largePeakMiB": round(memory.peak / MIB), "largeSeconds": round(seconds)}
    return {"images": options.images, **figures, **kills, "large": options.large, **large}


def main() -> None:
    """Measure, and fail where a batch prediction is too slow, loses an image, or needs ever more memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="resnet18")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=100_000, help="images of the run for memory; 0 leaves it out")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bare", nargs=2, type=Path, metavar=("MODEL", "SOURCE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        compute_bare(*options.bare)
        return
    with tempfile.TemporaryDirectory(prefix="bench-batch-") as name:
        Path(name, "pairs").mkdir()
        figures = measure(Path(name), options)
    print(json.dumps(figures))
    has_grown = figures.get("largePeakMiB", 0) > MOST_GROWTH * figures["peakMiB"]
    if figures["ratio"] < LEAST_RATIO or figures["lost"] or figures["doubled"] or has_grown:
        raise SystemExit("a batch prediction is too slow, or loses or doubles images, or its memory grows")


if __name__ == "__main__":
    main()
