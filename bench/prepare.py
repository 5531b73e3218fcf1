"""The speed of ``prepare`` compared with a plain Pillow loop on one processor, and its memory by number of images.

``python -m bench.prepare`` prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from bench.images import write_photos
from bench.prepared import run_trainer
from bloomery_model.cgroup import resident_bytes

_DISTINCT_PHOTOS = 500
_SMALL_IMAGES_PER_CLASS = 2000
_SAMPLE_SECONDS = 0.1


def pillow_loop(folder: Path, target: Path, *, shrink: bool) -> float:
    """Open and decode each file, compute its digest and add it to a tar; return the seconds.

    Args:
        folder: of class folders.
        target: the tar file.
        shrink: decode a JPEG at an eighth of its size, as ``prepare`` does; all of its data is still read.
    """
    begin = time.perf_counter()
    with tarfile.open(target, "w") as tar:
        for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
            data = path.read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                if shrink:
                    image.draft("RGB", (image.width // 8, image.height // 8))
                image.load()
            for ending, content in (("jpg", data), ("sha256", hashlib.sha256(data).hexdigest().encode())):
                entry = tarfile.TarInfo(f"{number:08}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return time.perf_counter() - begin


def speed(images: int, rounds: int) -> dict[str, Any]:
    """Measure images a second of both on the same photographs, in turns; the best round of each counts."""
    times: dict[str, list[float]] = {"prepare": [], "loop": [], "shrinking_loop": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_photos(folder / "raw", images)
        for number in range(rounds):
            times["loop"].append(_on_one_processor(folder, shrink=False))
            begin = time.perf_counter()
            output = {"uri": f"file://{folder}/store{number}"}
            run_trainer({**_config(folder), "output": output}, folder / "run", processors="0,1")
            times["prepare"].append(time.perf_counter() - begin)
            shutil.rmtree(folder / f"store{number}")
            times["shrinking_loop"].append(_on_one_processor(folder, shrink=True))
    rates = {key: images / min(seconds) for key, seconds in times.items()}
    return {
        "images": images,
        "images_per_second": round(rates["prepare"], 1),
        "pillow_loop_images_per_second": round(rates["loop"], 1),
        "shrinking_pillow_loop_images_per_second": round(rates["shrinking_loop"], 1),
        "ratio": round(rates["prepare"] / rates["loop"], 2),
        "ratio_to_shrinking_loop": round(rates["prepare"] / rates["shrinking_loop"], 2),
    }


def memory(images: int) -> int:
    """Return the peak resident size in KiB of ``prepare`` and all of its processes, for a number of small images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_small(folder / "raw", images)
        path = folder / "config.json"
        path.write_text(json.dumps(_config(folder)), encoding="utf-8")
        environment = {**os.environ, "BLOOMERY_PORT": "0", "TERMINATION_LOG": str(folder / "message.json")}
        log = folder / "log"
        command = [sys.executable, "-m", "bloomery_trainer", "prepare", str(path)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            peak = 0
            while process.poll() is None:
                peak = max(peak, _session_bytes(process.pid))
                time.sleep(_SAMPLE_SECONDS)
        if process.returncode:
            raise RuntimeError(log.read_text()[-2000:])
        return peak // 1024


def _session_bytes(session: int) -> int:
    """Return the resident size of all processes of a session; memory that they share counts for each."""
    return sum(resident_bytes(path) for path in Path("/proc").glob("[0-9]*") if _session_of(path) == session)


def _session_of(process: Path) -> int | None:
    try:
        return os.getsid(int(process.name))
    except OSError:  # it has just ended
        return None


def _on_one_processor(folder: Path, *, shrink: bool) -> float:
    code = (
        "import sys; from pathlib import Path; from bench.prepare import pillow_loop\n"
        f"print(pillow_loop(Path(sys.argv[1]), Path(sys.argv[2]), shrink={shrink}))"
    )
    target = folder / "loop.tar"
    process = subprocess.run(
        ["taskset", "--cpu-list", "0", sys.executable, "-c", code, str(folder / "raw"), str(target)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    target.unlink()
    return float(process.stdout)


def _config(folder: Path) -> dict[str, Any]:
    return {
        "kind": "prepare",
        "name": "bench",
        "source": {"uri": f"file://{folder}/raw"},
        "output": {"uri": f"file://{folder}/store"},
    }


def _write_photos(folder: Path, images: int) -> None:
    """Repeat a few photographs, each time with other bytes at the end, which no decoder reads."""
    write_photos(folder, images=min(images, _DISTINCT_PHOTOS), classes=10)
    photos = [(path, path.read_bytes()) for path in sorted(folder.rglob("*.jpg"))]
    for number in range(len(photos), images):
        path, data = photos[number % len(photos)]
        (path.parent / f"{number:06}.jpg").write_bytes(data + number.to_bytes(8, "little"))


def _write_small(folder: Path, images: int) -> None:
    """Write tiny bitmaps, each with different last bytes."""
    buffer = io.BytesIO()
    Image.new("L", (32, 32)).save(buffer, "BMP")
    plain = bytearray(buffer.getvalue())
    for number in range(images):
        plain[-8:] = number.to_bytes(8, "little")
        path = folder / f"class{number // _SMALL_IMAGES_PER_CLASS}" / f"{number:07}.bmp"
        if number % _SMALL_IMAGES_PER_CLASS == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(plain)


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000, help="photographs for the speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=100_000)
    arguments = parser.parse_args()
    results: dict[str, Any] = speed(arguments.images, arguments.rounds)
    few, many = memory(arguments.few), memory(arguments.many)
    results["peak_memory_mib"] = {
        str(arguments.few): round(few / 1024, 1),
        str(arguments.many): round(many / 1024, 1),
    }
    results["peak_memory_ratio"] = round(many / few, 3)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
