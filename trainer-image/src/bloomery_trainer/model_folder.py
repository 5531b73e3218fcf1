"""The model folder: ONNX for serving, weights for going on, and what is needed to use either.

Nothing in it needs code of its own to be executed when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bloomery_model.folder import LABELS as LABELS
from bloomery_model.folder import METADATA as METADATA
from bloomery_model.folder import MODEL as MODEL
from bloomery_model.folder import PREPROCESS as PREPROCESS
from bloomery_model.folder import SERVED_FILES, format_labels, model_digest
from bloomery_model.folder import WEIGHTS as WEIGHTS
from bloomery_trainer.errors import BadConfig, BadData
from bloomery_trainer.storage import Folder

SERVED = SERVED_FILES
FILES = (*SERVED, WEIGHTS)

FolderKind = Literal["Trained", "Onnx"]


@dataclass(frozen=True)
class StoredModel:
    """A model folder in a store, as its metadata.json describes it."""

    folder: Folder
    below: str
    """Where in the folder it is: empty, or a path that ends in `/`."""
    metadata: Mapping[str, Any]
    files: Mapping[str, str]
    """`sha256:…` of each file."""

    @property
    def uri(self) -> str:
        """Where its files are."""
        return f"{self.folder.uri.rstrip('/')}/{self.below}".rstrip("/")

    @property
    def digest(self) -> str:
        """The model's digest."""
        return digest(self.files)

    @property
    def is_trainable(self) -> bool:
        """Whether it has PyTorch weights of a preset; a model of another origin is ONNX only."""
        return WEIGHTS in self.files and "preset" in self.metadata

    def require(self, wanted: str | None) -> None:
        """Raises BadConfig where another digest was meant; None takes any."""
        if wanted is not None and wanted != self.digest:
            raise BadConfig("DigestMismatch", f"the model at {self.uri} has the digest {self.digest}, not {wanted}")

    def fetch(self, names: Iterable[str], target: Path) -> None:
        """Brings files to a local folder; raises BadData where one is missing or not what its digest says."""
        for name in names:
            try:
                found = f"sha256:{self.folder.download(f'{self.below}{name}', target / name)}"
            except FileNotFoundError as error:
                raise BadData("ModelDamaged", f"{name} is missing at {self.uri}") from error
            if self.files.get(name) != found:
                raise BadData("ModelDamaged", f"{name} at {self.uri} is not what its {METADATA} says")


def stored(folder: Folder, below: str = "") -> StoredModel | None:
    """The model at a place of a folder, None where there is none; raises BadData where it is not described well."""
    content = folder.read_if_there(f"{below}{METADATA}")
    if content is None:
        return None
    try:
        metadata = json.loads(content)
        files = {str(name): str(value) for name, value in metadata["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        where = f"{folder.uri.rstrip('/')}/{below}{METADATA}"
        raise BadData("NotAModel", f"{where} does not describe a model: {error!r}") from error
    return StoredModel(folder, below, metadata, files)


def folder_kind(folder: Folder, below: str = "") -> FolderKind | None:
    """What a folder holds: a model of a TrainingJob, an ONNX model alone (imported, or of another origin), or none.

    Training can start from the first; both can be evaluated and served. Raises BadData where metadata.json is damaged.
    """
    model = stored(folder, below)
    if model is not None:
        return "Trained" if model.is_trainable else "Onnx"
    names = [file.path.removeprefix(below) for file in folder.list(below.rstrip("/") or None)]
    return "Onnx" if any(name.endswith(".onnx") and "/" not in name for name in names) else None


def require_stored(folder: Folder, below: str = "") -> StoredModel:
    """The same, where there has to be one."""
    found = stored(folder, below)
    if found is None:
        raise BadData("NotAModel", f"there is no {METADATA} at {folder.uri.rstrip('/')}/{below}: it holds no model")
    return found


def read_classes(folder: Path) -> tuple[str, ...]:
    """The names of labels.txt, in the order of the model's output."""
    # Not splitlines(): a class name may hold a character that it takes for the end of a line.
    return tuple((folder / LABELS).read_text(encoding="utf-8").removesuffix("\n").split("\n"))


def write_classes(folder: Path, names: Iterable[str]) -> None:
    """Writes labels.txt."""
    (folder / LABELS).write_bytes(format_labels(names))


def file_digests(folder: Path) -> dict[str, str]:
    """`sha256:…` of each of FILES."""
    return {name: f"sha256:{_sha256(folder / name)}" for name in FILES}


def digest(files: Mapping[str, str]) -> str:
    """A model's digest: of the canonical JSON of its files' digests."""
    return model_digest(files)


def metadata(folder: Path, about: Mapping[str, Any]) -> bytes:
    """The content of metadata.json."""
    document = {"format": 1, "files": file_digests(folder), **about}
    return json.dumps(document, ensure_ascii=False, indent=1).encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
