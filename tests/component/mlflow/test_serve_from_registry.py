"""A model that others registered in MLflow is served from MLflow's own artifacts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import httpx
import mlflow.onnx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bloomery_operator.clients.mlflow import MlflowClient
from bloomery_operator.domain.served_model import ServedModel
from testing.processes import free_port
from testing.servers import MlflowServer, until_answered

pytestmark = [pytest.mark.feature("S1"), pytest.mark.feature("S2")]


def brightness() -> onnx.ModelProto:
    """Says whether an image is dark or bright."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Unsqueeze", ["mean", "axis"], ["column"]),
            helper.make_node("Mul", ["column", "row"], ["logits"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
            numpy_helper.from_array(np.array([[-1, 1]], np.float32), "row"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def register(server: MlflowServer, name: str, folder: Path) -> None:
    """Register a model as people do who know MLflow and not us."""
    labels = folder / "labels.txt"
    labels.write_text("dark\nbright\n")
    client = server.client()
    run = client.create_run(client.create_experiment(name))
    logged = mlflow.models.Model.log(
        artifact_path=None,
        name="model",
        flavor=mlflow.onnx,
        run_id=run.info.run_id,
        onnx_model=brightness(),
        pip_requirements=["onnxruntime"],
        save_as_external_data=False,
        extra_files=[str(labels)],
    )
    client.create_registered_model(name)
    client.create_model_version(name, source=logged.model_uri, run_id=run.info.run_id, model_id=logged.model_id)


def find(server: MlflowServer, reference: str) -> ServedModel:
    async def ask() -> object:
        async with aiohttp.ClientSession() as session:
            return await MlflowClient(session, allowed=[server.uri]).find(
                {"MLFLOW_TRACKING_URI": server.uri}, reference
            )

    model = asyncio.run(ask())
    assert isinstance(model, ServedModel), model
    return model


@pytest.mark.usefixtures("mlflow")
def test_a_model_that_others_registered_is_served(mlflow: MlflowServer, tmp_path: Path) -> None:
    name = f"brightness-{tmp_path.name}"
    register(mlflow, name, tmp_path)
    model = find(mlflow, f"models:/{name}/1")
    assert model.uri.startswith("mlflow-artifacts:/")
    assert model.digest is None
    port, log = free_port(), tmp_path / "log"
    settings = {
        "MODEL_URI": model.uri,
        "MODEL_DIR": str(tmp_path / "served"),
        "PORT": str(port),
        "METRICS_PORT": "0",
        "MLFLOW_TRACKING_URI": mlflow.uri,
        "TERMINATION_LOG": str(tmp_path / "termination"),
    }
    with log.open("wb") as output:
        command = [sys.executable, "-m", "bloomery_serving"]
        server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=output, stderr=subprocess.STDOUT)
    try:
        until_answered(f"http://127.0.0.1:{port}/v2/health/ready", server, log=log)
        tensor = {"name": "images", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": [1.0] * 3 * 32 * 32}
        answer = httpx.post(f"http://127.0.0.1:{port}/v2/models/model/infer", json={"inputs": [tensor]})
        assert answer.status_code == 200, answer.text
        label = next(output for output in answer.json()["outputs"] if output["name"] == "label")
        assert label["data"] == ["bright"]
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


@pytest.mark.usefixtures("mlflow")
@pytest.mark.parametrize(
    ("address", "reason"),
    [("http://127.0.0.1:9", "StoreUnavailable"), ("", "MlflowNotConfigured"), (None, "ModelNotFound")],
)
def test_a_model_that_mlflow_withholds_is_reported_in_words(
    mlflow: MlflowServer, tmp_path: Path, address: str | None, reason: str
) -> None:
    settings = {
        "MODEL_URI": "mlflow-artifacts:/99/models/m-0/artifacts",
        "MODEL_DIR": str(tmp_path / "served"),
        "MLFLOW_TRACKING_URI": mlflow.uri if address is None else address,
        "TERMINATION_LOG": str(tmp_path / "termination"),
    }
    command = [sys.executable, "-m", "bloomery_serving"]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert json.loads((tmp_path / "termination").read_text())["error"]["reason"] == reason
