"""Fetches a model folder and checks every byte of it against its own digests.

Three kinds of folders hold a model: one that a training wrote, with its files' digests in metadata.json; one of
MLflow's ONNX flavour; and any folder with one ONNX file and a file that names the classes. All of them become
model.onnx, labels.txt and, where there is one, preprocess.json on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bloomery_serving.errors import ModelError
from bloomery_serving.sources import Source, open_source

MODEL, LABELS, PREPROCESS = "model.onnx", "labels.txt", "preprocess.json"
SERVED_FILES = (MODEL, LABELS, PREPROCESS)
"""What serving needs of a model folder; the weights for further training stay where they are."""

LABEL_FILES = ("labels.txt", "classes.txt", "labels.json")
_WEIGHTS = (".data", "_data", ".bin", ".weight", ".weights")
"""How files end in which ONNX keeps weights beside the model."""
_EXTRA = "extra_files"
"""MLflow's folder for files beside a model."""


@dataclass(frozen=True)
class Layout:
    """Which file of a source becomes which on this machine, and the digests that are known beforehand."""

    files: Mapping[str, str]
    """Path in the source to name on this machine."""
    digests: Mapping[str, str] | None = None
    """The digest of each file by its name, where the folder says them."""


def fetch_model(uri: str, folder: Path, *, digest: str, environment: Mapping[str, str] | None = None) -> str:
    """Bring the model's files into ``folder`` and return the model's digest.

    Args:
        digest: what the model's digest must be; empty takes any.

    Raises:
        ModelError: the folder can not be read, holds no model, or a digest does not match; names the file and both.
    """
    source = open_source(uri, os.environ if environment is None else environment)
    layout = _own_layout(source) or _any_layout(source)
    if layout.digests is not None:
        _require_digest(uri, wanted=digest, actual=model_digest(layout.digests))
    folder.mkdir(parents=True, exist_ok=True)
    fetched = {
        path: _fetch(source, path, folder / name, None if layout.digests is None else layout.digests.get(name, "none"))
        for path, name in layout.files.items()
    }
    actual = model_digest(layout.digests if layout.digests is not None else fetched)
    _require_digest(uri, wanted=digest, actual=actual)
    if layout.digests is None:
        _name_classes(folder, uri)
    return actual


def model_digest(files: Mapping[str, str]) -> str:
    """Return a model's digest: that of the canonical JSON of its files' digests."""
    canonical = json.dumps(dict(files), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def _own_layout(source: Source) -> Layout | None:
    """Return the layout of a folder that a training wrote."""
    content = source.read("metadata.json")
    if content is None:
        return None
    try:
        files = json.loads(content)["files"]
        digests = {str(name): str(digest) for name, digest in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError("NotAModel", f"metadata.json at {source.uri} is not that of a model: {error!r}") from error
    return Layout({name: name for name in SERVED_FILES}, digests)


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
    beside = [path for path in paths if path.endswith(_WEIGHTS) and PurePosixPath(path).parent == PurePosixPath(".")]
    files = {models[0]: MODEL, labels: PurePosixPath(labels).name} | {path: path for path in beside}
    return Layout(files | ({by_name[PREPROCESS]: PREPROCESS} if PREPROCESS in by_name else {}))


def _name_classes(folder: Path, uri: str) -> None:
    """Make labels.txt of what the folder has: a class in each line."""
    given = next(folder / name for name in LABEL_FILES if (folder / name).exists())
    try:
        text = given.read_text(encoding="utf-8")
        labels = _read_json_labels(text) if given.suffix == ".json" else text.replace("\r\n", "\n").split("\n")
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            "BadLabels",
            f'{given.name} at {uri} does not name classes: it must be UTF-8 text, ["rose", …] or {{"0": "rose", …}}.',
        ) from error
    while labels and not labels[-1]:
        labels.pop()
    (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


def _read_json_labels(text: str) -> list[str]:
    document = json.loads(text)
    if isinstance(document, dict):
        document = [document[str(number)] for number in range(len(document))]
    if not isinstance(document, list) or not all(isinstance(label, str) for label in document):
        raise TypeError("neither a list of names nor numbers with names")
    return document


def _require_digest(uri: str, *, wanted: str, actual: str) -> None:
    if wanted and wanted != actual:
        raise ModelError("DigestMismatch", f"The model at {uri} has the digest {actual}, but {wanted} is asked for.")


def _fetch(source: Source, path: str, target: Path, wanted: str | None) -> str:
    """Fetch a file unless it is here already; return its digest."""
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
