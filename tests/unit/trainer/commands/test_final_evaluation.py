"""The end of a run: the network of the final metrics, and the work of a start after an eviction."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from bloomery_model import Preprocess
from bloomery_model.folder import file_digest
from bloomery_model.references import REFERENCES, References
from bloomery_trainer.data import decoders
from bloomery_trainer.models import export, quantize
from bloomery_trainer.storage import S3Access, open_folder

Train = Callable[..., Any]


def read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def answer_always(path: Path, index: int) -> None:
    """Changes an exported model so that it answers one class, whatever it sees."""
    model = onnx.load(path)
    (bias,) = (weights for weights in model.graph.initializer if weights.name == "fc.bias")
    changed = numpy_helper.to_array(bias).copy()
    changed[index] += 1000
    bias.CopyFrom(numpy_helper.from_array(changed, bias.name))
    onnx.save(model, path)


def evaluate_folder(train: Train, folder: Path) -> dict[str, Any]:
    """Evaluate a run's model folder by a job of its own; return evaluation.json."""
    model = {"initialModel": {"uri": f"file://{folder}/model"}, "evaluateOnly": True}
    assert train(output={"uri": f"file://{folder}/again"}, uid="again", **model).code == 0
    return read_json(folder / "again" / "evaluation.json")


@pytest.mark.feature("T9")
@pytest.mark.feature("T10")
def test_the_final_figures_are_of_the_exported_file(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model = export.write_model

    def write_and_change(folder: Path, *arguments: Any, **more: Any) -> str:
        digest = write_model(folder, *arguments, **more)
        answer_always(folder / "model.onnx", 2)
        return digest

    # An exporter's mistake that no comparison of a few examples has shown.
    monkeypatch.setattr(export, "write_model", write_and_change)
    message = train(output={"uri": f"file://{tmp_path}"}).message

    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["predicted"] for row in rows} == {"零"}
    share = sum(row["label"] == "零" for row in rows) / len(rows)
    assert message["metrics"]["top1"] == pytest.approx(share, abs=1e-6)
    assert read_json(tmp_path / "evaluation.json")["metrics"]["top1"] == pytest.approx(share)
    assert read_json(tmp_path / "model" / "metadata.json")["metrics"]["top1"] == pytest.approx(share)


@pytest.mark.feature("S24")
def test_references_are_left_out_if_nobody_wants_them(train: Train, tmp_path: Path) -> None:
    train(output={"uri": f"file://{tmp_path}", "references": False})
    assert not (tmp_path / "model" / REFERENCES).exists()
    assert "references" not in read_json(tmp_path / "model" / "metadata.json")


@pytest.mark.feature("T26", "T27", "S24")
@pytest.mark.parametrize("quantization", ["None", "Int8"])
def test_the_exported_file_gives_the_calibrated_scores(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: str
) -> None:
    monkeypatch.setattr(quantize, "milliseconds", lambda *_: (40.0, 10.0))
    train({"maxSteps": 12}, output={"uri": f"file://{tmp_path}", "quantization": quantization})
    document = read_json(tmp_path / "evaluation.json")
    metadata = read_json(tmp_path / "model" / "metadata.json")

    model = onnx.load(tmp_path / "model" / "model.onnx")
    (temperature,) = (weights for weights in model.graph.initializer if weights.name == "temperature")
    assert float(numpy_helper.to_array(temperature)) == pytest.approx(document["calibration"]["temperature"], abs=1e-5)
    assert metadata["calibration"] == document["calibration"]
    assert metadata["thresholds"] == document["thresholds"]
    references = References.read(tmp_path / "model" / REFERENCES, side=32, classes=3)
    assert metadata["references"]["digest"] == file_digest(tmp_path / "model" / REFERENCES)
    network = export.OnnxNetwork(tmp_path / "model" / "model.onnx")
    preprocess = Preprocess.read((tmp_path / "model" / "preprocess.json").read_bytes())
    tensors = np.stack([preprocess.normalise(image) for image in references.images])
    assert references.compare(network(torch.from_numpy(tensors)).softmax(dim=1).numpy()).largest_difference < 1e-4
    # As a server reads it: the folder, evaluated as it is, has the calibrated scores.
    again = evaluate_folder(train, tmp_path)
    assert again["metrics"]["loss"] == pytest.approx(document["metrics"]["loss"], abs=1e-4)
    assert again["metrics"]["loss"] != pytest.approx(document["lastEpoch"]["loss"], abs=1e-4)


@pytest.mark.feature("T10")
def test_the_result_says_which_images_the_figures_are_of(train: Train, tmp_path: Path) -> None:
    message = train(output={"uri": f"file://{tmp_path}"}).message

    assert message["evaluatedOn"] == "validation"
    assert read_json(tmp_path / "model" / "metadata.json")["evaluatedOn"] == "validation"
    evaluation = read_json(tmp_path / "evaluation.json")
    assert evaluation["dataType"] == "float32"
    assert evaluation["initialModel"]["kind"] == message["initialModel"]["kind"] == "Scratch"


@pytest.mark.feature("T22")
def test_the_last_epochs_figures_are_in_the_result_and_the_report(train: Train, tmp_path: Path) -> None:
    message = train({"maxSteps": 12}, output={"uri": f"file://{tmp_path}"}).message

    # 96 images in batches of 16.
    assert message["lastEpoch"]["epoch"] == 2
    assert 0 <= message["lastEpoch"]["balanced"] <= 1
    assert read_json(tmp_path / "evaluation.json")["lastEpoch"]["top1"] == pytest.approx(
        message["lastEpoch"]["top1"], abs=1e-6
    )
    assert message["stillImproving"] in (True, False)


@pytest.mark.feature("T9")
def test_the_export_is_of_one_version_of_the_standard_operators(train: Train, tmp_path: Path) -> None:
    train(output={"uri": f"file://{tmp_path}"})

    (operators,) = onnx.load(tmp_path / "model" / "model.onnx").opset_import
    assert (operators.domain, operators.version) == ("", 17)


def test_held_out_images_are_decoded_once_after_training(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, lock, decode = [0], threading.Lock(), decoders.CenterCropDecoder.__call__

    def counted(self: decoders.CenterCropDecoder, content: bytes) -> Any:
        with lock:
            decoded[0] += 1
        return decode(self, content)

    monkeypatch.setattr(decoders.CenterCropDecoder, "__call__", counted)
    assert train({"augmentation": "Light"}, output={"uri": f"file://{tmp_path}"}).code == 0

    # 24 of them: once to see that they can be decoded, once to choose the best epoch by, and once for the rest.
    assert decoded[0] <= 3 * 24


@pytest.mark.feature("T13")
def test_a_start_after_training_ended_only_evaluates_and_exports(train: Train, tmp_path: Path) -> None:
    first = train({"maxSteps": 4}, output={"uri": f"file://{tmp_path}"}).message
    # As a pod leaves it that was evicted while it exported.
    (tmp_path / "result.json").unlink()
    (tmp_path / "model" / "metadata.json").unlink()
    again = train({"maxSteps": 4}, output={"uri": f"file://{tmp_path}"}).message

    assert again["model"] == first["model"]
    assert again["metrics"] == first["metrics"]
    assert again["reason"] == "Trained"
    assert again["starts"] == 2
    assert "training loss" not in (tmp_path / "train.log").read_text(encoding="utf-8")


@pytest.mark.feature("T9")
def test_int8_is_decided_once_whatever_a_later_start_measures(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"output": {"uri": f"file://{tmp_path}", "quantization": "Int8"}}
    monkeypatch.setattr(quantize, "milliseconds", lambda *_: (40.0, 10.0))
    first = train({"maxSteps": 4, "learningRate": 1e-9}, **fields).message
    assert first["quantization"]["kept"], first["notes"]
    (tmp_path / "result.json").unlink()
    # The machine of the next start is slower at int8.
    monkeypatch.setattr(quantize, "milliseconds", lambda *_: (10.0, 40.0))
    again = train({"maxSteps": 4, "learningRate": 1e-9}, **fields).message

    assert again["model"]["digest"] == first["model"]["digest"]
    assert again["quantization"] == first["quantization"]
    assert again["metrics"] == first["metrics"]
    assert read_json(tmp_path / "evaluation.json")["dataType"] == "int8"


@pytest.mark.feature("T9")
def test_a_decision_about_other_weights_is_not_taken_over(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.onnx", "labels.txt", "preprocess.json", "state.pt"):
        (folder / name).write_bytes(b"one")
    form = quantize.ModelVariantStats(value=0.5, milliseconds=2.0)
    quantization = quantize.Quantization(metric="f1", split="test", float32=form, int8=form, calibration_images=8)
    decision = quantize.Decision(quantization, 1.5)
    output = open_folder(f"file://{tmp_path}/output", S3Access.from_environment({}), create=True)
    quantize.record(decision, output, folder, uid="1")

    assert quantize.recorded(output, folder, uid="1") == decision
    assert quantize.recorded(output, folder, uid="2") is None
    (folder / "state.pt").write_bytes(b"two")
    assert quantize.recorded(output, folder, uid="1") is None
    assert (folder / "model.onnx").read_bytes() == b"one"
