"""``kubectl bloomery check``: what a Dataset of a folder would be, by the trainer's own rules, without a cluster."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubectl_bloomery.kubectl import CommandError
from kubectl_bloomery.options import JsonOutput
from kubectl_bloomery.show import print_json

if TYPE_CHECKING:
    from bloomery_trainer import progress_server
    from bloomery_trainer.prepare.survey import Survey

SHOWN = 20
"""Ignored files that are named on a terminal."""
_SPLITS = ("train", "validation", "test")
_AS_THEY_ARE = ("exclude", "rename", "classes", "split")
_SIZES = ("maxBytes", "maxArchiveBytes")


def check(
    folder: Annotated[Path, typer.Argument(help="The images: a folder, .zip, .tar.gz or .tgz.", show_default=False)],
    dataset: Annotated[
        Path | None, typer.Option(help="YAML file with a Dataset: its layout, split, classes and rules hold.")
    ] = None,
    output: JsonOutput = None,
) -> None:
    """Say what a Dataset of these images would be, before any upload; the exit code is 1 where it would fail."""
    if not folder.exists():
        raise CommandError(f"There is no folder or archive {folder}.")
    spec = read_dataset(dataset) if dataset is not None else {}
    found = _survey(folder, spec, name=dataset.name if dataset is not None else "Dataset")
    if output is None:
        _show(found)
    else:
        print_json(document(found))
    if found.refusal is not None:
        raise typer.Exit(1)


def read_dataset(path: Path) -> Mapping[str, Any]:
    """Return the spec of the one Dataset in a file of manifests.

    Raises:
        CommandError: the file can not be read, or has none or several.
    """
    import yaml

    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} can not be read: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        raise CommandError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    found = [item for item in documents if isinstance(item, dict) and item.get("kind") == "Dataset"]
    if len(found) != 1:
        raise CommandError(f"{path} must hold one Dataset; it holds {len(found) or 'none'}.")
    spec = found[0].get("spec")
    if not isinstance(spec, dict):
        raise CommandError(f"The Dataset in {path} has no spec.")
    return spec


def prepare_document(folder: Path, spec: Mapping[str, Any], *, scratch: Path) -> dict[str, Any]:
    """Return the trainer's configuration for looking at a folder as a Dataset would.

    What the Dataset appends is of other places, and is not looked at.
    """
    source, rules = spec.get("source") or {}, spec.get("rules") or {}
    return {
        "kind": "prepare",
        "name": "check",
        "source": {"uri": folder.resolve().as_uri(), "layout": source.get("layout", "Auto")},
        **{name: spec[name] for name in _AS_THEY_ARE if spec.get(name) is not None},
        "rules": {name: _bytes(name, value) if name in _SIZES else value for name, value in rules.items()},
        "output": {"uri": scratch.as_uri()},
    }


def document(found: Survey) -> dict[str, Any]:
    """Return the findings for programs."""
    refusal = found.refusal
    return {
        "ok": refusal is None,
        "error": None if refusal is None else {"reason": refusal.reason, "message": str(refusal)},
        "warnings": list(found.warnings),
        "images": sum(found.counts.values()),
        "classes": _classes(found),
        "ignored": dict(found.reasons),
        "ignoredFiles": [file._asdict() for file in found.ignored],
    }


def _bytes(name: str, quantity: object) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        # A quantity is 4Mi where pydantic says 4MiB.
        return int(TypeAdapter(ByteSize).validate_python(f"{quantity}B"))
    except ValidationError as error:
        raise CommandError(f"rules.{name} must be a quantity such as 4Mi, not {quantity!r}.") from error


def _classes(found: Survey) -> list[dict[str, Any]]:
    names = sorted({name for name, _ in found.counts})
    return [{"name": name, **{split: found.counts.get((name, split), 0) for split in _SPLITS}} for name in names]


def _survey(folder: Path, spec: Mapping[str, Any], *, name: str) -> Survey:
    try:
        from bloomery_trainer.config import PrepareConfig, load
        from bloomery_trainer.errors import TrainerError
        from bloomery_trainer.prepare.survey import survey
    except ModuleNotFoundError as error:
        wanted = "check judges by the trainer's own rules, packages beside this one"
        cure = "pip install ./model-format ./trainer-image"
        raise CommandError(f"{wanted}: {cure} (there is no {error.name}; PyTorch is not needed).") from error
    with tempfile.TemporaryDirectory(prefix="bloomery-check-") as scratch:
        path = Path(scratch, name)
        try:
            path.write_text(json.dumps(prepare_document(folder, spec, scratch=Path(scratch, "work"))), encoding="utf-8")
            config = load(path)
            assert isinstance(config, PrepareConfig)
            return _with_bar(lambda progress: survey(config, progress))
        except TrainerError as error:
            raise CommandError(str(error)) from error


def _with_bar(work: Callable[[progress_server.Progress], Survey]) -> Survey:
    """Do the work with a progress whose figures are drawn on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from bloomery_trainer.progress_server import Progress as Figures
    from kubectl_bloomery.show import errors

    console = errors()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Listing", total=None)

        class Drawn(Figures):
            def update(self, **figures: Any) -> None:
                bar.update(
                    task,
                    description="Looking at images" if figures.get("total") else None,
                    total=figures.get("total") or None,
                    completed=figures.get("images"),
                )

        return work(Drawn())


def _show(found: Survey) -> None:
    from rich.markup import escape

    from kubectl_bloomery.show import console, errors, table

    shown = console()
    classes, splits = _classes(found), [split for split in _SPLITS if any(key[1] == split for key in found.counts)]
    if classes:
        rows = [[item["name"], *(item[split] for split in splits)] for item in classes]
        shown.print(table(["CLASS", *map(str.upper, splits)], rows))
    for file in found.ignored[:SHOWN]:
        shown.print(f"ignored: {escape(file.key)}: {escape(file.detail)} ({file.reason})", soft_wrap=True)
    left_out = sum(found.reasons.values())
    if left_out > SHOWN:
        shown.print(f"ignored: … and {left_out - SHOWN} more; -o json has the first 1000")
    if left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in found.reasons.items())
        shown.print(f"{left_out} ignored: {counts}", soft_wrap=True)
    for warning in found.warnings:
        shown.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    if found.refusal is None:
        shown.print(f"[green]A Dataset of {sum(found.counts.values())} images in {len(classes)} classes.[/]")
    else:
        errors().print(f"[red]error:[/] {found.refusal.reason}: {escape(str(found.refusal))}", soft_wrap=True)
