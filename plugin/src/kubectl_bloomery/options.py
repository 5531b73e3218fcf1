"""Options that several commands have, spelled as kubectl spells them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from kubectl_bloomery.completion import contexts, names_of
from kubectl_bloomery.kubectl import SERVICES, TRAINING_JOBS

Service = Annotated[
    str,
    typer.Argument(help="The InferenceService's name.", show_default=False, autocompletion=names_of(SERVICES)),
]
Job = Annotated[
    str,
    typer.Argument(help="The TrainingJob's name.", show_default=False, autocompletion=names_of(TRAINING_JOBS)),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", help="Its namespace; default: the context's.", autocompletion=names_of("namespaces")
    ),
]
Context = Annotated[
    str | None,
    typer.Option("--context", help="The kubeconfig's context; default: the current one.", autocompletion=contexts),
]


class Format(StrEnum):
    """Other forms of what a command prints."""

    JSON = "json"


JsonOutput = Annotated[Format | None, typer.Option("--output", "-o", help="json: for programs.")]
