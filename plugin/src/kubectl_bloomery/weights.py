"""``kubectl bloomery weights``: what trainings start from by themselves, and putting files of weights there."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubectl_bloomery.installation import Installation, find_installation
from kubectl_bloomery.kubectl import CommandError, Kubectl, complaint
from kubectl_bloomery.options import Context, JsonOutput, Namespace
from kubectl_bloomery.show import console, errors, print_json, table
from kubectl_bloomery.temporary_pod import running
from kubectl_bloomery.weights_pod import build_pod

if TYPE_CHECKING:
    from rich.console import Console

SUFFIXES = (".pt", ".pth", ".safetensors")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_COMMAND = ("python", "-m", "bloomery_trainer", "weights")

ReleaseNamespace = Annotated[
    str | None, typer.Option("--release-namespace", help="Where the operator runs; default: it is looked for.")
]

app = typer.Typer(invoke_without_command=True, no_args_is_help=False)


@app.callback()
def weights(
    ctx: typer.Context,
    output: JsonOutput = None,
    release_namespace: ReleaseNamespace = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """List what trainings without an initialModel start from; `weights push` puts a file there."""
    if ctx.invoked_subcommand is not None:
        return
    kubectl = Kubectl(namespace, context)
    installation = find_installation(kubectl, release_namespace)
    with _weights_pod(kubectl, installation) as pod, errors().status("Listing"):
        presets: list[dict[str, Any]] = json.loads(_run(kubectl, pod, installation, ("list",)))
    rows = [item | {"startsFrom": starts_from(item, installation)} for item in presets]
    if output is not None:
        print_json(rows)
        return
    console().print(table(("PRESET", "STARTS FROM", "FILE", "PUSHED"), map(_row, rows)))


@app.command()
def push(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help=f"Weights: {', '.join(SUFFIXES)}.")],
    preset: Annotated[
        str | None, typer.Option(help="Whose weights it holds; left out, a file of torchvision's own name.")
    ] = None,
    release_namespace: ReleaseNamespace = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Put files of weights into the store, from which trainings without an initialModel then start."""
    if preset is not None and len(files) > 1:
        raise CommandError("--preset is for one file: a preset has one file of weights.")
    local = [_read_file(path) for path in files]
    kubectl = Kubectl(namespace, context)
    installation = find_installation(kubectl, release_namespace)
    with _weights_pod(kubectl, installation) as pod:
        for file in local:
            _push(kubectl, pod, installation, file, preset)


def starts_from(item: Mapping[str, Any], installation: Installation) -> str:
    """Say where the weights of a preset come from: what was pushed, the store, torchvision's server, or nowhere."""
    if item["pushed"]:
        return "pushed"
    if item["stored"]:
        return "store"
    return "download" if installation.downloads_weights else "scratch"


@dataclass(frozen=True)
class LocalFile:
    """A file of weights on this machine."""

    path: Path
    size: int
    sha256: str


def _read_file(path: Path) -> LocalFile:
    if not path.name.endswith(SUFFIXES):
        raise CommandError(f"{path} is no file of weights: its name must end in {', '.join(SUFFIXES)}.")
    if not _NAME.fullmatch(path.name):
        raise CommandError(f"{path.name!r} can not be stored: rename it to letters, digits, '.', '_', '+' and '-'.")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        raise CommandError(f"{path} can not be read: {error.strerror or error}.") from error
    if size == 0:
        raise CommandError(f"{path} is empty.")
    return LocalFile(path, size, digest)


@contextmanager
def _weights_pod(kubectl: Kubectl, installation: Installation) -> Iterator[str]:
    pod = build_pod(installation)
    with running(kubectl, pod, errors()):
        yield pod["metadata"]["name"]


def _push(kubectl: Kubectl, pod: str, installation: Installation, file: LocalFile, preset: str | None) -> None:
    words = ["put", file.path.name, f"--sha256={file.sha256}", *([f"--preset={preset}"] if preset else [])]
    size = f"{file.size / 1e6:.0f} MB" if file.size >= 1e6 else f"{file.size} bytes"
    with errors().status(f"Sending {file.path.name}, {size}"):
        answer = json.loads(_run(kubectl, pod, installation, words, stdin=file.path))
    if answer["sha256"] != file.sha256:
        raise CommandError(f"{file.path.name} did not arrive whole: push it again.")
    _report(console(), answer["uri"], size, preset)


def _report(output: Console, uri: str, size: str, preset: str | None) -> None:
    whose = f"of {preset}" if preset else "of its network"
    text = f"{uri}: {size}. Trainings {whose} without an initialModel start from it."
    output.print(text, markup=False, soft_wrap=True)


def _run(
    kubectl: Kubectl, pod: str, installation: Installation, words: Sequence[str], *, stdin: Path | None = None
) -> str:
    """Run the trainer's command in the pod, with a file as its standard input; return what it prints."""
    command = ("exec", *(["--stdin"] if stdin else []), pod, "--", *_COMMAND, *words)
    command = (*command, f"--uri={installation.store_uri.rstrip('/')}/weights")
    if stdin is None:
        return kubectl.run(*command)
    with stdin.open("rb") as source, kubectl.start(*command, stdin=source.fileno()) as process:
        printed, said = process.communicate()
    if process.returncode:
        raise CommandError(complaint(said.decode(errors="replace")))
    return printed.decode()


def _row(item: Mapping[str, Any]) -> list[str]:
    pushed: Mapping[str, Any] = item["pushed"] or {}
    file = pushed.get("file") or ("" if item["startsFrom"] == "scratch" else item["published"])
    return [item["preset"], item["startsFrom"], str(file), str(pushed.get("pushed", ""))]
