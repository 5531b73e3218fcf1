"""``kubectl bloomery report``: the report of a training or a Dataset, from MLflow."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from kubectl_bloomery.cluster.kubectl import DATASETS, TRAINING_JOBS, Kubectl, Manifest
from kubectl_bloomery.cluster.mlflow import Mlflow, open_mlflow
from kubectl_bloomery.cluster.object_reference import read_reference
from kubectl_bloomery.cluster.training_job import output_uri, run_id
from kubectl_bloomery.completion import object_references
from kubectl_bloomery.errors import CommandError, error_on_write
from kubectl_bloomery.options import Context, Namespace

REPORT_FILE = "report.html"
_KINDS = (TRAINING_JOBS, DATASETS)


def report(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="tj/NAME or dset/NAME; NAME alone is a TrainingJob's.",
            show_default=False,
            autocompletion=object_references(_KINDS),
        ),
    ],
    output: Annotated[str | None, typer.Option("--output", "-o", help="Save it; - is the standard output.")] = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Open the evaluation report of a training, or the report on a Dataset, in the browser, or save it."""
    kubectl = Kubectl(namespace, context)
    reference = read_reference(name, _KINDS)
    if reference is None:
        raise CommandError(f"{name} has no report: name a TrainingJob or a Dataset, as tj/NAME or dset/NAME.")
    owner = kubectl.get(*reference)
    find_run = _dataset_run if owner["kind"] == "Dataset" else _training_run
    page = _fetch_report(kubectl, owner, find_run)
    if output == "-":
        sys.stdout.buffer.write(page)
    elif output is not None:
        with error_on_write(output):
            Path(output).write_bytes(page)
        print(f"The report of {name} is in {output}.")
    else:
        _open_in_browser(reference[1], page)


def _fetch_report(kubectl: Kubectl, owner: Manifest, find_run: Callable[[Mlflow, Manifest], str | None]) -> bytes:
    with open_mlflow(kubectl, owner) as mlflow:
        run = find_run(mlflow, owner)
        page = mlflow.artifact(run, REPORT_FILE) if run else None
    if page is None:
        uri = _report_uri(owner)
        hint = f"; the store has it at {uri}" if uri else ": it has not been made yet"
        raise CommandError(f"MLflow has no report of {owner['metadata']['name']}{hint}.")
    return page


def _training_run(_: Mlflow, job: Manifest) -> str | None:
    return run_id(job)


def _dataset_run(mlflow: Mlflow, dataset: Manifest) -> str | None:
    metadata, version = dataset["metadata"], dataset.get("status", {}).get("version")
    if not version:
        return None
    experiment = f"{metadata['namespace']}/{metadata['name']}"
    return mlflow.find_run(experiment, {"bloomery.dev/kind": "dataset", "bloomery.dev/dataset-version": version})


def _report_uri(owner: Manifest) -> str | None:
    """Return the report's location in the store; None before there is one."""
    status = owner.get("status", {})
    if owner["kind"] == "Dataset":
        return f"{status['uri']}/{REPORT_FILE}" if status.get("uri") else None
    output = output_uri(owner)
    return f"{output}/{REPORT_FILE}" if output else None


def _open_in_browser(name: str, page: bytes) -> None:
    """Show a page in the browser; its file is not deleted, because the browser may read it later."""
    import webbrowser

    with tempfile.NamedTemporaryFile(prefix=f"{name}-report-", suffix=".html", delete=False) as file:
        file.write(page)
    if not webbrowser.open(Path(file.name).as_uri()):
        print(f"There is no browser here; the report of {name} is in {file.name}.")
