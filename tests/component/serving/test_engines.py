"""The engine of a model: ONNX Runtime at first, then the fastest one whose answers agree with the references."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bloomery_model.folder import MODEL, file_digest
from bloomery_model.onnx_classifier import is_quantized
from bloomery_model.references import REFERENCES, References
from bloomery_serving.engine_choice import comparison, selection
from bloomery_serving.engine_choice.comparison import CACHE, EngineLimits, Served
from bloomery_serving.engine_choice.record import ATTEMPTS, RECORD
from bloomery_serving.engine_choice.selection import EngineSelection
from bloomery_serving.engines.base import Engine, EngineReport, Precision
from bloomery_serving.engines.openvino import OpenVino
from bloomery_serving.engines.timing import processor_seconds
from bloomery_serving.model import Model
from bloomery_trainer.models import quantize
from tests.component.serving.conftest import RED, SIDE, Server, StartServer, picture, write_model

pytestmark = pytest.mark.feature("S24")

GIB = 1024**3
IMAGES = 12
LIMITS = EngineLimits(memory_bytes=64 * GIB)
SLOW, FAST, FASTEST = 3.0, 2.0, 1.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path)
    write_references(tmp_path)
    return tmp_path


def write_references(folder: Path) -> None:
    """Write references of nearly grey images, with the answers of ONNX Runtime, and describe them in metadata.json."""
    random = np.random.default_rng(0)
    colours = random.integers(60, 200, (IMAGES, 1, 1, 1)) + random.integers(-3, 4, (IMAGES, 1, 1, 3))
    images = np.broadcast_to(colours, (IMAGES, SIDE, SIDE, 3)).astype(np.uint8)
    model = Model.load(folder, digest="", threads=1)
    scored = model.predict([model.preprocess.normalise(image) for image in images])
    References(images, np.stack([image.scores for image in scored])).write(folder / REFERENCES)
    path = folder / "metadata.json"
    document = json.loads(path.read_text()) | {"references": {"digest": file_digest(folder / REFERENCES)}}
    path.write_text(json.dumps(document))


def write_steep_model(folder: Path) -> None:
    """Replace the network by one whose answers depend on digits that bfloat16 lacks."""
    mix = np.random.default_rng(1).normal(size=(32, 3)).astype(np.float32)
    weights = {"mix": mix[..., None, None], "back": (200 * np.linalg.pinv(mix).T).astype(np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "mix"], ["mixed"]),
            helper.make_node("ReduceMean", ["mixed"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["mean", "back"], ["logits"]),
        ],
        "steep",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / MODEL)


def loaded(folder: Path, *, references: str | None = REFERENCES) -> Model:
    return Model.load(folder, digest="sha256:0", threads=1, references=references)


def choose(
    folder: Path, setting: str = "Auto", *, model: Model | None = None, limits: EngineLimits = LIMITS
) -> EngineReport:
    """Choose an engine, and return the report."""
    reports: list[EngineReport] = []
    served = Served(model or loaded(folder), folder, setting, threads=2, limits=limits)
    EngineSelection(served, on_choice=reports.append).run()
    (report,) = reports
    return report


def clock(monkeypatch: pytest.MonkeyPatch, milliseconds: Mapping[str, float]) -> None:
    """Let measurements have these results, by engine or precision: those of a small network depend on the moment."""

    def measure(engines: Sequence[Engine], *, sizes: Sequence[int], **_: object) -> list[dict[int, float]]:
        forms = [each.form for each in engines]
        own = [milliseconds.get(form.precision, milliseconds.get(form.name, SLOW)) for form in forms]
        own = [SLOW if form.name == "OnnxRuntime" else value for form, value in zip(forms, own, strict=True)]
        return [dict.fromkeys(sizes, value) for value in own]

    monkeypatch.setattr(comparison, "measure", measure)


def has_bfloat16() -> bool:
    return OpenVino.load().has_bfloat16


def test_fastest_engine_that_agrees_takes_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, {"OpenVINO": FAST})
    model = loaded(folder)
    images = list(np.random.default_rng(2).random((3, 3, SIDE, SIDE), np.float32))
    before = model.predict(images)
    report = choose(folder, model=model)
    assert report.form.name == "OpenVINO"
    assert model.engine is report
    after = model.predict(images)
    assert np.stack([i.scores for i in after]) == pytest.approx(np.stack([i.scores for i in before]), abs=0.02)


def test_engine_that_is_hardly_faster_does_not_take_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, {"OpenVINO": 0.95 * SLOW})
    report = choose(folder)
    assert report.form.name == "OnnxRuntime"
    assert {measured.form.name for measured in report.measured} == {"OnnxRuntime", "OpenVINO"}


@pytest.mark.skipif("not has_bfloat16()", reason="this processor has no bfloat16")
def test_precision_whose_answers_differ_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_steep_model(folder)
    write_references(folder)
    clock(monkeypatch, {"bfloat16": FASTEST, "float32": FAST})
    report = choose(folder)
    assert (report.form.name, report.form.precision) == ("OpenVINO", "float32")
    compared = {measured.form.precision: measured.agreement for measured in report.measured if measured.agreement}
    assert not compared["bfloat16"].holds
    assert compared["float32"].holds


@pytest.mark.parametrize("setting", ["Auto", "OpenVINO"])
def test_answers_that_differ_in_all_precisions_keep_onnx_runtime(
    folder: Path, monkeypatch: pytest.MonkeyPatch, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_references(folder)
    references = References.read(folder / REFERENCES, side=SIDE, classes=3)
    References(references.images, references.probabilities[:, ::-1]).write(folder / REFERENCES)
    clock(monkeypatch, {"OpenVINO": FAST})
    report = choose(folder, setting)
    assert report.form.name == "OnnxRuntime"
    assert "does not agree with the references" in report.reason
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == (setting == "OpenVINO")


def test_processor_that_fails_in_one_precision_takes_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, {"OpenVINO": FAST})
    real = OpenVino.compile

    def fail_in_bfloat16(library: OpenVino, place: Path, precision: Precision, **options: Any) -> Engine:
        if precision == "bfloat16":
            raise RuntimeError("Exception from core.cpp:117:\nConvolution node is not initialized\n")
        return real(library, place, precision, **options)

    monkeypatch.setattr(OpenVino, "has_bfloat16", True)
    monkeypatch.setattr(OpenVino, "compile", fail_in_bfloat16)
    assert str(choose(folder).form) == "OpenVINO in float32"


def test_limit_of_the_instructions_ends_in_a_choice(folder: Path) -> None:
    """OpenVINO may compile a network that it then cannot run, or emulate bfloat16 slowly."""
    write_steep_model(folder)
    write_references(folder)
    program = """
import sys
from pathlib import Path
from tests.component.serving.test_engines import choose
print(choose(Path(sys.argv[1]), "OpenVINO").reason)
"""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("ONNX Runtime in float32 goes on", "OpenVINO in float32 answers"))


def test_model_in_int8_is_measured_in_int8_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_steep_model(folder)
    float32 = folder.parent / "float32.onnx"
    (folder / MODEL).rename(float32)
    assert not is_quantized(float32)
    noise = np.random.default_rng(3).random((4, 1, 3, SIDE, SIDE), np.float32)
    quantize.write_int8(float32, folder / MODEL, list(noise))
    write_references(folder)
    clock(monkeypatch, {"OpenVINO": FAST})
    report = choose(folder)
    assert is_quantized(folder / MODEL)
    assert [str(measured.form) for measured in report.measured] == ["ONNX Runtime in int8", "OpenVINO in int8"]


def test_figures_that_cannot_be_true_keep_onnx_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, {"OpenVINO": SLOW / 1000})
    assert "cannot be measured" in choose(folder).reason


def test_openvino_is_taken_although_it_is_slower_where_it_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, {"OpenVINO": 2 * SLOW})
    assert choose(folder, "OpenVINO").form.name == "OpenVINO"


def test_onnx_runtime_is_kept_where_it_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVino, "load", lambda: pytest.fail("OpenVINO was loaded"))
    assert choose(folder, "OnnxRuntime").form.name == "OnnxRuntime"


def test_model_without_references_keeps_onnx_runtime(folder: Path) -> None:
    report = choose(folder, model=loaded(folder, references=None))
    assert report.form.name == "OnnxRuntime"
    assert "evaluateOnly" in report.reason


def test_damaged_references_keep_onnx_runtime(folder: Path) -> None:
    (folder / REFERENCES).write_bytes(b"damaged")
    report = choose(folder)
    assert report.form.name == "OnnxRuntime"
    assert REFERENCES in report.reason


def test_too_little_memory_keeps_onnx_runtime(folder: Path) -> None:
    report = choose(folder, limits=EngineLimits(memory_bytes=1024))
    assert report.form.name == "OnnxRuntime"
    assert "MiB of memory" in report.reason


def test_measurement_that_takes_too_long_keeps_onnx_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MAX_SECONDS", 0.0)
    report = choose(folder)
    assert report.form.name == "OnnxRuntime"
    assert "did not end" in report.reason


def test_environment_without_openvino_keeps_onnx_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection.openvino, "is_installed", lambda: False)
    assert "not installed" in choose(folder, "OpenVINO").reason


def test_real_figures_are_those_of_both_engines(folder: Path) -> None:
    report = choose(folder)
    forms = {measured.form.name for measured in report.measured}
    assert forms == {"OnnxRuntime", "OpenVINO"}
    assert all(value > 0 for measured in report.measured for value in measured.milliseconds.values())


def test_processor_time_of_an_engine_is_that_of_its_threads(folder: Path) -> None:
    """Also of the second network: the library uses its threads again."""
    library = OpenVino.load()
    batch = np.zeros((256, 3, SIDE, SIDE), np.float32)
    for _ in range(2):
        engine = library.compile(folder, "float32", side=SIDE, takes_one=False, threads=2, cache=None)
        engine.run(batch)
    began = processor_seconds(engine.threads), time.process_time()
    for _ in range(20):
        engine.run(batch)
    own, all_threads = processor_seconds(engine.threads) - began[0], time.process_time() - began[1]
    assert own == pytest.approx(all_threads, rel=0.2)


def test_choice_is_kept_for_the_next_start_of_the_container(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, {"float32": FAST, "bfloat16": SLOW})
    first = choose(folder)
    assert (folder / CACHE / RECORD).exists()
    assert list((folder / CACHE / "float32").rglob("*.blob"))
    assert not (folder / CACHE / "bfloat16").exists()
    monkeypatch.setattr(comparison, "measure", lambda *_, **__: pytest.fail("measured again"))
    assert choose(folder).form == first.form


def test_damaged_cache_is_made_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, {"float32": FAST, "bfloat16": SLOW})
    choose(folder)
    for blob in (folder / CACHE).rglob("*.blob"):
        blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])
    (folder / CACHE / RECORD).write_text("{")
    assert choose(folder).form.name == "OpenVINO"


def test_faults_that_end_the_process_end_no_more_than_three_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, {"OpenVINO": FAST})
    (folder / CACHE).mkdir()
    (folder / CACHE / ATTEMPTS).write_bytes(b"..")
    assert choose(folder).form.name == "OpenVINO"
    assert not (folder / CACHE / ATTEMPTS).exists()
    (folder / CACHE / ATTEMPTS).write_bytes(b"...")
    report = choose(folder)
    assert report.form.name == "OnnxRuntime"
    assert "ended 3 times" in report.reason


def test_disk_without_room_gets_no_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, {"OpenVINO": FAST})
    report = choose(folder, limits=EngineLimits(memory_bytes=64 * GIB, disk_bytes=1))
    assert report.form.name == "OpenVINO"
    assert not list(folder.rglob("*.blob"))


def test_library_reports_its_use_to_nobody(folder: Path, tmp_path: Path) -> None:
    """In a process of its own: others may have loaded the library already."""
    program = """
import sys
from pathlib import Path
calls = []
sys.addaudithook(lambda event, arguments: calls.append(event) if event.startswith("socket.") else None)
from tests.component.serving.test_engines import choose
assert choose(Path(sys.argv[1]), "OpenVINO").form.name == "OpenVINO"
loaded = [name for name, module in sys.modules.items() if "telemetry" in name and module is not None]
assert not loaded, loaded
assert not [call for call in calls if call in ("socket.connect", "socket.getaddrinfo", "socket.sendto")], calls
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert not list(home.iterdir())


class Load:
    """Requests one after another, from some threads, until it is ended."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = threading.Event()
        self.statuses: list[int] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        body = picture(RED)
        while not self._ended.is_set():
            answer = self._server.client.post("/predict", content=body, headers={"content-type": "image/png"})
            self.statuses.append(answer.status_code if answer.json()["label"] == "red" else 0)


def test_no_request_fails_while_another_engine_takes_over(folder: Path, start_server: StartServer) -> None:
    server = start_server(model_uri=f"file://{folder}", engine="OpenVINO")
    with Load(server) as load:
        server.wait_for(1, "bloomery_engine_info", engine="OpenVINO")
        seen = len(load.statuses)
        while len(load.statuses) < seen + 50:
            pass
    assert set(load.statuses) == {200}
    engine = server.client.get("/v2/models/colours").json()["parameters"]["engine"]
    assert engine["name"] == "OpenVINO"
    assert {measured["name"] for measured in engine["measured"]} == {"OnnxRuntime", "OpenVINO"}
    assert "OpenVINO in" in server.log.read_text()
    assert server.metric("bloomery_engine_image_seconds", engine="OnnxRuntime") > 0


def test_server_with_references_of_another_digest_serves_without_them(folder: Path, start_server: StartServer) -> None:
    References(np.zeros((1, SIDE, SIDE, 3), np.uint8), np.zeros((1, 3), np.float32)).write(folder / REFERENCES)
    server = start_server(model_uri=f"file://{folder}", engine="OpenVINO")
    server.wait_for(1, "bloomery_engine_info", engine="OnnxRuntime")
    assert "references.npz" in server.log.read_text()
    assert server.client.get("/v2/models/colours").json()["platform"] == "onnx_onnxruntime"


def test_container_that_starts_again_takes_the_kept_choice(
    folder: Path, start_server: StartServer, tmp_path: Path
) -> None:
    settings = {"model_uri": f"file://{folder}", "engine": "OpenVINO", "model_dir": str(tmp_path / "volume")}
    first = start_server(**settings)
    first.wait_for(1, "bloomery_engine_info", engine="OpenVINO")
    first.stop()
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    digest = json.loads((tmp_path / "volume" / "fetched.json").read_text())["digest"]
    again = start_server(**settings, model_digest=digest)
    again.wait_for(1, "bloomery_engine_info", engine="OpenVINO")
