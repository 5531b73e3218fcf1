"""The chart's start of its own MLflow, as a real server before a real store that is set up as companies have it."""

from __future__ import annotations

import shlex
import socket
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testing.forward_proxy import ForwardProxy, run_forward_proxy
from testing.processes import free_port
from testing.servers import ROOT, S3_PROGRAM, MlflowServer, S3Server

pytestmark = pytest.mark.feature("O6")

SCRIPT = ROOT / "charts/bloomery/files/start_mlflow.py"


@dataclass(frozen=True)
class Bundled:
    """The server, its store and the proxy between them."""

    mlflow: MlflowServer
    store: S3Server
    proxy: ForwardProxy


def starting_program(folder: Path, mlflow_program: Path) -> Path:
    """Return a program that is called as ``mlflow`` is, and starts it by the chart's script."""
    program = folder / "start"
    python = shlex.join([sys.executable, "-c", SCRIPT.read_text(encoding="utf-8")])
    program.write_text(f'#!/bin/sh\nshift\nPATH={mlflow_program.parent}:$PATH exec {python} "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture
def bundled(mlflow_program: Path, tmp_path: Path) -> Iterator[Bundled]:
    """MLflow before a store whose buckets are names of hosts, with line breaks in its Secret."""
    if not S3_PROGRAM.exists():
        pytest.skip("`make cluster` builds the S3 server")
    store = S3Server(
        free_port(), "store", tmp_path / "store", tmp_path / "store.log", options=("--virtual-domain", "store.test")
    )
    server = MlflowServer(starting_program(tmp_path, mlflow_program), tmp_path, free_port())
    server.artifact_options = ("--host=", "--artifacts-destination", "s3://files/mlflow")
    store.start()
    (store.folder / "files").mkdir()
    with run_forward_proxy(lambda _: ("127.0.0.1", store.port)) as proxy:
        secret = {**store.environment(), "AWS_ENDPOINT_URL": "http://store.test", "AWS_S3_ADDRESSING_STYLE": "virtual"}
        variables = {name: f"{value}\n" for name, value in secret.items()}
        server.variables = variables | proxy.environment()
        try:
            server.start()
            yield Bundled(server, store, proxy)
        finally:
            server.kill()
            store.kill()


def test_files_of_a_run_reach_a_virtual_host_bucket_without_checksums(bundled: Bundled, tmp_path: Path) -> None:
    client = bundled.mlflow.client()
    run = client.create_run("0").info.run_id
    (tmp_path / "报告.txt").write_text("content")
    client.log_artifact(run, str(tmp_path / "报告.txt"))
    assert [entry.path for entry in client.list_artifacts(run)] == ["报告.txt"]
    (written,) = (bundled.store.folder / "files/mlflow").rglob("报告.txt")
    assert written.read_text() == "content"
    assert {host for host in bundled.proxy.hosts if host.endswith("store.test")} == {"files.store.test"}
    names = {name for headers in bundled.proxy.headers for name in headers}
    assert not {name for name in names if name.startswith("x-amz-checksum") or name == "x-amz-trailer"}
    for host in ("127.0.0.1", "[::1]") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
        with urllib.request.urlopen(f"http://{host}:{bundled.mlflow.port}/health", timeout=30) as response:
            assert response.status == 200
