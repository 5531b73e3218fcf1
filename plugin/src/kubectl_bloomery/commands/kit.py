"""``kubectl bloomery kit``: an offline kit, the model of a service and its server in one zip."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from kubectl_bloomery.cluster.inference_service import require_variant, serving_deployment, variant_names
from kubectl_bloomery.cluster.kubectl import SERVICES, Kubectl, Manifest, clean_error
from kubectl_bloomery.cluster.server_pod import build_server_pod
from kubectl_bloomery.cluster.temporary_pod import run_pod
from kubectl_bloomery.errors import CommandError, error_on_write
from kubectl_bloomery.options import Context, Namespace, Service
from kubectl_bloomery.output import error_console

if TYPE_CHECKING:
    from rich.console import Console

KIT_IMAGE_ANNOTATION = "bloomery.dev/kit-image"
"""The annotation of a Deployment that names the image that packs kits."""
ZIP_PATH = "/tmp/kit.zip"
"""The kit's file in the pod."""
MAX_DOWNLOAD_ATTEMPTS = 5
_CHUNK_BYTES = 1024 * 1024


class Platform(StrEnum):
    """The operating systems of offline kits."""

    LINUX = "linux"
    WINDOWS = "windows"


class Flavour(StrEnum):
    """The processors of offline kits."""

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
    deployment = serving_deployment(kubectl, owner, _choose_variant(owner, variant))
    pod = build_server_pod(owner, deployment, purpose="kit", image=image or _kit_image(deployment))
    pod_name = pod["metadata"]["name"]
    file_name = output or f"{service}-{platform}-{flavour}.zip"
    console = error_console()
    with _open_output(file_name) as target, run_pod(kubectl, pod, console):
        args = [f"--platform={platform}", f"--flavour={flavour}", f"--output={ZIP_PATH}"]
        packed = json.loads(_pack_kit(kubectl, pod_name, args, console))
        _download_kit(kubectl, pod_name, target, packed, console)
    if file_name != "-":
        size = f"{packed['bytes'] / 1e6:.0f} MB"
        console.print(f"{file_name}: {size}. Unzip it there; README.txt in it says how to start.", markup=False)


def _choose_variant(owner: Manifest, variant: str | None) -> str:
    names = variant_names(owner)
    if variant is None and len(names) > 1:
        raise CommandError(f"{owner['metadata']['name']} has the variants {', '.join(names)}: choose one by --variant.")
    return require_variant(owner, variant or names[0])


def _kit_image(deployment: Manifest) -> str:
    image = deployment["metadata"].get("annotations", {}).get(KIT_IMAGE_ANNOTATION)
    if not image:
        raise CommandError(
            "The operator names no image that packs kits (its setting BLOOMERY_KIT_IMAGE): give one with --image."
        )
    return str(image)


@contextmanager
def _open_output(name: str) -> Iterator[IO[bytes]]:
    """Yield the file to write; it gets its final name only when the block ends without an error."""
    if name == "-":
        yield sys.stdout.buffer
        return
    partial = Path(f"{name}.partial")
    with error_on_write(name):
        file = partial.open("wb")
    try:
        with file:
            yield file
        with error_on_write(name):
            partial.replace(name)
    finally:
        partial.unlink(missing_ok=True)


def _pack_kit(kubectl: Kubectl, pod: str, args: Sequence[str], console: Console) -> str:
    """Pack the kit in the pod, show its log, and return its output."""
    from rich.markup import escape

    command = ("exec", pod, "--", "python", "-m", "bloomery_serving", "kit", *args)
    stderr = ""
    with console.status("Packing") as status, kubectl.start(*command) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stderr:
            stderr += line.decode(errors="replace")
            status.update(escape(stderr.splitlines()[-1]))
        stdout = process.stdout.read().decode()
    if process.returncode:
        raise CommandError(clean_error(stderr))
    return stdout


def _download_kit(kubectl: Kubectl, pod: str, target: IO[bytes], packed: Mapping[str, Any], console: Console) -> None:
    """Download the zip; after a broken connection, resume at the byte where it broke."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    digest, received, size = hashlib.sha256(), 0, packed["bytes"]
    columns = (TextColumn("Fetching"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=size)
        for _ in range(MAX_DOWNLOAD_ATTEMPTS):
            with kubectl.start("exec", pod, "--", "tail", "-c", f"+{received + 1}", ZIP_PATH) as process:
                assert process.stdout is not None and process.stderr is not None
                while chunk := process.stdout.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    with error_on_write(target.name):
                        target.write(chunk)
                        target.flush()
                    received += len(chunk)
                    progress.update(bar, completed=received)
                stderr = process.stderr.read().decode(errors="replace")
            if received >= size:
                break
    if received != size or digest.hexdigest() != packed["sha256"]:
        raise CommandError(f"The kit arrived damaged, {received} of {size} bytes: {clean_error(stderr)}")
