"""The files of a model folder: their names, the model's digest, and the names of its classes.

A training writes ``model.onnx``, ``labels.txt``, ``preprocess.json`` and ``state.pt``, and ``metadata.json`` with their
digests. A folder from elsewhere has one ONNX file and one of ``LABEL_FILES``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

MODEL, LABELS, PREPROCESS, WEIGHTS = "model.onnx", "labels.txt", "preprocess.json", "state.pt"
METADATA = "metadata.json"
SERVED_FILES = (MODEL, LABELS, PREPROCESS)
"""What serving needs; the weights for further training stay in the store."""

LABEL_FILES = (LABELS, "classes.txt", "labels.json")
"""File names that may name the classes, in order of precedence."""

ONNX_DATA_SUFFIXES = (".data", "_data", ".bin", ".weight", ".weights")
"""File name endings of tensors that ONNX keeps beside the model (its "external data")."""


class LabelsError(ValueError):
    """A file that does not name classes; the message says what it must be."""


def model_digest(files: Mapping[str, str]) -> str:
    """Return a model's digest, ``sha256:…``: of the canonical JSON of its files' digests by name."""
    canonical = json.dumps(dict(files), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


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


def _json_labels(text: str) -> list[str]:
    document = json.loads(text)
    if isinstance(document, dict):
        document = [document[str(number)] for number in range(len(document))]
    if not isinstance(document, list) or not all(isinstance(label, str) for label in document):
        raise TypeError("neither a list of names nor numbers with names")
    return document
