"""Answers below a confidence: unknown, in both protocols; and the metrics of answers and their drift."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.component.serving.conftest import GREEN, RED, Server, StartServer, picture, write_model

GREY = (120, 120, 120)
THRESHOLDS: dict[str, Any] = {"precision": {"0.95": [0.6, None, 0.6]}}
"""No confidence of green was enough."""
REFERENCE: dict[str, Any] = {
    "predictions": [60, 30, 10],
    "confidence": {"edges": [0.5, 0.9], "counts": [0, 10, 90]},
    "brightness": {"edges": [0.1], "counts": [10, 90]},
}


def folder_with(folder: Path, statistics: Mapping[str, Any]) -> Path:
    """Write a model folder as a training does, with these statistics in its metadata.json."""
    folder.mkdir()
    files = write_model(folder)
    (folder / "metadata.json").write_text(json.dumps({"format": 1, "files": files, **statistics}))
    return folder


@pytest.fixture(scope="module")
def sure(start_server: StartServer) -> Server:
    return start_server(answer_min_confidence="0.7")


@pytest.fixture(scope="module")
def precise(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = folder_with(tmp_path_factory.mktemp("precise") / "model", {"thresholds": THRESHOLDS})
    return start_server(model_uri=f"file://{folder}", answer_precision="0.95")


def predict(server: Server, *pictures: bytes) -> dict[str, Any]:
    files = [("image", (f"{number}.png", content)) for number, content in enumerate(pictures)]
    answer = server.client.post("/predict", files=files)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def infer(server: Server, *pictures: bytes, **more: Any) -> dict[str, dict[str, Any]]:
    data = [base64.b64encode(content).decode() for content in pictures]
    entry = {"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": data}
    answer = server.client.post("/v2/models/colours/infer", json={"inputs": [entry], **more})
    assert answer.status_code == 200, answer.text
    return {output["name"]: output for output in answer.json()["outputs"]}


@pytest.mark.feature("S17")
def test_below_the_confidence_an_answer_is_unknown_with_all_scores(sure: Server) -> None:
    unknown = predict(sure, picture(GREY))
    assert (unknown["label"], unknown["unknown"], len(unknown["scores"])) == (None, True, 3)
    known = predict(sure, picture(RED))
    assert known["label"] == "red"
    assert "unknown" not in known
    first, second = predict(sure, picture(GREY), picture(RED))["predictions"]
    assert (first["label"], first["unknown"], second["label"]) == (None, True, "red")


@pytest.mark.feature("S17")
def test_a_class_that_never_reached_the_precision_is_always_unknown(precise: Server) -> None:
    answers = predict(precise, picture(RED), picture(GREEN))["predictions"]
    assert [answer["label"] for answer in answers] == ["red", None]
    assert answers[1]["scores"]["green"] > 0.99


@pytest.mark.feature("S14")
@pytest.mark.feature("S17")
def test_the_protocol_has_an_output_for_unknown(sure: Server, server: Server) -> None:
    outputs = infer(sure, picture(GREY), picture(RED))
    assert outputs["label"]["data"] == ["", "red"]
    assert (outputs["unknown"]["datatype"], outputs["unknown"]["data"]) == ("BOOL", [True, False])
    described = sure.client.get("/v2/models/colours").json()["outputs"]
    assert {"name": "unknown", "datatype": "BOOL", "shape": [-1]} in described
    # A service that always answers has the outputs that it always had.
    assert set(infer(server, picture(GREY))) == {"scores", "label"}
    assert len(server.client.get("/v2/models/colours").json()["outputs"]) == 2


@pytest.mark.feature("S14")
@pytest.mark.feature("S17")
def test_the_output_for_unknown_may_be_binary(sure: Server) -> None:
    entry = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(picture(GREY)).decode()]}
    output = [{"name": "unknown", "parameters": {"binary_data": True}}]
    answer = sure.client.post("/v2/models/colours/infer", json={"inputs": [entry], "outputs": output})
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 1}
    assert answer.content[length:] == b"\x01"


@pytest.mark.feature("S17")
def test_a_precision_without_thresholds_ends_the_server_with_advice(start_server: StartServer) -> None:
    server = start_server(ready=False, answer_precision="0.95")
    assert server.process.wait(120) == 1
    error = json.loads(server.termination_log.read_text())["error"]
    assert error["reason"] == "NoThresholds"
    assert "evaluateOnly" in error["message"]


@pytest.mark.feature("S17")
def test_a_restarted_server_finds_thresholds_that_came_meanwhile(start_server: StartServer, tmp_path: Path) -> None:
    folder, local_folder = folder_with(tmp_path / "model", {}), str(tmp_path / "local")
    settings = {"model_uri": f"file://{folder}", "model_dir": local_folder, "answer_precision": "0.95"}
    first = start_server(ready=False, **settings)
    assert first.process.wait(120) == 1
    shutil.rmtree(folder)
    folder_with(folder, {"thresholds": THRESHOLDS})
    assert predict(start_server(**settings), picture(RED))["label"] == "red"


@pytest.mark.feature("S18")
def test_answers_are_counted_by_class_and_confidence(start_server: StartServer) -> None:
    server = start_server(answer_min_confidence="0.7")
    predict(server, picture(RED), picture(RED), picture(GREEN))
    grey = np.full((1, 3, 32, 32), 0.5).tolist()
    entry = {"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": grey}
    server.client.post("/v2/models/colours/infer", json={"inputs": [entry]})
    assert server.metric("bloomery_predictions_total", **{"class": "red"}) == 3
    assert server.metric("bloomery_predictions_total", **{"class": "green"}) == 1
    assert server.metric("bloomery_predictions_total", **{"class": "blue"}) == 0
    assert server.metric("bloomery_prediction_confidence_count") == 4
    assert server.metric("bloomery_prediction_confidence_bucket", le="0.4") == 1
    assert server.metric("bloomery_unknown_predictions_total") == 1


Ask = Callable[[Server], object]


@pytest.mark.feature("S18")
def test_drift_is_measured_against_the_stored_reference(start_server: StartServer, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", {"reference": REFERENCE})
    server = start_server(model_uri=f"file://{folder}")
    # As in the reference: of ten images six are red, three green and one blue.
    usual = [picture(RED)] * 6 + [picture(GREEN)] * 3 + [picture((20, 20, 200))]
    predict(server, *usual)
    assert "bloomery_class_drift" not in server.client.get(server.metrics_url).text, "ten answers say nothing"
    for _ in range(9):
        predict(server, *usual)
    assert server.metric("bloomery_class_drift") == 0
    usual_drift = server.metric("bloomery_brightness_drift")
    for _ in range(50):
        predict(server, *[picture(GREY)] * 10)
    assert server.metric("bloomery_confidence_drift") > 1
    for _ in range(50):
        predict(server, *[picture((2, 1, 1))] * 10)
    assert server.metric("bloomery_brightness_drift") > usual_drift + 1
