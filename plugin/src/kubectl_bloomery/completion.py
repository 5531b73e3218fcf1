"""What shells offer while a command is typed; ``kubectl_complete-bloomery`` is what kubectl asks for it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from io import StringIO

import typer

from kubectl_bloomery.kubectl import CommandError, Kubectl

PROGRAM = "kubectl-bloomery"
_NO_FILES, _FILES = ":4", ":0"
"""What kubectl takes for: offer nothing else, and: offer files too."""
_QUICKLY = "--request-timeout=5s"

Complete = Callable[[typer.Context, str], list[str]]


def names_of(kind: str, *, prefix: str = "") -> Complete:
    """Return what completes names of objects in the namespace that was given so far; quiet without a cluster."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        kubectl = Kubectl(ctx.params.get("namespace"), ctx.params.get("context"))
        try:
            found = [prefix + name for name in kubectl.names(kind, _QUICKLY)]
        except CommandError:
            return []
        return [name for name in found if name.startswith(incomplete)]

    return complete


def contexts(incomplete: str) -> list[str]:
    """Return the kubeconfig's contexts."""
    try:
        found = Kubectl().run("config", "get-contexts", "--output=name").split()
    except CommandError:
        return []
    return [name for name in found if name.startswith(incomplete)]


def main() -> None:
    """Answer kubectl, which hands over the words so far, the last one unfinished.

    It reads a completion in each line, and last what else to offer; lines are those of typer's protocol for fish.
    """
    from kubectl_bloomery.main import app

    *words, last = sys.argv[1:] or [""]
    line = " ".join([PROGRAM, *map(shlex.quote, words), last and shlex.quote(last)])
    os.environ["_KUBECTL_BLOOMERY_COMPLETE"] = "complete_fish"
    os.environ["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    os.environ["_TYPER_COMPLETE_ARGS"] = line
    with redirect_stdout(StringIO()) as said, suppress(SystemExit):
        app(prog_name=PROGRAM)
    found = [line for line in said.getvalue().splitlines() if line.strip()]
    # Of a path typer only says what was typed already.
    if found in ([], [last]):
        print(_FILES)
    else:
        print("\n".join([*found, _NO_FILES]))
