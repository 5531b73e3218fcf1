"""``kubectl bloomery check``: a preview of a Dataset by the trainer's own rules, without a cluster."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubectl_bloomery.errors import CommandError
from kubectl_bloomery.options import JsonOutput
from kubectl_bloomery.output import console, error_console, print_json, table

if TYPE_CHECKING:
    from bloomery_trainer import progress_server
    from bloomery_trainer.prepare.dry_run import DryRunResult

MAX_SHOWN_FILES = 20
"""Ignored files that the table's output names."""
_SPLITS = ("train", "validation", "test")
_SOURCE_FIELDS = ("layout", "encoding")
_COPIED_FIELDS = ("exclude", "move", "rename", "classes", "split")
_SIZE_RULES = ("maxBytes", "maxArchiveBytes")


def check(
    folder: Annotated[Path, typer.Argument(help="The images: a folder, .zip, .tar.gz or .tgz.", show_default=False)],
    dataset: Annotated[
        Path | None, typer.Option(help="YAML file with a Dataset: its layout, split, classes and rules hold.")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Encoding, such as gbk, of names in an archive and of label texts; chosen if left out."),
    ] = None,
    output: JsonOutput = None,
) -> None:
    """Say what a Dataset of these images would be, before any upload; the exit code is 1 where it would fail."""
    if not folder.exists():
        raise CommandError(f"There is no folder or archive {folder}.")
    spec = read_dataset(dataset) if dataset is not None else {}
    if encoding is not None:
        spec = {**spec, "source": {**(spec.get("source") or {}), "encoding": encoding}}
    result = _run_dry(folder, spec, name=dataset.name if dataset is not None else "Dataset")
    if output is None:
        _print_result(result)
    else:
        print_json(result_to_json(result))
    if result.refusal is not None:
        raise typer.Exit(1)


def read_dataset(path: Path) -> Mapping[str, Any]:
    """Return the spec of the one Dataset in a file of manifests.

    Raises:
        CommandError: the file cannot be read, or does not contain exactly one Dataset.
    """
    import yaml

    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        raise CommandError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    datasets = [item for item in documents if isinstance(item, dict) and item.get("kind") == "Dataset"]
    if len(datasets) != 1:
        raise CommandError(f"{path} must contain one Dataset; it contains {len(datasets) or 'none'}.")
    spec = datasets[0].get("spec")
    if not isinstance(spec, dict):
        raise CommandError(f"The Dataset in {path} has no spec.")
    return spec


def prepare_document(folder: Path, spec: Mapping[str, Any], *, scratch: Path) -> dict[str, Any]:
    """Return the trainer's configuration for a folder with the settings of a Dataset.

    ``append`` is left out: its sources are elsewhere.
    """
    source, rules = spec.get("source") or {}, spec.get("rules") or {}
    return {
        "kind": "prepare",
        "name": "check",
        "source": {
            "uri": folder.resolve().as_uri(),
            **{name: source[name] for name in _SOURCE_FIELDS if source.get(name) is not None},
        },
        **{name: spec[name] for name in _COPIED_FIELDS if spec.get(name) is not None},
        "rules": {name: _parse_size(name, value) if name in _SIZE_RULES else value for name, value in rules.items()},
        "output": {"uri": scratch.as_uri()},
    }


def result_to_json(result: DryRunResult) -> dict[str, Any]:
    """Return the document of ``--output json``."""
    refusal = result.refusal
    return {
        "ok": refusal is None,
        "error": None if refusal is None else {"reason": refusal.reason, "message": str(refusal)},
        "warnings": list(result.warnings),
        "images": sum(result.counts.values()),
        "classes": _classes(result),
        "ignored": dict(result.reasons),
        "ignoredFiles": [file._asdict() for file in result.ignored],
    }


def _parse_size(name: str, quantity: object) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        # Kubernetes' 4Mi is pydantic's 4MiB.
        return int(TypeAdapter(ByteSize).validate_python(f"{quantity}B"))
    except ValidationError as error:
        raise CommandError(f"rules.{name} must be a quantity such as 4Mi, not {quantity!r}.") from error


def _classes(result: DryRunResult) -> list[dict[str, Any]]:
    names = sorted({name for name, _ in result.counts})
    return [{"name": name, **{split: result.counts.get((name, split), 0) for split in _SPLITS}} for name in names]


def _run_dry(folder: Path, spec: Mapping[str, Any], *, name: str) -> DryRunResult:
    try:
        from bloomery_trainer.config import PrepareConfig, load
        from bloomery_trainer.errors import TrainerError
        from bloomery_trainer.prepare.dry_run import dry_run
    except ModuleNotFoundError as error:
        raise CommandError(
            f"check needs the trainer's packages, and {error.name} is not installed: "
            "run pip install ./model-format ./trainer-image (PyTorch is not needed)."
        ) from error
    with tempfile.TemporaryDirectory(prefix="bloomery-check-") as scratch:
        path = Path(scratch, name)
        try:
            path.write_text(json.dumps(prepare_document(folder, spec, scratch=Path(scratch, "work"))), encoding="utf-8")
            config = load(path)
            assert isinstance(config, PrepareConfig)
            return _with_progress_bar(lambda progress: dry_run(config, progress))
        except TrainerError as error:
            raise CommandError(str(error)) from error


def _with_progress_bar(work: Callable[[progress_server.Progress], DryRunResult]) -> DryRunResult:
    """Run the work with the trainer's progress as a bar on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from bloomery_trainer.progress_server import Progress as Figures

    terminal = error_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task("Listing", total=None)

        class BarProgress(Figures):
            def update(self, **figures: Any) -> None:
                bar.update(
                    task,
                    description="Looking at images" if figures.get("total") else None,
                    total=figures.get("total") or None,
                    completed=figures.get("images"),
                )

        return work(BarProgress())


def _print_result(result: DryRunResult) -> None:
    from rich.markup import escape

    shown = console()
    classes = _classes(result)
    splits = [split for split in _SPLITS if any(key[1] == split for key in result.counts)]
    if classes:
        rows = [[item["name"], *(item[split] for split in splits)] for item in classes]
        shown.print(table(["CLASS", *map(str.upper, splits)], rows))
    for file in result.ignored[:MAX_SHOWN_FILES]:
        shown.print(f"ignored: {escape(file.key)}: {escape(file.detail)} ({file.reason})", soft_wrap=True)
    ignored = sum(result.reasons.values())
    if ignored > MAX_SHOWN_FILES:
        shown.print(f"ignored: … and {ignored - MAX_SHOWN_FILES} more; -o json has the first 1000")
    if ignored:
        counts = ", ".join(f"{count} {reason}" for reason, count in result.reasons.items())
        shown.print(f"{ignored} ignored: {counts}", soft_wrap=True)
    for warning in result.warnings:
        shown.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    if result.refusal is None:
        shown.print(f"[green]A Dataset of {sum(result.counts.values())} images in {len(classes)} classes.[/]")
    else:
        error_console().print(f"[red]error:[/] {result.refusal.reason}: {escape(str(result.refusal))}", soft_wrap=True)
