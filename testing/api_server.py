"""A private kube-apiserver with etcd on loopback, and the objects that tests install in it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from dev.versions import KUBERNETES
from testing.processes import free_port, running_program, tail
from testing.waiting import eventually

REPO = Path(__file__).resolve().parents[1]
KUBE_VERSION = os.environ.get("KUBE_VERSION", KUBERNETES).removeprefix("v")
"""Version of the API server, for which helm renders the chart; `make test-matrix` sets others."""
READY_WITHIN_SECONDS = 90.0


@dataclass(frozen=True)
class ApiServer:
    """A running API server, and the administrator's credentials."""

    url: str
    token: str
    ca_file: Path
    kubeconfig: Path
    kubectl_binary: Path
    cache: Path

    def kubectl(self, *args: str, input: str | Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator; a mapping as ``input`` is sent as JSON. A failed command does not raise."""
        text = input if isinstance(input, str) or input is None else json.dumps(input)
        # A later server may reuse the port: kubectl's usual discovery cache would be stale.
        command = [
            str(self.kubectl_binary),
            "--kubeconfig",
            str(self.kubeconfig),
            "--cache-dir",
            str(self.cache),
        ]
        return subprocess.run([*command, *args], input=text, capture_output=True, text=True, timeout=60, check=False)

    def http(self) -> httpx.Client:
        """Return a client for the REST API, which is faster than kubectl."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token}"},
            verify=ssl.create_default_context(cafile=str(self.ca_file)),
            timeout=30,
        )


@contextmanager
def private_apiserver(folder: Path, *flags: str) -> Iterator[ApiServer]:
    """Run an API server with its own etcd, with all files in a folder; ``flags`` are for the API server."""
    etcd_url = f"http://127.0.0.1:{free_port()}"
    with (
        running_program(_etcd_command(folder=folder, url=etcd_url), log=folder / "etcd.log") as etcd,
        _run_apiserver(folder=folder, etcd_url=etcd_url, etcd=etcd, flags=flags) as server,
    ):
        yield server


def install_kinds(server: ApiServer) -> None:
    """Install Bloomery's kinds in an API server, and wait until they can be used."""
    for step in (
        ("apply", "--server-side", "-f", str(REPO / "crds")),
        ("wait", "--for=condition=Established", "--timeout=30s", "-f", str(REPO / "crds")),
    ):
        done = server.kubectl(*step)
        assert done.returncode == 0, done.stderr
    with server.http() as client:
        for plural in ("datasets", "trainingjobs", "retrainings", "inferenceservices", "batchpredictions"):
            wait_until_watchable(client, f"/apis/bloomery.dev/v1alpha1/{plural}")


def wait_until_watchable(client: httpx.Client, path: str) -> None:
    """Wait for a new kind's path and its watch cache, which starts after the kind is established."""
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while client.get(path, params={"watch": "true", "timeoutSeconds": "1"}).status_code in (404, 429):
        if time.monotonic() > deadline:
            pytest.fail(f"{path} could not be watched within {READY_WITHIN_SECONDS:.0f} s")
        time.sleep(0.2)


def find_binary(name: str) -> Path:
    """Find a program in $BLOOMERY_BIN, in .dev/bin or on the PATH; fail the test if it is missing."""
    folders = [os.environ.get("BLOOMERY_BIN", ""), str(REPO / ".dev" / "bin"), os.environ.get("PATH", "")]
    path = shutil.which(name, path=os.pathsep.join(folder for folder in folders if folder))
    if path is None:
        pytest.fail(f"{name} is neither in $BLOOMERY_BIN nor in .dev/bin nor on the PATH; dev/ builds it")
    return Path(path)


@contextmanager
def _run_apiserver(
    *, folder: Path, etcd_url: str, etcd: subprocess.Popen[bytes], flags: Sequence[str]
) -> Iterator[ApiServer]:
    certificate, key = _make_certificate(folder)
    port, token = free_port(), secrets.token_hex(16)
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
        # No controller creates the default ServiceAccount of a namespace, without which pods are rejected.
        "--disable-admission-plugins=ServiceAccount",
        *flags,
    ]
    log = folder / "apiserver.log"
    with running_program(command, log=log) as process:
        _wait_until_ready(server, watched={"etcd": etcd, "kube-apiserver": process}, log=log)
        yield server


def _etcd_command(*, folder: Path, url: str) -> list[str]:
    peer = f"http://127.0.0.1:{free_port()}"
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
    # Python 3.13 and later reject a certificate authority without key usage.
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
                pytest.fail(f"{ended[0]} ended while it started; the end of {log}:\n{tail(log)}")
            try:
                response = client.get("/readyz")
            except httpx.TransportError as error:
                answer = str(error)
            else:
                if response.status_code == 200:
                    return
                answer = response.text
            time.sleep(0.2)
    pytest.fail(f"the API server was not ready within {READY_WITHIN_SECONDS:.0f} s ({answer}):\n{tail(log)}")


def install_crds(server: ApiServer, *paths: Path) -> None:
    """Install CRDs in an API server, and wait until they are established."""
    files = [f"--filename={path}" for path in paths]
    done = server.kubectl("apply", "--server-side", *files)
    assert done.returncode == 0, done.stderr
    wait = ("wait", "--for=condition=Established", "--timeout=30s", *files)
    # kubectl refuses to wait for an object whose conditions are not there yet.
    eventually(lambda: server.kubectl(*wait).returncode == 0, f"{[path.stem for path in paths]} are established")


def grant_rights(server: ApiServer, kubeconfig: Path, *, helm: Path, release: str, home: str) -> Path:
    """Create a namespace and the operator's account with the chart's rights, and write a kubeconfig for the account."""
    command = [str(helm), "template", release, str(REPO / "charts" / "bloomery")]
    command += ["--namespace", home, "--show-only", "templates/rbac.yaml", "--kube-version", KUBE_VERSION]
    command += ["--set", "operator.replicas=2"]
    command += ["--set", "gateway.name=bloomery"]
    roles = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    (account,) = {subject["name"] for role in yaml.safe_load_all(roles) if role for subject in role.get("subjects", [])}
    for arguments, text in (
        (("create", "namespace", home), None),
        (("create", "serviceaccount", account, "-n", home), None),
        (("apply", "-f", "-"), roles),
    ):
        done = server.kubectl(*arguments, input=text)
        assert done.returncode == 0, done.stderr
    return write_kubeconfig(server, kubeconfig, namespace=home, account=account)


def write_kubeconfig(server: ApiServer, path: Path, *, namespace: str, account: str) -> Path:
    """Write a kubeconfig with a token of a service account."""
    token = server.kubectl("create", "token", account, "-n", namespace, "--duration=2h")
    assert token.returncode == 0, token.stderr
    kubeconfig = json.loads(server.kubeconfig.read_text())
    kubeconfig["users"][0]["user"] = {"token": token.stdout.strip()}
    path.write_text(json.dumps(kubeconfig))
    return path
