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
from typing import Any, NamedTuple

import obstore
import pytest
import torch
import torchvision  # type: ignore[import-untyped]

from testing.servers import S3_PROGRAM, S3Server, free_port

URI = "s3://store/weights"


class Ended(NamedTuple):
    """How the command ended."""

    code: int
    printed: str
    said: str


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server with an empty bucket."""
    if not S3_PROGRAM.exists():
        pytest.skip("`make cluster` builds the S3 server")
    folder = tmp_path_factory.mktemp("s3")
    server = S3Server(free_port(), "store", folder / "store", folder / "store.log")
    server.start()
    server.bucket("store")
    yield server
    server.kill()


def run(server: S3Server, *words: str, stdin: bytes = b"") -> Ended:
    """Run the trainer's ``weights`` command as its pod does."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", "bloomery_trainer", "weights", *words, f"--uri={URI}"],
        env=inherited | server.environment(), input=stdin, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def network() -> bytes:
    buffer = io.BytesIO()
    torch.save(torchvision.models.mobilenet_v2(num_classes=3).state_dict(), buffer)
    return buffer.getvalue()


@pytest.mark.feature("T19")
def test_pushed_weights_are_stored_whole_and_listed(store: S3Server) -> None:
    content = network()
    sha256 = hashlib.sha256(content).hexdigest()
    put = ("put", "mine.pt", f"--sha256={sha256}", "--preset=mobilenet-v2")

    broken = run(store, *put, stdin=content[: len(content) // 2])
    assert broken.code == 1
    assert broken.said.startswith("mine.pt did not arrive whole")
    stored = run(store, *put, stdin=content)
    assert stored.code == 0, stored.said

    assert json.loads(stored.printed)["uri"] == f"{URI}/mobilenet-v2/mine.pt"
    assert obstore.get(store.bucket("store"), "weights/mobilenet-v2/mine.pt").bytes() == content
    listed: list[dict[str, Any]] = json.loads(run(store, "list").printed)
    pushed = {item["preset"]: item["pushed"] for item in listed if item["pushed"]}
    assert pushed.keys() == {"mobilenet-v2"}
    assert (pushed["mobilenet-v2"]["file"], pushed["mobilenet-v2"]["sha256"]) == ("mine.pt", sha256)


@pytest.mark.feature("T19")
def test_store_that_refuses_the_keys_is_named(store: S3Server) -> None:
    refused = run(replace(store, key="another"), "list")
    assert refused.code == 2
    assert f"the store refuses access to {URI}" in refused.said
