"""A real API server for component tests: etcd and kube-apiserver on loopback, no kubelet and no controllers.

Nothing here deletes what a deleted object owned, and a deleted namespace stays behind, because the
controllers that do so are not running. Every test therefore gets a namespace of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.component.operator_fixtures import (  # noqa: F401 - pytest finds them here
    gatekeeper,
    gateway_api,
    new_operator,
    operator,
    operator_kubeconfig,
    own_operator,
    ready_world,
    shared_operator,
    trainer,
    world,
)

REPO = Path(__file__).resolve().parents[2]
READY_WITHIN_SECONDS = 90.0
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ApiServer:
    """A running API server and the administrator's ways to reach it."""

    url: str
    token: str
    ca_file: Path
    kubeconfig: Path
    kubectl_binary: Path
    cache: Path

    def kubectl(self, *args: str, input: str | Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator; a mapping given as `input` is sent as JSON. Refusals do not raise."""
        text = input if isinstance(input, str) or input is None else json.dumps(input)
        # A port may be used again by a later server, so that kubectl's usual discovery cache would be stale.
        command = [
            str(self.kubectl_binary),
            "--kubeconfig",
            str(self.kubeconfig),
            "--cache-dir",
            str(self.cache),
        ]
        return subprocess.run([*command, *args], input=text, capture_output=True, text=True, timeout=60, check=False)

    def http(self) -> httpx.Client:
        """Return a client for the REST API, for tests that ask hundreds of questions."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token}"},
            verify=ssl.create_default_context(cafile=str(self.ca_file)),
            timeout=30,
        )


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Give a private API server with RBAC and an administrator; it ends with the test session."""
    with private_apiserver(tmp_path_factory.mktemp("apiserver")) as server:
        yield server


@contextmanager
def private_apiserver(folder: Path, *flags: str) -> Iterator[ApiServer]:
    """Run an API server with an etcd of its own, and all their files in a folder; `flags` are for the API server."""
    etcd_url = f"http://127.0.0.1:{_free_port()}"
    with (
        running_program(_etcd_command(folder=folder, url=etcd_url), log=folder / "etcd.log") as etcd,
        _started_apiserver(folder=folder, etcd_url=etcd_url, etcd=etcd, flags=flags) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def crds(apiserver: ApiServer) -> ApiServer:
    """Give the API server with Bloomery's three kinds in it, ready for use."""
    install_kinds(apiserver)
    return apiserver


def install_kinds(server: ApiServer) -> None:
    """Put Bloomery's three kinds into an API server, and wait until they can be used."""
    for step in (
        ("apply", "--server-side", "-f", str(REPO / "crds")),
        ("wait", "--for=condition=Established", "--timeout=30s", "-f", str(REPO / "crds")),
    ):
        done = server.kubectl(*step)
        assert done.returncode == 0, done.stderr
    with server.http() as client:
        for plural in ("datasets", "trainingjobs", "inferenceservices"):
            wait_until_watchable(client, f"/apis/bloomery.dev/v1alpha1/{plural}")


def wait_until_watchable(client: httpx.Client, path: str) -> None:
    """Wait for a new kind's path, and then its watch cache, which comes up a little after the kind is established."""
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while client.get(path, params={"watch": "true", "timeoutSeconds": "1"}).status_code in (404, 429):
        if time.monotonic() > deadline:
            pytest.fail(f"{path} could not be watched within {READY_WITHIN_SECONDS:.0f} s")
        time.sleep(0.2)


@pytest.fixture
def namespace(apiserver: ApiServer) -> str:
    """Give the name of a new, empty namespace."""
    name = f"test-{secrets.token_hex(4)}"
    done = apiserver.kubectl("create", "namespace", name)
    assert done.returncode == 0, done.stderr
    return name


@pytest.fixture(scope="session")
def program() -> Callable[[str], Path]:
    """Give the function that finds a program such as helm."""
    return find_binary


def find_binary(name: str) -> Path:
    """Find a program in $BLOOMERY_BIN, in .dev/bin or on the PATH; without it the test fails in words."""
    folders = [os.environ.get("BLOOMERY_BIN", ""), str(REPO / ".dev" / "bin"), os.environ.get("PATH", "")]
    found = shutil.which(name, path=os.pathsep.join(folder for folder in folders if folder))
    if found is None:
        pytest.fail(f"{name} is neither in $BLOOMERY_BIN nor in .dev/bin nor on the PATH; dev/ builds it")
    return Path(found)


@contextmanager
def _started_apiserver(
    *, folder: Path, etcd_url: str, etcd: subprocess.Popen[bytes], flags: Sequence[str]
) -> Iterator[ApiServer]:
    certificate, key = _make_certificate(folder)
    port, token = _free_port(), secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    server = ApiServer(
        url=f"https://127.0.0.1:{port}",
        token=token,
        ca_file=certificate,
        kubeconfig=folder / "kubeconfig",
        kubectl_binary=find_binary("kubectl"),
        cache=folder / "kubectl-cache",
    )
    server.kubeconfig.write_text(json.dumps(_kubeconfig(server)))
    command = [
        str(find_binary("kube-apiserver")),
        f"--etcd-servers={etcd_url}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        f"--service-account-issuer=https://127.0.0.1:{port}",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        # Nobody makes the default ServiceAccount of a namespace here, and pods are refused without it.
        "--disable-admission-plugins=ServiceAccount",
        *flags,
    ]
    log = folder / "apiserver.log"
    with running_program(command, log=log) as process:
        _wait_until_ready(server, watched={"etcd": etcd, "kube-apiserver": process}, log=log)
        yield server


def _etcd_command(*, folder: Path, url: str) -> list[str]:
    peer = f"http://127.0.0.1:{_free_port()}"
    return [
        str(find_binary("etcd")),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    ]


def _make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make one self-signed certificate for the server; its key also signs service account tokens."""
    certificate, key = folder / "server.crt", folder / "server.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    command += ["-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    # Python 3.13 and later refuse a certificate authority that does not say what its key may do.
    command += ["-addext", "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return certificate, key


def _kubeconfig(server: ApiServer) -> dict[str, Any]:
    cluster = {"server": server.url, "certificate-authority": str(server.ca_file)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": server.token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }


def _wait_until_ready(server: ApiServer, *, watched: Mapping[str, subprocess.Popen[bytes]], log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    answer = "no answer yet"
    with server.http() as client:
        while time.monotonic() < deadline:
            ended = [name for name, process in watched.items() if process.poll() is not None]
            if ended:
                pytest.fail(f"{ended[0]} ended while it started; the end of {log}:\n{_tail(log)}")
            try:
                response = client.get("/readyz")
            except httpx.TransportError as error:
                answer = str(error)
            else:
                if response.status_code == 200:
                    return
                answer = response.text
            time.sleep(0.2)
    pytest.fail(f"the API server was not ready within {READY_WITHIN_SECONDS:.0f} s ({answer}):\n{_tail(log)}")


@contextmanager
def running_program(command: list[str], *, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends, or until this process dies, however it dies."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent, preexec_fn=_die_with_parent
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
