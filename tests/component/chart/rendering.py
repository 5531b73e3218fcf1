"""Rendering of the Helm chart: objects by kind, and the combinations of values in the docs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from testing.api_server import KUBE_VERSION
from tools.docs_blocks import blocks

Object: TypeAlias = dict[str, Any]
Values: TypeAlias = dict[str, Any]

REPO = Path(__file__).resolve().parents[3]
CHART = REPO / "charts" / "bloomery"
NAMESPACE = "bloomery-system"
DEV_VALUES: Values = yaml.safe_load((REPO / "dev" / "values.yaml").read_text(encoding="utf-8"))
OWN_EVERYTHING: Values = {
    "storage": {
        "bundled": False,
        "endpoint": "https://s3.example.com",
        "region": "eu-1",
        "accessKey": "key",
        "secretKey": "secret",
        "uri": "s3://ours/bloomery/",
        "secretNamespaces": ["team-a", "team-b"],
    },
    "mlflow": {
        "bundled": False,
        "trackingUri": "https://mlflow.example.com",
        "username": "us",
        "password": "pass",
    },
    "gateway": {"name": "edge", "namespace": "infra"},
    "namespaces": ["team-a", "team-b"],
}
NO_CLUSTER_RIGHTS: Values = {
    "crds": {"install": False},
    "namespaces": ["team-a", "team-b"],
    "gateway": {"name": "edge", "namespace": "infra", "publicURL": "https://models.example.com"},
}
GUARDED: Values = {"networkPolicy": {"enabled": True}}
WATCHED: Values = {"monitoring": {"enabled": True, "dashboard": {"enabled": True}, "labels": {"release": "prometheus"}}}
GUARDED_IN_DETAIL: Values = OWN_EVERYTHING | {
    "sources": {"allowedNetworks": ["10.20.0.0/16"]},
    "networkPolicy": {
        "enabled": True,
        "servingFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}],
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "clients": [{"podSelector": {"matchLabels": {"app": "notebook"}}}],
        "apiServer": ["10.96.0.1/32"],
        "egress": [{"ports": [{"port": 9000}], "to": [{"ipBlock": {"cidr": "10.30.0.0/16"}}]}],
    },
}
VARIANTS: dict[str, Values] = {
    "as it comes": {},
    "on the development cluster": DEV_VALUES,
    "with one's own store, MLflow and gateway": OWN_EVERYTHING,
    "with one's own Secret": {"storage": {"bundled": False, "existingSecret": "ours"}},
    "with one's own MLflow": {"mlflow": {"bundled": False, "trackingUri": "https://mlflow.example.com"}},
    "with a second operator that stands by": {"operator": {"replicas": 2}},
    "with PostgreSQL": {"mlflow": {"backendStoreUri": "postgresql://mlflow:secret@db.example.com/mlflow"}},
    "with a database's URL in a Secret": {"mlflow": {"backendStoreSecret": {"name": "db", "key": "url"}}},
    "with a gateway for https": {
        "gateway": {
            "create": True,
            "className": "envoy",
            "publicURL": "https://models.example.com",
            "tls": {"secretName": "models-tls", "only": True},
            "allowedRoutes": {"from": "Selector", "selector": {"matchLabels": {"models": "public"}}},
            "infrastructure": {
                "annotations": {"example.com/internal": "true"},
                "parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "internal"},
            },
        }
    },
    "by somebody without rights in the cluster": NO_CLUSTER_RIGHTS,
    "with network policies": GUARDED,
    "with network policies in detail": GUARDED_IN_DETAIL,
    "watched by Prometheus and Grafana": WATCHED,
} | {
    f"as line {block.line} of {block.page} says": yaml.safe_load(block.text)
    for block in blocks(REPO / "docs" / "install.md")
    if block.language == "yaml"
}


class Chart:
    """The chart, rendered as helm install would."""

    def __init__(self, helm: Path) -> None:
        self._helm = helm

    def run(self, verb: str, *args: str, values: Values) -> subprocess.CompletedProcess[str]:
        """Run helm with the values."""
        return self.plain(verb, *args, "--values", "-", text=json.dumps(values))

    def plain(self, *args: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run helm."""
        command = [str(self._helm), *args]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)

    def try_to_render(self, values: Values, *args: str) -> subprocess.CompletedProcess[str]:
        """Render the chart, or be refused."""
        where = ["bloomery", str(CHART), "--namespace", NAMESPACE, "--kube-version", KUBE_VERSION]
        return self.run("template", *where, *args, values=values)

    def render(self, values: Values, *args: str) -> list[Object]:
        """Render the chart, which must work."""
        done = self.try_to_render(values, *args)
        assert done.returncode == 0, done.stderr
        return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def of_kind(manifests: list[Object], kind: str) -> dict[str, Object]:
    """The objects of a kind by namespace/name, the namespace empty where there is none."""
    return {
        f"{manifest['metadata'].get('namespace', '')}/{manifest['metadata']['name']}": manifest
        for manifest in manifests
        if manifest["kind"] == kind
    }


def pod_templates(manifests: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield name and pod template of everything that makes pods."""
    for manifest in manifests:
        if "template" in manifest.get("spec", {}):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


def environment(manifests: list[Object], deployment: str) -> dict[str, Any]:
    """The variables of a Deployment's container that have plain values."""
    container = only_container(manifests, deployment)
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def only_container(manifests: list[Object], deployment: str) -> Object:
    """The one container of a Deployment."""
    pod = of_kind(manifests, "Deployment")[f"{NAMESPACE}/{deployment}"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return dict(container)


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector selects a pod; of expressions, the chart has only In."""
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in selector.get("matchExpressions", [])
    )
