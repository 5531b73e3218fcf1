"""The loop from production: a service captures, somebody labels, and the next version of the Dataset trains on it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from PIL import Image

from testing.processes import free_port
from testing.servers import S3_PROGRAM, S3Server
from tests.component.serving.conftest import (  # noqa: F401 - pytest finds the fixtures here
    StartServer,
    encoded,
    model_folder,
    start_server,
)

CLASSES = {"red": (0, "red"), "green": (1, "green"), "blue": (2, "blue")}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, S3Server]]:
    """Two servers with keys of their own: the installation's store, and one for captures."""
    if not S3_PROGRAM.exists():
        pytest.skip("`make cluster` builds the S3 server")
    folder = tmp_path_factory.mktemp("s3")
    names = ("store", "captures")
    servers = {name: S3Server(free_port(), name, folder / name, folder / f"{name}.log") for name in names}
    for name, server in servers.items():
        server.start()
        server.bucket(name)
    yield servers
    for server in servers.values():
        server.kill()


def photo(colour: str, number: int) -> bytes:
    """Return a noisy JPEG in which a colour is the strongest."""
    noise = np.random.default_rng(number).integers(0, 150, (8, 8, 3), dtype=np.uint8)
    noise[..., CLASSES[colour][0]] += 100
    return encoded(Image.fromarray(noise).resize((64, 64)), "JPEG", quality=95)


def prepare(folder: Path, stores: Mapping[str, S3Server], append: list[dict[str, Any]]) -> dict[str, Any]:
    """Prepare the Dataset as its pod does; return the result."""
    config, message = folder / "config.json", folder / "message.json"
    document = {
        "kind": "prepare", "name": "colours", "source": {"uri": "s3://store/raw"}, "append": append,
        "output": {"uri": "s3://store/versions"},
    }  # fmt: skip
    config.write_text(json.dumps(document), encoding="utf-8")
    own = {name: value for name, value in os.environ.items() if "AWS_" not in name}
    pod = {"TERMINATION_LOG": str(message), "BLOOMERY_PORT": "0", "TMPDIR": str(folder)}
    environment = {**own, **stores["store"].environment(), **stores["captures"].environment("APPEND_0_"), **pod}
    command = [sys.executable, "-m", "bloomery_trainer", "prepare", str(config)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    result: dict[str, Any] = json.loads(message.read_bytes())
    assert done.returncode == 0, done.stderr
    return result


def images_of(store: S3Server, version: str) -> dict[str, tuple[str, str]]:
    """Return the split and the class of each image in the shards, by its digest."""
    bucket, content = store.bucket("store"), {}
    manifest = json.loads(bytes(obstore.get(bucket, f"versions/{version}/manifest.json").bytes()))
    for split, shards in manifest["shards"].items():
        for shard in shards:
            data = bytes(obstore.get(bucket, f"versions/{version}/{shard['name']}").bytes())
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
            for name, image in files.items():
                if name.endswith(".jpg"):
                    number = int(files[f"{name.removesuffix('.jpg')}.cls"])
                    content[hashlib.sha256(image).hexdigest()] = (split, manifest["classes"][number])
    return content


@pytest.mark.feature("S19")
@pytest.mark.feature("S20")
@pytest.mark.feature("D18")
def test_what_production_saw_is_trained_on_with_its_true_class(
    start_server: StartServer,  # noqa: F811
    stores: dict[str, S3Server],
    tmp_path: Path,
) -> None:
    raw = {
        f"raw/{colour}/{n}.jpg": photo(colour, 100 * CLASSES[colour][0] + n) for colour in CLASSES for n in range(25)
    }
    stores["store"].put("store", raw)
    first = images_of(stores["store"], prepare(tmp_path, stores, [])["version"])
    keys = {name.lower(): value for name, value in stores["captures"].environment("CAPTURE_STORE_").items()}
    server = start_server(capture_uri="s3://captures/all", capture_percent="100", service_namespace="shop", **keys)

    photos = [photo("red" if number < 10 else "green", 1000 + number) for number in range(20)]
    answers = [server.client.post("/predict", content=data) for data in photos]
    server.wait_for(20, "bloomery_captures_total")
    # Half of the red ones are blue in truth; nobody looks at the green ones.
    entries = [
        {"id": answer.headers["x-prediction-id"], "label": "blue" if number < 5 else "red"}
        for number, answer in enumerate(answers[:10])
    ]
    assert server.client.post("/feedback", json=entries).status_code == 200
    assert server.metric("bloomery_live_correct_total") / server.metric("bloomery_live_labelled_total") == 0.5
    addition = {"uri": "s3://captures/all/shop/colours", "from": "Capture", "trustAbove": 0.3}

    second = images_of(stores["store"], prepare(tmp_path, stores, [addition])["version"])

    digests = [hashlib.sha256(data).hexdigest() for data in photos]
    assert [second[digest][1] for digest in digests] == ["blue"] * 5 + ["red"] * 5 + ["green"] * 10
    assert {second[digest][0] for digest in digests[10:]} == {"train"}
    assert first.items() <= second.items()
    assert len(second) == len(first) + 20
