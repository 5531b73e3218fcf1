"""Registries that ask for credentials, that hang, and that hold names of any script, between real programs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.verdict import Verdict
from bloomery_serving.errors import ModelError
from bloomery_serving.storage import fetch_model
from testing.basic_auth_proxy import BASIC, BEARER, run_basic_auth_proxy
from testing.servers import MlflowServer
from tests.component.mlflow.test_operator_resolves import ask
from tests.component.mlflow.test_serve_from_registry import register

pytestmark = pytest.mark.feature("S1")

GIVEN_UP_SECONDS = 12
"""The longest time that the operator's limit of ten seconds takes on a busy machine."""


@pytest.fixture
def door(mlflow: MlflowServer) -> Iterator[str]:
    with run_basic_auth_proxy(mlflow.port) as address:
        yield address


@pytest.mark.parametrize("credentials", [BASIC, BEARER], ids=["basic", "bearer"])
def test_a_registry_that_asks_for_credentials_gets_those_of_the_secret(
    credentials: dict[str, str], door: str, mlflow: MlflowServer, tmp_path: Path
) -> None:
    name = f"guarded-{tmp_path.name}"
    register(mlflow, name, tmp_path)
    environment = {"MLFLOW_TRACKING_URI": door, **credentials}
    model = ask(environment, f"models:/{name}/1")
    assert isinstance(model, ServedModel), model
    assert fetch_model(model.uri, tmp_path / "served", digest="", environment=environment).digest.startswith("sha256:")
    assert (tmp_path / "served/labels.txt").read_text() == "dark\nbright\n"


def test_credentials_that_the_registry_refuses_are_reported_in_words(
    door: str, mlflow: MlflowServer, tmp_path: Path
) -> None:
    name = f"refused-{tmp_path.name}"
    register(mlflow, name, tmp_path)
    model = ask({"MLFLOW_TRACKING_URI": mlflow.uri}, f"models:/{name}/1")
    assert isinstance(model, ServedModel)
    for credentials in ({}, BASIC | {"MLFLOW_TRACKING_PASSWORD": "wrong"}, {"MLFLOW_TRACKING_TOKEN": "wrong"}):
        environment = {"MLFLOW_TRACKING_URI": door, **credentials}
        refused = ask(environment, f"models:/{name}/1")
        assert isinstance(refused, Verdict)
        assert refused.reason == "RegistryUnreachable"
        assert "status 401; check the credentials" in refused.message
        with pytest.raises(ModelError, match=r"cannot be read from MLflow: .*401"):
            fetch_model(model.uri, tmp_path / "served", digest="", environment=environment)


@pytest.mark.feature("S11")
def test_a_registry_that_hangs_delays_no_caller_for_long(mlflow: MlflowServer) -> None:
    environment = {"MLFLOW_TRACKING_URI": mlflow.uri}
    mlflow.pause()
    try:
        began = time.monotonic()
        verdict = ask(environment, "models:/flowers@champion")
        seconds = time.monotonic() - began
    finally:
        mlflow.go_on()
    assert isinstance(verdict, Verdict)
    assert verdict.reason == "RegistryUnreachable"
    assert seconds < GIVEN_UP_SECONDS
    again = ask(environment, "models:/flowers@champion")
    assert isinstance(again, Verdict)
    assert again.reason == "ModelNotFound"


@pytest.mark.feature("S11")
@pytest.mark.parametrize(
    "name",
    ["花卉 分类", 'Anna\'s "best" flowers', "a#b?c&d=e", "100% ok+ü"],
    ids=["script", "quotes", "query", "percent"],
)
def test_a_model_is_found_whatever_characters_its_name_has(name: str, mlflow: MlflowServer, tmp_path: Path) -> None:
    name = f"{name} {tmp_path.name}"
    register(mlflow, name, tmp_path)
    mlflow.client().set_registered_model_alias(name, "champion", "1")
    environment = {"MLFLOW_TRACKING_URI": mlflow.uri}
    by_number, by_alias = (ask(environment, f"models:/{name}{which}") for which in ("/1", "@champion"))
    assert isinstance(by_number, ServedModel)
    assert by_number == by_alias
    assert by_number.display == f"{name}/1"


@pytest.mark.feature("S11")
def test_an_alias_that_moves_back_means_the_older_version_again(mlflow: MlflowServer, tmp_path: Path) -> None:
    client, name = mlflow.client(), f"back-{tmp_path.name}"
    client.create_registered_model(name)
    environment = {"MLFLOW_TRACKING_URI": mlflow.uri}
    for number in ("1", "2"):
        tags = {"bloomery.dev/uri": f"s3://models/{number}", "bloomery.dev/digest": f"sha256:{number * 64}"}
        client.create_model_version(name, source=f"s3://models/{number}", tags=tags)
    for number in ("1", "2", "1"):
        client.set_registered_model_alias(name, "champion", number)
        model = ask(environment, f"models:/{name}@champion")
        assert isinstance(model, ServedModel)
        assert (model.version, model.digest) == (number, f"sha256:{number * 64}")
    client.delete_registered_model_alias(name, "champion")
    gone = ask(environment, f"models:/{name}@champion")
    assert isinstance(gone, Verdict)
    assert gone.reason == "ModelNotFound"
