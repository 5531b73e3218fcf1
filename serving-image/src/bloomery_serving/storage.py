"""Fetches a model folder and checks every byte of it against its own digests.

Three kinds of folders hold a model: one that a training wrote, with its files' digests in metadata.json; one of
MLflow's ONNX flavour; and any folder with one ONNX file and a file that names the classes. All of them become
model.onnx, labels.txt and, if there are such, preprocess.json and statistics.json on this machine. A training's
explain.onnx is fetched for services that explain, and references.npz for those that may choose another engine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bloomery_model.folder import (
    EXPLANATION,
    LABELS,
    METADATA,
    PREPROCESS,
    SERVED_FILES,
    FolderError,
    ForeignLayout,
    LabelsError,
    Metadata,
    file_digest,
    format_digest,
    model_digest,
    parse_labels,
    write_labels,
)
from bloomery_model.lineage import Lineage, read_lineage
from bloomery_model.references import REFERENCES, described_digest
from bloomery_model.statistics import STATISTICS, format_statistics
from bloomery_serving.errors import ModelError
from bloomery_serving.sources import Source, open_source
from bloomery_serving.transfer import Transfer

logger = logging.getLogger(__name__)

RECORD = "fetched.json"
"""Describes what was fetched, beside the model's files."""


class StoredModel(BaseModel):
    """A model whose files are on this machine; RECORD is this as JSON."""

    model_config = ConfigDict(frozen=True)

    uri: str
    digest: str
    files: dict[str, str]
    """The digest of each local file by its name."""
    lineage: Lineage = Lineage()
    with_explanation: bool = False
    """Whether EXPLANATION was fetched, if the folder has it."""
    with_references: bool = False
    """Whether REFERENCES were fetched, if the folder has them."""

    @property
    def explanation(self) -> str | None:
        """The name of the local file with the network of the explanations; None if there is none."""
        return EXPLANATION if EXPLANATION in self.files else None

    @property
    def references(self) -> str | None:
        """The name of the local file with the references; None if there is none."""
        return REFERENCES if REFERENCES in self.files else None

    @property
    def request(self) -> tuple[str, str, bool, bool]:
        """The request that it is the answer to."""
        return self.uri, self.digest, self.with_explanation, self.with_references


def ensure_model(
    uri: str,
    folder: Path,
    *,
    digest: str,
    with_explanation: bool = False,
    with_references: bool = False,
    environment: Mapping[str, str] | None = None,
    transfer: Transfer | None = None,
    needs_statistics: bool = False,
) -> StoredModel:
    """Fetch a model's files into ``folder``, unless they are there already.

    A container that starts again needs no store for the model that it had. Without a digest the store is read all the
    same: it may have another model by now.

    Args:
        uri: the model's folder.
        folder: the local one.
        digest: the digest that the model must have; empty takes any.
        with_explanation: whether a training's EXPLANATION is fetched, too.
        with_references: whether REFERENCES are fetched, too.
        environment: with the keys of the store; None is that of the process.
        transfer: counts what is fetched; None limits nothing.
        needs_statistics: look in the store again if there are none: an evaluation may have added them.

    Raises:
        ModelError: as ``fetch_model``.
    """
    stored = _read_record(folder)
    request = (uri, digest, with_explanation, with_references)
    has_all = stored is not None and (STATISTICS in stored.files or not needs_statistics)
    if stored is not None and has_all and stored.request == request:
        return stored
    stored = fetch_model(
        uri,
        folder,
        digest=digest,
        with_explanation=with_explanation,
        with_references=with_references,
        environment=environment,
        transfer=transfer,
    )
    (folder / RECORD).write_text(stored.model_dump_json(), encoding="utf-8")
    return stored


def fetch_model(
    uri: str,
    folder: Path,
    *,
    digest: str,
    with_explanation: bool = False,
    with_references: bool = False,
    environment: Mapping[str, str] | None = None,
    transfer: Transfer | None = None,
) -> StoredModel:
    """Fetch a model's files into ``folder``.

    Args:
        uri: the model's folder.
        folder: the local one.
        digest: the digest that the model must have; empty takes any.
        with_explanation: whether a training's EXPLANATION is fetched, too.
        with_references: whether REFERENCES are fetched, too.
        environment: with the keys of the store; None is that of the process.
        transfer: counts what is fetched; None limits nothing.

    Raises:
        ModelError: the folder cannot be read, holds no model or one that is too large, or a digest does not match;
            names the file and both.
    """
    source = open_source(uri, os.environ if environment is None else environment)
    fetch = _Fetch(source, folder, transfer or Transfer(), with_references)
    stored = _fetch_trained(fetch, digest, with_explanation=with_explanation) or _fetch_foreign(fetch, digest)
    return stored.model_copy(update={"with_explanation": with_explanation, "with_references": with_references})


@dataclass(frozen=True)
class _Fetch:
    """One fetch: from where, to where, its bytes, and whether REFERENCES come along."""

    source: Source
    folder: Path
    transfer: Transfer
    with_references: bool

    def file(self, path: str, name: str, expected: str | None = None) -> str:
        """Fetch a file unless the expected one is here already; return its digest."""
        source, target = self.source, self.folder / name
        if expected is not None and target.exists() and file_digest(target) == expected:
            return expected
        # The room is for one model, not for the former copy beside it.
        target.unlink(missing_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        actual = source.fetch(path, partial, self.transfer)
        if expected is not None and actual != expected:
            partial.unlink()
            message = f"{path} at {source.uri} has the digest {actual}, but metadata.json says {expected}."
            raise ModelError("DigestMismatch", message)
        partial.rename(target)
        return actual

    def references(self, document: Mapping[str, Any]) -> dict[str, str]:
        """Fetch the references that a document describes; return their digest by name, nothing without usable ones.

        A model without references is served all the same, by the engine that made its answers.
        """
        expected = described_digest(document)
        if self.with_references and expected is not None:
            try:
                return {REFERENCES: self.file(REFERENCES, REFERENCES, expected)}
            except ModelError as error:
                logger.warning("engines cannot be compared: %s", error)
                (self.folder / f"{REFERENCES}.partial").unlink(missing_ok=True)
        return {}


def _read_record(folder: Path) -> StoredModel | None:
    """Return the model that was fetched before, if every byte of it is still there."""
    try:
        stored = StoredModel.model_validate_json((folder / RECORD).read_bytes())
        is_intact = all(file_digest(folder / name) == digest for name, digest in stored.files.items())
    except (OSError, ValidationError):
        return None
    return stored if is_intact else None


def _fetch_trained(fetch: _Fetch, digest: str, *, with_explanation: bool) -> StoredModel | None:
    """Fetch from a folder that a training wrote; None if it is not one."""
    source = fetch.source
    content = source.read(METADATA)
    if content is None:
        return None
    try:
        metadata = Metadata.parse(content)
    except ValueError as error:
        raise ModelError("NotAModel", f"metadata.json at {source.uri} does not describe a model: {error}") from error
    _require_digest(source.uri, expected=digest, actual=metadata.digest)
    names = (*SERVED_FILES, EXPLANATION) if with_explanation and EXPLANATION in metadata.files else SERVED_FILES
    fetch.transfer.require_room(source.uri, source.sizes_of(names))
    fetch.folder.mkdir(parents=True, exist_ok=True)
    files = {name: fetch.file(name, name, metadata.files.get(name, "none")) for name in names}
    files |= _write_statistics(fetch.folder, metadata.document) | fetch.references(metadata.document)
    return StoredModel(uri=source.uri, digest=metadata.digest, files=files, lineage=read_lineage(metadata.document))


def _fetch_foreign(fetch: _Fetch, digest: str) -> StoredModel:
    """Fetch from any other folder; its digest is that of the files there."""
    source, folder = fetch.source, fetch.folder
    sizes = source.sizes()
    layout = _foreign_layout(source.uri, sizes)
    fetch.transfer.require_room(source.uri, [sizes[path] for path in layout.files])
    folder.mkdir(parents=True, exist_ok=True)
    fetched = {path: fetch.file(path, name) for path, name in layout.files.items()}
    labels = source.read(layout.labels)
    if labels is None:
        raise ModelError("ModelNotFound", f"There is no {layout.labels} at {source.uri}.")
    actual = model_digest(fetched | {layout.labels: format_digest(hashlib.sha256(labels).hexdigest())})
    _require_digest(source.uri, expected=digest, actual=actual)
    files = {name: fetched[path] for path, name in layout.files.items()}
    write_labels(folder, _parse_labels(source, layout.labels, labels))
    files[LABELS] = file_digest(folder / LABELS)
    if PREPROCESS not in files:
        # One that was there before is not of this model.
        (folder / PREPROCESS).unlink(missing_ok=True)
    document = _read_statistics(source, actual)
    files |= _write_statistics(folder, document) | fetch.references(document)
    return StoredModel(uri=source.uri, digest=actual, files=files)


def _read_statistics(source: Source, digest: str) -> Mapping[str, Any]:
    """Return the statistics that an evaluation left beside a model; those of another model do not count."""
    try:
        document = json.loads(source.read(STATISTICS) or b"{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) and document.get("digest") == digest else {}


def _write_statistics(folder: Path, document: Mapping[str, Any]) -> dict[str, str]:
    """Write the statistics in a document, if there are any; return the file's digest by its name."""
    content = format_statistics(document)
    if content is None:
        # Those that were there before are not of this model.
        (folder / STATISTICS).unlink(missing_ok=True)
        return {}
    (folder / STATISTICS).write_bytes(content)
    return {STATISTICS: file_digest(folder / STATISTICS)}


def _foreign_layout(uri: str, paths: Collection[str]) -> ForeignLayout:
    """Return the layout of MLflow's ONNX flavour, or of any folder with a model and the names of its classes."""
    if not paths:
        raise ModelError("ModelNotFound", f"There is no model at {uri}: nothing lies there.")
    try:
        return ForeignLayout.of(paths)
    except FolderError as error:
        raise ModelError(error.reason, f"There is no model at {uri}: {error}.") from error


def _parse_labels(source: Source, path: str, content: bytes) -> list[str]:
    try:
        return parse_labels(content, name=PurePosixPath(path).name)
    except LabelsError as error:
        raise ModelError("BadLabels", f"{path} at {source.uri} does not name classes: {error}.") from error


def _require_digest(uri: str, *, expected: str, actual: str) -> None:
    if expected and expected != actual:
        raise ModelError("DigestMismatch", f"The model at {uri} has the digest {actual}, but {expected} is required.")
