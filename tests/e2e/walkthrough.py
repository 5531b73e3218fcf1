"""Helpers of the walk-throughs of examples/: the shell for a page's commands, and views of the results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from dev import demo
from dev.paths import LOGS, ROOT
from testing.dev_cluster import STORAGE_SECRET, Kubectl, eventually, reachable_mlflow
from tests.e2e.shell import Shell
from tools.docs_blocks import Block

FLOWERS = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
MODEL_FILES = {"model/model.onnx", "model/labels.txt", "model/state.pt", "predictions.csv", "report.html", "train.log"}
MakeNamespace = Callable[[str], Kubectl]


@contextmanager
def open_walkthrough(
    example: str, kubectl: Kubectl, folder: Path, commands: list[Block]
) -> Iterator[tuple[Shell, list[Block]]]:
    """Yield a shell in a copy of the repository's root, with the page's environment, and the page's commands."""
    (folder / "examples").symlink_to(ROOT / "examples")
    keys = kubectl.secret(STORAGE_SECRET)
    with (LOGS / "e2e-store.log").open("a") as log, demo.reachable(keys["AWS_ENDPOINT_URL"], log) as endpoint:
        path = f"{Path(sys.executable).parent}:{Shell.of(kubectl.namespace, folder).environment['PATH']}"
        shell = Shell.of(kubectl.namespace, folder, **keys | {"AWS_ENDPOINT_URL": endpoint, "PATH": path})
        yield shell, [block for block in commands if block.page == f"examples/{example}/README.md"]


def labels(output: str) -> list[str]:
    """Return the labels of the answers, which follow the output of draw.py."""
    return [json.loads(line)["label"] for line in output.splitlines()[1:]]


def nothing_is_left(kubectl: Kubectl) -> bool:
    kinds = "dset,tj,isvc,jobs,deployments,services,httproutes,backendtrafficpolicies,hpa,pdb,pods"
    return not kubectl.run("get", kinds, "--output=name").stdout.strip()


def complete(manifest: dict[str, Any]) -> dict[str, str]:
    return next(c for c in manifest["status"]["conditions"] if c["type"] == "Complete")


def mlflow(question: str, **query: str) -> dict[str, Any]:
    """Return the answer of MLflow's REST API, for example to ``runs/get``."""
    with reachable_mlflow() as address:
        answer = httpx.get(f"{address}/api/2.0/mlflow/{question}", params=query, timeout=30)
    result: dict[str, Any] = answer.raise_for_status().json()
    return result


def parameters(job: dict[str, Any]) -> dict[str, str]:
    """Return the parameters of a job's MLflow run."""
    run = mlflow("runs/get", run_id=job["status"]["mlflow"]["runId"])["run"]
    return {parameter["key"]: parameter["value"] for parameter in run["data"]["params"]}


def registered_version(model: dict[str, Any]) -> dict[str, Any]:
    """Return the version of a job's model in MLflow's registry."""
    result: dict[str, Any] = mlflow("model-versions/get", name=model["name"], version=model["version"])["model_version"]
    return result


def remove_registered_model(name: str) -> None:
    """Remove a model and its alias from MLflow's registry, if an earlier run left it there."""
    with reachable_mlflow() as address:
        url = f"{address}/api/2.0/mlflow/registered-models/delete"
        answer = httpx.request("DELETE", url, json={"name": name}, timeout=30)
    assert answer.is_success or answer.status_code == httpx.codes.NOT_FOUND, answer.text


def tensorboard_tags(kubectl: Kubectl, job: str) -> set[str]:
    """Return the names of the curves in a job's TensorBoard."""
    kubectl("rollout", "status", f"deployment/{job}-tensorboard", "--timeout=90s")
    address = f"http://{job}-tensorboard.{kubectl.namespace}.svc.cluster.local:6006"
    with (LOGS / "e2e-tensorboard.log").open("a") as log, demo.reachable(address, log) as board:

        def tags() -> set[str]:
            result = httpx.get(f"{board}/data/plugin/scalars/tags", timeout=10).json()
            return {tag for run in result.values() for tag in run}

        result: set[str] = eventually("the curves", tags, seconds=60)
        return result
