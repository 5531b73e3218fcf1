"""``kubectl bloomery follow``: the progress of a training or a batch prediction, until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from kubectl_bloomery.cluster.kubectl import BATCH_PREDICTIONS, TRAINING_JOBS, Kubectl, Manifest
from kubectl_bloomery.cluster.object_reference import Reference, read_reference
from kubectl_bloomery.cluster.training_job import JobSummary, summarise
from kubectl_bloomery.completion import object_references
from kubectl_bloomery.errors import CommandError
from kubectl_bloomery.options import Context, Namespace
from kubectl_bloomery.output import console, error_console, table

EXIT_INTERRUPTED = 130
"""The exit code after Ctrl+C, as in shells."""


_KINDS = (TRAINING_JOBS, BATCH_PREDICTIONS)


def follow(
    job: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="tj/NAME or bp/NAME; NAME alone is a TrainingJob's.",
            show_default=False,
            autocompletion=object_references(_KINDS),
        ),
    ],
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Watch a training or a batch prediction until it ends: 0 where it is Complete, 1 where it Failed.

    Ctrl+C leaves it alone.
    """
    kubectl = Kubectl(namespace, context)
    reference = read_reference(job, _KINDS)
    if reference is None:
        raise CommandError(f"{job} cannot be followed: name a TrainingJob or a BatchPrediction, as tj/NAME or bp/NAME.")
    try:
        with _progress_display() as show:
            ended = _watch_until_end(kubectl, reference, show)
    except KeyboardInterrupt:
        error_console().print(f"{job} goes on; kubectl bloomery follow {job} shows it again.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    summary = summarise(ended)
    if summary.failed:
        raise CommandError(f"{job} failed: {summary.message}")
    _print_result(ended, summary)


def _watch_until_end(kubectl: Kubectl, reference: Reference, show: Callable[[JobSummary], None]) -> Manifest:
    """Show each state of a job until the job ends, and return the job."""
    for job in kubectl.watch(*reference):
        summary = summarise(job)
        if summary.complete or summary.failed:
            return job
        show(summary)
    raise AssertionError("a watch ends only with an error")


@contextmanager
def _progress_display() -> Iterator[Callable[[JobSummary], None]]:
    """Yield a function that shows a summary: in a bar on a terminal, else in a line for each change."""
    terminal = console()
    if not terminal.is_terminal:
        yield _line_printer()
        return
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Progress(*columns, console=terminal, transient=True) as progress:
        bar = progress.add_task("", total=None)

        def show(summary: JobSummary) -> None:
            description = escape(summary.line)
            progress.update(bar, description=description, total=summary.total_steps, completed=summary.step or 0)

        yield show


def _line_printer() -> Callable[[JobSummary], None]:
    printed = ""

    def show(summary: JobSummary) -> None:
        nonlocal printed
        if summary.line != printed:
            printed = summary.line
            print(printed, flush=True)

    return show


def _print_result(job: Manifest, summary: JobSummary) -> None:
    from rich.markup import escape

    status: dict[str, Any] = job["status"]
    terminal = console()
    terminal.print(f"[green]Complete:[/] {escape(summary.message)}", soft_wrap=True)
    metrics = status.get("metrics", {})
    if metrics:
        terminal.print(table(["METRIC", "VALUE"], [[name, f"{value:.4f}"] for name, value in metrics.items()]))
    ignored = status.get("ignored", {})
    if ignored:
        terminal.print(table(["IGNORED", "FILES"], [[reason, str(count)] for reason, count in ignored.items()]))
    model = status.get("model", {})
    if model.get("display"):
        terminal.print(f"model: {escape(model['display'])}", soft_wrap=True)
    if model.get("uri") and job["kind"] == "TrainingJob":
        terminal.print(f"files: {escape(model['uri'])}", soft_wrap=True)
