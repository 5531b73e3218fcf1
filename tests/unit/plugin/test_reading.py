"""What is read from services and addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from kubectl_bloomery.addresses import is_here, is_inside, service_behind
from kubectl_bloomery.asking import ask
from kubectl_bloomery.kubectl import CommandError, complaint
from kubectl_bloomery.mlflow import Mlflow
from kubectl_bloomery.service import serving_revision


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("bloomery-mlflow.bloomery-system", ("bloomery-mlflow", "bloomery-system")),
        ("mlflow.team.svc", ("mlflow", "team")),
        ("mlflow.team.svc.cluster.local", ("mlflow", "team")),
        ("mlflow", ("mlflow", "demo")),
        ("mlflow.example.com", None),
        ("127.0.0.1", None),
        ("::1", None),
        ("localhost", None),
    ],
)
def test_an_address_inside_the_cluster_is_told_from_one_outside(host: str, found: tuple[str, str] | None) -> None:
    assert service_behind(host, "demo") == found


@pytest.mark.feature("O5")
def test_only_a_name_below_svc_is_inside_for_sure() -> None:
    assert is_inside("mlflow.team.svc") and is_inside("mlflow.team.svc.cluster.local")
    assert not is_inside("mlflow.corp") and not is_inside("mlflow")


@pytest.mark.feature("O5")
def test_no_proxy_is_asked_for_this_machine() -> None:
    assert all(map(is_here, ("localhost", "127.0.0.1", "::1")))
    assert not any(map(is_here, ("mlflow", "10.0.0.1", "localhost.example.com")))


@pytest.mark.feature("O5")
def test_a_report_that_a_run_has_not_yet_is_none_though_mlflow_would_answer_500() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/2.0/mlflow/artifacts/list":
            return httpx.Response(200, json={"files": [{"path": "labels.txt", "is_dir": False}]})
        found = request.url.params["path"] == "labels.txt"
        return httpx.Response(200, text="rose\n") if found else httpx.Response(500)

    with httpx.Client(base_url="http://mlflow", transport=httpx.MockTransport(answer)) as client:
        assert Mlflow(client).artifact("1", "report.html") is None
        assert Mlflow(client).artifact("1", "labels.txt") == b"rose\n"


@pytest.mark.feature("O5")
@pytest.mark.parametrize("page", ["<h1>Sign in</h1>", "[]", '{"model": null}'])
def test_what_is_no_model_server_is_told_in_words(tmp_path: Path, page: str) -> None:
    (tmp_path / "rose.png").write_bytes(b"a rose")
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=page))

    with httpx.Client(base_url="http://models", transport=transport) as client, pytest.raises(CommandError) as told:
        list(ask(client, [tmp_path / "rose.png"]))

    assert str(told.value) == f"http://models/predict does not answer as a model server does: {page}"


def service(*variants: dict[str, Any]) -> dict[str, Any]:
    said = [{"type": "Ready", "message": "Its model is not there yet."}]
    return {"metadata": {"name": "colours"}, "status": {"variants": list(variants), "conditions": said}}


@pytest.mark.feature("O5")
def test_the_variant_with_the_most_traffic_is_asked_unless_another_one_is_named() -> None:
    found = service(
        {"name": "small", "weight": 10, "ready": 1, "revision": "colours--small-1"},
        {"name": "large", "weight": 90, "ready": 1, "revision": "colours--large-1"},
        {"name": "new", "weight": 0, "ready": 0, "revision": "colours--new-1"},
    )

    assert serving_revision(found, None) == "colours--large-1"
    assert serving_revision(found, "small") == "colours--small-1"
    with pytest.raises(CommandError, match="The variant new of colours does not answer: Its model is not there yet"):
        serving_revision(found, "new")


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            'Error from server (NotFound): trainingjobs.bloomery.dev "x" not found\n',
            "There is no TrainingJob 'x' in this namespace; -n names another one.",
        ),
        (
            'error: the server doesn\'t have a resource type "inferenceservices"\n',
            "This cluster knows no InferenceService: Bloomery's chart is not installed there.",
        ),
        (
            'Error from server (Forbidden): secrets "s" is forbidden: User "joe" cannot get resource "secrets"\n',
            'secrets "s" is forbidden: User "joe" cannot get resource "secrets"',
        ),
        (
            "E1121 08:35:13.9   17719 memcache.go:265] no\nThe connection was refused\n",
            "The connection was refused",
        ),
        ("", "kubectl failed."),
    ],
)
def test_what_kubectl_complains_of_becomes_a_sentence(said: str, sentence: str) -> None:
    assert complaint(said) == sentence
