"""A model in int8 in MLflow: what it cost is in the run, what it is on the version, also when it came later."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from mlflow.artifacts import download_artifacts

from testing.processes import free_port
from testing.servers import MlflowServer
from tests.component.mlflow.conftest import Documents, Ended

TAG = "bloomery.dev/quantization"


@pytest.mark.feature("T9")
@pytest.mark.extended
@pytest.mark.parametrize("later", [False, True], ids=["at once", "once MLflow is back"])
def test_run_has_the_cost_of_int8_and_the_version_its_tag(
    document: Documents,
    command: Callable[..., Ended],
    mlflow: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
    later: bool,
) -> None:
    job = document()
    # At 64 pixels this network is several times as fast in int8, and answers everything right after six epochs.
    job["hyperparameters"] |= {"imageSize": 64, "epochs": 6}
    job["output"]["quantization"] = "Int8"
    with monkeypatch.context() as away:
        if later:
            away.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
            away.setenv("BLOOMERY_MLFLOW_WAIT_SECONDS", "0")
        ended = command(job)
    if later:
        assert ended.message["model"]["version"] is None
        ended = command(job, "register")

    assert ended.code == 0, ended.message
    quantization = ended.message["quantization"]
    assert quantization["kept"], ended.message["notes"]
    client = mlflow.client()
    run = client.get_run(ended.message["mlflow"]["runId"]).data
    assert run.params["quantization"] == "Int8"
    assert run.metrics["quantization/speed_up"] == pytest.approx(quantization["speedUp"], abs=1e-3)
    assert run.metrics["quantization/int8_top1"] == pytest.approx(quantization["int8"]["top1"], abs=1e-6)
    assert run.metrics["top1"] == pytest.approx(quantization["int8"]["top1"], abs=1e-6)
    version = client.get_model_version(job["name"], ended.message["model"]["version"])
    assert version.tags[TAG] == "Int8"
    folder = download_artifacts(f"models:/{job['name']}/{version.version}", tracking_uri=mlflow.uri)
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(f"{folder}/model.onnx").graph.node)
