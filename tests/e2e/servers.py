"""Servers that end-to-end tests run beside the installation: S3 stores and MLflow, in pods of a namespace."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import obstore
from obstore.store import S3Store

from dev import demo
from dev.paths import LOGS
from testing.dev_cluster import STORAGE_SECRET, Kubectl

IMAGES = "localhost/bloomery"
ACCESS_KEY = "tests"
SECRET_KEY = "tests-secret"
MAX_FORWARDS = 100
RESTRICTED = {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def create(kubectl: Kubectl, manifest: Mapping[str, Any]) -> None:
    """Apply a manifest, which must be accepted."""
    done = kubectl.apply(manifest)
    assert done.returncode == 0, done.stderr


def put_secret(kubectl: Kubectl, endpoint: str, *, mlflow: str | None = None, **more: str) -> None:
    """Replace the namespace's Secret by one for another store, and perhaps another MLflow."""
    data = kubectl.secret(STORAGE_SECRET) | {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": endpoint,
        **more,
    }
    if mlflow is not None:
        data["MLFLOW_TRACKING_URI"] = mlflow
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": STORAGE_SECRET}, "stringData": data}
    create(kubectl, secret)


def run_store(kubectl: Kubectl, name: str, options: list[str]) -> None:
    """Run an S3 server with the bucket ``bloomery``."""
    run_server(
        kubectl,
        name,
        image="versitygw",
        port=7070,
        args=["--port", ":7070", "--region", "us-east-1", *options, "posix", "/data"],
        environment={"ROOT_ACCESS_KEY_ID": ACCESS_KEY, "ROOT_SECRET_ACCESS_KEY": SECRET_KEY},
        make_folder="/data/bloomery",
    )


def run_server(
    kubectl: Kubectl,
    name: str,
    *,
    image: str,
    port: int,
    args: list[str],
    command: list[str] | None = None,
    environment: Mapping[str, str] | None = None,
    make_folder: str | None = None,
) -> None:
    """Run a Deployment with a volume of its own at ``/data``, and a Service in front of it."""
    mounts = [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}]
    volumes: list[dict[str, Any]] = [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    if kubectl.run("get", "secret", "tls", check=False).returncode == 0:
        mounts.append({"name": "tls", "mountPath": "/tls"})
        volumes.append({"name": "tls", "secret": {"secretName": "tls"}})
    common = {"imagePullPolicy": "Never", "securityContext": CONFINED, "volumeMounts": mounts}
    first = {
        "name": "folder",
        "image": f"{IMAGES}/mlflow:dev",
        "command": ["python", "-c", f"import os; os.makedirs({make_folder!r}, exist_ok=True)"],
        **common,
    }
    server = {
        "name": name,
        "image": f"{IMAGES}/{image}:dev",
        "args": args,
        "env": [{"name": key, "value": value} for key, value in (environment or {}).items()],
        "ports": [{"containerPort": port}],
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 2},
        **({"command": command} if command else {}),
        **common,
    }
    labels = {"app": name}
    spec = {
        "securityContext": RESTRICTED,
        "initContainers": [first] if make_folder else [],
        "containers": [server],
        "volumes": volumes,
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": labels, "ports": [{"port": port}]},
    }
    create(kubectl, deployment)
    create(kubectl, service)


def upload(kubectl: Kubectl, service: str, files: Mapping[str, bytes], *, scheme: str) -> None:
    """Put files into the bucket of a store, through port-forwards: each ends with the first connection that breaks."""
    waiting = dict(files)
    attempts = 0
    while waiting:
        attempts += 1
        assert attempts <= MAX_FORWARDS, f"{len(waiting)} of {len(files)} files could not be uploaded"
        with suppress(obstore.exceptions.GenericError):
            _upload_some(kubectl, service, waiting, scheme=scheme)


def _upload_some(kubectl: Kubectl, service: str, waiting: dict[str, bytes], *, scheme: str) -> None:
    """Upload files until the port-forward ends, and take out those that are there."""
    address = f"http://{service}.{kubectl.namespace}.svc:7070"
    with (LOGS / "e2e-store.log").open("a") as log, demo.reachable(address, log) as endpoint:
        store = S3Store(
            "bloomery",
            endpoint=endpoint.replace("http", scheme, 1),
            region="us-east-1",
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True, "allow_invalid_certificates": True},
            retry_config={"max_retries": 0},
        )
        for path in list(waiting):
            obstore.put(store, path, waiting[path])
            del waiting[path]


def run_mlflow(kubectl: Kubectl, *options: str) -> None:
    """Run an MLflow server as the chart does, with its files on the volume."""
    run_server(
        kubectl,
        "mlflow",
        image="mlflow",
        port=5000,
        command=["mlflow", "server"],
        args=[
            "--host=0.0.0.0",
            "--port=5000",
            "--workers=1",
            "--backend-store-uri=sqlite:////data/mlflow.db",
            "--artifacts-destination=/data/artifacts",
            "--allowed-hosts=*",
            *options,
        ],
    )
