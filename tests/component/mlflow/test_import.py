"""A model folder is taken into MLflow's registry by one command, and is found there as a training's versions are."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import mlflow as mlflow_library
import onnx
import pytest

from bloomery_model.folder import METADATA
from bloomery_trainer import model_folder
from bloomery_trainer.cli import main
from testing.servers import MlflowServer
from tests.component.mlflow.conftest import made_model
from tests.component.mlflow.test_serve_from_registry import brightness

pytestmark = [pytest.mark.feature("S1"), pytest.mark.usefixtures("mlflow")]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The model folder of a training."""
    folder = made_model(tmp_path / "made").folder
    about = {
        "trainingJob": {"namespace": "team", "name": "flowers", "uid": "1"},
        "datasets": [{"name": "roses", "version": "a1"}, {"name": "tulips", "version": "b2"}],
        "run": {"experimentId": "3", "runId": "r1"},
    }
    (folder / METADATA).write_bytes(model_folder.metadata(folder, about))
    return folder


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A model of elsewhere, with names of its own."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    model = brightness()
    model.graph.input[0].name = model.graph.node[0].input[0] = "pixels"
    model.graph.output[0].name = model.graph.node[-1].output[0] = "scores"
    onnx.save(model, folder / "brightness.onnx")
    (folder / "labels.json").write_text('{"0": "dark", "1": "凉皮"}', encoding="utf-8")
    return folder


def take(folder: Path | str, name: str, *more: str) -> int:
    uri = folder if isinstance(folder, str) else f"file://{folder}"
    return main(["import", uri, "--name", name, *more])


@pytest.mark.parametrize("kind", ["own", "foreign"])
def test_a_folder_becomes_a_version_that_is_ready(
    kind: str,
    mlflow: MlflowServer,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    folder, name = request.getfixturevalue(kind), f"{kind}-{tmp_path.name}"
    assert take(folder, name, "--version-label", "1.0", "--alias", "champion", "--description", "Von auswärts.") == 0
    assert json.loads(capsys.readouterr().out.strip().rsplit("\n", 1)[-1])["uri"] == f"models:/{name}/1"
    # Nobody but its author knows how the images of a foreign model were prepared.
    assert ("ImageNet's preprocessing is assumed" in caplog.text) is (kind == "foreign")
    version = mlflow.client().get_model_version_by_alias(name, "champion")
    assert (version.version, version.status, version.description) == ("1", "READY", "Von auswärts.")
    assert version.tags["bloomery.dev/version-label"] == "1.0"
    assert version.tags["bloomery.dev/imported-from"] == f"file://{folder}"
    # What lies on somebody's laptop, pods fetch from MLflow.
    assert "bloomery.dev/uri" not in version.tags
    mlflow_library.set_tracking_uri(mlflow.uri)
    loaded = mlflow_library.onnx.load_model(f"models:/{name}/1")
    signature = mlflow_library.models.get_model_info(f"models:/{name}/1").signature
    names = {"own": ("images", "logits"), "foreign": ("pixels", "scores")}[kind]
    assert (loaded.graph.input[0].name, loaded.graph.output[0].name) == names
    assert (*signature.inputs.input_names(), *signature.outputs.input_names()) == names


def test_a_folder_of_a_training_is_known_as_such(own: Path, mlflow: MlflowServer, tmp_path: Path) -> None:
    assert take(own, f"known-{tmp_path.name}") == 0
    tags = mlflow.client().get_model_version(f"known-{tmp_path.name}", "1").tags
    assert tags["bloomery.dev/trainingjob"] == "team/flowers"
    assert (tags["bloomery.dev/dataset"], tags["bloomery.dev/dataset-version"]) == ("roses,tulips", "a1,b2")
    assert tags["bloomery.dev/imported-run"] == "r1"


def test_a_run_whose_model_is_not_taken_has_failed(
    own: Path, mlflow: MlflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    assert take(own, "no/name") == 2
    assert "did not take the model" in caplog.text
    client = mlflow.client()
    home = client.get_experiment_by_name("imported")
    (run,) = client.search_runs([home.experiment_id], f"tags.`bloomery.dev/imported-from` = 'file://{own}'")
    assert run.info.status == "FAILED"


def test_a_second_import_is_a_second_version(own: Path, mlflow: MlflowServer, tmp_path: Path) -> None:
    name = f"twice-{tmp_path.name}"
    assert take(own, name) == 0
    assert take(own, name, "--alias", "champion") == 0
    assert mlflow.client().get_model_version_by_alias(name, "champion").version == "2"


def damaged(folder: Path) -> None:
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"!")


@pytest.mark.parametrize(
    ("kind", "spoil", "code", "words"),
    [
        ("own", damaged, 3, "model.onnx at {uri} is not what its metadata.json says"),
        ("own", lambda f: (f / "labels.txt").unlink(), 3, "labels.txt is missing at {uri}"),
        ("own", lambda f: (f / "metadata.json").write_text("{"), 3, "{uri}/metadata.json does not describe a model"),
        ("foreign", lambda f: (f / "labels.json").unlink(), 3, "put labels.txt beside it"),
        ("foreign", lambda f: (f / "labels.json").write_text('["dark"]'), 3, "labels.txt names 1 classes"),
        ("foreign", lambda f: (f / "labels.json").write_text("{"), 3, "labels.json names no classes"),
        ("foreign", lambda f: (f / "labels.json").write_text("[1, 2]"), 3, "labels.json names no classes"),
        ("foreign", lambda f: (f / "labels.json").write_text('"ab"'), 3, "labels.json names no classes"),
        ("foreign", lambda f: (f / "brightness.onnx").write_bytes(b"no"), 3, "the model does not run on an image"),
        ("foreign", lambda f: onnx.save(brightness(), f / "b.onnx"), 3, "b.onnx, brightness.onnx"),
        (
            "foreign",
            lambda f: [path.unlink() for path in f.iterdir()],
            3,
            "no model at {uri}",
        ),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_in_words(
    kind: str,
    spoil: Callable[[Path], object],
    code: int,
    words: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = request.getfixturevalue(kind)
    spoil(folder)
    assert take(folder, f"spoiled-{tmp_path.name}") == code
    assert words.format(uri=f"file://{folder}") in caplog.text
    assert "Traceback" not in caplog.text


def test_addresses_and_servers_of_no_use_are_named(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert take("https://example.com/model", "x") == 2
    assert "'https://example.com/model' is no model folder" in caplog.text
    assert take(f"file://{tmp_path}/nothing", "x") == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert take(own, "x") == 1
    assert "MLflow at http://127.0.0.1:9 did not take the model" in caplog.text
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert take(own, "x") == 2
    assert "MLFLOW_TRACKING_URI is not set" in caplog.text
