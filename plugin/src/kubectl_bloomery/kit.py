"""``kubectl bloomery kit``: the model of a service and its server in one zip, packed by a short-lived pod."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from kubectl_bloomery.files import writing
from kubectl_bloomery.kit_pod import build_pod
from kubectl_bloomery.kubectl import SERVICES, CommandError, Kubectl, Manifest, complaint
from kubectl_bloomery.options import Context, Namespace, Service
from kubectl_bloomery.service import require_variant, variant_names, why_not_ready
from kubectl_bloomery.show import errors
from kubectl_bloomery.temporary_pod import running

if TYPE_CHECKING:
    from rich.console import Console

KIT_IMAGE = "bloomery.dev/kit-image"
"""The annotation of a Deployment that names the image that packs kits."""
RETIRED_AT = "bloomery.dev/retired-at"
ZIP = "/tmp/kit.zip"
TRIES = 5
_CHUNK = 1024 * 1024


class Platform(StrEnum):
    """The systems that a kit can be for."""

    LINUX = "linux"
    WINDOWS = "windows"


class Flavour(StrEnum):
    """What computes the answers."""

    CPU = "cpu"
    NVIDIA = "nvidia"


def kit(
    service: Service,
    variant: Annotated[str | None, typer.Option(help="Which variant, where there are several.")] = None,
    platform: Annotated[Platform, typer.Option(help="The system of the machine that it is for.")] = Platform.LINUX,
    flavour: Annotated[Flavour, typer.Option(help="What computes there.")] = Flavour.CPU,
    output: Annotated[str | None, typer.Option("--output", "-o", help="The zip; - is the standard output.")] = None,
    image: Annotated[str | None, typer.Option(help="Image that packs kits; default: the operator's.")] = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Fetch an offline kit: unzip, start, and open http://localhost:8987/upload, without internet."""
    kubectl = Kubectl(namespace, context)
    owner = kubectl.get(SERVICES, service)
    deployment = _deployment(kubectl, owner, _variant(owner, variant))
    pod = build_pod(owner, deployment, image or _image(deployment))
    name = output or f"{service}-{platform}-{flavour}.zip"
    console = errors()
    with _opened(name) as target, running(kubectl, pod, console):
        words = [f"--platform={platform}", f"--flavour={flavour}", f"--output={ZIP}"]
        packed = json.loads(_pack(kubectl, pod["metadata"]["name"], words, console))
        _fetch(kubectl, pod["metadata"]["name"], target, packed, console)
    if name != "-":
        size = f"{packed['bytes'] / 1e6:.0f} MB"
        console.print(f"{name}: {size}. Unzip it there; README.txt in it says how to start.", markup=False)


def _variant(owner: Manifest, asked: str | None) -> str:
    names = variant_names(owner)
    if asked is None and len(names) > 1:
        raise CommandError(f"{owner['metadata']['name']} has the variants {', '.join(names)}: choose one by --variant.")
    return require_variant(owner, asked or names[0])


def _deployment(kubectl: Kubectl, owner: Manifest, variant: str) -> Manifest:
    """Return the Deployment that serves a variant: during a rollout, the one that is being replaced."""
    service = owner["metadata"]["name"]
    labels = {"bloomery.dev/inferenceservice": service, "bloomery.dev/variant": variant}
    found = kubectl.select("deployments.apps", labels)
    serving = [item for item in found if RETIRED_AT not in item["metadata"].get("annotations", {})]
    if not serving:
        raise CommandError(f"The variant {variant} of {service} has no model yet: {why_not_ready(owner)}")
    return min(serving, key=lambda item: str(item["metadata"]["creationTimestamp"]))


def _image(deployment: Manifest) -> str:
    image = deployment["metadata"].get("annotations", {}).get(KIT_IMAGE)
    if not image:
        raise CommandError(
            "The operator names no image that packs kits (its setting BLOOMERY_KIT_IMAGE): give one with --image."
        )
    return str(image)


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    """Give the file to write; it gets its name only once it is whole."""
    if name == "-":
        yield sys.stdout.buffer
        return
    partial = Path(f"{name}.partial")
    with writing(name):
        file = partial.open("wb")
    try:
        with file:
            yield file
        with writing(name):
            partial.replace(name)
    finally:
        partial.unlink(missing_ok=True)


def _pack(kubectl: Kubectl, pod: str, words: list[str], console: Console) -> str:
    """Let the pod pack, show what it says, and return what it answers."""
    from rich.markup import escape

    command = ("exec", pod, "--", "python", "-m", "bloomery_serving", "kit", *words)
    said = ""
    with console.status("Packing") as status, kubectl.start(*command) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stderr:
            said += line.decode(errors="replace")
            status.update(escape(said.splitlines()[-1]))
        answer = process.stdout.read().decode()
    if process.returncode:
        raise CommandError(complaint(said))
    return answer


def _fetch(kubectl: Kubectl, pod: str, target: IO[bytes], packed: Mapping[str, Any], console: Console) -> None:
    """Bring the zip here; a connection that breaks is made anew, and goes on where it broke."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    digest, got, size = hashlib.sha256(), 0, packed["bytes"]
    columns = (TextColumn("Fetching"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=size)
        for _ in range(TRIES):
            with kubectl.start("exec", pod, "--", "tail", "-c", f"+{got + 1}", ZIP) as process:
                assert process.stdout is not None and process.stderr is not None
                while chunk := process.stdout.read(_CHUNK):
                    digest.update(chunk)
                    with writing(target.name):
                        target.write(chunk)
                        target.flush()
                    got += len(chunk)
                    progress.update(bar, completed=got)
                said = process.stderr.read().decode(errors="replace")
            if got >= size:
                break
    if got != size or digest.hexdigest() != packed["sha256"]:
        raise CommandError(f"The kit did not arrive whole, {got} of {size} bytes: {complaint(said)}")
