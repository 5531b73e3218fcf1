"""The MLflow client."""

from __future__ import annotations

import httpx
import pytest

from kubectl_bloomery.cluster.mlflow import Mlflow
from kubectl_bloomery.errors import CommandError


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


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("response", "text"),
    [
        (httpx.Response(500, html="<!doctype html><title>500 Internal Server Error</title>"), "Internal Server Error."),
        (httpx.Response(400, json={"message": "no such run"}), 'Bad Request: {"message":"no such run"}'),
        (httpx.Response(502), "Bad Gateway."),
    ],
)
def test_errors_show_what_mlflow_says_and_no_markup(response: httpx.Response, text: str) -> None:
    transport = httpx.MockTransport(lambda _: response)
    with (
        httpx.Client(base_url="http://mlflow", transport=transport) as client,
        pytest.raises(CommandError) as refused,
    ):
        Mlflow(client).find_run("digits", {})

    assert str(refused.value) == f"MLflow at http://mlflow answers {response.status_code} {text}"
