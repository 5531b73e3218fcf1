"""Fetches a model folder and checks every byte of it against its own digests.

Three kinds of folders hold a model: one that a training wrote, with its files' digests in metadata.json; one of
MLflow's ONNX flavour; and any folder with one ONNX file and a file that names the classes. All of them become
model.onnx, labels.txt and, where there is one, preprocess.json on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from bloomery_model.folder import (
    LABEL_FILES,
    LABELS,
    METADATA,
    MODEL,
    ONNX_DATA_SUFFIXES,
    PREPROCESS,
    SERVED_FILES,
    LabelsError,
    format_labels,
    model_digest,
    parse_labels,
)
from bloomery_serving.errors import ModelError
from bloomery_serving.lineage import Lineage, read_lineage
from bloomery_serving.sources import Source, open_source

RECORD = "fetched.json"
"""What was fetched, beside the model's files."""
_EXTRA = "extra_files"
"""MLflow's folder for files beside a model."""


class StoredModel(BaseModel):
    """A model whose files are on this machine, and what is known of it; RECORD is this as JSON."""

    model_config = ConfigDict(frozen=True)

    uri: str
    digest: str
    files: dict[str, str]
    """The digest of each file by its name, as it lies here."""
    lineage: Lineage = Lineage()


@dataclass(frozen=True)
class Layout:
    """Which files of a folder that is not a training's own make the model."""

    files: Mapping[str, str]
    """Path in the source to name on this machine."""
    labels: str
    """Path of the file that labels.txt is made of."""


def ensure_model(uri: str, folder: Path, *, digest: str, environment: Mapping[str, str] | None = None) -> StoredModel:
    """Have a model's files in ``folder``; they are fetched only where they are not there already.

    A container that starts again needs no store for the model that it had. Without a digest the store is asked all the
    same: what lies there may be another model by now.

    Args:
        digest: what the model's digest must be; empty takes any.

    Raises:
        ModelError: as ``fetch_model``.
    """
    stored = _recorded(folder)
    if stored is not None and (stored.uri, stored.digest) == (uri, digest):
        return stored
    stored = fetch_model(uri, folder, digest=digest, environment=environment)
    (folder / RECORD).write_text(stored.model_dump_json(), encoding="utf-8")
    return stored


def fetch_model(uri: str, folder: Path, *, digest: str, environment: Mapping[str, str] | None = None) -> StoredModel:
    """Bring a model's files into ``folder``.

    Args:
        digest: what the model's digest must be; empty takes any.

    Raises:
        ModelError: the folder can not be read, holds no model, or a digest does not match; names the file and both.
    """
    source = open_source(uri, os.environ if environment is None else environment)
    return _fetch_own(source, folder, digest) or _fetch_any(source, folder, digest)


def _recorded(folder: Path) -> StoredModel | None:
    """Return what was fetched before, if every byte of it is still there."""
    try:
        stored = StoredModel.model_validate_json((folder / RECORD).read_bytes())
        whole = all(_digest_of(folder / name) == digest for name, digest in stored.files.items())
    except (OSError, ValidationError):
        return None
    return stored if whole else None


def _fetch_own(source: Source, folder: Path, digest: str) -> StoredModel | None:
    """Fetch from a folder that a training wrote; None where it is not one."""
    content = source.read(METADATA)
    if content is None:
        return None
    try:
        metadata = json.loads(content)
        digests = {str(name): str(value) for name, value in metadata["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError("NotAModel", f"metadata.json at {source.uri} is not that of a model: {error!r}") from error
    actual = model_digest(digests)
    _require_digest(source.uri, wanted=digest, actual=actual)
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: _fetch(source, name, folder / name, digests.get(name, "none")) for name in SERVED_FILES}
    return StoredModel(uri=source.uri, digest=actual, files=files, lineage=read_lineage(metadata))


def _fetch_any(source: Source, folder: Path, digest: str) -> StoredModel:
    """Fetch from any other folder; its digest is that of what lies there."""
    layout = _any_layout(source)
    folder.mkdir(parents=True, exist_ok=True)
    fetched = {path: _fetch(source, path, folder / name) for path, name in layout.files.items()}
    labels = source.read(layout.labels)
    if labels is None:
        raise ModelError("ModelNotFound", f"There is no {layout.labels} at {source.uri}.")
    actual = model_digest(fetched | {layout.labels: _sha256(labels)})
    _require_digest(source.uri, wanted=digest, actual=actual)
    files = {name: fetched[path] for path, name in layout.files.items()}
    files[LABELS] = _write_labels(folder / LABELS, _class_names(source, layout.labels, labels))
    if PREPROCESS not in files:
        # One that was there before is not of this model.
        (folder / PREPROCESS).unlink(missing_ok=True)
    return StoredModel(uri=source.uri, digest=actual, files=files)


def _any_layout(source: Source) -> Layout:
    """Return the layout of MLflow's ONNX flavour, or of any folder with a model and the names of its classes."""
    paths = [path for path in source.files() if str(PurePosixPath(path).parent) in (".", _EXTRA)]
    if not paths:
        raise ModelError("ModelNotFound", f"There is no model at {source.uri}: nothing lies there.")
    models = [path for path in paths if path.endswith(".onnx")]
    if len(models) != 1:
        found = f"it has {', '.join(models)}" if models else f"it has none, but {', '.join(paths[:5])}"
        raise ModelError("NotAModel", f"A model folder has one file that ends in .onnx; {found}, at {source.uri}.")
    by_name = {PurePosixPath(path).name: path for path in reversed(paths)}
    labels = next((by_name[name] for name in LABEL_FILES if name in by_name), None)
    if labels is None:
        raise ModelError(
            "NoLabels",
            f"{models[0]} at {source.uri} has no file that names its classes: put labels.txt beside it, a class in "
            "each line, in the order of the model's output.",
        )
    beside = [
        path for path in paths if path.endswith(ONNX_DATA_SUFFIXES) and PurePosixPath(path).parent == PurePosixPath(".")
    ]
    files = {models[0]: MODEL} | {path: path for path in beside}
    return Layout(files | ({by_name[PREPROCESS]: PREPROCESS} if PREPROCESS in by_name else {}), labels)


def _class_names(source: Source, path: str, content: bytes) -> list[str]:
    """Return the names that a file of LABEL_FILES holds."""
    try:
        return parse_labels(content, name=PurePosixPath(path).name)
    except LabelsError as error:
        raise ModelError("BadLabels", f"{path} at {source.uri} does not name classes: {error}.") from error


def _write_labels(path: Path, labels: Sequence[str]) -> str:
    """Write labels.txt, a class in each line; return its digest."""
    content = format_labels(labels)
    path.write_bytes(content)
    return _sha256(content)


def _require_digest(uri: str, *, wanted: str, actual: str) -> None:
    if wanted and wanted != actual:
        raise ModelError("DigestMismatch", f"The model at {uri} has the digest {actual}, but {wanted} is asked for.")


def _fetch(source: Source, path: str, target: Path, wanted: str | None = None) -> str:
    """Fetch a file unless the wanted one is here already; return its digest."""
    if wanted is not None and target.exists() and _digest_of(target) == wanted:
        return wanted
    partial = target.with_name(f"{target.name}.partial")
    source.fetch(path, partial)
    actual = _digest_of(partial)
    if wanted is not None and actual != wanted:
        partial.unlink()
        message = f"{path} at {source.uri} has the digest {actual}, but metadata.json says {wanted}."
        raise ModelError("DigestMismatch", message)
    partial.rename(target)
    return actual


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
