"""The command ``predict`` with the real model server."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.component.plugin.conftest import Objects, Plugin, condition
from tests.component.serving.conftest import (  # noqa: F401 - pytest finds the fixtures here
    BLUE,
    GREEN,
    RED,
    Server,
    StartServer,
    model_folder,
    picture,
    start_server,
)

KEY, KEY_OF_ANOTHER_SCRIPT = "the key of the people", "人民的钥匙"
READY = condition("Ready", "True", "Serving", "Answering.")


@pytest.fixture(scope="module")
def guarded(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:  # noqa: F811
    """A server that needs an API key."""
    keys = tmp_path_factory.mktemp("keys")
    for name, key in (("default", KEY), ("other", KEY_OF_ANOTHER_SCRIPT)):
        (keys / name).write_text(hashlib.sha256(key.encode()).hexdigest())
    return start_server(api_keys_dir=str(keys), variant="v1", model_name="colours", model_version="4")


@pytest.fixture
def colours(objects: Objects, guarded: Server) -> None:
    """A service with that server's address in its status."""
    publish(objects, guarded.url)


@pytest.fixture
def pictures(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """An image of each colour, and a file that is not an image."""
    files = {"red.png": picture(RED), "green.png": picture(GREEN), "blue.png": picture(BLUE), "text.png": b"no picture"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    yield {name: Path(name) for name in files}


def publish(
    objects: Objects, url: str, *, key: str = KEY, ready: int = 1, ready_condition: Mapping[str, str] = READY
) -> None:
    variant = {"name": "v1", "weight": 100, "replicas": 1, "ready": ready, "revision": "colours--v1-12345678"}
    spec = {"variants": [{"name": "v1", "weight": 100, "model": {"uri": "s3://models/colours"}}]}
    manifest = {"apiVersion": "bloomery.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": "colours"}}
    status = {"url": url, "apiKeySecret": "colours-api-key", "variants": [variant], "conditions": [ready_condition]}
    objects.create(manifest | {"spec": spec}, status)
    data = {"default": base64.b64encode(key.encode()).decode()}
    objects.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "colours-api-key"}, "data": data})


def labels(stdout: str) -> list[tuple[str, str]]:
    documents: list[dict[str, Any]] = json.loads(stdout)
    return [(item["file"], item.get("label", item.get("error", ""))) for item in documents]


@pytest.mark.feature("O5")
@pytest.mark.usefixtures("colours")
def test_scores_are_shown_with_bars(bloomery: Plugin, pictures: dict[str, Path]) -> None:
    ended = bloomery("predict", "colours", "green.png")

    assert ended.returncode == 0, ended.stderr
    heading, first, second, *_ = ended.stdout.splitlines()
    assert heading.split() == ["IMAGE", "LABEL", "SCORE", "MODEL"]
    file, label, score, bar, model, variant = first.split()
    assert (file, label, model, variant) == ("green.png", "green", "colours/4", "(v1)")
    assert score.endswith("%") and set(bar) == {"█"}
    assert second.split()[0] in ("red", "blue")


@pytest.mark.feature("O5", "S20")
@pytest.mark.parametrize("names", [["red.png"], ["red.png", "green.png"]], ids=["one image", "several"])
@pytest.mark.usefixtures("colours", "pictures")
def test_json_has_the_ids_of_predictions(bloomery: Plugin, names: list[str]) -> None:
    ended = bloomery("predict", "colours", *names, "-o", "json")

    assert ended.returncode == 0, ended.stderr
    ids = {UUID(entry["id"]) for entry in json.loads(ended.stdout)}
    assert len(ids) == len(names)
    assert {number.version for number in ids} == {7}


@pytest.mark.feature("O5")
@pytest.mark.usefixtures("colours")
def test_more_than_ten_images_keep_their_order(bloomery: Plugin, pictures: dict[str, Path]) -> None:
    names = ["red.png", "green.png", "blue.png"] * 7

    ended = bloomery("predict", "colours", *names, "-o", "json")

    assert ended.returncode == 0, ended.stderr
    assert labels(ended.stdout) == [(name, name.removesuffix(".png")) for name in names]


@pytest.mark.feature("O5")
@pytest.mark.usefixtures("colours")
def test_file_that_is_not_an_image_does_not_stop_others(bloomery: Plugin, pictures: dict[str, Path]) -> None:
    ended = bloomery("predict", "colours", "red.png", "text.png")
    alone = bloomery("predict", "colours", "text.png", "-o", "json")

    assert (ended.returncode, alone.returncode) == (1, 1)
    assert ["red.png", "red"] in [line.split()[:2] for line in ended.stdout.splitlines()]
    assert ended.stderr.startswith("error: text.png: ") and "(NotAnImage)" in ended.stderr
    assert "(NotAnImage)" in json.loads(alone.stdout)[0]["error"]


@pytest.mark.feature("O5")
def test_wrong_key_gets_services_message(
    bloomery: Plugin, objects: Objects, guarded: Server, pictures: dict[str, Path]
) -> None:
    publish(objects, guarded.url, key="another")

    ended = bloomery("predict", "colours", "red.png")

    assert ended.returncode == 1
    assert (
        ended.stderr.startswith("error: red.png: This service needs another key") and "(Unauthorized)" in ended.stderr
    )


@pytest.mark.feature("O5")
def test_key_may_use_any_script(bloomery: Plugin, objects: Objects, guarded: Server, pictures: dict[str, Path]) -> None:
    publish(objects, guarded.url, key=KEY_OF_ANOTHER_SCRIPT)

    ended = bloomery("predict", "colours", "red.png", "-o", "json")

    assert ended.returncode == 0, ended.stderr
    assert labels(ended.stdout) == [("red.png", "red")]


@pytest.mark.feature("O5")
@pytest.mark.parametrize("url", ["http://colours.demo.svc", "http://127.0.0.1:9", "{server}/of/somebody/else"])
def test_unreachable_address_falls_back_to_port_forward(
    bloomery: Plugin, objects: Objects, guarded: Server, pictures: dict[str, Path], url: str
) -> None:
    publish(objects, url.format(server=guarded.url))

    ended = bloomery("predict", "colours", "red.png")

    # A port-forward needs a kubelet; the error shows that the plugin tried it.
    assert ended.returncode == 1
    assert ended.stderr == 'error: services "colours--v1-12345678" not found\n'


@pytest.mark.feature("O5")
def test_service_without_ready_pods_says_why(bloomery: Plugin, objects: Objects, pictures: dict[str, Path]) -> None:
    stopped = condition("Ready", "True", "Stopped", "spec.stopped is true.")
    publish(objects, "http://127.0.0.1:9", ready=0, ready_condition=stopped)

    ended = bloomery("predict", "colours", "red.png")

    assert (ended.returncode, ended.stderr) == (1, "error: colours does not answer: spec.stopped is true.\n")


@pytest.mark.feature("O5")
@pytest.mark.usefixtures("colours")
def test_wrong_arguments_are_named(bloomery: Plugin, pictures: dict[str, Path]) -> None:
    def error_of(*words: str) -> str:
        ended = bloomery("predict", *words)
        assert ended.returncode == 1
        return ended.stderr

    assert error_of("colours", "gone.png") == "error: gone.png cannot be read: No such file or directory.\n"
    assert error_of("colours", "red.png", "--variant=v2") == "error: colours has no variant v2: it has v1.\n"
    assert error_of("paints", "red.png").startswith("error: There is no InferenceService 'paints' in this namespace")
