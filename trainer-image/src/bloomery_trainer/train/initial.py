"""Where training starts from: the weights of an earlier model, of a checkpoint, or published ones."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
import torchvision  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bloomery_model import Preprocess
from bloomery_trainer.config import InitialModel
from bloomery_trainer.errors import BadConfig, Unavailable
from bloomery_trainer.model_folder import LABELS, PREPROCESS, WEIGHTS, StoredModel, read_classes, stored
from bloomery_trainer.storage import Folder
from bloomery_trainer.train import checkpoint
from bloomery_trainer.train.presets import PRESETS

log = logging.getLogger(__name__)

_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
_FOREIGN = re.compile(r"(\.ckpt($|[.-])|\.(meta|index|h5|keras|pb|pbtxt|tflite|onnx|safetensors)$|saved_model)")
_CHECKPOINT = re.compile(rf"({checkpoint.FOLDER}/)?step-\d+\.pt$")


@dataclass(frozen=True, kw_only=True)
class Initial:
    """Weights by parameter name, and what is known of them; `classes` empty where unknown."""

    weights: Mapping[str, Tensor]
    origin: str
    classes: tuple[str, ...] = ()
    preset: str | None = None
    preprocess: Preprocess | None = None
    digest: str | None = None


def load(wanted: InitialModel, preset: str, open_parent: Callable[[str], Folder], scratch: Path) -> Initial:
    """Fetches the weights that training starts from.

    Raises BadConfig where there are none, or of another kind than can be read, or of another preset.
    """
    if wanted.weights is not None:
        return _published(wanted.weights, preset)
    assert wanted.uri is not None
    return _stored(wanted, wanted.uri, open_parent, scratch)


def require_preset(initial: Initial, preset: str) -> None:
    """Raises BadConfig where the weights are of another network than the preset's."""
    known = initial.preset
    if known is not None and PRESETS[known].architecture != PRESETS[preset].architecture:
        raise BadConfig(
            "PresetMismatch",
            f"the initial model ({initial.origin}) is a {known}, the preset is {preset}: set preset to {known}",
        )


def take_over(model: nn.Module, initial: Initial, *, classes: Sequence[str], head: frozenset[str]) -> list[str]:
    """Copies the weights into the model; what belongs to a class goes along with its name.

    Args:
        model: a new network for `classes`, on the CPU.
        initial: what to start from.
        classes: names in the order of the model's outputs.
        head: the parameters that have a row for each class.

    Returns:
        What people should know, in sentences. Raises BadConfig where the weights are not of this network.
    """
    own = model.state_dict()
    body = {name: value for name, value in initial.weights.items() if name in own and name not in head}
    missing = [name for name in own if name not in body and name not in head and not name.startswith(_AUXILIARY)]
    wrong = [name for name, value in body.items() if value.shape != own[name].shape]
    if missing or wrong:
        raise BadConfig(
            "PresetMismatch",
            f"the initial model ({initial.origin}) is of another network than the preset: "
            f"{(missing or wrong)[0]} {'is missing' if missing else 'has another shape'}",
        )
    rows = _rows(initial.classes, classes)
    for name in head & initial.weights.keys():
        body[name] = _with_rows(own[name], initial.weights[name], rows, known=len(initial.classes))
    model.load_state_dict(body, strict=False)
    return [_head_note(initial, classes, kept=len(rows))]


def freeze_body(model: nn.Module, head: frozenset[str]) -> None:
    """Leaves only the head to be trained."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in head


def train_mode(model: nn.Module) -> None:
    """Training mode, but for batch norms whose weights are frozen: their statistics stay as they are."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not any(p.requires_grad for p in module.parameters()):
            module.eval()


def _rows(known: Sequence[str], classes: Sequence[str]) -> list[tuple[int, int]]:
    """(row here, row there) of each class that both have."""
    there = {name: number for number, name in enumerate(known)}
    return [(here, there[name]) for here, name in enumerate(classes) if name in there]


def _with_rows(own: Tensor, given: Tensor, rows: list[tuple[int, int]], *, known: int) -> Tensor:
    if given.shape[0] != known or given.shape[1:] != own.shape[1:]:
        return own
    mixed = own.clone()
    for here, there in rows:
        mixed[here] = given[there]
    return mixed


def _head_note(initial: Initial, classes: Sequence[str], *, kept: int) -> str:
    if kept == len(classes) == len(initial.classes):
        return f"Training starts from {initial.origin}, with its {kept} classes."
    if kept == 0:
        return f"Training starts from {initial.origin}; the head is new, as its classes are others."
    return (
        f"Training starts from {initial.origin}; the head is new for {len(classes) - kept} of {len(classes)} classes, "
        f"{kept} had a class of the same name."
    )


def _published(name: str, preset: str) -> Initial:
    known = torchvision.models.get_model_weights(PRESETS[preset].architecture)
    weights = known.DEFAULT if name == "DEFAULT" else known.__members__.get(name)
    if weights is None:
        names = ", ".join(known.__members__)
        raise BadConfig("WeightsNotFound", f"torchvision has no weights {name!r} for {preset}; it has {names}, DEFAULT")
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        raise Unavailable(
            "WeightsUnreachable",
            f"the weights {name} of {preset} can not be downloaded from {weights.url} ({error}); where there is no "
            f"way to it, put that file at {file}, or train without initialModel.weights",
        ) from error
    except RuntimeError as error:
        raise BadConfig("InvalidCheckpoint", f"the weights {name} at {file} are damaged: {error}") from error
    return Initial(weights=state, origin=f"weights {name} of {preset}", classes=tuple(weights.meta["categories"]))


def _stored(wanted: InitialModel, uri: str, open_parent: Callable[[str], Folder], scratch: Path) -> Initial:
    origin = wanted.origin or uri
    if _FOREIGN.search(uri):
        _refuse_foreign(uri)
    if uri.endswith((".pt", ".pth")):
        parent, _, name = uri.rpartition("/")
        return _from_checkpoint(open_parent(parent), name, scratch, origin=origin)
    folder = open_parent(uri)
    for below in ("", "model/"):
        model = stored(folder, below)
        if model is not None:
            return _from_model(model, scratch, wanted=wanted, origin=origin)
    names = sorted(file.path for file in folder.list())
    checkpoints = [name for name in names if _CHECKPOINT.match(name)]
    if checkpoints:
        return _from_checkpoint(folder, checkpoints[-1], scratch, origin=origin)
    if any(_FOREIGN.search(name) for name in names):
        _refuse_foreign(uri)
    raise BadConfig(
        "InitialModelNotFound",
        f"there is no model under {uri}: a model folder has metadata.json, state.pt and labels.txt, and the folder of "
        f"a training's checkpoints has {checkpoint.FOLDER}/step-….pt",
    )


def _refuse_foreign(uri: str) -> NoReturn:
    raise BadConfig(
        "UnsupportedModel",
        f"{uri} is of another framework (a TensorFlow checkpoint, Keras, ONNX, …), from which training can not start; "
        "use a model folder or a checkpoint of a TrainingJob, a PyTorch state dict (.pt), or initialModel.weights",
    )


def _from_model(model: StoredModel, scratch: Path, *, wanted: InitialModel, origin: str) -> Initial:
    model.require(wanted.digest)
    local = scratch / "initial"
    local.mkdir()
    model.fetch((WEIGHTS, LABELS, PREPROCESS), local)
    found = Initial(
        weights=checkpoint.read(local / WEIGHTS, where=f"{model.uri}/{WEIGHTS}"),
        origin=origin,
        classes=read_classes(local),
        preset=model.metadata["preset"],
        preprocess=Preprocess.read((local / PREPROCESS).read_bytes()),
        digest=model.digest,
    )
    shutil.rmtree(local)
    return found


def _from_checkpoint(folder: Folder, name: str, scratch: Path, *, origin: str) -> Initial:
    path = scratch / "initial.pt"
    try:
        folder.download(name, path)
    except FileNotFoundError as error:
        raise BadConfig("InitialModelNotFound", f"there is no file {folder.uri}/{name}") from error
    state = checkpoint.read(path, where=f"{folder.uri}/{name}")
    path.unlink()
    if "model" not in state:
        # A plain state dict, as torch.save(model.state_dict()) writes it.
        return Initial(weights=state, origin=origin)
    best = (state.get("best") or {}).get("weights") or state["model"]
    return Initial(
        weights=best,
        origin=origin,
        classes=tuple(state["classes"]),
        preset=state["preset"],
        preprocess=Preprocess.for_size(state["imageSize"]),
    )
