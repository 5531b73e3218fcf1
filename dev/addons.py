"""Add-ons of the cluster: DNS, volumes, and the gateway's controller."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import TextIO

from dev.binaries import module_folder
from dev.node import NODE_NAME
from dev.paths import BIN, ROOT, STATE, VOLUMES, target
from dev.stages import StageError, run, wait_until
from dev.versions import ENVOY_GATEWAY

MANIFESTS = ROOT / "dev" / "manifests"
STORAGE_CLASS = "local"
VOLUME_COUNT = 8
VOLUME_SIZE = "20Gi"
GATEWAY_NAMESPACE = "envoy-gateway-system"
GATEWAY_CLASS = "bloomery-dev"
_STAMP = "bloomery.dev/made-of"
_STAMP_PATH = "{.metadata.annotations.bloomery\\.dev/made-of}"


def install_dns(log: TextIO) -> None:
    """Install CoreDNS and wait until it answers."""
    _kubectl(log, "apply", "--filename", MANIFESTS / "dns.yaml")
    _kubectl(log, "--namespace=kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s")


def install_volumes(log: TextIO) -> None:
    """Offer folders of this machine as volumes, in the default storage class; emptied ones are offered again."""
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    phases = _volume_phases()
    for name in [f"local-{number}" for number in range(VOLUME_COUNT)]:
        if phases.get(name) in ("Released", "Failed"):
            _kubectl(log, "delete", "persistentvolume", name, "--wait=true")
        if phases.get(name) not in ("Bound", "Available"):
            shutil.rmtree(VOLUMES / name, ignore_errors=True)
        (VOLUMES / name).mkdir(parents=True, exist_ok=True)
    volumes = [_volume(f"local-{number}") for number in range(VOLUME_COUNT)]
    items = {"apiVersion": "v1", "kind": "List", "items": [storage_class, *volumes]}
    _kubectl(log, "apply", "--server-side", "--force-conflicts", "--filename=-", stdin=json.dumps(items))


def install_gateway(log: TextIO) -> None:
    """Install Envoy Gateway by its own charts, and the class of gateways that Bloomery's chart names."""
    stamp = _gateway_stamp()
    if _noted_stamp() == stamp:
        _kubectl(log, f"--namespace={GATEWAY_NAMESPACE}", "rollout", "status", "deployment/envoy-gateway",
                 "--timeout=120s")  # fmt: skip
        return
    source = module_folder("github.com/envoyproxy/gateway", ENVOY_GATEWAY) / "charts"
    charts = STATE / "charts"
    crds, gateway = _unpack(source / "gateway-crds-helm", charts), _unpack(source / "gateway-helm", charts)
    rendered = subprocess.run(
        [BIN / "helm", "template", "crds", crds, "--set=crds.gatewayAPI.enabled=true",
         "--set=crds.gatewayAPI.channel=standard", "--set=crds.envoyGateway.enabled=true"],
        stdout=subprocess.PIPE, stderr=log, text=True, check=True,
    )  # fmt: skip
    _kubectl(log, "apply", "--server-side", "--force-conflicts", "--filename=-", stdin=rendered.stdout)
    run(
        [BIN / "helm", "upgrade", "--install", "envoy-gateway", gateway, f"--namespace={GATEWAY_NAMESPACE}",
         "--create-namespace", "--wait", "--timeout=4m", "--values=-"],
        log, env=target().environment, stdin=json.dumps(_gateway_values()),
    )  # fmt: skip
    _kubectl(log, "apply", "--server-side", "--force-conflicts", "--filename", MANIFESTS / "gateway-class.yaml")
    wait_until("The gateway class", _gateway_class_is_accepted, seconds=60)
    _kubectl(log, "annotate", "--overwrite", "gatewayclass", GATEWAY_CLASS, f"{_STAMP}={stamp}")


def _gateway_values() -> dict[str, object]:
    image = target().image("envoy-gateway")
    provider = {"type": "Kubernetes", "kubernetes": {"shutdownManager": {"image": image}}}
    return {
        "crds": {"enabled": False},
        "topologyInjector": {"enabled": False},
        "deployment": {"envoyGateway": {"resources": {"requests": {"cpu": "20m", "memory": "96Mi"}}}},
        "config": {"envoyGateway": {"provider": provider}},
    }


def _noted_stamp() -> str:
    """Return the stamp on the class of gateways; a fresh cluster does not even know that there are such classes."""
    kind = "gatewayclasses.gateway.networking.k8s.io"
    if not _read("get", "customresourcedefinitions", kind, "--ignore-not-found", "--output=name"):
        return ""
    return _read("get", "gatewayclass", GATEWAY_CLASS, "--ignore-not-found", f"--output=jsonpath={_STAMP_PATH}")


def _gateway_stamp() -> str:
    """Hash what the installed gateway is made of; noted on its class, so it is gone where the cluster is."""
    parts = [ENVOY_GATEWAY, json.dumps(_gateway_values()), (MANIFESTS / "gateway-class.yaml").read_text()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _unpack(chart: Path, folder: Path) -> Path:
    """Copy a chart out of Go's read-only module cache, with its values' placeholders filled."""
    copy = folder / chart.name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(chart, copy, copy_function=shutil.copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    values = (copy / "values.tmpl.yaml").read_text()
    values = values.replace("${GatewayImage}", target().image("envoy-gateway"))
    (copy / "values.yaml").write_text(values.replace("${GatewayImagePullPolicy}", "Never"))
    return copy


def _gateway_class_is_accepted() -> bool:
    query = "-ojsonpath={.status.conditions[?(@.type=='Accepted')].status}"
    return _read("get", "gatewayclass", GATEWAY_CLASS, query) == "True"


def _volume(name: str) -> dict[str, object]:
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}]}]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": VOLUME_SIZE},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "local": {"path": str(VOLUMES / name)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
        },
    }


def _volume_phases() -> dict[str, str]:
    lines = _read("get", "persistentvolumes", "-ojsonpath={range .items[*]}{.metadata.name} {.status.phase}\n{end}")
    return dict(line.split() for line in lines.splitlines() if line.strip())


def _read(*words: str) -> str:
    command = [str(BIN / "kubectl"), *words]
    answer = subprocess.run(command, capture_output=True, text=True, env=target().environment, check=False)
    if answer.returncode:
        # An empty answer would be taken for "there is none", and a volume in use for one to empty.
        raise StageError(answer.stderr.strip())
    return answer.stdout


def _kubectl(log: TextIO, *words: str | Path, stdin: str | None = None) -> None:
    run([BIN / "kubectl", *words], log, env=target().environment, stdin=stdin)
