"""Completers for options and arguments: names of objects and of kubeconfig contexts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import typer

from kubectl_bloomery.cluster.kubectl import Kubectl
from kubectl_bloomery.cluster.object_reference import SHORT_NAMES
from kubectl_bloomery.errors import CommandError

_REQUEST_TIMEOUT = "--request-timeout=5s"

Completer = Callable[[typer.Context, str], list[str]]


def object_names(kind: str, *, prefix: str = "") -> Completer:
    """Return a completer for names of objects in the selected namespace; it offers nothing without a cluster."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        kubectl = Kubectl(ctx.params.get("namespace"), ctx.params.get("context"))
        try:
            names = [prefix + name for name in kubectl.names(kind, _REQUEST_TIMEOUT)]
        except CommandError:
            return []
        return [name for name in names if name.startswith(incomplete)]

    return complete


def object_references(kinds: Sequence[str]) -> Completer:
    """Return a completer for names of the first kind, and for KIND/NAME of the others."""
    first, *others = kinds
    completers = [object_names(first), *(object_names(kind, prefix=f"{SHORT_NAMES[kind]}/") for kind in others)]

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return [name for completer in completers for name in completer(ctx, incomplete)]

    return complete


def context_names(incomplete: str) -> list[str]:
    """Return the kubeconfig's contexts that begin with the unfinished word."""
    try:
        names = Kubectl().run("config", "get-contexts", "--output=name").split()
    except CommandError:
        return []
    return [name for name in names if name.startswith(incomplete)]
