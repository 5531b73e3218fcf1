"""Options and arguments that several commands share, spelled as in kubectl."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from kubectl_bloomery.cluster.kubectl import SERVICES, TRAINING_JOBS
from kubectl_bloomery.completion import context_names, object_names

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

ReleaseNamespace = Annotated[
    str | None, typer.Option("--release-namespace", help="Where the operator runs; default: it is looked for.")
]


class Format(StrEnum):
    """Output formats other than the table."""

    JSON = "json"


JsonOutput = Annotated[Format | None, typer.Option("--output", "-o", help="json: for programs.")]
