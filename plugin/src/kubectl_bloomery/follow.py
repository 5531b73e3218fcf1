"""``kubectl bloomery follow``: a training on the terminal, from the moment on that it is asked for until its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from kubectl_bloomery.kubectl import TRAINING_JOBS, CommandError, Kubectl, Manifest
from kubectl_bloomery.options import Context, Job, Namespace
from kubectl_bloomery.show import console, errors, table
from kubectl_bloomery.standing import Standing, standing

INTERRUPTED = 130
"""The exit code after Ctrl+C, as shells have it."""


def follow(job: Job, namespace: Namespace = None, context: Context = None) -> None:
    """Watch a training until it ends: 0 where it is Complete, 1 where it Failed. Ctrl+C leaves the job alone."""
    kubectl = Kubectl(namespace, context)
    try:
        with _display() as show:
            ended = _watch(kubectl, job, show)
    except KeyboardInterrupt:
        errors().print(f"{job} goes on; kubectl bloomery follow {job} shows it again.")
        raise typer.Exit(INTERRUPTED) from None
    stands = standing(ended)
    if stands.failed:
        raise CommandError(f"{job} failed: {stands.words}")
    _show_result(ended, stands)


def _watch(kubectl: Kubectl, name: str, show: Callable[[Standing], None]) -> Manifest:
    """Show how a job stands until it has ended, and return it."""
    for job in kubectl.watch(TRAINING_JOBS, name):
        stands = standing(job)
        if stands.complete or stands.failed:
            return job
        show(stands)
    raise AssertionError("a watch ends with an error or not at all")


@contextmanager
def _display() -> Iterator[Callable[[Standing], None]]:
    """Give what shows a standing: a bar on a terminal, else a line for each change."""
    terminal = console()
    if not terminal.is_terminal:
        yield _lines()
        return
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Progress(*columns, console=terminal, transient=True) as progress:
        bar = progress.add_task("", total=None)

        def show(stands: Standing) -> None:
            progress.update(bar, description=escape(stands.line), total=stands.total, completed=stands.step or 0)

        yield show


def _lines() -> Callable[[Standing], None]:
    shown: list[str] = []

    def show(stands: Standing) -> None:
        if stands.line not in shown[-1:]:
            shown[:] = [stands.line]
            print(stands.line, flush=True)

    return show


def _show_result(job: Manifest, stands: Standing) -> None:
    from rich.markup import escape

    status: dict[str, Any] = job["status"]
    terminal = console()
    terminal.print(f"[green]Complete:[/] {escape(stands.words)}", soft_wrap=True)
    metrics = status.get("metrics", {})
    if metrics:
        terminal.print(table(["METRIC", "VALUE"], [[name, f"{value:.4f}"] for name, value in metrics.items()]))
    model = status.get("model", {})
    if model.get("display"):
        terminal.print(f"model: {escape(model['display'])}", soft_wrap=True)
    if model.get("uri"):
        terminal.print(f"files: {escape(model['uri'])}", soft_wrap=True)
