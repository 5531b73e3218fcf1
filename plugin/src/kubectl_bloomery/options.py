"""Options that several commands have, spelled as kubectl spells them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from kubectl_bloomery.completion import context_names, object_names
from kubectl_bloomery.kubectl import SERVICES, TRAINING_JOBS

Service = Annotated[
    str,
    typer.Argument(help="The InferenceService's name.", show_default=False, autocompletion=object_names(SERVICES)),
]
Job = Annotated[
    str,
    typer.Argument(help="The TrainingJob's name.", show_default=False, autocompletion=object_names(TRAINING_JOBS)),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", help="Its namespace; default: the context's.", autocompletion=object_names("namespaces")
    ),
]
Context = Annotated[
    str | None,
    typer.Option("--context", help="The kubeconfig's context; default: the current one.", autocompletion=context_names),
]


class Format(StrEnum):
    """Other forms of what a command prints."""

    JSON = "json"


JsonOutput = Annotated[Format | None, typer.Option("--output", "-o", help="json: for programs.")]
