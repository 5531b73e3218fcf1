"""``kubectl bloomery retrain``: a new TrainingJob from an old one, because a TrainingJob runs only once."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from kubectl_bloomery.cluster.kubectl import TRAINING_JOBS, Kubectl
from kubectl_bloomery.cluster.training_job import copy_job, next_name
from kubectl_bloomery.options import Context, Job, Namespace
from kubectl_bloomery.set_option import apply_changes


def retrain(
    job: Job,
    name: Annotated[str | None, typer.Option(help="The new job's name; default: flowers-2 after flowers.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A change, such as hyperparameters.epochs=30 or preset=resnet50.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the new job, and make none.")] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Train again as an old job did, with changes: the next version of the same model."""
    kubectl = Kubectl(namespace, context)
    old = kubectl.get(TRAINING_JOBS, job)
    new = copy_job(old, name or next_name(job, kubectl.names(TRAINING_JOBS)))
    new["spec"] = apply_changes(new["spec"], set_ or ())
    if dry_run:
        import yaml

        kubectl.run("create", "--dry-run=server", "--filename=-", stdin=json.dumps(new))
        print(yaml.safe_dump(new, sort_keys=False, allow_unicode=True), end="")
        return
    kubectl.run("create", "--filename=-", stdin=json.dumps(new))
    new_name = new["metadata"]["name"]
    print(f"{new_name} is made from {job}; kubectl bloomery follow {new_name} shows it.")
    if "uri" in new["spec"]["output"]:
        print(f"Its output goes to {new['spec']['output']['uri']}.")
