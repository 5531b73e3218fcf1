"""What still runs or takes room, found among pods, volumes and Bloomery's objects: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_bloomery.kubectl import Manifest

CHART = "helm.sh/chart"
CLAIM = "pvc://"
_DOES = {
    "prepare": "prepares images",
    "train": "trains",
    "register": "registers a model",
    "serve": "serves",
    "tensorboard": "shows TensorBoard",
    "kit": "packs a kit",
    "weights": "stores weights",
}
_KINDS = {"dataset": "Dataset", "trainingjob": "TrainingJob", "inferenceservice": "InferenceService"}
_WAITS = "waits"
_WAITING = ("Pending", "Queued", "Preparing", "Running")


@dataclass(frozen=True, order=True)
class Alive:
    """One thing that is not over.

    Attributes:
        since: when the oldest of its pods was made, or itself where it has none; RFC 3339.
        storage: the room that a volume takes.
    """

    namespace: str
    kind: str
    name: str
    does: str
    pods: int
    gpus: int
    since: str
    storage: str = ""


def find_alive(pods: Iterable[Manifest], others: Iterable[Manifest]) -> list[Alive]:
    """Return what is not over yet, by namespace, kind and name.

    Args:
        pods: Bloomery's.
        others: volume claims, and objects of Bloomery's kinds.
    """
    listed = list(others)
    busy = list(_with_pods(pods))
    known = {(item.namespace, item.kind, item.name) for item in busy}
    waiting = [item for item in _without_pods(listed) if (item.namespace, item.kind, item.name) not in known]
    return sorted([*busy, *waiting, *_volumes(listed)])


def _with_pods(pods: Iterable[Manifest]) -> Iterator[Alive]:
    groups: dict[tuple[str, str, str, str], list[Manifest]] = {}
    for pod in pods:
        if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            groups.setdefault(_owner(pod), []).append(pod)
    for (namespace, kind, name, does), members in groups.items():
        since = min(str(pod["metadata"]["creationTimestamp"]) for pod in members)
        # No node has taken them yet, or they wait for an image.
        if all(pod.get("status", {}).get("phase") == "Pending" for pod in members):
            does = _WAITS
        yield Alive(namespace, kind, name, does, len(members), sum(map(_gpus, members)), since)


def _owner(pod: Manifest) -> tuple[str, str, str, str]:
    """Return namespace, kind and name of what a pod works for, and what it does."""
    metadata = pod["metadata"]
    labels: Mapping[str, str] = metadata.get("labels", {})
    role = labels.get("app.kubernetes.io/name", "")
    does = _DOES.get(role, role)
    for word, kind in _KINDS.items():
        if name := labels.get(f"bloomery.dev/{word}"):
            return metadata["namespace"], kind, name, does
    if role == "kit":
        return metadata["namespace"], "InferenceService", labels["app.kubernetes.io/instance"], does
    part = labels.get("app.kubernetes.io/component", role)
    does = does if role in _DOES else f"runs the {part}"
    return metadata["namespace"], "Installation", labels.get("app.kubernetes.io/instance", ""), does


def _gpus(pod: Manifest) -> int:
    """Return its GPUs, and parts of GPUs."""
    limits = [container.get("resources", {}).get("limits", {}) for container in pod["spec"]["containers"]]
    return sum(int(count) for limit in limits for name, count in limit.items() if _is_gpu(name))


def _is_gpu(resource: str) -> bool:
    return resource.endswith("/gpu") or resource.startswith("nvidia.com/mig-")


def _without_pods(others: Iterable[Manifest]) -> Iterator[Alive]:
    for item in others:
        metadata, status = item["metadata"], item.get("status", {})
        if item["kind"] in ("Dataset", "TrainingJob") and status.get("phase", "Pending") in _WAITING:
            since = str(metadata["creationTimestamp"])
            yield Alive(metadata["namespace"], item["kind"], metadata["name"], _WAITS, 0, 0, since)


def _volumes(others: Iterable[Manifest]) -> Iterator[Alive]:
    """Yield the chart's own volume claims, and those that Datasets read from."""
    listed = list(others)
    read = {(item["metadata"]["namespace"], claim) for item in listed for claim in _claims(item)}
    for item in listed:
        metadata = item["metadata"]
        of_chart = metadata.get("labels", {}).get(CHART, "").startswith("bloomery-")
        if item["kind"] == "PersistentVolumeClaim" and (of_chart or (metadata["namespace"], metadata["name"]) in read):
            size = item.get("status", {}).get("capacity", {}).get("storage", "")
            does = "keeps data" if of_chart else "holds images"
            since = str(metadata["creationTimestamp"])
            yield Alive(metadata["namespace"], "Volume", metadata["name"], does, 0, 0, since, size)


def _claims(item: Manifest) -> list[str]:
    if item["kind"] != "Dataset":
        return []
    spec: Mapping[str, Any] = item["spec"]
    uris = [source["uri"] for source in (spec["source"], *spec.get("append", []))]
    return [uri.removeprefix(CLAIM).partition("/")[0] for uri in uris if uri.startswith(CLAIM)]
