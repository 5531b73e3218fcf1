"""The list of resources in use."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_bloomery.cluster.resources_in_use import ResourceInUse, list_resources_in_use

OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def pod(
    labels: dict[str, str], *, phase: str = "Running", created: str = NEW, gpus: int = 0, gpu: str = "nvidia.com/gpu"
) -> dict[str, Any]:
    limits = {gpu: str(gpus), "cpu": "4"} if gpus else {}
    return {
        "metadata": {"namespace": "demo", "labels": labels, "creationTimestamp": created},
        "spec": {"containers": [{"resources": {"limits": limits}}]},
        "status": {"phase": phase},
    }


def labels_of(role: str, kind: str, name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": role, "app.kubernetes.io/instance": name, f"bloomery.dev/{kind}": name}


def build_object(kind: str, name: str, *, labels: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    metadata = {"namespace": "demo", "name": name, "creationTimestamp": OLD, "labels": labels or {}}
    return {"kind": kind, "metadata": metadata} | fields


@pytest.mark.feature("S22")
def test_batch_prediction_is_listed_with_its_volume_while_it_runs_or_waits() -> None:
    spec = {"source": {"uri": "pvc://photos/june"}}
    objects = [
        build_object("BatchPrediction", "june", spec=spec, status={"phase": "Running"}),
        build_object("BatchPrediction", "july", spec=spec, status={"phase": "Queued"}),
        build_object("BatchPrediction", "may", spec=spec, status={"phase": "Complete"}),
        build_object("PersistentVolumeClaim", "photos"),
    ]

    assert list_resources_in_use([pod(labels_of("predict", "batchprediction", "june"))], objects) == [
        ResourceInUse("demo", "BatchPrediction", "july", "waits", 0, 0, OLD),
        ResourceInUse("demo", "BatchPrediction", "june", "predicts images", 1, 0, NEW),
        ResourceInUse("demo", "Volume", "photos", "holds images", 0, 0, OLD),
    ]


@pytest.mark.feature("O5")
def test_pods_and_gpus_are_counted_by_owner() -> None:
    pods = [
        pod(labels_of("train", "trainingjob", "flowers"), gpus=2),
        pod(labels_of("train", "trainingjob", "flowers"), gpus=2, created=OLD),
        pod(labels_of("train", "trainingjob", "flowers"), gpus=8, phase="Succeeded"),
        pod(labels_of("register", "trainingjob", "flowers")),
        pod(labels_of("tensorboard", "trainingjob", "flowers")),
        pod(labels_of("serve", "inferenceservice", "flowers"), gpus=1, gpu="nvidia.com/mig-1g.10gb"),
        pod({"app.kubernetes.io/name": "kit", "app.kubernetes.io/instance": "flowers"}),
    ]

    assert list_resources_in_use(pods, []) == [
        ResourceInUse("demo", "InferenceService", "flowers", "packs a kit", 1, 0, NEW),
        ResourceInUse("demo", "InferenceService", "flowers", "serves", 1, 1, NEW),
        ResourceInUse("demo", "TrainingJob", "flowers", "registers a model", 1, 0, NEW),
        ResourceInUse("demo", "TrainingJob", "flowers", "shows TensorBoard", 1, 0, NEW),
        ResourceInUse("demo", "TrainingJob", "flowers", "trains", 2, 4, OLD),
    ]


@pytest.mark.feature("O5")
def test_pods_without_a_node_wait() -> None:
    pods = [
        pod(labels_of("prepare", "dataset", "flowers"), phase="Pending"),
        pod(labels_of("train", "trainingjob", "flowers"), phase="Pending"),
        pod(labels_of("train", "trainingjob", "flowers")),
    ]

    assert list_resources_in_use(pods, []) == [
        ResourceInUse("demo", "Dataset", "flowers", "waits", 1, 0, NEW),
        ResourceInUse("demo", "TrainingJob", "flowers", "trains", 2, 0, NEW),
    ]


@pytest.mark.feature("O5")
def test_waiting_objects_are_listed_and_finished_ones_are_not() -> None:
    objects = [
        build_object("TrainingJob", "new", status={}),
        build_object("TrainingJob", "queued", status={"phase": "Queued"}),
        build_object("TrainingJob", "over", status={"phase": "Complete"}),
        build_object("TrainingJob", "held", status={"phase": "Suspended"}),
        build_object("Dataset", "ready", status={"phase": "Ready"}, spec={"source": {"uri": "s3://a/b"}}),
        build_object("InferenceService", "stopped", status={"phase": "Stopped"}),
    ]

    assert [(item.name, item.does) for item in list_resources_in_use([], objects)] == [
        ("new", "waits"),
        ("queued", "waits"),
    ]


@pytest.mark.feature("O5")
def test_volumes_of_chart_and_datasets_are_listed() -> None:
    size = {"capacity": {"storage": "20Gi"}}
    objects = [
        build_object("PersistentVolumeClaim", "photos", status=size),
        build_object("PersistentVolumeClaim", "of-somebody-else", status=size),
        build_object("PersistentVolumeClaim", "mlflow", status=size, labels={"helm.sh/chart": "bloomery-0.1.0"}),
        build_object(
            "Dataset",
            "f",
            status={"phase": "Ready"},
            spec={"source": {"uri": "s3://a"}, "append": [{"uri": "pvc://photos/a"}]},
        ),
    ]

    assert [(item.name, item.does, item.storage) for item in list_resources_in_use([], objects)] == [
        ("mlflow", "keeps data", "20Gi"),
        ("photos", "holds images", "20Gi"),
    ]
