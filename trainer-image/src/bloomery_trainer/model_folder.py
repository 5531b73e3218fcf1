"""Model folders in a store: ONNX for serving, weights for going on, and the digest of each file.

Nothing in a model folder needs code of its own to be executed when it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bloomery_model.folder import (
    EXPLANATION,
    METADATA,
    SERVED_FILES,
    WEIGHTS,
    Metadata,
    file_digest,
    format_digest,
    holds_onnx,
    model_digest,
)
from bloomery_model.references import REFERENCES, SECTION, References
from bloomery_model.statistics import STATISTICS
from bloomery_trainer.errors import BadConfig, BadData, TrainerError
from bloomery_trainer.storage import Folder

FILES = (*SERVED_FILES, WEIGHTS)
"""The files of every trained model; networks that can be explained have ``EXPLANATION``, too."""

FolderKind = Literal["Trained", "Onnx"]


@dataclass(frozen=True)
class StoredModel:
    """A model folder in a store, as its metadata.json describes it.

    Attributes:
        folder: of the store.
        below: the model's place in it: empty, or a path that ends in ``/``.
        metadata: the whole document.
        files: the digest of each file, ``sha256:…``.
    """

    folder: Folder
    below: str
    metadata: Mapping[str, Any]
    files: Mapping[str, str]

    @property
    def uri(self) -> str:
        """The address of its files."""
        return f"{self.folder.uri.rstrip('/')}/{self.below}".rstrip("/")

    @property
    def digest(self) -> str:
        """The model's digest."""
        return model_digest(self.files)

    @property
    def is_trainable(self) -> bool:
        """Whether it has PyTorch weights of a preset; a model of another origin is ONNX only."""
        return WEIGHTS in self.files and "preset" in self.metadata

    def require(self, expected: str | None) -> None:
        """Raise BadConfig if the model has another digest; None takes any."""
        if expected is not None and expected != self.digest:
            raise BadConfig("DigestMismatch", f"the model at {self.uri} has the digest {self.digest}, not {expected}")

    def fetch(self, names: Iterable[str], target: Path) -> None:
        """Download files to a local folder; raise BadData if one is missing or does not have its digest."""
        for name in names:
            try:
                actual = format_digest(self.folder.download(f"{self.below}{name}", target / name))
            except FileNotFoundError as error:
                raise BadData("ModelDamaged", f"{name} is missing at {self.uri}") from error
            if self.files.get(name) != actual:
                raise BadData("ModelDamaged", f"{name} at {self.uri} is not what its {METADATA} says")


def stored(folder: Folder, below: str = "") -> StoredModel | None:
    """Return the model at a place of a folder, None if there is none; raise BadData if its metadata.json is damaged."""
    content = folder.read_if_there(f"{below}{METADATA}")
    if content is None:
        return None
    try:
        metadata = Metadata.parse(content)
    except ValueError as error:
        where = f"{folder.uri.rstrip('/')}/{below}{METADATA}"
        raise BadData("NotAModel", f"{where} does not describe a model: {error}") from error
    return StoredModel(folder, below, metadata.document, metadata.files)


def write_references(folder: Path, references: References, *, split: str) -> dict[str, Any]:
    """Write REFERENCES into a local folder; return their description for the metadata.

    Args:
        folder: the local one.
        references: of the model.
        split: the name of their images.
    """
    references.write(folder / REFERENCES)
    digest = file_digest(folder / REFERENCES)
    return {SECTION: {"digest": digest, "images": len(references.images), "evaluatedOn": split}}


def add_statistics(
    folder: Folder, statistics: Mapping[str, Any], *, digest: str | None, references: Path | None = None
) -> str:
    """Add the statistics that a model folder lacks, to its metadata.json or else as STATISTICS.

    Returns a note on it; it is empty if there were none to add.

    Those that are there stay: services judge by them, and another set of images must not change their answers. The
    model's digest covers neither file.

    Args:
        folder: the model folder.
        statistics: by their names in metadata.json.
        digest: the model's; STATISTICS of another model in this folder do not count.
        references: the file that SECTION of the statistics describes.
    """
    try:
        path, document = _read_document_with_statistics(folder, digest)
        added = [name for name in statistics if not document.get(name)]
        if not added:
            return ""
        if SECTION in added and references is not None:
            # First, so that what the document describes is there.
            folder.upload(references, REFERENCES)
        document |= {name: statistics[name] for name in added}
        folder.write(path, json.dumps(document, ensure_ascii=False, indent=1).encode())
    except (TrainerError, ValueError) as error:
        return f"Services do not get the model's thresholds and its reference, {METADATA} was not written: {error}."
    names = ["reference answers" if name == SECTION else name for name in added]
    return f"From these images, {path} of the model got its {' and its '.join(names)}, for services."


def _read_document_with_statistics(folder: Folder, digest: str | None) -> tuple[str, dict[str, Any]]:
    """Return the name and the content of the file of a model folder that has, or gets, its statistics."""
    content = folder.read_if_there(METADATA)
    if content is not None:
        return METADATA, json.loads(content)
    content = folder.read_if_there(STATISTICS)
    document = {} if content is None else json.loads(content)
    return STATISTICS, document if document.get("digest") == digest else {"digest": digest}


def folder_kind(folder: Folder, below: str = "") -> FolderKind | None:
    """Return what a folder holds: a TrainingJob's model, an ONNX model alone (imported, or of another origin), or none.

    Training can start from the first; both can be evaluated and served. Raises BadData if metadata.json is damaged.
    """
    model = stored(folder, below)
    if model is not None:
        return "Trained" if model.is_trainable else "Onnx"
    paths = (file.path.removeprefix(below) for file in folder.list(below.rstrip("/") or None))
    return "Onnx" if holds_onnx(paths) else None


def require_stored(folder: Folder, below: str = "") -> StoredModel:
    """Return the model at a place of a folder; raise BadData if there is none."""
    model = stored(folder, below)
    if model is None:
        raise BadData("NotAModel", f"there is no {METADATA} at {folder.uri.rstrip('/')}/{below}: it holds no model")
    return model


def file_digests(folder: Path) -> dict[str, str]:
    """Return the digest of each of FILES, and of EXPLANATION if the folder has it."""
    names = (*FILES, EXPLANATION) if (folder / EXPLANATION).exists() else FILES
    return {name: file_digest(folder / name) for name in names}


def metadata(folder: Path, about: Mapping[str, Any]) -> bytes:
    """Return the content of metadata.json."""
    document = {"format": 1, "files": file_digests(folder), **about}
    return json.dumps(document, ensure_ascii=False, indent=1).encode()
