"""Fetching a model folder: the files, the time, and the lineage in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bloomery_serving.errors import ModelError
from bloomery_serving.storage import StoredModel, ensure_model
from tests.component.serving.conftest import StartServer, picture, write_model

RUN = {
    "run": {"experimentId": "1", "runId": "r7"},
    "trainingJob": {"namespace": "shop", "name": "flowers", "uid": "u"},
    "datasets": [{"name": "paint", "version": "a1"}, {"name": "ink", "version": "b2"}],
}
CRANES = "\ufeffcrane\nküche\n"

Provide = Callable[..., StoredModel]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    write_model(folder)
    return folder


@pytest.fixture
def foreign(source: Path) -> Path:
    """A folder of elsewhere, with its classes in classes.txt."""
    (source / "metadata.json").unlink()
    (source / "labels.txt").rename(source / "classes.txt")
    return source


@pytest.fixture
def provide(source: Path, tmp_path: Path) -> Provide:
    """Do what a container does when it starts; the folder outlasts it."""
    return lambda digest="": ensure_model(f"file://{source}", tmp_path / "models", digest=digest)


def describe(folder: Path, about: dict[str, object]) -> None:
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | about))


@pytest.mark.feature("S2")
@pytest.mark.parametrize("own", [True, False], ids=["a training's", "of elsewhere"])
def test_container_that_starts_again_needs_no_store(
    own: bool, provide: Provide, source: Path, request: pytest.FixtureRequest
) -> None:
    if not own:
        request.getfixturevalue("foreign")
    first = provide()
    source.rename(source.with_name("away"))
    assert provide(first.digest) == first
    # Which model is meant, only the store knows.
    for digest in ("", "sha256:0"):
        with pytest.raises(ModelError, match="There is no folder"):
            provide(digest)


@pytest.mark.feature("S2")
def test_damaged_file_is_fetched_again(provide: Provide, source: Path, tmp_path: Path) -> None:
    first = provide()
    (tmp_path / "models" / "model.onnx").write_bytes(b"damaged")
    assert provide(first.digest) == first
    assert (tmp_path / "models" / "model.onnx").read_bytes() == (source / "model.onnx").read_bytes()


@pytest.mark.feature("S2")
def test_restarted_container_takes_what_was_fixed_in_the_folder(
    provide: Provide, foreign: Path, tmp_path: Path
) -> None:
    (foreign / "classes.txt").write_text("red\ngreen\n")
    provide()
    (foreign / "classes.txt").write_text("red\ngreen\nblue\n")
    (foreign / "preprocess.json").unlink()
    provide()
    assert (tmp_path / "models" / "labels.txt").read_text() == "red\ngreen\nblue\n"
    assert not (tmp_path / "models" / "preprocess.json").exists()


@pytest.mark.feature("S2")
@pytest.mark.parametrize(
    ("name", "content"), [("labels.txt", CRANES), ("classes.txt", CRANES), ("labels.json", '\ufeff["crane", "küche"]')]
)
def test_byte_order_mark_is_no_part_of_a_class_name(
    name: str, content: str, provide: Provide, foreign: Path, tmp_path: Path
) -> None:
    (foreign / "classes.txt").unlink()
    (foreign / name).write_text(content, encoding="utf-8")
    provide()
    assert (tmp_path / "models" / "labels.txt").read_text(encoding="utf-8") == "crane\nküche\n"


@pytest.mark.feature("S12")
def test_lineage_comes_from_the_folder_of_a_training(source: Path, start_server: StartServer) -> None:
    describe(source, RUN)
    server = start_server(model_uri=f"file://{source}", service_namespace="shop")
    answer = server.client.post("/predict", content=picture((255, 0, 0)))
    headers = [answer.headers[f"x-{name}"] for name in ("run-id", "training-job", "dataset")]
    assert headers == ["r7", "flowers", "paint,ink@a1,b2"]
    labels = {"run_id": "r7", "training_job": "flowers", "dataset": "paint,ink@a1,b2"}
    assert server.metric("bloomery_model_info", **labels) == 1


@pytest.mark.feature("S12")
@pytest.mark.parametrize("about", [{}, {"run": "r7"}, {"run": {"runId": "r7\r\nx-evil: 1"}}, {"datasets": [{}]}])
def test_folder_with_lineage_of_another_form_is_served(
    about: dict[str, object], provide: Provide, source: Path
) -> None:
    describe(source, about)
    assert set(provide().lineage.model_dump().values()) == {""}
