"""Initial weights of a training: of an earlier model, of a checkpoint, or published ones."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from torch import Tensor, nn

from bloomery_model import Preprocess
from bloomery_model.folder import LABELS, PREPROCESS, WEIGHTS, read_labels
from bloomery_trainer.class_names import normalize_class_name
from bloomery_trainer.config import InitialModel, TrainConfig
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.model_folder import StoredModel, stored
from bloomery_trainer.models.presets import PRESETS
from bloomery_trainer.models.published import (
    ANSWER_SECONDS,
    PATIENT_ANSWER_SECONDS,
    LocalWeights,
    WeightsFinder,
    published_file,
    scratch_warning,
    unreachable_error,
)
from bloomery_trainer.models.weights import (
    AUXILIARY_PREFIXES,
    MIN_BODY_SHARE,
    Fit,
    compare,
    find_state_dict,
    nearest_preset,
    read_document,
    require_finite,
    shapes,
)
from bloomery_trainer.output import CHECKPOINTS
from bloomery_trainer.storage import Folder

_FOREIGN = re.compile(r"(\.ckpt($|[.-])|\.(meta|index|h5|keras|pb|pbtxt|tflite|onnx)$|saved_model)")
_CHECKPOINT = re.compile(rf"({CHECKPOINTS}/)?step-\d+\.pt$")
_FILES = (".pt", ".pth", ".safetensors")
CHOICE = "initial-model.json"
"""In the output folder: what the first pod of a job without ``initialModel`` started from."""

_MAX_ORIGIN = 512
"""Characters; the result has to fit into a termination message."""

_OWN_KEYS = {"format", "step", "uid", "model", "classes", "preset", "imageSize"}

StartKind = Literal["Published", "Pushed", "Model", "File", "Scratch"]


@dataclass(frozen=True, kw_only=True)
class Initial:
    """The start of a training. Plain tensors and values, so that it can be sent to another process.

    Attributes:
        weights: tensors by parameter name, by the file's own names; empty for a start from scratch.
        origin: where they come from, in words.
        kind: published by torchvision, pushed to the store, a model of a TrainingJob, any file, or from scratch.
        classes: the names of the classes in the order of the head's rows; empty where unknown.
        warning: a sentence on what people should change, for a start that is worse than it could be.
    """

    weights: Mapping[str, Tensor]
    origin: str
    kind: StartKind = "File"
    classes: tuple[str, ...] = ()
    preset: str | None = None
    preprocess: Preprocess | None = None
    digest: str | None = None
    warning: str | None = None

    @property
    def is_pretrained(self) -> bool:
        """Whether there are trained weights."""
        return self.kind != "Scratch"

    def document(self) -> dict[str, str]:
        """Return the document for the result of the run, with an empty warning if there is none."""
        return {"kind": self.kind, "origin": self.origin[:_MAX_ORIGIN], "warning": self.warning or ""}


def load(
    config: TrainConfig,
    open_folder: Callable[[str], Folder],
    scratch: Path,
    *,
    output: Folder | None = None,
) -> Initial:
    """Fetch the weights that training starts from.

    Without ``initialModel``, these are torchvision's DEFAULT weights of the preset, or those that were pushed in their
    place; where no source has them, training starts from scratch, with a ``warning``. That choice is made once:
    the length and the rates of the training depend on it, so a pod that is started again must not choose otherwise.

    Args:
        config: of the training.
        open_folder: opens a folder of the store.
        scratch: a local folder for files, empty again afterwards.
        output: the output folder, which remembers the choice between starts; None forgets it.

    Raises:
        BadConfig: there is no such model, it cannot be read, or it is of another network than the preset; or only the
            head is to be trained and there is no trained body.
        Unavailable: the store does not answer, or the server of weights that were asked for by name.
    """
    start = config.initial_model
    if start is None or start.weights is not None:
        earlier = None if start is not None or output is None else _earlier_choice(output, config.uid)
        if earlier is not None and not earlier.is_pretrained:
            return earlier
        initial = _published(config, open_folder, scratch, required=earlier is not None)
        if start is None and earlier is None and output is not None:
            output.write(CHOICE, json.dumps({"uid": config.uid, **initial.document()}, ensure_ascii=False).encode())
    else:
        assert start.uri is not None
        initial = _stored(start, start.uri, open_folder, scratch)
    require_preset(initial, config.preset)
    return initial


def _earlier_choice(output: Folder, uid: str) -> Initial | None:
    """Return what an earlier pod of the same job started from, without its weights."""
    content = output.read_if_there(CHOICE)
    document = json.loads(content) if content else {}
    if document.get("uid") != uid:
        return None
    return Initial(weights={}, origin=document["origin"], kind=document["kind"], warning=document["warning"] or None)


def require_preset(initial: Initial, preset: str) -> None:
    """Raise BadConfig if the weights are of another network than the preset's."""
    if not initial.is_pretrained:
        return
    known = initial.preset
    if known is None:
        _require_same_network(compare(*shapes(preset), initial.weights), initial, preset)
    elif PRESETS[known].architecture != PRESETS[preset].architecture:
        raise BadConfig(
            "PresetMismatch",
            f"the initial model ({initial.origin}) is a {known}, the preset is {preset}: set preset to {known}",
        )


def _require_same_network(fit: Fit, initial: Initial, preset: str) -> None:
    """Refuse a file of another network.

    Names and shapes agree in part between networks: a ResNet-50 has more than half of the values of a ResNet-18. So a
    file that is short of this network and whole for another one is refused, too.
    """
    if fit.is_complete:
        return
    nearest, share = nearest_preset(initial.weights)
    if fit.share >= MIN_BODY_SHARE and share < 1:
        return
    if share < MIN_BODY_SHARE:
        hint = f"no preset has this network (the nearest is {nearest}, with {_percent(share)})"
    else:
        hint = f"the nearest preset is {nearest}, with {_percent(share)}: set preset to {nearest}"
    needed = f", and at least {_percent(MIN_BODY_SHARE)} are needed" if fit.share < MIN_BODY_SHARE else ""
    raise BadConfig(
        "PresetMismatch",
        f"the initial model ({initial.origin}) is of another network than preset {preset}: it has "
        f"{_percent(fit.share)} of the values of the preset's body{needed}; {hint}",
    )


def _percent(share: float) -> str:
    # Rounded down: nearly all is not all, and nearly half is not half.
    return f"{math.floor(share * 100)} %"


def load_pretrained(model: nn.Module, initial: Initial, *, classes: Sequence[str], head: frozenset[str]) -> list[str]:
    """Copy the weights into the model; the rows of a class go along with its name.

    Args:
        model: a new network for ``classes``, on the CPU.
        initial: what to start from.
        classes: names in the order of the model's outputs.
        head: the parameters that have a row for each class.

    Returns:
        Notes for people, in sentences.

    Raises:
        BadConfig: less than half of the values of the body are there, or some are not finite.
    """
    if not initial.is_pretrained:
        return [initial.warning] if initial.warning else []
    own = model.state_dict()
    fit = compare(own, head, initial.weights)
    if fit.share < MIN_BODY_SHARE:
        raise BadConfig(
            "PresetMismatch",
            f"the initial model ({initial.origin}) is of another network than the preset: {fit.sentence()}",
        )
    require_finite(fit.tensors, where=initial.origin)
    rows = _rows(initial.classes, classes) if _has_head(fit, own, known=len(initial.classes)) else []
    values = dict(fit.tensors)
    for name, value in fit.head.items():
        if _same_features(value, own[name], rows=len(initial.classes)):
            values[name] = _with_rows(own[name], value, rows)
    model.load_state_dict(values, strict=False)
    notes = [_head_note(initial, classes, fit=fit, copied=len(rows))]
    if not fit.is_complete or fit.unused:
        notes.append(f"Of {initial.origin}, {fit.sentence()}.")
    return notes


def freeze_body(model: nn.Module, head: frozenset[str]) -> None:
    """Freeze all parameters except those of the head."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in head


def _rows(known: Sequence[str], classes: Sequence[str]) -> list[tuple[int, int]]:
    """Return (row here, row there) of each class that both have, as class names are spelled."""
    there = {normalize_class_name(name): number for number, name in enumerate(known)}
    spelled = enumerate(map(normalize_class_name, classes))
    return [(here, there[name]) for here, name in spelled if name in there]


def _same_features(value: Tensor, own: Tensor, *, rows: int) -> bool:
    return value.shape == (rows, *own.shape[1:]) and value.is_floating_point()


def _has_head(fit: Fit, own: Mapping[str, Tensor], *, known: int) -> bool:
    """Return whether the file has a head whose rows are of the known classes; the auxiliary heads do not count."""
    heads = [name for name in fit.head if not name.startswith(AUXILIARY_PREFIXES)]
    return bool(heads) and all(_same_features(fit.head[name], own[name], rows=known) for name in heads)


def _with_rows(own: Tensor, value: Tensor, rows: list[tuple[int, int]]) -> Tensor:
    mixed = own.clone()
    for here, there in rows:
        mixed[here] = value[there]
    return mixed


def _head_note(initial: Initial, classes: Sequence[str], *, fit: Fit, copied: int) -> str:
    start = f"Training starts from {initial.origin}"
    if not fit.head:
        return f"{start}; it has no head, so the head is new."
    if not initial.classes:
        return f"{start}; its classes are not known, so the head is new."
    if copied == len(classes) == len(initial.classes):
        return f"{start}, with its {copied} classes."
    if copied == 0:
        return f"{start}; the head is new, as its classes are others."
    return (
        f"{start}; the head is new for {len(classes) - copied} of {len(classes)} classes, "
        f"{copied} had a class of the same name."
    )


def _published(config: TrainConfig, open_folder: Callable[[str], Folder], scratch: Path, *, required: bool) -> Initial:
    """Load published weights: those of a name, or of the preset if none is given.

    With ``required``, or for ``trainable: Head``, there is no start from scratch.
    """
    name = config.initial_model.weights if config.initial_model else None
    if name == "None":
        return Initial(weights={}, origin="scratch", kind="Scratch")
    file = published_file(config.preset, name or "DEFAULT")
    head_only = config.hyperparameters.trainable == "Head"
    finder = WeightsFinder(
        file=file,
        any_pushed=name in (None, "DEFAULT"),
        settings=config.published_weights,
        open_folder=open_folder,
        scratch=scratch,
        answer_seconds=PATIENT_ANSWER_SECONDS if required or head_only or name else ANSWER_SECONDS,
    )
    result = finder.find()
    if isinstance(result, LocalWeights):
        return _from_published(result)
    if name is not None or required:
        raise unreachable_error(file, result)
    if head_only:
        raise BadConfig(
            "WeightsNotFound",
            f"hyperparameters.trainable Head needs trained weights to start from: {unreachable_error(file, result)}",
        )
    return Initial(weights={}, origin="scratch", kind="Scratch", warning=scratch_warning(file, result))


def _from_published(file: LocalWeights) -> Initial:
    try:
        state = find_state_dict(read_document(file.path, where=file.where), where=file.where)
    finally:
        if file.temporary:
            file.path.unlink()
    return Initial(weights=state.tensors, origin=file.origin, kind=file.kind, classes=file.classes or state.classes)


def _stored(start: InitialModel, uri: str, open_folder: Callable[[str], Folder], scratch: Path) -> Initial:
    origin = start.origin or uri
    if uri.endswith(_FILES):
        parent, _, name = uri.rpartition("/")
        return _from_file(open_folder(parent), name, scratch, origin=origin)
    if _FOREIGN.search(uri):
        _refuse_foreign(uri)
    folder = open_folder(uri)
    for below in ("", "model/"):
        model = stored(folder, below)
        if model is not None:
            return _from_model(model, scratch, start=start, origin=origin)
    names = sorted(file.path for file in folder.list())
    checkpoints = [name for name in names if _CHECKPOINT.match(name)]
    if checkpoints:
        return _from_file(folder, checkpoints[-1], scratch, origin=origin)
    if any(_FOREIGN.search(name) for name in names):
        _refuse_foreign(uri)
    raise BadConfig(
        "InitialModelNotFound",
        f"there is no model under {uri}: a model folder has metadata.json, state.pt and labels.txt, and the folder of "
        f"a training's checkpoints has {CHECKPOINTS}/step-….pt; a single weight file is named with its ending, "
        ".pt, .pth or .safetensors",
    )


def _refuse_foreign(uri: str) -> NoReturn:
    raise BadConfig(
        "UnsupportedModel",
        f"{uri} is of another framework (a TensorFlow checkpoint, Keras, ONNX, …), from which training cannot start; "
        "use a model folder or a checkpoint of a TrainingJob, a weight file (.pt, .pth or .safetensors; give a "
        "PyTorch .ckpt one of these endings), or initialModel.weights",
    )


def _from_model(model: StoredModel, scratch: Path, *, start: InitialModel, origin: str) -> Initial:
    """Return the weights of a model folder: those in float, where it serves int8."""
    model.require(start.digest)
    if not model.is_trainable:
        raise BadConfig(
            "UnsupportedModel",
            f"{model.uri} holds an ONNX model without PyTorch weights (it was imported), from which training cannot "
            "start; it can be served and evaluated. Use a model of a TrainingJob, a weight file of the same network, "
            "or published weights",
        )
    local = Path(tempfile.mkdtemp(prefix="initial-", dir=scratch))
    try:
        model.fetch((WEIGHTS, LABELS, PREPROCESS), local)
        return Initial(
            weights=find_state_dict(
                read_document(local / WEIGHTS, where=f"{model.uri}/{WEIGHTS}"), where=f"{model.uri}/{WEIGHTS}"
            ).tensors,
            origin=origin,
            kind="Model",
            classes=read_labels(local),
            preset=_known_preset(model.metadata.get("preset"), where=model.uri),
            preprocess=Preprocess.read((local / PREPROCESS).read_bytes()),
            digest=model.digest,
        )
    finally:
        shutil.rmtree(local)


def _from_file(folder: Folder, name: str, scratch: Path, *, origin: str) -> Initial:
    """Load a checkpoint of a TrainingJob, or a weight file of any other origin."""
    where = f"{folder.uri.rstrip('/')}/{name}"
    local = Path(tempfile.mkdtemp(prefix="initial-", dir=scratch))
    try:
        folder.download(name, local / "weights")
        document = read_document(local / "weights", where=where)
    except FileNotFoundError as error:
        raise BadConfig("InitialModelNotFound", f"there is no file {where}") from error
    finally:
        shutil.rmtree(local)
    if document.keys() >= _OWN_KEYS:
        return _from_checkpoint(document, origin=origin, where=where)
    state = find_state_dict(document, where=where)
    if state.is_averaged:
        origin = f"{origin} (its averaged weights, {state.entry})"
    return Initial(weights=state.tensors, origin=origin, kind="File", classes=state.classes)


def _from_checkpoint(document: Mapping[str, Any], *, origin: str, where: str) -> Initial:
    """Return the best weights so far of a training of ours."""
    best = (document.get("best") or {}).get("weights") or document["model"]
    return Initial(
        weights=best,
        origin=origin,
        kind="Model",
        classes=tuple(document["classes"]),
        preset=_known_preset(document["preset"], where=where),
        preprocess=Preprocess.for_size(document["imageSize"]),
    )


def _known_preset(name: object, *, where: str) -> str:
    if not isinstance(name, str) or name not in PRESETS:
        raise BadConfig("UnsupportedModel", f"{where} is of the preset {name!r}, which this trainer does not have")
    return name
