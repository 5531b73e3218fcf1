"""The models that `models:/…` and `runs:/…` name: the operator asks a real registry for what the trainer put there."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bloomery_operator.clients.mlflow import MlflowClient
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.starting_point import starting_point_from_registry
from bloomery_operator.domain.verdict import Verdict
from bloomery_trainer.models.presets import PRESETS
from bloomery_trainer.publish.run_record import open_record
from bloomery_trainer.recipe import resolve
from bloomery_trainer.storage import S3Access, open_folder
from testing.servers import MlflowServer
from tests.component.mlflow.conftest import Documents, config_of, made_model

pytestmark = [pytest.mark.feature("T3"), pytest.mark.feature("T18")]

Find = Callable[[str], ServedModel | Verdict]


def ask(environment: Mapping[str, str], reference: str) -> ServedModel | Verdict:
    """Resolve a reference with the variables of a namespace's Secret."""

    async def find() -> ServedModel | Verdict:
        async with aiohttp.ClientSession() as session:
            allowed = [environment.get("MLFLOW_TRACKING_URI", "")]
            return await MlflowClient(session, allowed=allowed).find(environment, reference)

    return asyncio.run(find())


@dataclass(frozen=True)
class Version:
    """A model version as a training registered it."""

    number: str
    run: str
    uri: str
    digest: str


class Trainings:
    """Runs of one registered model, each with a version."""

    def __init__(self, server: MlflowServer, document: Documents, folder: Path) -> None:
        self.model = folder.name.replace("_", "-")
        self._server, self._document, self._folder = server, document, folder
        self._number = itertools.count(1)

    def __call__(self, **mlflow: Any) -> Version:
        fields = {"experiment": f"demo/{self.model}", "registeredModel": self.model} | mlflow
        config = config_of(self._document(mlflow=fields))
        scratch = self._folder / f"scratch-{next(self._number)}"
        scratch.mkdir()
        output = open_folder(config.output.uri, S3Access.from_environment({}), create=True)
        environment = {"MLFLOW_TRACKING_URI": self._server.uri, "BLOOMERY_MLFLOW_WAIT_SECONDS": "30"}
        recipe = resolve(config.hyperparameters, PRESETS[config.preset], images=100, start="scratch")
        record = open_record(config, recipe, environment, output=output, scratch=scratch)
        model = made_model(scratch / "made")
        number = record.register(model)
        record.close("FINISHED")
        assert number is not None
        run = self._server.client().get_model_version(fields["registeredModel"], number).run_id
        assert run is not None
        return Version(number, run, f"{config.output.uri}/model", model.digest)


@pytest.fixture
def train(mlflow: MlflowServer, document: Documents, tmp_path: Path) -> Trainings:
    return Trainings(mlflow, document, tmp_path)


@pytest.fixture
def find(mlflow: MlflowServer) -> Find:
    return lambda reference: ask({"MLFLOW_TRACKING_URI": mlflow.uri}, reference)


def reason(verdict: ServedModel | Verdict) -> str:
    assert isinstance(verdict, Verdict), verdict
    return verdict.reason


def test_a_version_is_found_by_number_alias_label_and_run(train: Trainings, find: Find, mlflow: MlflowServer) -> None:
    first, second = train(versionLabel="1.0"), train(versionLabel="1.1")
    mlflow.client().set_registered_model_alias(train.model, "champion", first.number)

    for reference in (f"/{first.number}", "@champion", "/1.0"):
        model = find(f"models:/{train.model}{reference}")
        assert isinstance(model, ServedModel)
        assert (model.uri, model.digest, model.run_id) == (first.uri, first.digest, first.run)
        assert model.display == f"{train.model}/{first.number}"
    newer = find(f"models:/{train.model}/1.1")
    assert getattr(newer, "uri", None) == second.uri
    assert find(f"runs:/{second.run}") == find(f"runs:/{second.run}/model") == newer


@pytest.mark.feature("S12")
def test_a_version_names_its_job_and_its_dataset(train: Trainings, find: Find) -> None:
    version = train()
    model = find(f"models:/{train.model}/{version.number}")
    assert isinstance(model, ServedModel)
    assert (model.training_job or "").startswith("demo/")
    assert model.dataset == "flowers"
    assert len(model.dataset_version or "") == 64


def test_an_alias_means_the_version_that_it_points_at_now(train: Trainings, find: Find, mlflow: MlflowServer) -> None:
    first, second = train(), train()
    client = mlflow.client()
    for version in (first, second):
        client.set_registered_model_alias(train.model, "champion", version.number)
        assert getattr(find(f"models:/{train.model}@champion"), "uri", None) == version.uri


def test_of_several_versions_with_one_label_the_newest_is_meant(train: Trainings, find: Find) -> None:
    train(versionLabel="1.0")
    newest = train(versionLabel="1.0")
    assert getattr(find(f"models:/{train.model}/1.0"), "uri", None) == newest.uri


def test_names_and_labels_may_have_any_script_and_quotation_marks(train: Trainings, find: Find) -> None:
    model = f"{train.model} 花's"
    version = train(registeredModel=model, versionLabel="erste's 一号")
    for reference in (f"models:/{model}/{version.number}", f"models:/{model}/erste's 一号"):
        served = find(reference)
        assert isinstance(served, ServedModel) and served.uri == version.uri


def test_what_is_not_there_is_named(train: Trainings, find: Find) -> None:
    train()
    missing = [f"models:/{train.model}/{which}" for which in ("99", "9.9", """'9"9""")]
    for reference in [
        *missing,
        f"models:/{train.model}@nobody",
        "models:/nothing/1",
        "models:/nothing@champion",
        "runs:/" + "0" * 32,
    ]:
        verdict = find(reference)
        assert reason(verdict) == "ModelNotFound"
        assert isinstance(verdict, Verdict) and reference in verdict.message


def test_a_foreign_model_can_be_served_but_not_trained_further(
    find: Find, mlflow: MlflowServer, tmp_path: Path
) -> None:
    client, name = mlflow.client(), f"foreign-{tmp_path.name}"
    client.create_registered_model(name)
    client.create_model_version(name, source="s3://elsewhere/model")
    reference = f"models:/{name}/1"
    model = find(reference)
    assert isinstance(model, ServedModel)
    assert (model.uri, model.digest, model.training_job) == ("s3://elsewhere/model", None, None)
    refused = starting_point_from_registry(model, reference)
    assert isinstance(refused, Verdict)
    assert refused.reason == "ModelNotOurs"
    assert "not made by a TrainingJob" in refused.message


def test_the_tag_of_a_served_version_is_written_and_removed(train: Trainings, mlflow: MlflowServer) -> None:
    version, environment = train(), {"MLFLOW_TRACKING_URI": mlflow.uri}
    model = (train.model, version.number)

    async def scenario() -> None:
        async with aiohttp.ClientSession() as session:
            away = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
            registry = MlflowClient(session, allowed=[*environment.values(), *away.values()])
            for tag, variants in (("served-by.a", "v1,v2"), ("served-by.b", "v1")):
                assert await registry.tag_served(environment, model, tag=tag, variants=variants)
            tags = mlflow.client().get_model_version(*model).tags
            assert (tags["served-by.a"], tags["served-by.b"]) == ("v1,v2", "v1")
            for _ in range(2):
                assert await registry.tag_served(environment, model, tag="served-by.b", variants="")
            tags = mlflow.client().get_model_version(*model).tags
            assert "served-by.a" in tags and "served-by.b" not in tags
            assert not await registry.tag_served(away, model, tag="served-by.a", variants="v1")

    asyncio.run(scenario())


def test_a_missing_or_unreachable_registry_is_reported_and_asked_again(mlflow: MlflowServer) -> None:
    assert reason(ask({}, "models:/flowers/1")) == "RegistryNotConfigured"
    assert reason(ask({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, "models:/flowers/1")) == "RegistryUnreachable"
    assert reason(ask({"MLFLOW_TRACKING_URI": mlflow.uri}, "models:/flowers/1")) == "ModelNotFound"
