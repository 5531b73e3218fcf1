"""The command that ``kubectl bloomery weights`` runs in a pod, against a real S3 server."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
import pytest
import torch
import torchvision  # type: ignore[import-untyped]

from bloomery_trainer.config import PublishedWeights
from bloomery_trainer.models import weights_store
from bloomery_trainer.models.published import LocalWeights, WeightsFinder, published_file
from bloomery_trainer.storage import S3Access, open_folder
from testing.servers import S3_PROGRAM, S3Server, running_store

URI = "s3://store/weights"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server with an empty bucket."""
    if not S3_PROGRAM.exists():
        pytest.skip("`make cluster` builds the S3 server")
    with running_store(tmp_path_factory.mktemp("s3"), "store") as server:
        yield server


def access(server: S3Server) -> S3Access:
    return S3Access.from_environment(server.environment())


def put(server: S3Server, content: bytes, sha256: str) -> dict[str, Any]:
    """Run the command as its pod does; return its answer."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    words = ("weights", "put", "mine.pt", f"--sha256={sha256}", "--preset=mobilenet-v2", f"--uri={URI}")
    done = subprocess.run(
        [sys.executable, "-m", "bloomery_trainer", *words],
        env=inherited | server.environment(), input=content, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def network() -> bytes:
    buffer = io.BytesIO()
    torch.save(torchvision.models.mobilenet_v2(num_classes=3).state_dict(), buffer)
    return buffer.getvalue()


@pytest.mark.feature("T19")
def test_pushed_weights_are_used_by_a_pod_without_internet(store: S3Server, tmp_path: Path) -> None:
    content = network()
    sha256 = hashlib.sha256(content).hexdigest()
    assert put(store, content, sha256)["uri"] == f"{URI}/mobilenet-v2/mine.pt"
    assert obstore.get(store.bucket("store"), "weights/mobilenet-v2/mine.pt").bytes() == content

    listed = weights_store.describe(open_folder(URI, access(store)))
    pushed = {item["preset"]: item["pushed"] for item in listed if item["pushed"]}
    assert pushed.keys() == {"mobilenet-v2"}
    assert (pushed["mobilenet-v2"]["file"], pushed["mobilenet-v2"]["sha256"]) == ("mine.pt", sha256)

    finder = WeightsFinder(
        file=published_file("mobilenet-v2", "DEFAULT"),
        any_pushed=True,
        settings=PublishedWeights(uri=URI, download=False),
        open_folder=lambda uri: open_folder(uri, access(store)),
        scratch=tmp_path,
    )
    weights = finder.find()
    assert isinstance(weights, LocalWeights)
    assert (weights.kind, weights.where) == ("Pushed", f"{URI}/mobilenet-v2/mine.pt")
    assert weights.path.read_bytes() == content


@pytest.mark.feature("T19")
def test_store_that_refuses_the_keys_is_named(store: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    keys = replace(store, key="another").environment()
    assert weights_store.run({"action": "list", "uri": URI}, keys) == 2
    assert f"the store refuses access to {URI}" in capsys.readouterr().err
