"""Builds images straight into the store that the kubelet uses: BuildKit with its containerd worker.

No registry can be pulled from here, so a root file system made of Debian packages stands in for the public
Python image; it goes in as an OCI layout through a named build context. Elsewhere the same Dockerfiles build on
the real one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from dev import processes
from dev.node import CTR
from dev.paths import BIN, BUILDKIT_SOCKET, CONTAINERD_SOCKET, ROOT, RUN, STATE
from dev.stages import StageError, run, wait_until
from dev.versions import DEBIAN, PYTHON_IMAGE

BASE = STATE / "base"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Image:
    """One image: the folder that is its context, and binaries of ours that it takes along."""

    name: str
    folder: Path
    dockerfile: str = "Dockerfile"
    sources: tuple[str, ...] = (".",)
    """Of the context, the files and folders that are copied: where they change, the image is built again."""
    binary: str = ""
    entrypoint: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    tag: str = "dev"

    @property
    def reference(self) -> str:
        """The image's full name in the kubelet's store."""
        return f"localhost/bloomery/{self.name}:{self.tag}"

    @property
    def stamp(self) -> Path:
        """The file with the hash of what the image in the store is made of."""
        return STATE / "images" / (self.name if self.tag == "dev" else f"{self.name}-{self.tag}")


def static(name: str) -> Image:
    """Return an image that holds one static binary and nothing else."""
    return Image(name, ROOT / "dev" / "images" / "static", binary=name, arguments={"BINARY": name})


_SERVER = ("model-format", "serving-image/pyproject.toml", "serving-image/src")
SYSTEM_IMAGES = (static("pause"), static("coredns"), static("versitygw"))
GATEWAY_IMAGES = (static("envoy-gateway"), Image("envoy", ROOT / "dev" / "images" / "envoy"))
OUR_IMAGES = (
    Image("trainer", ROOT, "trainer-image/Dockerfile", sources=("model-format", "trainer-image")),
    Image("mlflow", ROOT / "dev" / "images" / "mlflow"),
    Image("serving", ROOT, "serving-image/Dockerfile", sources=(*_SERVER, "serving-image/requirements.txt")),
    Image("operator", ROOT / "operator"),
)
ON_DEMAND_IMAGES = (
    Image("kit", ROOT, "serving-image/kit/Dockerfile", sources=("model-format", "serving-image")),
    Image(
        "serving-gpu",
        ROOT,
        "serving-image/Dockerfile",
        sources=(*_SERVER, "serving-image/kit/linux-nvidia.txt"),
        arguments={"REQUIREMENTS": "kit/linux-nvidia.txt"},
    ),
)
"""Built only when they are named: a cluster runs without them, and they take a minute or more."""


def make_base(log: TextIO) -> None:
    """Make the stand-in for the public Python image as an OCI layout."""
    if (BASE / "index.json").exists():
        return
    shutil.rmtree(BASE, ignore_errors=True)
    blobs = BASE / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    archive = STATE / "base.tar"
    packages = "python3,python3-venv,ca-certificates"
    # The build machine's own certificates: a company's proxy may sign with one of its own.
    certificates = f'cp {CA_BUNDLE} "$1{CA_BUNDLE}"'
    run(
        [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={packages}",
            f"--customize-hook={certificates}",
            DEBIAN,
            archive,
        ],
        log,
    )
    with archive.open("rb") as file:
        layer = hashlib.file_digest(file, "sha256").hexdigest()
    archive.rename(blobs / layer)
    environment = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
        f"SSL_CERT_FILE={CA_BUNDLE}",
        f"PIP_CERT={CA_BUNDLE}",
    ]
    config = _blob(
        blobs,
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": environment},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
        },
        _CONFIG,
    )
    size = (blobs / layer).stat().st_size
    layers = [{"mediaType": _LAYER, "digest": f"sha256:{layer}", "size": size}]
    manifest = _blob(blobs, {"schemaVersion": 2, "config": config, "layers": layers}, _MANIFEST)
    (BASE / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (BASE / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))


def load_base(log: TextIO) -> None:
    """Put the base into the kubelet's store.

    A build would do so by itself; but one that is killed while it does leaves half a layer behind, at which every
    later build fails. An import goes on from there.
    """
    name = "localhost/bloomery/base"
    if _is_in_store(f"{name}@{_base_digest()}"):
        return
    command = [*CTR, "images", "import", "--no-unpack", "--digests", f"--base-name={name}", "-"]
    importer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
    assert importer.stdin is not None
    with importer.stdin, tarfile.open(fileobj=importer.stdin, mode="w|") as archive:
        archive.add(BASE, arcname=".")
    if importer.wait():
        raise StageError(f"ctr ended with exit code {importer.returncode}")


def start_builder(log: TextIO) -> None:
    """Start BuildKit on the cluster's containerd."""
    del log
    processes.start(
        "buildkitd",
        [
            BIN / "buildkitd",
            f"--addr=unix://{BUILDKIT_SOCKET}",
            f"--root={STATE / 'buildkit'}",
            f"--otel-socket-path={RUN / 'otel.sock'}",
            "--oci-worker=false",
            "--containerd-worker=true",
            f"--containerd-worker-addr={CONTAINERD_SOCKET}",
            "--containerd-worker-namespace=k8s.io",
            "--containerd-worker-net=host",
            # What a build leaves behind is the cache of the next one; the disk is shared with the machine's user.
            "--containerd-worker-gc=false",
        ],
    )
    wait_until("BuildKit", lambda: processes.is_up("buildkitd", _builder_answers), seconds=60)


def build(image: Image, log: TextIO) -> None:
    """Build an image unless the kubelet's store has it, made of the same files."""
    content, stamp = _content_hash(image), image.stamp
    if stamp.exists() and stamp.read_text() == content and _is_in_store(image.reference):
        return
    context = image.folder
    if image.binary:
        context = STATE / "contexts" / image.name
        context.mkdir(parents=True, exist_ok=True)
        shutil.copy2(BIN / image.binary, context / image.binary)
    options = [f"build-arg:{key}={value}" for key, value in image.arguments.items()]
    options.append(f"context:{PYTHON_IMAGE}=oci-layout://base@{_base_digest()}")
    run(
        [
            BIN / "buildctl",
            f"--addr=unix://{BUILDKIT_SOCKET}",
            "build",
            "--progress=plain",
            "--frontend=dockerfile.v0",
            f"--local=context={context}",
            f"--local=dockerfile={image.folder}",
            f"--opt=filename={image.dockerfile}",
            f"--oci-layout=base={BASE}",
            *(word for option in options for word in ("--opt", option)),
            f"--output=type=image,name={image.reference},unpack=true,compression=zstd",
        ],
        log,
    )
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(content)


def by_name(name: str) -> Image:
    """Return the image of that name.

    Raises:
        SystemExit: there is none; says which there are.
    """
    images = {image.name: image for image in (*SYSTEM_IMAGES, *GATEWAY_IMAGES, *OUR_IMAGES, *ON_DEMAND_IMAGES)}
    if name not in images:
        raise SystemExit(f"There is no image {name!r}; there are: {', '.join(sorted(images))}.")
    return images[name]


def _base_digest() -> str:
    digest: str = json.loads((BASE / "index.json").read_text())["manifests"][0]["digest"]
    return digest


def _is_in_store(reference: str) -> bool:
    """Whether the kubelet's store has an image of that name."""
    command = [*CTR, "images", "ls", "-q", f"name=={reference}"]
    return reference in subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _content_hash(image: Image) -> str:
    """Hash what goes into an image: its files as git would see them, its binary, its base."""
    digest = hashlib.sha256((BASE / "index.json").read_bytes() + json.dumps(dict(image.arguments)).encode())
    files = sorted({image.folder / image.dockerfile, *_copied(image)})
    if image.binary:
        files.append(BIN / image.binary)
    for path in files:
        digest.update(os.path.relpath(path, image.folder).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _copied(image: Image) -> Iterator[Path]:
    for source in image.sources:
        path = image.folder / source
        inside = path.rglob("*") if path.is_dir() else (path,)
        yield from (file for file in inside if file.is_file() and not _is_litter(file))


def _is_litter(path: Path) -> bool:
    return any(part == "__pycache__" or part.endswith((".egg-info", "_cache")) for part in path.parts)


def _blob(folder: Path, document: Mapping[str, object], media_type: str) -> dict[str, object]:
    content = json.dumps(document, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    (folder / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _builder_answers() -> bool:
    command = [str(BIN / "buildctl"), f"--addr=unix://{BUILDKIT_SOCKET}", "debug", "workers"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
