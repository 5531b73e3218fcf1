"""Model folders of any origin, fetched as the files that the model server reads, and run once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bloomery_model import Preprocess, PreprocessError
from bloomery_model.folder import (
    MODEL,
    PREPROCESS,
    SERVED_FILES,
    FolderError,
    ForeignLayout,
    LabelsError,
    format_digest,
    model_digest,
    parse_labels,
    read_labels,
    write_labels,
)
from bloomery_model.onnx_classifier import ClassifierError, as_rows, image_side, require_classifier, require_labels
from bloomery_trainer import model_folder
from bloomery_trainer.errors import BadData
from bloomery_trainer.models.onnx_session import open_session
from bloomery_trainer.storage import Folder


@dataclass(frozen=True)
class FetchedModel:
    """A model folder on this machine.

    Attributes:
        digest: of the model.
        about: metadata.json of the training that wrote it; empty for one of another origin.
    """

    digest: str
    about: Mapping[str, Any]


def fetch_model(source: Folder, target: Path) -> FetchedModel:
    """Download a model's files as model.onnx, labels.txt and preprocess.json; check the digests that are known.

    Raises:
        BadData: the folder holds no model, or a damaged one.
    """
    own = model_folder.stored(source)
    if own is not None:
        own.fetch(SERVED_FILES, target)
        return FetchedModel(own.digest, own.metadata)
    try:
        layout = ForeignLayout.of(file.path for file in source.list())
    except FolderError as error:
        raise BadData(error.reason, f"there is no model at {source.uri}: {error}") from error
    digests = {path: format_digest(source.download(path, target / name)) for path, name in layout.files.items()}
    labels = Path(layout.labels).name
    digests[layout.labels] = format_digest(source.download(layout.labels, target / labels))
    _write_labels(target / labels)
    return FetchedModel(model_digest(digests), {})


def run_once(folder: Path) -> int:
    """Run the model once; return the number of its classes.

    Raises:
        BadData: it is no classifier of images.
    """
    labels = read_labels(folder)
    try:
        session = open_session(folder / MODEL)
        inputs = session.get_inputs()
        side = _ensure_preprocess(folder, default_side=image_side(inputs))
        require_classifier(inputs, session.get_outputs(), side=side)
        (output,) = session.run(None, {inputs[0].name: np.zeros((1, 3, side, side), np.float32)})
        require_labels(as_rows(output), labels)
        if np.isnan(output).any():
            raise ClassifierError("ModelNotRunnable", "the model gives NaN for an image: one of its weights is NaN")
    except ClassifierError as error:
        raise BadData(error.reason, str(error)) from error
    except PreprocessError as error:
        raise BadData("BadPreprocess", f"{PREPROCESS} is not as it should be: {error}") from error
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        raise BadData("NotAClassifier", f"the model does not run on an image: {str(error).splitlines()[0]}") from error
    return len(labels)


def _ensure_preprocess(folder: Path, *, default_side: int) -> int:
    """Write the preprocessing that is most likely right, if the folder has none; return the side of the crop."""
    path = folder / PREPROCESS
    if not path.exists():
        path.write_text(json.dumps(Preprocess.for_size(default_side).document()), encoding="utf-8")
    return Preprocess.read(path.read_bytes()).crop


def _write_labels(source: Path) -> None:
    """Write labels.txt beside the file that names the classes."""
    try:
        write_labels(source.parent, parse_labels(source.read_bytes(), name=source.name))
    except LabelsError as error:
        raise BadData("BadLabels", f"{source.name} names no classes: {error}") from error
