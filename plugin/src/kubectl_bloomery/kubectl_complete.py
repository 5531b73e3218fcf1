"""Entry point of ``kubectl_complete-bloomery``, the program that kubectl runs to complete ``kubectl bloomery``."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO

from kubectl_bloomery.main import app

PROGRAM = "kubectl-bloomery"
_NO_FILES, _FILES = ":4", ":0"
"""Cobra's completion directives: offer nothing else, or offer file names too."""


def main() -> None:
    """Print the completions of the command line in ``sys.argv``, whose last word is unfinished.

    kubectl reads one completion per line, and a directive on the last line. Typer prints the same lines for fish.
    """
    *words, last = sys.argv[1:] or [""]
    line = " ".join([PROGRAM, *map(shlex.quote, words), last and shlex.quote(last)])
    os.environ["_KUBECTL_BLOOMERY_COMPLETE"] = "complete_fish"
    os.environ["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    os.environ["_TYPER_COMPLETE_ARGS"] = line
    with redirect_stdout(StringIO()) as output, suppress(SystemExit):
        app(prog_name=PROGRAM)
    completions = [line for line in output.getvalue().splitlines() if line.strip()]
    # For a path, Typer returns only the unfinished word itself.
    if completions in ([], [last]):
        print(_FILES)
    else:
        print("\n".join([*completions, _NO_FILES]))
