"""``kubectl bloomery live``: everything that still runs or takes room."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from kubectl_bloomery.alive import Alive, find_alive
from kubectl_bloomery.kubectl import DATASETS, SERVICES, TRAINING_JOBS, Kubectl, Manifest
from kubectl_bloomery.options import Context, JsonOutput, Namespace
from kubectl_bloomery.show import console, print_json, table

_PODS = ("app.kubernetes.io/managed-by=bloomery", "app.kubernetes.io/name in (bloomery,kit,weights)")
"""Label selectors: what the operator makes, and what the chart and this plugin make."""
_OTHERS = f"persistentvolumeclaims,{DATASETS},{TRAINING_JOBS},{SERVICES}"


def live(
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="In all namespaces.")] = False,
    output: JsonOutput = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """List everything that still runs or takes room: trainings, services, TensorBoards, GPUs, volumes."""
    kubectl = Kubectl(None if all_namespaces else namespace, context)
    scope = ["--all-namespaces"] if all_namespaces else []
    pods = [pod for selector in _PODS for pod in _list(kubectl, "pods", f"--selector={selector}", *scope)]
    found = find_alive(pods, _list(kubectl, _OTHERS, *scope))
    if output is not None:
        print_json([asdict(item) for item in found])
    elif found:
        _show(found, all_namespaces=all_namespaces)
    else:
        print(f"Nothing of Bloomery runs or takes room in {'any' if all_namespaces else 'this'} namespace.")


def _list(kubectl: Kubectl, kinds: str, *words: str) -> list[Manifest]:
    items: list[Manifest] = json.loads(kubectl.run("get", kinds, *words, "--output=json"))["items"]
    return items


def _show(found: Sequence[Alive], *, all_namespaces: bool) -> None:
    now = datetime.now(UTC)
    columns = ["KIND", "NAME", "DOES", "PODS", "GPUS", "STORAGE", "SINCE"]
    rows = [
        [item.kind, item.name, item.does, item.pods or "", item.gpus or "", item.storage, age(item.since, now)]
        for item in found
    ]
    if all_namespaces:
        columns.insert(0, "NAMESPACE")
        rows = [[item.namespace, *row] for item, row in zip(found, rows, strict=True)]
    console().print(table(columns, rows))


def age(since: str, now: datetime) -> str:
    """Return for how long something has been there, in its largest unit, as kubectl does."""
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
