"""Resources in use: running and waiting work, and volumes, found among pods, volume claims and Bloomery's objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_bloomery.cluster.kubectl import Manifest

CHART_LABEL = "helm.sh/chart"
VOLUME_SCHEME = "pvc://"
_ACTIVITIES = {
    "prepare": "prepares images",
    "train": "trains",
    "register": "registers a model",
    "serve": "serves",
    "predict": "predicts images",
    "tensorboard": "shows TensorBoard",
    "kit": "packs a kit",
    "weights": "stores weights",
}
_KINDS = {
    "dataset": "Dataset",
    "trainingjob": "TrainingJob",
    "inferenceservice": "InferenceService",
    "batchprediction": "BatchPrediction",
}
_FINITE_KINDS = ("Dataset", "TrainingJob", "BatchPrediction")
_WAITS = "waits"
_UNFINISHED_PHASES = ("Pending", "Queued", "Preparing", "Running")


@dataclass(frozen=True, order=True)
class ResourceInUse:
    """An object that still runs, waits or takes storage.

    Attributes:
        does: its current activity, as a verb.
        since: when its oldest pod was created, or the object itself if it has no pod; RFC 3339.
        storage: the capacity of a volume.
    """

    namespace: str
    kind: str
    name: str
    does: str
    pods: int
    gpus: int
    since: str
    storage: str = ""


def list_resources_in_use(pods: Iterable[Manifest], objects: Iterable[Manifest]) -> list[ResourceInUse]:
    """Return the resources in use, sorted by namespace, kind and name.

    Args:
        pods: the pods of Bloomery.
        objects: volume claims, and objects of Bloomery's kinds.
    """
    objects = list(objects)
    running = list(_group_pods(pods))
    with_pods = {(item.namespace, item.kind, item.name) for item in running}
    waiting = [item for item in _unfinished(objects) if (item.namespace, item.kind, item.name) not in with_pods]
    return sorted([*running, *waiting, *_volumes(objects)])


def _group_pods(pods: Iterable[Manifest]) -> Iterator[ResourceInUse]:
    """Yield an item for each object that unfinished pods work for."""
    groups: dict[tuple[str, str, str, str], list[Manifest]] = {}
    for pod in pods:
        if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            groups.setdefault(_pod_owner(pod), []).append(pod)
    for (namespace, kind, name, does), members in groups.items():
        since = min(str(pod["metadata"]["creationTimestamp"]) for pod in members)
        # They have no node yet, or wait for an image.
        if all(pod.get("status", {}).get("phase") == "Pending" for pod in members):
            does = _WAITS
        yield ResourceInUse(namespace, kind, name, does, len(members), sum(map(_count_gpus, members)), since)


def _pod_owner(pod: Manifest) -> tuple[str, str, str, str]:
    """Return namespace, kind and name of the object that a pod works for, and the pod's activity."""
    metadata = pod["metadata"]
    labels: Mapping[str, str] = metadata.get("labels", {})
    role = labels.get("app.kubernetes.io/name", "")
    does = _ACTIVITIES.get(role, role)
    for suffix, kind in _KINDS.items():
        if name := labels.get(f"bloomery.dev/{suffix}"):
            return metadata["namespace"], kind, name, does
    if role == "kit":
        return metadata["namespace"], "InferenceService", labels["app.kubernetes.io/instance"], does
    component = labels.get("app.kubernetes.io/component", role)
    does = does if role in _ACTIVITIES else f"runs the {component}"
    return metadata["namespace"], "Installation", labels.get("app.kubernetes.io/instance", ""), does


def _count_gpus(pod: Manifest) -> int:
    """Return the number of GPUs and of MIG slices in the pod's limits."""
    limits = [container.get("resources", {}).get("limits", {}) for container in pod["spec"]["containers"]]
    return sum(int(count) for limit in limits for name, count in limit.items() if _is_gpu(name))


def _is_gpu(resource: str) -> bool:
    return resource.endswith("/gpu") or resource.startswith("nvidia.com/mig-")


def _unfinished(objects: Iterable[Manifest]) -> Iterator[ResourceInUse]:
    """Yield the objects whose work has not ended."""
    for item in objects:
        metadata, status = item["metadata"], item.get("status", {})
        if item["kind"] in _FINITE_KINDS and status.get("phase", "Pending") in _UNFINISHED_PHASES:
            since = str(metadata["creationTimestamp"])
            yield ResourceInUse(metadata["namespace"], item["kind"], metadata["name"], _WAITS, 0, 0, since)


def _volumes(objects: list[Manifest]) -> Iterator[ResourceInUse]:
    """Yield the chart's own volume claims, and the claims that images are read from."""
    read_claims = {(item["metadata"]["namespace"], claim) for item in objects for claim in _source_claims(item)}
    for item in objects:
        metadata = item["metadata"]
        of_chart = metadata.get("labels", {}).get(CHART_LABEL, "").startswith("bloomery-")
        is_read = (metadata["namespace"], metadata["name"]) in read_claims
        if item["kind"] == "PersistentVolumeClaim" and (of_chart or is_read):
            size = item.get("status", {}).get("capacity", {}).get("storage", "")
            does = "keeps data" if of_chart else "holds images"
            since = str(metadata["creationTimestamp"])
            yield ResourceInUse(metadata["namespace"], "Volume", metadata["name"], does, 0, 0, since, size)


def _source_claims(item: Manifest) -> list[str]:
    """Return the names of the volume claims that an object reads images from."""
    if item["kind"] not in ("Dataset", "BatchPrediction"):
        return []
    spec: Mapping[str, Any] = item["spec"]
    uris = [source["uri"] for source in (spec["source"], *spec.get("append", []))]
    return [uri.removeprefix(VOLUME_SCHEME).partition("/")[0] for uri in uris if uri.startswith(VOLUME_SCHEME)]
