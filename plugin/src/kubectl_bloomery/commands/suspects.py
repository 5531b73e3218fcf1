"""``kubectl bloomery suspects``: training images with suspected labels, and their correction in the Datasets."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from kubectl_bloomery.cluster.kubectl import DATASETS, TRAINING_JOBS, Kubectl, Manifest
from kubectl_bloomery.cluster.mlflow import open_mlflow
from kubectl_bloomery.cluster.training_job import output_uri, run_id
from kubectl_bloomery.errors import CommandError
from kubectl_bloomery.options import Context, Job, JsonOutput, Namespace
from kubectl_bloomery.output import console, print_json, table

SUSPECTS_FILE = "suspects.jsonl"
_DEFAULT_COUNT = 100
"""As many as the report shows in pictures."""

Suspect = Mapping[str, Any]


def suspects(
    job: Job,
    first: Annotated[int, typer.Option(min=1, help="The number of suspects, the most suspicious first.")] = (
        _DEFAULT_COUNT
    ),
    only: Annotated[
        str | None, typer.Option(help="Numbers of suspects, such as 1,4-9; the report has pictures of them.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Show the changes, and make them in the Datasets.")] = False,
    output: JsonOutput = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """List training images with suspected labels; --apply moves or excludes them in the Datasets."""
    kubectl = Kubectl(namespace, context)
    chosen = choose(_fetch_suspects(kubectl, job), first=first, only=only)
    if output is not None:
        print_json(chosen)
    elif not chosen:
        print(f"{job} has no suspected labels.")
    else:
        _print_table(chosen)
    if apply:
        for name in dict.fromkeys(suspect["dataset"] for suspect in chosen):
            _correct_dataset(kubectl, name, [suspect for suspect in chosen if suspect["dataset"] == name])


def choose(suspects: Sequence[Suspect], *, first: int, only: str | None) -> list[Suspect]:
    """Return the first suspects, or those with the numbers of ``only``.

    Raises:
        CommandError: ``only`` is not a list of numbers, or there is no suspect with one of them.
    """
    if only is None:
        return list(suspects[:first])
    numbers = _parse_numbers(only, len(suspects))
    return [suspect for suspect in suspects if suspect["number"] in numbers]


def _parse_numbers(text: str, count: int) -> set[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        if not (low.isdecimal() and (high or low).isdecimal()):
            raise CommandError(f"--only must be numbers such as 1,4-9, not {text!r}.")
        if not 1 <= int(low) <= int(high or low) <= count:
            raise CommandError(f"--only names {part.strip()}, and the suspects have the numbers 1 to {count}.")
        numbers.update(range(int(low), int(high or low) + 1))
    return numbers


def correct_spec(spec: Mapping[str, Any], suspects: Sequence[Suspect]) -> dict[str, Any]:
    """Return the fields ``move`` and ``exclude`` of a Dataset with the corrections of its images added."""
    moves = {entry["image"]: entry["class"] for entry in spec.get("move") or ()}
    exclusions = list(spec.get("exclude") or ())
    for suspect in suspects:
        if suspect["action"] == "Move":
            moves[suspect["image"]] = suspect["likely"]
        else:
            # The field takes patterns, and a name may look like one.
            exclusions.append(glob.escape(suspect["image"]))
    fields = {
        "move": [{"image": image, "class": name} for image, name in moves.items()],
        "exclude": list(dict.fromkeys(exclusions)),
    }
    return {name: entries for name, entries in fields.items() if entries and entries != spec.get(name)}


def _fetch_suspects(kubectl: Kubectl, job: str) -> list[Suspect]:
    owner = kubectl.get(TRAINING_JOBS, job)
    run = run_id(owner)
    content = None
    if run:
        with open_mlflow(kubectl, owner) as mlflow:
            content = mlflow.artifact(run, SUSPECTS_FILE)
    if content is None:
        raise CommandError(f"MLflow has no {SUSPECTS_FILE} of {job}: {_describe_absence(owner)}.")
    # By bytes: names may have characters that end a line of text, but not of JSON Lines.
    return [json.loads(line) for line in content.splitlines()]


def _describe_absence(job: Manifest) -> str:
    output = output_uri(job)
    if not output:
        return "it is made at the end of a training"
    if job["spec"].get("evaluateOnly"):
        return "the job only evaluates, and the labels are examined after a training"
    return f"the store may have it at {output}/{SUSPECTS_FILE}"


def _print_table(chosen: Sequence[Suspect]) -> None:
    rows = [
        (
            suspect["number"],
            suspect["dataset"],
            suspect["image"],
            suspect["class"],
            suspect["classScore"],
            suspect["likely"],
            suspect["likelyScore"],
            suspect["action"],
        )
        for suspect in chosen
    ]
    console().print(table(("NO", "DATASET", "IMAGE", "CLASS", "SCORE", "LIKELY", "SCORE", "ACTION"), rows))


def _correct_dataset(kubectl: Kubectl, name: str, chosen: Sequence[Suspect]) -> None:
    """Show the corrections of a Dataset, and write them unless it has changed meanwhile."""
    import yaml

    from kubectl_bloomery.output import error_console

    dataset = kubectl.get(DATASETS, name)
    fields = correct_spec(dataset["spec"], chosen)
    if not fields:
        error_console().print(f"Dataset {name} has these corrections already.", markup=False)
        return
    block = yaml.safe_dump({"spec": fields}, sort_keys=False, allow_unicode=True)
    error_console().print(f"Dataset {name}:\n{block}", markup=False, soft_wrap=True)
    # The version makes the API server refuse the change of an object that somebody else has changed since.
    patch = {"metadata": {"resourceVersion": dataset["metadata"]["resourceVersion"]}, "spec": fields}
    kubectl.run("patch", DATASETS, name, "--type=merge", "--patch", json.dumps(patch))
    error_console().print(f"Dataset {name} is changed; the operator prepares its next version.", markup=False)
