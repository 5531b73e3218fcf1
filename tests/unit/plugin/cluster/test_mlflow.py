"""The MLflow client."""

from __future__ import annotations

import httpx
import pytest

from kubectl_bloomery.cluster.mlflow import Mlflow


@pytest.mark.feature("O5")
def test_missing_artifact_is_none_although_mlflow_answers_500() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/2.0/mlflow/artifacts/list":
            return httpx.Response(200, json={"files": [{"path": "labels.txt", "is_dir": False}]})
        exists = request.url.params["path"] == "labels.txt"
        return httpx.Response(200, text="rose\n") if exists else httpx.Response(500)

    with httpx.Client(base_url="http://mlflow", transport=httpx.MockTransport(answer)) as client:
        assert Mlflow(client).artifact("1", "report.html") is None
        assert Mlflow(client).artifact("1", "labels.txt") == b"rose\n"
