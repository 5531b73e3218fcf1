"""`make bench-serving`: our server beside its peers and beside a bare loop; its last line is one JSON object.

The same ONNX files, the same JPEG, the same two cores for the server and for the load, all in one run and by turns.
Our server runs with its default, the fastest engine that agrees, and with ONNX Runtime; a bare loop runs with each.
The load is wrk, in a closed loop: as many requests under way as it has connections. Where the cluster at hand runs
Bloomery, what its gateway adds is measured too.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from bench.images import write_photos
from bench.parts import run
from bench.servers import CORES, Contestant, ours, peers, running, starts
from bloomery_model import Preprocess, Tensor, to_rgb
from bloomery_model.folder import METADATA
from bloomery_model.references import REFERENCE_IMAGES, References
from bloomery_serving.engines.openvino import OpenVino
from bloomery_serving.image_file import ImageFile, Limits, open_file
from bloomery_serving.model import FIRST_ENGINE, Model
from bloomery_trainer import model_folder
from bloomery_trainer.models import export, quantize
from bloomery_trainer.models.presets import PRESETS
from dev.paths import ROOT

MODELS = {"resnet50": "resnet50", "mobilenet-v3": "mobilenet-v3-large"}
CLASSES = tuple(f"class {number}" for number in range(20))
SIDE = 224
CONNECTIONS = 8
STARTS = 5
CHOICE_SECONDS = 300
"""Time for our server to choose its engine."""
LIMITS = Limits(bytes=10 * 1024 * 1024, pixels=25_000_000)


def write_models(folder: Path, presets: Mapping[str, str] = MODELS) -> dict[str, Path]:
    """Export networks with random weights, as a training does."""
    summary = {}
    for name, preset in presets.items():
        summary[name] = folder / name
        summary[name].mkdir()
        network = PRESETS[preset].build(len(CLASSES), image_size=SIDE)
        preprocess, examples = Preprocess.for_size(SIDE), torch.rand(2, 3, SIDE, SIDE)
        export.write_model(summary[name], network, classes=CLASSES, preprocess=preprocess, examples=examples)
        write_metadata(summary[name], folder)
    return summary


def write_metadata(folder: Path, scratch: Path) -> None:
    """Write the metadata of a model folder, and references with its own answers."""
    model = Model.load(folder, digest="", threads=len(CORES))
    images = np.stack([model.preprocess.pixels(photo) for photo in _photos(scratch, REFERENCE_IMAGES)])
    scored = [model.predict([model.preprocess.normalise(image)])[0].scores for image in images]
    about = model_folder.write_references(folder, References(images, np.stack(scored)), split="validation")
    (folder / METADATA).write_bytes(model_folder.metadata(folder, about))


def write_bodies(folder: Path) -> dict[str, tuple[Path, str]]:
    """Write one photo in the forms in which servers take it; each with its content type."""
    write_photos(folder / "photos", images=1, classes=1)
    (photo,) = (folder / "photos").rglob("*.jpg")
    jpeg, boundary = photo.read_bytes(), "boundary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
    form = f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + jpeg + f"\r\n--{boundary}--\r\n".encode()
    (folder / "form").write_bytes(form)
    (folder / "json").write_text(json.dumps({"inputs": [base64.b64encode(jpeg).decode()]}))
    return {
        "raw": (photo, "image/jpeg"),
        "multipart": (folder / "form", f"multipart/form-data; boundary={boundary}"),
        "base64": (folder / "json", "application/json"),
    }


def load(contestant: Contestant, bodies: dict[str, tuple[Path, str]], *, seconds: float, connections: int) -> Any:
    """Ask a server for some seconds; return requests, seconds, p50 and p99 in milliseconds."""
    body, kind = bodies[contestant.form]
    command = ["taskset", "--cpu-list", ",".join(map(str, CORES)), "wrk", "--threads=1", f"--connections={connections}"]
    command += [f"--duration={seconds:.0f}s", "--timeout=60s", f"--script={ROOT / 'bench' / 'load.lua'}"]
    done = subprocess.run([*command, contestant.url, "--", str(body), kind], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
    if figures["wrong"]:
        raise SystemExit(f"{contestant.name} failed {figures['wrong']} of {figures['requests']} requests")
    return figures | {"rate": figures["requests"] / figures["seconds"]}


def predictions(folder: Path) -> dict[str, Callable[[Tensor], Any]]:
    """Return what computes one image in a bare loop: ONNX Runtime, and OpenVINO in its precisions on this processor."""
    model, library = Model.load(folder, digest="", threads=1), OpenVino.load()
    computes: dict[str, Callable[[Tensor], Any]] = {"onnxRuntime": lambda tensor: model.predict([tensor])}
    for precision in ("float32", "bfloat16") if library.has_bfloat16 else ("float32",):
        engine = library.compile(folder, precision, side=SIDE, takes_one=False, threads=len(CORES), cache=None)
        computes[f"openvino {precision}"] = partial(lambda engine, tensor: engine.run(tensor[None]), engine)
    return computes


def loop(compute: Callable[[Tensor], Any], jpeg: bytes, *, seconds: float) -> float:
    """Decode, resize and compute in this process, a thread a core, one thread a run; return images a second."""
    preprocess = Preprocess.for_size(SIDE)
    end = time.perf_counter() + seconds
    counts = [0] * len(CORES)

    def work(number: int) -> None:
        while time.perf_counter() < end:
            image = to_rgb(open_file(ImageFile("photo", jpeg), LIMITS), min_side=preprocess.min_decode_side)
            compute(preprocess.tensor(image))
            counts[number] += 1

    began = time.perf_counter()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(CORES))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def compare(name: str, folder: Path, bodies: dict[str, tuple[Path, str]], scratch: Path, options: Any) -> Any:
    """Measure the loop, our server and its peers by turns."""
    contestants = [ours(folder, port=18000), before(folder, port=18001)]
    contestants += [] if options.no_peers else peers(folder, scratch / name, first_port=18100)
    rounds: dict[str, list[Any]] = {contestant.name: [] for contestant in contestants}
    computes = predictions(folder)
    loops: dict[str, list[float]] = {name: [] for name in computes}
    jpeg = bodies["raw"][0].read_bytes()
    with ExitStack() as stack:
        for contestant in contestants:
            stack.enter_context(running(contestant, scratch / f"{name}-{contestant.name}.log"))
            load(contestant, bodies, seconds=2, connections=CONNECTIONS)
        engine = chosen_engine(contestants[0])
        print(f"  {engine['reason']}", flush=True)
        for number in range(options.rounds):
            for engine_name, compute in computes.items():
                loops[engine_name].append(loop(compute, jpeg, seconds=options.seconds))
            for contestant in contestants:
                rounds[contestant.name].append(
                    load(contestant, bodies, seconds=options.seconds, connections=CONNECTIONS)
                )
            print(f"  round {number + 1} of {options.rounds}, load average {os.getloadavg()[0]:.1f}", flush=True)
        alone = load(contestants[0], bodies, seconds=options.seconds, connections=1)
        stages = _stages(contestants[0])
    summary = _summary(loops, rounds) | {"oneAtATime": {"p50": alone["p50"], "p99": alone["p99"]}}
    return summary | {"engine": engine, "stageMilliseconds": stages, "millisecondsByBatch": _by_batch(folder)}


def before(folder: Path, *, port: int) -> Contestant:
    """Our server as it was before it chose among engines."""
    return replace(ours(folder, port=port, ENGINE="OnnxRuntime"), name="bloomery OnnxRuntime")


def chosen_engine(contestant: Contestant) -> Any:
    """Wait until our server has chosen its engine; return the choice with its figures."""
    end = time.monotonic() + CHOICE_SECONDS
    while time.monotonic() < end:
        with urllib.request.urlopen(f"http://127.0.0.1:{contestant.port}/v2/models/model") as answer:
            engine = json.load(answer)["parameters"]["engine"]
        if engine["reason"] != FIRST_ENGINE:
            return engine
        time.sleep(0.5)
    raise SystemExit(f"{contestant.name} has not chosen an engine within {CHOICE_SECONDS} s")


def _summary(loops: dict[str, list[float]], rounds: dict[str, list[Any]]) -> Any:
    servers = {
        name: {figure: round(statistics.median(r[figure] for r in runs), 2) for figure in ("rate", "p50", "p99")}
        for name, runs in rounds.items()
    }
    own, earlier = servers["bloomery"], servers["bloomery OnnxRuntime"]
    rest = {name: server for name, server in servers.items() if not name.startswith("bloomery")}
    rates = {name: round(statistics.median(values), 2) for name, values in loops.items()}
    summary: dict[str, Any] = {"loops": rates, "servers": servers}
    summary["ofBestLoop"] = round(own["rate"] / max(rates.values()), 3)
    summary["ofOnnxRuntimeLoop"] = round(earlier["rate"] / rates["onnxRuntime"], 3)
    summary["ofBefore"] = round(own["rate"] / earlier["rate"], 3)
    summary["p99OfBefore"] = round(own["p99"] / earlier["p99"], 3)
    if rest:
        best = max(rest, key=lambda name: rest[name]["rate"])
        summary |= {"bestPeer": best, "ofBestPeer": round(own["rate"] / rest[best]["rate"], 3)}
        summary["p99OfBestPeer"] = round(own["p99"] / rest[best]["p99"], 3)
        summary["p99OfLeastPeer"] = round(own["p99"] / min(peer["p99"] for peer in rest.values()), 3)
    return summary


def _stages(contestant: Contestant) -> dict[str, float]:
    """Return what each stage of a prediction took on average, in milliseconds, as the server itself counts."""
    with urllib.request.urlopen(f"http://127.0.0.1:{contestant.environment['METRICS_PORT']}/metrics") as answer:
        counts = dict(re.findall(r'bloomery_stage_seconds_(\w+{stage="\w+"}) (\S+)', answer.read().decode()))
    names = [key.split('"')[1] for key in counts if key.startswith("count")]
    each = {name: float(counts[f'sum{{stage="{name}"}}']) / float(counts[f'count{{stage="{name}"}}']) for name in names}
    return {name: round(1000 * seconds, 3) for name, seconds in each.items()}


def _by_batch(folder: Path) -> dict[str, Any]:
    """Return what an image costs in batches of several sizes on one thread, and the batch that the server chose."""
    model = Model.load(folder, digest="", threads=1)
    least = dict.fromkeys((1, 2, 4, 8), float("inf"))
    for _ in range(8):
        for size in least:
            images = [np.zeros((3, SIDE, SIDE), np.float32)] * size
            began = time.perf_counter()
            model.predict(images)
            least[size] = min(least[size], 1000 * (time.perf_counter() - began) / size)
    return {str(size): round(value, 2) for size, value in least.items()} | {"chosen": model.best_batch}


def compare_int8(folder: Path, bodies: dict[str, tuple[Path, str]], scratch: Path, options: Any) -> Any:
    """Measure our server with a model and with its int8 form, by turns."""
    int8 = scratch / "int8"
    shutil.copytree(folder, int8)
    (int8 / "model.onnx").unlink()
    model = Model.load(folder, digest="", threads=1)
    photos = [model.preprocess.tensor(photo)[None] for photo in _photos(scratch, 16)]
    quantize.write_int8(folder / "model.onnx", int8 / "model.onnx", photos)
    write_metadata(int8, scratch)
    contestants = [ours(folder, port=18000), before(folder, port=18001)]
    contestants += [replace(ours(int8, port=18002), name="bloomery int8")]
    contestants += [replace(before(int8, port=18003), name="bloomery OnnxRuntime int8")]
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    with ExitStack() as stack:
        for contestant in contestants:
            stack.enter_context(running(contestant, scratch / "int8.log"))
            load(contestant, bodies, seconds=2, connections=CONNECTIONS)
        engines = {contestant.name: chosen_engine(contestant) for contestant in contestants}
        for _ in range(options.rounds):
            for contestant in contestants:
                figures = load(contestant, bodies, seconds=options.seconds, connections=CONNECTIONS)
                rates[contestant.name].append(figures["rate"])
    float_ms, int8_ms = quantize.milliseconds(folder / "model.onnx", int8 / "model.onnx")
    return {
        "rates": {name: round(statistics.median(values), 2) for name, values in rates.items()},
        "engines": engines,
        "milliseconds": {
            "float32": round(float_ms, 2),
            "int8": round(int8_ms, 2),
            "ratio": round(float_ms / int8_ms, 3),
        },
    }


def _photos(scratch: Path, images: int) -> list[Image]:
    folder = scratch / f"photos-{images}"
    if not folder.exists():
        write_photos(folder, images=images, classes=1)
    paths = sorted(folder.rglob("*.jpg"))
    return [to_rgb(open_file(ImageFile(path.name, path.read_bytes()), LIMITS)) for path in paths]


def start_up(folder: Path, scratch: Path) -> Any:
    """Start our server some times with the model on this machine; return seconds to ready, and an idle one's memory.

    Its own clock begins with the process and shows the pull separately; ours ends with the first answer.
    """
    log, seconds, memory = scratch / "start.log", [], {}
    for number in range(STARTS):
        contestant = ours(folder, port=18050 + number)
        began = time.perf_counter()
        with running(contestant, log) as process:
            seconds.append(time.perf_counter() - began)
            memory = _memory(process.pid)
    logged = starts(log.read_text())
    if len(logged) != STARTS:
        raise SystemExit(f"the server's log shows {len(logged)} starts of {STARTS}: {log.read_text()[-2000:]}")
    by_its_clock = {
        "seconds": statistics.median(start.ready for start in logged),
        "all": [start.ready for start in logged],
        "fetched": statistics.median(start.fetched for start in logged),
        "loaded": statistics.median(start.loaded for start in logged),
    }
    wall = {"seconds": round(statistics.median(seconds), 2), "all": [round(s, 2) for s in seconds]}
    return {"byItsClock": by_its_clock, "toFirstAnswer": wall, **memory}


def _memory(pid: int) -> dict[str, float]:
    """Return a process' resident and proportional memory in MiB (proc(5), smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return {"rssMiB": round(kib["Rss"] / 1024), "pssMiB": round(kib["Pss"] / 1024)}


def table(name: str, summary: Any) -> Iterator[str]:
    """Yield a model's figures as lines for people."""
    yield f"{name:14} {'images/s':>9} {'p50 ms':>8} {'p99 ms':>8}"
    if not summary:
        return
    for engine, rate in summary["loops"].items():
        yield f"  {'loop ' + engine:22} {rate:>8.1f}"
    for server, figures in summary["servers"].items():
        yield f"  {server:22} {figures['rate']:>8.1f} {figures['p50']:>8.1f} {figures['p99']:>8.1f}"


def main() -> None:
    """Measure what is asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, help="only this one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--no-peers", action="store_true", help="only the bare loop and our own server")
    parser.add_argument("--int8", action="store_true", help="only our own server with float32 and with int8 models")
    parser.add_argument(
        "--isa", help="limit OpenVINO's instructions, as on an older processor: AVX2, AVX512_CORE, AVX512_CORE_BF16, …"
    )
    options = parser.parse_args()
    if options.isa:
        os.environ["ONEDNN_MAX_CPU_ISA"] = options.isa
    if shutil.which("wrk") is None:
        sys.exit("wrk makes the load, and it is not installed: apt-get install wrk")
    os.sched_setaffinity(0, CORES)
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as folder:
        scratch = Path(folder)
        models, bodies = write_models(scratch), write_bodies(scratch)
        results: dict[str, Any] = {"processors": len(CORES), "connections": CONNECTIONS, "isa": options.isa}
        for name in [options.model] if options.model else MODELS:
            (scratch / "logs" / name).mkdir(parents=True)
            results[name] = {} if options.int8 else compare(name, models[name], bodies, scratch / "logs", options)
            print("\n".join(table(name, results[name])), flush=True)
            results[name]["int8"] = compare_int8(models[name], bodies, scratch / "logs" / name, options)
            print(f"  {'int8':18} {results[name]['int8']}", flush=True)
        if not options.int8:
            results["start"] = start_up(models["resnet50"], scratch)
            print(f"start          {results['start']}", flush=True)
    try:
        if not options.int8:
            print("gateway", flush=True)
            results["gateway"] = run("bench.gateway")
    finally:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
