"""Trainings with int8 output: the model that is served, its cost, and the note when int8 does not pay."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bloomery_model import to_rgb
from bloomery_serving.image_file import ImageFile, Limits, open_file
from bloomery_serving.model import Model
from tests.component.trainer.conftest import Trainers

pytestmark = [pytest.mark.feature("T9"), pytest.mark.extended]

LIMITS = Limits(bytes=10**6, pixels=10**6)


def quantized(folder: Path) -> bool:
    nodes = onnx.load(folder / "model" / "model.onnx").graph.node
    return any(node.op_type == "QuantizeLinear" for node in nodes)


def require_digests(folder: Path, message: dict[str, Any]) -> None:
    """Require that metadata.json agrees with the files and with the result."""
    metadata = json.loads((folder / "model" / "metadata.json").read_text())
    for name, digest in metadata["files"].items():
        assert digest == f"sha256:{hashlib.sha256((folder / 'model' / name).read_bytes()).hexdigest()}"
    canonical = json.dumps(metadata["files"], sort_keys=True, separators=(",", ":"))
    assert message["model"]["digest"] == f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"
    assert metadata["quantization"] == message["quantization"]


def test_an_int8_model_is_served_with_the_scores_reported(
    trainers: Trainers, train_config: Callable[..., dict[str, Any]], digits: dict[str, Any], tmp_path: Path
) -> None:
    config = train_config("int8", {"imageSize": 64, "maxSteps": 70})
    config["output"]["quantization"] = "Int8"
    message = trainers.run(config).message

    quantization, output = message["quantization"], tmp_path / "int8"
    assert quantization["kept"]
    assert quantization["speedUp"] > 1.05
    assert quantization["int8"]["top1"] >= quantization["float32"]["top1"] - 0.01
    assert message["metrics"]["top1"] == pytest.approx(quantization["int8"]["top1"], abs=1e-6)
    assert message["notes"][-1].startswith("The model is served as int8, calibrated on 128 training images")
    assert message["notes"][-1].endswith("on a GPU, int8 is slower than float32.")
    assert message["notes"][-1] in (output / "report.html").read_text(encoding="utf-8")
    assert quantized(output)
    assert (output / "model" / "model.onnx").stat().st_size < (output / "model" / "state.pt").stat().st_size / 3
    require_digests(output, message)

    model = Model.load(output / "model", digest="", threads=1)
    raw = Path(digits["uri"].removeprefix("file://")).parents[1] / "raw"
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:9]
    for row in rows:
        image = to_rgb(open_file(ImageFile("digit", next(raw.rglob(row["image"])).read_bytes()), LIMITS))
        scores = model.predict([model.preprocess.tensor(image)])[0].scores
        assert model.labels[int(np.argmax(scores))] == row["predicted"]


def test_the_float_model_stays_where_int8_is_not_faster(
    trainers: Trainers, train_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """A note has the numbers."""
    # Small depthwise convolutions: changing between the forms costs more than int8 saves.
    config = train_config("slower", {"imageSize": 64, "maxSteps": 7}, preset="mobilenet-v3-small")
    config["output"]["quantization"] = "Int8"
    trainer = trainers.run(config)

    message, output = trainer.message, tmp_path / "slower"
    quantization = message["quantization"]
    assert not quantization["kept"]
    assert quantization["speedUp"] < 1.05
    assert message["metrics"]["top1"] == pytest.approx(quantization["float32"]["top1"], abs=1e-6)
    (int8_note,) = (note for note in message["notes"] if "int8" in note)
    assert int8_note.startswith("The model is served as float32, though int8 was asked for: in int8, ")
    assert "which is not at least 1.05 times as fast" in int8_note
    assert int8_note in trainer.log
    assert not quantized(output)
    require_digests(output, message)
