"""What still runs or takes room."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kubectl_bloomery.alive import Alive, find_alive
from kubectl_bloomery.live import age

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


def of(role: str, kind: str, name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": role, "app.kubernetes.io/instance": name, f"bloomery.dev/{kind}": name}


def thing(kind: str, name: str, *, labels: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    metadata = {"namespace": "demo", "name": name, "creationTimestamp": OLD, "labels": labels or {}}
    return {"kind": kind, "metadata": metadata} | fields


@pytest.mark.feature("O5")
def test_pods_are_counted_with_their_gpus_by_what_they_work_for() -> None:
    pods = [
        pod(of("train", "trainingjob", "flowers"), gpus=2),
        pod(of("train", "trainingjob", "flowers"), gpus=2, created=OLD),
        pod(of("train", "trainingjob", "flowers"), gpus=8, phase="Succeeded"),
        pod(of("register", "trainingjob", "flowers")),
        pod(of("tensorboard", "trainingjob", "flowers")),
        pod(of("serve", "inferenceservice", "flowers"), gpus=1, gpu="nvidia.com/mig-1g.10gb"),
        pod({"app.kubernetes.io/name": "kit", "app.kubernetes.io/instance": "flowers"}),
    ]

    assert find_alive(pods, []) == [
        Alive("demo", "InferenceService", "flowers", "packs a kit", 1, 0, NEW),
        Alive("demo", "InferenceService", "flowers", "serves", 1, 1, NEW),
        Alive("demo", "TrainingJob", "flowers", "registers a model", 1, 0, NEW),
        Alive("demo", "TrainingJob", "flowers", "shows TensorBoard", 1, 0, NEW),
        Alive("demo", "TrainingJob", "flowers", "trains", 2, 4, OLD),
    ]


@pytest.mark.feature("O5")
def test_pods_that_no_node_has_taken_wait() -> None:
    pods = [
        pod(of("prepare", "dataset", "flowers"), phase="Pending"),
        pod(of("train", "trainingjob", "flowers"), phase="Pending"),
        pod(of("train", "trainingjob", "flowers")),
    ]

    assert find_alive(pods, []) == [
        Alive("demo", "Dataset", "flowers", "waits", 1, 0, NEW),
        Alive("demo", "TrainingJob", "flowers", "trains", 2, 0, NEW),
    ]


@pytest.mark.feature("O5")
def test_what_waits_is_told_and_what_is_over_is_not() -> None:
    others = [
        thing("TrainingJob", "new", status={}),
        thing("TrainingJob", "queued", status={"phase": "Queued"}),
        thing("TrainingJob", "over", status={"phase": "Complete"}),
        thing("TrainingJob", "held", status={"phase": "Suspended"}),
        thing("Dataset", "ready", status={"phase": "Ready"}, spec={"source": {"uri": "s3://a/b"}}),
        thing("InferenceService", "stopped", status={"phase": "Stopped"}),
    ]

    assert [(item.name, item.does) for item in find_alive([], others)] == [("new", "waits"), ("queued", "waits")]


@pytest.mark.feature("O5")
def test_volumes_are_those_of_the_chart_and_those_that_datasets_read() -> None:
    size = {"capacity": {"storage": "20Gi"}}
    others = [
        thing("PersistentVolumeClaim", "photos", status=size),
        thing("PersistentVolumeClaim", "of-somebody-else", status=size),
        thing("PersistentVolumeClaim", "mlflow", status=size, labels={"helm.sh/chart": "bloomery-0.1.0"}),
        thing(
            "Dataset",
            "f",
            status={"phase": "Ready"},
            spec={"source": {"uri": "s3://a"}, "append": [{"uri": "pvc://photos/a"}]},
        ),
    ]

    assert [(item.name, item.does, item.storage) for item in find_alive([], others)] == [
        ("mlflow", "keeps data", "20Gi"),
        ("photos", "holds images", "20Gi"),
    ]


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("since", "shown"),
    [("2026-01-01T00:00:00Z", "9d"), ("2026-01-09T13:00:00Z", "23h"), ("2026-01-10T11:58:30Z", "90s")],
)
def test_ages_are_told_as_kubectl_tells_them(since: str, shown: str) -> None:
    assert age(since, datetime(2026, 1, 10, 12, tzinfo=UTC)) == shown
