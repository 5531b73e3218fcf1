"""Putting files of weights into the store, and listing what is there, for ``kubectl bloomery weights``.

The store's folder ``weights/`` holds, for each preset, ``PRESET/<file>`` with ``PRESET/weights.json``, which names the
file, its sha256, when it was pushed and how many values it holds; and torchvision's files under their own names. The
document is written last, and a file that it names is never overwritten by another: a training that starts meanwhile
finds the old weights or the new ones, whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torchvision  # type: ignore[import-untyped]

from bloomery_trainer.errors import BadConfig, BadData, TrainerError, Unavailable
from bloomery_trainer.models.initial import Initial, require_preset
from bloomery_trainer.models.presets import PRESETS, find_preset
from bloomery_trainer.models.published import MANIFEST, same_network
from bloomery_trainer.models.weights import find_state_dict, read_document, require_finite
from bloomery_trainer.storage import Folder, S3Access, open_folder

SUFFIXES = (".pt", ".pth", ".safetensors")

_CHUNK_BYTES = 1024**2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_TORCHVISION_DIGITS = re.compile(r"-([0-9a-f]{8,64})\.")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file to be put into the store.

    Attributes:
        name: the file's name.
        sha256: its digest in hex, which what arrives must have.
        preset: whose weights it holds; None for a file of torchvision's own, which is known by its name.
    """

    name: str
    sha256: str
    preset: str | None = None


def put(upload: Upload, source: BinaryIO, folder: Folder) -> dict[str, Any]:
    """Store a file of weights; return its address, size, digest and, of a preset's own, the number of its values.

    Args:
        upload: what arrives.
        source: its bytes.
        folder: the store's folder of weights.

    Raises:
        BadConfig: the name or the preset is none that can be used, or the file has no weights of the preset's network.
        BadData: the file is damaged or empty.
        Unavailable: the file did not arrive whole, or the store does not take it.
    """
    _require_name(upload)
    with tempfile.TemporaryDirectory(prefix="weights-") as scratch:
        local = Path(scratch) / upload.name
        size = _receive(source, local, upload)
        if upload.preset is None:
            return _put_published(upload, local, folder) | {"bytes": size}
        return _put_pushed(upload, local, folder, upload.preset) | {"bytes": size}


def describe(folder: Folder) -> list[dict[str, Any]]:
    """List for each preset the file that torchvision publishes and what the store has, in the order of the presets."""
    stored = {file.path for file in folder.list()}
    return [_describe_preset(preset, folder, stored) for preset in PRESETS]


def run(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    """Run ``weights put`` or ``weights list``; return the exit code. The answer is JSON on the standard output."""
    try:
        folder = open_folder(arguments["uri"], S3Access.from_environment(environment), create=True)
        if arguments["action"] == "list":
            answer: Any = describe(folder)
        else:
            upload = Upload(name=arguments["name"], sha256=arguments["sha256"], preset=arguments["preset"])
            answer = put(upload, sys.stdin.buffer, folder)
    except TrainerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(answer))
    return 0


def _require_name(upload: Upload) -> None:
    if not upload.name.endswith(SUFFIXES) or not _NAME.fullmatch(upload.name):
        raise BadConfig(
            "InvalidConfig",
            f"{upload.name!r} cannot be stored: a file of weights has a name of letters, digits, '.', '_', '+' and '-' "
            f"that ends in {', '.join(SUFFIXES)}",
        )
    if upload.preset is not None:
        find_preset(upload.preset)
    elif upload.name not in _published_names():
        raise BadConfig(
            "InvalidConfig",
            f"{upload.name} is no file that torchvision publishes for a preset: say by --preset whose weights it holds",
        )


def _published_names() -> frozenset[str]:
    known = (torchvision.models.get_model_weights(preset.architecture) for preset in PRESETS.values())
    return frozenset(_file_name(member.url) for weights in known for member in weights)


def _file_name(url: str) -> str:
    return url.rsplit("/", 1)[-1]


def _receive(source: BinaryIO, target: Path, upload: Upload) -> int:
    """Write what arrives to a local file; return its size in bytes."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += file.write(chunk)
    if digest.hexdigest() != upload.sha256:
        raise Unavailable("StoreFailed", f"{upload.name} did not arrive whole ({size} bytes came): push it again")
    if size == 0:
        raise BadData("InvalidCheckpoint", f"{upload.name} is empty")
    return size


def _put_published(upload: Upload, local: Path, folder: Folder) -> dict[str, Any]:
    digits = _TORCHVISION_DIGITS.search(upload.name)
    if digits is not None and not upload.sha256.startswith(digits.group(1)):
        raise BadData(
            "InvalidCheckpoint",
            f"{upload.name} is damaged: its sha256, {upload.sha256}, does not begin with the digits in its name",
        )
    _store(local, upload.name, upload.sha256, folder)
    return {"uri": f"{folder.uri.rstrip('/')}/{upload.name}", "sha256": upload.sha256}


def _put_pushed(upload: Upload, local: Path, folder: Folder, preset: str) -> dict[str, Any]:
    parameters = _count_values(local, upload.name, preset)
    before = _read_manifest(folder, preset)
    name = upload.name
    if before.get("file") == name and before.get("sha256") != upload.sha256:
        # Another file of the same name: a training may be reading the old one.
        name = f"{Path(name).stem}-{upload.sha256[:8]}{Path(name).suffix}"
    _store(local, f"{preset}/{name}", upload.sha256, folder)
    manifest = {
        "file": name,
        "sha256": upload.sha256,
        "pushed": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": parameters,
    }
    folder.write(f"{preset}/{MANIFEST}", json.dumps(manifest, indent=1).encode())
    _remove_unused(folder, preset, (name, str(before.get("file")), MANIFEST))
    return {"uri": f"{folder.uri.rstrip('/')}/{preset}/{name}", "sha256": upload.sha256, "parameters": parameters}


def _store(local: Path, path: str, sha256: str, folder: Folder) -> None:
    """Upload a file, and read it back."""
    folder.upload(local, path)
    digest = hashlib.sha256()
    for part in folder.stream(path):
        digest.update(part)
    if digest.hexdigest() != sha256:
        folder.delete(path)
        raise Unavailable("StoreFailed", f"{path} is damaged in the store at {folder.uri}: push it again")


def _count_values(local: Path, name: str, preset: str) -> int:
    """Count the values of a file of weights; refuse a file that is none, or of another network than the preset's."""
    tensors = find_state_dict(read_document(local, where=name), where=name).tensors
    require_finite(tensors, where=name)
    require_preset(Initial(weights=tensors, origin=name), preset)
    return sum(value.numel() for value in tensors.values())


def _remove_unused(folder: Folder, preset: str, names: tuple[str, ...]) -> None:
    """Remove files of earlier pushes, but for the last one: a training may have read the document before this push."""
    for path in [file.path for file in folder.list(preset)]:
        if PurePosixPath(path).name not in names:
            folder.delete(path)


def _read_manifest(folder: Folder, preset: str) -> Mapping[str, Any]:
    content = folder.read_if_there(f"{preset}/{MANIFEST}")
    try:
        document = json.loads(content or b"{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _describe_preset(preset: str, folder: Folder, stored: set[str]) -> dict[str, Any]:
    architecture = PRESETS[preset].architecture
    published = _file_name(torchvision.models.get_model_weights(architecture).DEFAULT.url)
    names = same_network(preset)
    pushed = next((_read_manifest(folder, name) for name in names if f"{name}/{MANIFEST}" in stored), None)
    return {"preset": preset, "pushed": pushed, "published": published, "stored": published in stored}
