"""Classifiers ready to answer: the exported model of a folder, as the model server would load it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from bloomery_model import Preprocess
from bloomery_model.folder import MODEL, PREPROCESS, read_labels
from bloomery_model.onnx_classifier import is_quantized
from bloomery_trainer import model_folder
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models.export import OnnxNetwork
from bloomery_trainer.models.served_files import fetch_model, run_once
from bloomery_trainer.storage import Folder


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A network on the CPU with what it needs to answer.

    Attributes:
        network: normalised images float32 [N, 3, crop, crop] to logits [N, classes].
        classes: names in the order of the logits.
        preprocess: how an image becomes the network's input.
        data_type: what it computes in: float32, float16 or int8.
        preset: the architecture's name, None for models that were not trained here.
        digest: of the model's files, None for weights that are in no model folder.
    """

    network: nn.Module
    classes: tuple[str, ...]
    preprocess: Preprocess
    data_type: str
    preset: str | None
    digest: str | None


def find_model(uri: str, open_folder: Callable[[str], Folder]) -> Folder | None:
    """Return the folder of an exported model: that at ``uri``, or ``model/`` below it; None if neither holds one."""
    for place in (uri, f"{uri.rstrip('/')}/model"):
        try:
            folder = open_folder(place)
        except BadConfig as error:
            if error.reason != "SourceNotFound":
                raise
            continue
        if model_folder.folder_kind(folder) is not None:
            return folder
    return None


def fetch_classifier(folder: Folder, scratch: Path, *, digest: str | None) -> Classifier:
    """Fetch the served files of a model folder and load them; a training's own, or any ONNX model with its classes.

    Raises:
        BadConfig: another digest was meant.
        BadData: the folder holds no classifier that runs.
    """
    own = model_folder.stored(folder)
    if own is not None:
        own.require(digest)
    fetched = fetch_model(folder, scratch)
    if digest not in (None, fetched.digest):
        raise BadConfig("DigestMismatch", f"the model at {folder.uri} has the digest {fetched.digest}, not {digest}")
    run_once(scratch)
    preset = fetched.about.get("preset")
    return load_classifier(scratch, preset=None if preset is None else str(preset), digest=fetched.digest)


def load_classifier(folder: Path, *, preset: str | None = None, digest: str | None = None) -> Classifier:
    """Load the files that a model server would: model.onnx, labels.txt and preprocess.json of a local folder."""
    preprocess = Preprocess.read((folder / PREPROCESS).read_bytes())
    return Classifier(
        network=_network(folder / MODEL, side=preprocess.crop),
        classes=read_labels(folder),
        preprocess=preprocess,
        data_type=data_type(folder / MODEL),
        preset=preset,
        digest=digest,
    )


def data_type(path: Path) -> str:
    """Return the type that an ONNX file computes in: int8, float16 or float32."""
    if is_quantized(path):
        return "int8"
    graph = onnx.load(path, load_external_data=False).graph
    half = any(weights.data_type == onnx.TensorProto.FLOAT16 for weights in graph.initializer)
    return "float16" if half else "float32"


def _network(path: Path, *, side: int) -> nn.Module:
    network = OnnxNetwork(path)
    # No rows of logits sum to 1 by chance, whatever they are of.
    noise = np.random.default_rng(0).normal(size=(3, 3, side, side)).astype(np.float32)
    scores = network(torch.from_numpy(noise)).numpy()
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return nn.Sequential(network, _Logarithm())
    return network


class _Logarithm(nn.Module):
    """Turns probabilities into logits, of which they are the softmax."""

    def forward(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return the logits, float32 [N, classes]."""
        return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()
