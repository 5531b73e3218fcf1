"""``kubectl bloomery weights``: lists the weights that trainings start from, and adds files of weights to the store."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from kubectl_bloomery.cluster.installation import Installation, find_installation
from kubectl_bloomery.cluster.kubectl import Kubectl, clean_error
from kubectl_bloomery.cluster.temporary_pod import run_pod
from kubectl_bloomery.cluster.weights_pod import build_weights_pod
from kubectl_bloomery.errors import CommandError, error_on_read
from kubectl_bloomery.options import Context, JsonOutput, Namespace, ReleaseNamespace
from kubectl_bloomery.output import console, error_console, print_json, table

SUFFIXES = (".pt", ".pth", ".safetensors")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_TRAINER_COMMAND = ("python", "-m", "bloomery_trainer", "weights")

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
    with _weights_pod(kubectl, installation) as pod, error_console().status("Listing"):
        presets: list[dict[str, Any]] = json.loads(_run_trainer(kubectl, pod, installation, ("list",)))
    items = [preset | {"startsFrom": starts_from(preset, installation)} for preset in presets]
    if output is not None:
        print_json(items)
        return
    console().print(table(("PRESET", "STARTS FROM", "FILE", "PUSHED"), map(_table_row, items)))


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
    local_files = [_inspect_file(path) for path in files]
    kubectl = Kubectl(namespace, context)
    installation = find_installation(kubectl, release_namespace)
    with _weights_pod(kubectl, installation) as pod:
        for file in local_files:
            _push_file(kubectl, pod, installation, file, preset)


def starts_from(preset: Mapping[str, Any], installation: Installation) -> str:
    """Return the origin of a preset's weights: ``pushed``, ``store``, ``download``, or ``scratch`` for none."""
    if preset["pushed"]:
        return "pushed"
    if preset["stored"]:
        return "store"
    return "download" if installation.downloads_weights else "scratch"


@dataclass(frozen=True)
class LocalFile:
    """A file of weights on this machine."""

    path: Path
    size: int
    sha256: str


def _inspect_file(path: Path) -> LocalFile:
    if not path.name.endswith(SUFFIXES):
        raise CommandError(f"{path} is no file of weights: its name must end in {', '.join(SUFFIXES)}.")
    if not _FILE_NAME.fullmatch(path.name):
        raise CommandError(f"{path.name!r} cannot be stored: rename it to letters, digits, '.', '_', '+' and '-'.")
    with error_on_read(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    if size == 0:
        raise CommandError(f"{path} is empty.")
    return LocalFile(path, size, digest)


@contextmanager
def _weights_pod(kubectl: Kubectl, installation: Installation) -> Iterator[str]:
    """Run a pod with access to the store during the block, and yield its name."""
    pod = build_weights_pod(installation)
    with run_pod(kubectl, pod, error_console()):
        yield pod["metadata"]["name"]


def _push_file(kubectl: Kubectl, pod: str, installation: Installation, file: LocalFile, preset: str | None) -> None:
    args = ["put", file.path.name, f"--sha256={file.sha256}", *([f"--preset={preset}"] if preset else [])]
    size = f"{file.size / 1e6:.0f} MB" if file.size >= 1e6 else f"{file.size} bytes"
    with error_console().status(f"Sending {file.path.name}, {size}"):
        answer = json.loads(_run_trainer(kubectl, pod, installation, args, stdin=file.path))
    if answer["sha256"] != file.sha256:
        raise CommandError(f"{file.path.name} arrived damaged: push it again.")
    owner = f"of {preset}" if preset else "of its network"
    text = f"{answer['uri']}: {size}. Trainings {owner} without an initialModel start from it."
    console().print(text, markup=False, soft_wrap=True)


def _run_trainer(
    kubectl: Kubectl, pod: str, installation: Installation, args: Sequence[str], *, stdin: Path | None = None
) -> str:
    """Run the trainer's ``weights`` command in the pod, with a file as its standard input; return its output."""
    command = ("exec", *(["--stdin"] if stdin else []), pod, "--", *_TRAINER_COMMAND, *args)
    command = (*command, f"--uri={installation.store_uri.rstrip('/')}/weights")
    if stdin is None:
        return kubectl.run(*command)
    with stdin.open("rb") as file, kubectl.start(*command, stdin=file.fileno()) as process:
        stdout, stderr = process.communicate()
    if process.returncode:
        raise CommandError(clean_error(stderr.decode(errors="replace")))
    return stdout.decode()


def _table_row(item: Mapping[str, Any]) -> list[str]:
    pushed: Mapping[str, Any] = item["pushed"] or {}
    file = pushed.get("file") or ("" if item["startsFrom"] == "scratch" else item["published"])
    return [item["preset"], item["startsFrom"], str(file), str(pushed.get("pushed", ""))]
