"""The commands ``captured`` and ``feedback``, with real captures; a kubelet's ``exec`` is run on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.waiting import eventually
from tests.component.plugin.conftest import Objects, Plugin, condition
from tests.component.serving.conftest import (  # noqa: F401 - pytest finds the fixtures here
    GREEN,
    RED,
    Server,
    StartServer,
    model_folder,
    picture,
    start_server,
)

READY = condition("Ready", "True", "Serving", "Answering.")
CAPTURE = {"uri": "s3://captures"}
KEYS = {"default": "key-of-default", "reviewers": "key-of-reviewers"}

Captures = Callable[..., Any]


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captures")


@pytest.fixture(scope="module")
def server(
    start_server: StartServer,  # noqa: F811
    captures: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Server:
    """A server with two keys that captures everything; only reviewers may send feedback."""
    keys = tmp_path_factory.mktemp("keys")
    for name, key in KEYS.items():
        (keys / name).write_text(hashlib.sha256(key.encode()).hexdigest())
    return start_server(
        api_keys_dir=str(keys), variant="v1", capture_uri=f"file://{captures}", capture_percent="100",
        feedback_keys="reviewers",
    )  # fmt: skip


@pytest.fixture
def predictions(server: Server, objects: Objects) -> list[str]:
    """The ids of a red and a green image that a service captured."""
    publish(objects, server.url)
    before = server.metric("bloomery_captures_total")
    headers = {"Authorization": KEYS["default"]}
    answers = [server.client.post("/predict", content=picture(c), headers=headers) for c in (RED, GREEN)]
    server.wait_for(before + 2, "bloomery_captures_total")
    return [answer.headers["x-prediction-id"] for answer in answers]


def publish(objects: Objects, url: str, **spec: Any) -> None:
    variants = [{"name": "v1", "weight": 100, "model": {"uri": "s3://models/colours"}}]
    manifest = {"apiVersion": "bloomery.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": "colours"}}
    fields = {"variants": variants, "capture": CAPTURE, "feedback": {"keys": ["reviewers"]}, **spec}
    variant = {"name": "v1", "weight": 100, "replicas": 1, "ready": 1, "revision": "colours--v1-12345678"}
    status = {"url": url, "apiKeySecret": "colours-api-key", "variants": [variant], "conditions": [READY]}
    objects.create(manifest | {"spec": {name: value for name, value in fields.items() if value}}, status)
    data = {name: base64.b64encode(key.encode()).decode() for name, key in KEYS.items()}
    objects.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "colours-api-key"}, "data": data})
    labels = {"bloomery.dev/inferenceservice": "colours", "bloomery.dev/variant": "v1"}
    container = {"name": "server", "image": "serving:1", "envFrom": [{"secretRef": {"name": "captures"}}]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    deployment = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": "colours--v1-1", "labels": labels}
    objects.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment})


@pytest.fixture
def captured(bloomery: Plugin, objects: Objects, captures: Path, tmp_path: Path) -> Captures:
    """Runs the command with a pod that starts; returns the exit code and the lines."""
    path = str(bloomery.environment["PATH"])
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(
        f"#!{sys.executable}\nimport os, sys\nwords = sys.argv[1:]\n"
        f"run = [{sys.executable!r}, *words[words.index('--') + 2:]] if 'exec' in words else None\n"
        f"os.execv(run[0], run) if run else os.execv({shutil.which('kubectl', path=path)!r}, ['kubectl', *words])\n"
    )
    kubectl.chmod(0o755)
    pod_environment = {"MODEL_URI": "file:///models", "SERVICE_NAME": "colours", "CAPTURE_URI": f"file://{captures}"}

    def run(*words: str) -> tuple[int, list[str]]:
        command = bloomery.start(
            "captured", "colours", *words, PATH=f"{kubectl.parent}{os.pathsep}{path}", **pod_environment
        )
        (pod,) = eventually(lambda: pods(objects), "the pod that reads")
        objects.report("pod", pod["metadata"]["name"], {"phase": "Running"})
        assert command.process.stdout is not None
        code = command.wait()
        eventually(lambda: not pods(objects), "the end of the pod")
        while not command._unread_lines.empty():
            command.lines.append(command._unread_lines.get())
        return code, command.lines

    return run


def pods(objects: Objects) -> list[dict[str, Any]]:
    words = ("get", "pods", "-n", objects.namespace, "-l", "app.kubernetes.io/name=captures", "-o", "json")
    items: list[dict[str, Any]] = json.loads(objects.server.kubectl(*words).stdout)["items"]
    return items


def document(lines: list[str]) -> Any:
    """Return the JSON behind the progress."""
    start = next(number for number, line in enumerate(lines) if line in ("{", "["))
    return json.loads("\n".join(lines[start:]))


@pytest.mark.feature("S19")
@pytest.mark.feature("O5")
def test_counts_and_the_least_certain_are_listed(captured: Captures, predictions: list[str]) -> None:
    code, lines = captured()
    listed = captured("-o", "json", "--first", "100")[1]

    assert code == 0, lines
    text = "\n".join(lines)
    assert "PREDICTED" in text and "Random" in text and all(prediction in text for prediction in predictions)
    summary = document(listed)
    assert {row["name"] for row in summary["classes"]} == {"red", "green"}
    confidences = [entry["confidence"] for entry in summary["leastCertain"]]
    assert confidences == sorted(confidences)


@pytest.mark.feature("S19")
@pytest.mark.feature("O5")
def test_page_has_the_pictures_and_needs_nothing_from_elsewhere(
    captured: Captures, predictions: list[str], tmp_path: Path
) -> None:
    code, lines = captured("--html", "captures.html", "--first", "100")

    assert code == 0, lines
    page = (tmp_path / "captures.html").read_text(encoding="utf-8")
    assert all(prediction in page for prediction in predictions)
    assert page.count('<img src="data:image/jpeg;base64,') >= 2
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.feature("S19")
@pytest.mark.feature("O5")
def test_capture_is_deleted_with_all_that_belongs_to_it(
    captured: Captures, predictions: list[str], captures: Path
) -> None:
    red, _ = predictions
    assert list(captures.rglob(f"{red}*"))

    code, lines = captured("--delete", red)
    again = captured("--delete", red, "-o", "json")[1]

    assert (code, lines[-1]) == (0, f"{red}: deleted")
    assert document(again) == [{"id": red, "deleted": False}]
    assert not list(captures.rglob(f"{red}*"))


@pytest.mark.feature("S19")
@pytest.mark.feature("O5")
def test_id_that_is_none_is_one_sentence(captured: Captures, predictions: list[str]) -> None:
    code, lines = captured("--delete", "../../models")

    assert code == 1
    assert lines[-1].startswith("error: '../../models' is no id of a prediction")
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.feature("S19")
@pytest.mark.feature("O5")
def test_service_that_captures_nothing_is_told(bloomery: Plugin, objects: Objects) -> None:
    publish(objects, "http://127.0.0.1:1", capture=None)

    ended = bloomery("captured", "colours")

    assert (ended.returncode, ended.stderr) == (1, "error: colours captures nothing: set its spec.capture.\n")


@pytest.mark.feature("S20")
@pytest.mark.feature("O5")
def test_labels_of_a_file_are_sent_with_a_key_that_may(
    bloomery: Plugin, predictions: list[str], captures: Path, tmp_path: Path
) -> None:
    red, green = predictions
    (tmp_path / "labels.csv").write_text(f"\ufeffid,label\n{red},blue\n\n{green},grn\n", encoding="utf-8")

    ended = bloomery("feedback", "colours", "-f", "labels.csv")
    again = bloomery("feedback", "colours", "-f", "labels.csv", "--new-classes", "-o", "json")

    assert ended.returncode == 1
    assert "UnknownClass" in ended.stdout and "1 of 2 labels are stored." in ended.stderr
    assert (again.returncode, json.loads(again.stdout)) == (
        0, [{"id": red, "label": "blue"}, {"id": green, "label": "grn"}],
    )  # fmt: skip
    assert len(list(captures.rglob(f"{red}.label.json"))) == 1


@pytest.mark.feature("S20")
@pytest.mark.feature("O5")
@pytest.mark.usefixtures("predictions")
def test_wrong_files_and_keys_are_named(bloomery: Plugin, tmp_path: Path) -> None:
    def error_of(content: bytes, *words: str) -> str:
        (tmp_path / "labels.csv").write_bytes(content)
        ended = bloomery("feedback", "colours", "-f", "labels.csv", *words)
        assert ended.returncode == 1
        return ended.stderr

    line = b"0193b1f0-5c1e-7d2a-9f3e-2f6a1c8d4b10,red\n"
    assert error_of(b"") == "error: labels.csv has no lines of id,label.\n"
    assert "line 2: there must be an id and a label" in error_of(b"id,label\nonly\n")
    assert "is not a CSV file in UTF-8" in error_of(b"\xff\xfe\x00a")
    assert "may not send feedback" in error_of(line, "--key", "default")
    assert "has no API key nobody: it has default, reviewers" in error_of(line, "--key", "nobody")
