"""The documented command that copies the store's keys to another namespace."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tools.docs_blocks import run_by

if TYPE_CHECKING:
    from testing.api_server import ApiServer

TEAM = "team-a"
NAME = "bloomery-storage"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIA0123",
    "AWS_SECRET_ACCESS_KEY": "a+b/c='\"$d`\\ e#f==",
    "AWS_ENDPOINT_URL": "http://bloomery-storage.bloomery-system.svc:7070",
    "MLFLOW_TRACKING_PASSWORD": "密码: 100%",
}


@pytest.fixture
def keys_in_default(apiserver: ApiServer) -> Iterator[None]:
    """Make the Secret that the chart makes, and a namespace without it."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAME}, "stringData": KEYS}
    for manifest in ({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM}}, secret):
        done = apiserver.kubectl("create", "-n", "default", "-f", "-", input=manifest)
        assert done.returncode == 0, done.stderr
    yield
    for namespace in ("default", TEAM):
        apiserver.kubectl("delete", "secret", NAME, "-n", namespace)


@pytest.mark.feature("O1")
@pytest.mark.usefixtures("keys_in_default")
def test_another_namespace_gets_the_same_keys(apiserver: ApiServer) -> None:
    (block,) = run_by(__file__)
    environment = os.environ | {"KUBECONFIG": str(apiserver.kubeconfig), "KUBECACHEDIR": str(apiserver.cache)}
    environment["PATH"] = f"{apiserver.kubectl_binary.parent}{os.pathsep}{environment['PATH']}"
    script = f"set -euo pipefail\n{block.text}"
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

    copy = json.loads(apiserver.kubectl("get", "secret", NAME, "-n", TEAM, "-o", "json").stdout)
    assert {key: base64.b64decode(value).decode() for key, value in copy["data"].items()} == KEYS
