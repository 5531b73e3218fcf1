"""``kubectl bloomery live``: the resources in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from kubectl_bloomery.cluster.kubectl import BATCH_PREDICTIONS, DATASETS, SERVICES, TRAINING_JOBS, Kubectl
from kubectl_bloomery.cluster.resources_in_use import ResourceInUse, list_resources_in_use
from kubectl_bloomery.options import Context, JsonOutput, Namespace
from kubectl_bloomery.output import console, print_json, table

_POD_SELECTORS = (
    "app.kubernetes.io/managed-by=bloomery",  # pods of the operator
    "app.kubernetes.io/name in (bloomery,kit,weights)",  # pods of the chart and of this plugin
)
_OBJECT_KINDS = f"persistentvolumeclaims,{DATASETS},{TRAINING_JOBS},{BATCH_PREDICTIONS},{SERVICES}"


def live(
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="In all namespaces.")] = False,
    output: JsonOutput = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """List everything that still runs or takes room: trainings, services, predictions, TensorBoards, GPUs, volumes."""
    kubectl = Kubectl(None if all_namespaces else namespace, context)
    scope = ["--all-namespaces"] if all_namespaces else []
    pods = [
        pod for selector in _POD_SELECTORS for pod in kubectl.list_objects("pods", f"--selector={selector}", *scope)
    ]
    resources = list_resources_in_use(pods, kubectl.list_objects(_OBJECT_KINDS, *scope))
    if output is not None:
        print_json([asdict(item) for item in resources])
    elif resources:
        _print_table(resources, all_namespaces=all_namespaces)
    else:
        print(f"Nothing of Bloomery runs or takes room in {'any' if all_namespaces else 'this'} namespace.")


def _print_table(resources: Sequence[ResourceInUse], *, all_namespaces: bool) -> None:
    now = datetime.now(UTC)
    columns = ["KIND", "NAME", "DOES", "PODS", "GPUS", "STORAGE", "SINCE"]
    rows = [
        [item.kind, item.name, item.does, item.pods or "", item.gpus or "", item.storage, format_age(item.since, now)]
        for item in resources
    ]
    if all_namespaces:
        columns.insert(0, "NAMESPACE")
        rows = [[item.namespace, *row] for item, row in zip(resources, rows, strict=True)]
    console().print(table(columns, rows))


def format_age(since: str, now: datetime) -> str:
    """Return the time since a moment in its largest unit, in kubectl's format."""
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
