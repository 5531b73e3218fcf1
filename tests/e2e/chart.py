"""The chart by helm: installed for the whole cluster, or for one namespace, as somebody with few rights would."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from dev import demo
from dev.paths import LOGS, ROOT, target
from testing.dev_cluster import STORAGE_SECRET, SYSTEM, Kubectl

CHART = ROOT / "charts" / "bloomery"
VALUES = ROOT / "dev" / "values.yaml"


def helm(*words: str | Path, environment: dict[str, str] | None = None) -> str:
    """Run helm, which must work."""
    command = [demo.tool("helm"), *map(str, words)]
    done = subprocess.run(
        command, env=environment or target().environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def install() -> None:
    """Install this chart for the whole cluster, or upgrade to it, as `make demo` does."""
    with (LOGS / "e2e-install.log").open("a") as log:
        demo.install_chart(log)


@contextmanager
def scaled_to_zero(system: Kubectl) -> Iterator[None]:
    """Stop the operator for the whole cluster, for that of a namespace: two would work on the same objects."""
    system("scale", "deployment/bloomery-operator", "--replicas=0")
    try:
        yield
    finally:
        system("scale", "deployment/bloomery-operator", "--replicas=1")
        system("rollout", "status", "deployment/bloomery-operator", "--timeout=120s")


def development_values() -> dict[str, Any]:
    """Return the values of the release in the cluster of ``dev/``."""
    values: dict[str, Any] = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    return values


def namespaced_values(namespace: str, folder: Path, changes: Mapping[str, Any]) -> Path:
    """Write the values of a release for one namespace, with the cluster's store, MLflow and gateway.

    Args:
        namespace: the operator's, and that of all objects it works on.
        folder: gets the file.
        changes: values in place of these, or beside them.
    """
    development = development_values()
    values = {
        "images": development["images"],
        "operator": development["operator"],
        "crds": {"install": False},
        "namespaces": [namespace],
        "storage": {"bundled": False, "existingSecret": STORAGE_SECRET},
        "mlflow": {"bundled": False},
        "gateway": {"name": "bloomery", "namespace": SYSTEM, "publicURL": "http://127.0.0.1:30080"},
    }
    path = folder / f"values-{namespace}.yaml"
    path.write_text(yaml.safe_dump({**values, **changes}))
    return path


def service_account_config(kubectl: Kubectl, account: str, folder: Path) -> Path:
    """Write a kubeconfig with the credentials of a service account, for an hour."""
    config = yaml.safe_load(kubectl("config", "view", "--raw", "--minify", "--flatten"))
    token = kubectl("create", "token", account, "--duration=1h").strip()
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    path = folder / f"kubeconfig-{account}"
    path.write_text(yaml.safe_dump(config))
    return path
