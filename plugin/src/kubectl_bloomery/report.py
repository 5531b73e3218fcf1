"""``kubectl bloomery report``: the page on a training or on a Dataset, out of MLflow."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from kubectl_bloomery.completion import object_names
from kubectl_bloomery.files import writing
from kubectl_bloomery.kubectl import DATASETS, TRAINING_JOBS, CommandError, Kubectl, Manifest
from kubectl_bloomery.mlflow import Mlflow, open_mlflow
from kubectl_bloomery.options import Context, Namespace

FILE = "report.html"
_KINDS = {
    "tj": TRAINING_JOBS,
    "trainingjob": TRAINING_JOBS,
    "trainingjobs": TRAINING_JOBS,
    "dset": DATASETS,
    "dataset": DATASETS,
    "datasets": DATASETS,
}


def _reported(ctx: typer.Context, incomplete: str) -> list[str]:
    trainings, datasets = object_names(TRAINING_JOBS), object_names(DATASETS, prefix="dset/")
    return [*trainings(ctx, incomplete), *datasets(ctx, incomplete)]


def report(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="tj/NAME or dset/NAME; NAME alone is a TrainingJob's.",
            show_default=False,
            autocompletion=_reported,
        ),
    ],
    output: Annotated[str | None, typer.Option("--output", "-o", help="Save it; - is the standard output.")] = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Open the evaluation report of a training, or the report on a Dataset, in the browser, or save it."""
    kubectl = Kubectl(namespace, context)
    kind, _, bare = name.rpartition("/")
    if kind and kind not in _KINDS:
        raise CommandError(f"{name} has no report: name a TrainingJob or a Dataset, as tj/NAME or dset/NAME.")
    owner = kubectl.get(_KINDS.get(kind, TRAINING_JOBS), bare)
    find = _of_dataset if owner["kind"] == "Dataset" else _of_training
    page = _fetch(kubectl, owner, find)
    if output == "-":
        sys.stdout.buffer.write(page)
    elif output is not None:
        with writing(output):
            Path(output).write_bytes(page)
        print(f"The report of {name} is in {output}.")
    else:
        _open(bare, page)


def _fetch(kubectl: Kubectl, owner: Manifest, find: Callable[[Mlflow, Manifest], str | None]) -> bytes:
    with open_mlflow(kubectl, owner) as mlflow:
        run = find(mlflow, owner)
        page = mlflow.artifact(run, FILE) if run else None
    if page is None:
        where = _in_store(owner)
        hint = f"; {where} is where it lies in the store" if where else ": it has not been made yet"
        raise CommandError(f"MLflow has no report of {owner['metadata']['name']}{hint}.")
    return page


def _of_training(_: Mlflow, job: Manifest) -> str | None:
    run: str | None = job.get("status", {}).get("mlflow", {}).get("runId")
    return run


def _of_dataset(mlflow: Mlflow, dataset: Manifest) -> str | None:
    metadata, version = dataset["metadata"], dataset.get("status", {}).get("version")
    if not version:
        return None
    experiment = f"{metadata['namespace']}/{metadata['name']}"
    return mlflow.find_run(experiment, {"bloomery.dev/kind": "dataset", "bloomery.dev/dataset-version": version})


def _in_store(owner: Manifest) -> str | None:
    status = owner.get("status", {})
    if owner["kind"] == "Dataset":
        return f"{status['uri']}/{FILE}" if status.get("uri") else None
    model = status.get("model", {}).get("uri")
    return f"{model.removesuffix('/model')}/{FILE}" if model else None


def _open(name: str, page: bytes) -> None:
    """Show a page in the browser; its file stays, as nobody knows how long the browser needs it."""
    import webbrowser

    with tempfile.NamedTemporaryFile(prefix=f"{name}-report-", suffix=".html", delete=False) as file:
        file.write(page)
    if not webbrowser.open(Path(file.name).as_uri()):
        print(f"There is no browser here; the report of {name} is in {file.name}.")
