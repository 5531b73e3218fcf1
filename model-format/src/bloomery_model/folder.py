"""The files of a model folder: their names, the model's digest, and the names of its classes.

A training writes ``model.onnx``, ``labels.txt``, ``preprocess.json`` and ``state.pt``, for many networks also
``explain.onnx``, and ``metadata.json`` with their digests. A folder of another origin, such as one of MLflow's ONNX
flavour, has one ONNX file and one of ``LABEL_FILES``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

MODEL, LABELS, PREPROCESS, WEIGHTS = "model.onnx", "labels.txt", "preprocess.json", "state.pt"
METADATA = "metadata.json"
SERVED_FILES = (MODEL, LABELS, PREPROCESS)
"""The files that serving needs; the weights for further training stay in the store."""

EXPLANATION = "explain.onnx"
"""The network that shows where ``MODEL`` looked: normalised images float32 [N, 3, crop, crop] to class activation maps
float32 [N, classes, h, w]. Only folders of networks that end in pooling and one linear layer have it."""

LABEL_FILES = (LABELS, "classes.txt", "labels.json")
"""File names that may name the classes, in order of precedence."""

ONNX_SUFFIX = ".onnx"
ONNX_DATA_SUFFIXES = (".data", "_data", ".bin", ".weight", ".weights")
"""File name endings of tensors that ONNX keeps beside the model (its "external data")."""

EXTRA_FILES = "extra_files"
"""MLflow's folder for files beside a model."""

_MAX_LISTED = 5


class FolderError(ValueError):
    """A folder that holds no model; ``reason`` is CamelCase, the message a sentence without its full stop."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class LabelsError(ValueError):
    """A file that does not name classes; the message names the right forms."""


@dataclass(frozen=True)
class Metadata:
    """The content of metadata.json: the whole document, and the digest of each file by its name."""

    document: Mapping[str, Any]
    files: Mapping[str, str]

    @classmethod
    def parse(cls, content: bytes) -> Metadata:
        """Parse metadata.json.

        Raises:
            ValueError: it does not describe a model.
        """
        try:
            document = json.loads(content)
            files = {str(name): str(value) for name, value in document["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(repr(error)) from error
        return cls(document, files)

    @property
    def digest(self) -> str:
        """The model's digest."""
        return model_digest(self.files)


@dataclass(frozen=True)
class ForeignLayout:
    """The files that make a model in a folder that no training wrote.

    Attributes:
        files: path in the folder to the file's name beside model.onnx, without the labels.
        labels: path of the file that names the classes.
    """

    files: Mapping[str, str]
    labels: str

    @classmethod
    def of(cls, paths: Iterable[str]) -> ForeignLayout:
        """Recognise the files among all paths of a folder; only its own and those of EXTRA_FILES are looked at.

        Raises:
            FolderError: there is no model, or more than one, or no file that names its classes.
        """
        candidates = [path for path in sorted(paths) if is_candidate(path)]
        model = _only_model(candidates)
        # Of files with the same name, the first in sort order is read: digests that services have recorded depend on
        # this choice.
        by_name = {PurePosixPath(path).name: path for path in reversed(candidates)}
        labels = next((by_name[name] for name in LABEL_FILES if name in by_name), None)
        if labels is None:
            raise FolderError(
                "NoLabels",
                f"no file names the classes of {model}: put {LABELS} beside it, a class in each line, in the order of "
                "the model's output",
            )
        files = {model: MODEL}
        files |= {path: path for path in candidates if path.endswith(ONNX_DATA_SUFFIXES) and "/" not in path}
        if PREPROCESS in by_name:
            files[by_name[PREPROCESS]] = PREPROCESS
        return cls(files, labels)


def holds_onnx(paths: Iterable[str]) -> bool:
    """Return whether one of a folder's files can be the model of a ``ForeignLayout``."""
    return any(path.endswith(ONNX_SUFFIX) and is_candidate(path) for path in paths)


def is_candidate(path: str) -> bool:
    """Return whether a file's place in a folder allows that it belongs to a ``ForeignLayout``."""
    return str(PurePosixPath(path).parent) in (".", EXTRA_FILES)


def format_digest(sha256: str) -> str:
    """Return the digest of a file or a model in the notation of model folders, ``sha256:…``, from its hex digits."""
    return f"sha256:{sha256}"


def file_digest(path: Path) -> str:
    """Return a file's digest, ``sha256:…``."""
    with path.open("rb") as file:
        return format_digest(hashlib.file_digest(file, "sha256").hexdigest())


def model_digest(files: Mapping[str, str]) -> str:
    """Return a model's digest, ``sha256:…``: of the canonical JSON of its files' digests by name."""
    canonical = json.dumps(dict(files), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return format_digest(hashlib.sha256(canonical.encode()).hexdigest())


def parse_labels(content: bytes, *, name: str) -> list[str]:
    """Return the class names in a file of ``LABEL_FILES``, in the order of the model's output.

    Args:
        content: UTF-8, with or without a byte order mark: a name in each line, or JSON.
        name: the file's name; one that ends in ``.json`` holds a list of names, or an object of numbers and names.

    Raises:
        LabelsError: it names no classes.
    """
    try:
        text = content.decode("utf-8-sig")
        # Not splitlines(): a class name may hold a character that it takes for the end of a line.
        names = _json_labels(text) if name.endswith(".json") else text.replace("\r\n", "\n").split("\n")
        format_labels(names)  # JSON can hold half of a surrogate pair, which no text can
    except (ValueError, TypeError, KeyError) as error:
        raise LabelsError('it must be UTF-8 text with a class in each line, ["rose", …] or {"0": "rose", …}') from error
    while names and not names[-1]:
        names.pop()
    return names


def format_labels(names: Iterable[str]) -> bytes:
    """Return the content of labels.txt: a class in each line."""
    return "".join(f"{name}\n" for name in names).encode()


def read_labels(folder: Path) -> tuple[str, ...]:
    """Return the names in a local folder's labels.txt, in the order of the model's output."""
    # Not splitlines(), and no other line ends than our own: a class name may hold one of them.
    return tuple((folder / LABELS).read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n"))


def write_labels(folder: Path, names: Iterable[str]) -> None:
    """Write a local folder's labels.txt."""
    (folder / LABELS).write_bytes(format_labels(names))


def _only_model(paths: Sequence[str]) -> str:
    models = [path for path in paths if path.endswith(ONNX_SUFFIX)]
    # A training's folder that lost its metadata.json: the model is the other file.
    models = [path for path in models if PurePosixPath(path).name != EXPLANATION] or models
    if len(models) == 1:
        return models[0]
    if models:
        listed = ", ".join(models[:_MAX_LISTED])
    else:
        listed = f"none, but {', '.join(paths[:_MAX_LISTED])}" if paths else "nothing"
    raise FolderError("NotAModel", f"a model folder has one file that ends in {ONNX_SUFFIX}; it has {listed}")


def _json_labels(text: str) -> list[str]:
    document = json.loads(text)
    if isinstance(document, dict):
        document = [document[str(number)] for number in range(len(document))]
    if not isinstance(document, list) or not all(isinstance(label, str) for label in document):
        raise TypeError("neither a list of names nor numbers with names")
    return document
