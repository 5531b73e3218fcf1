"""Reading weight files of any origin, and comparing them with a network.

Two formats are read, neither of which executes code: PyTorch's (``torch.load`` with ``weights_only``) and safetensors
(https://github.com/huggingface/safetensors). The layouts are those of common training scripts: a plain state dict, or
one under a key such as ``model`` (torchvision's references), ``state_dict`` (timm, Lightning, the ImageNet example),
``model_state_dict`` (PyTorch's tutorials), and averaged weights under ``model_ema`` or ``state_dict_ema``.
"""

from __future__ import annotations

import argparse
import pickle
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bloomery_trainer.errors import BadConfig, first_line
from bloomery_trainer.models.presets import ALIASES, PRESETS

MIN_BODY_SHARE = 0.5
"""The share of the values of a network's body that a file must have to count as one of that network."""

AUXILIARY_PREFIXES = ("AuxLogits.", "aux1.", "aux2.")
"""Names of the auxiliary heads of Inception networks; not every file and not every image size has them."""

_COUNTER = ".num_batches_tracked"
"""A buffer of batch norms that no computation of ours uses; files from before PyTorch 0.4.1 lack it."""

# Averaged weights first: they are the ones that such scripts evaluate.
_ENTRIES = (
    "model_ema",
    "state_dict_ema",
    "model",
    "state_dict",
    "model_state_dict",
    "net",
    "network",
    "weights",
    "params",
    "module",
)
_MAX_DEPTH = 3
_ZIP_MAGIC, _PICKLE_MAGIC, _HDF5_MAGIC = b"PK\x03\x04", b"\x80", b"\x89HDF"
_UNSUPPORTED_GLOBAL = re.compile(r"(?:Unsupported (?:global|class): (?:GLOBAL )?|for global )([\w.]+)")


@dataclass(frozen=True, kw_only=True)
class StateDict:
    """Tensors by name, as a file has them.

    Attributes:
        tensors: by the file's own names.
        entry: the keys that lead to them in the file, joined by dots; empty for a plain state dict.
        classes: the names of the classes in the order of the head's rows, where the file has them.
    """

    tensors: Mapping[str, Tensor]
    entry: str = ""
    classes: tuple[str, ...] = ()

    @property
    def is_averaged(self) -> bool:
        """Whether these are moving averages of the weights."""
        return self.entry.split(".")[0] in ("model_ema", "state_dict_ema")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The tensors of a file that have the name and the shape of a network's.

    Attributes:
        tensors: those of the body that fit, by the network's names.
        head: those with the name of a head's parameter, whatever their shape, by the network's names.
        body: how many tensors the network's body has, counters left out.
        fitting: how many of these fit.
        share: the same by the number of values.
        missing: names of the body that the file lacks.
        misshapen: names of the body whose shapes differ or that hold no floating-point values.
        unused: how many tensors of the file belong to nothing in the network.
    """

    tensors: Mapping[str, Tensor]
    head: Mapping[str, Tensor]
    body: int
    fitting: int
    share: float
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    unused: int

    @property
    def is_complete(self) -> bool:
        """Whether the whole body is there."""
        return self.fitting == self.body

    def sentence(self) -> str:
        """Describe what fits and what does not, with counts."""
        text = f"{self.fitting} of {self.body} tensors of the body fit"
        problems = [
            *_named(self.misshapen, "has another shape", "have another shape"),
            *_named(self.missing, "is missing", "are missing"),
        ]
        if self.unused:
            problems.append(f"{self.unused} of the file belong to no layer of the preset")
        return "; ".join([text, *problems])


def _named(names: Sequence[str], one: str, more: str) -> list[str]:
    if not names:
        return []
    if len(names) == 1:
        return [f"{names[0]} {one}"]
    others = "1 other" if len(names) == 2 else f"{len(names) - 1} others"
    return [f"{names[0]} and {others} {more}"]


def read_document(path: Path, *, where: str) -> dict[str, Any]:
    """Read a weight file as it is: a dictionary of tensors and plain values.

    Args:
        path: the file; its format is recognised by its content.
        where: its address, for messages.

    Raises:
        BadConfig: InvalidCheckpoint, where the file is of another format, damaged, or needs code to be executed.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith((_ZIP_MAGIC, _PICKLE_MAGIC)):
        document = _read_pytorch(path, where)
    elif start[8:9] == b"{":
        document = _read_safetensors(path, where)
    else:
        raise BadConfig("InvalidCheckpoint", f"{where} is no weight file of PyTorch or safetensors{_guess(start)}")
    if not isinstance(document, dict):
        raise BadConfig(
            "InvalidCheckpoint",
            f"{where} holds a {type(document).__name__}, not a dictionary of weights: "
            "save it with torch.save(model.state_dict(), FILE)",
        )
    return document


def _guess(start: bytes) -> str:
    if not start:
        return ": it is empty"
    if start.startswith(_HDF5_MAGIC):
        return ": it is an HDF5 file, as Keras writes it"
    if start.lstrip().startswith(b"<"):
        return ": it is a web page, perhaps the answer of a proxy or a login"
    if start.startswith(b"version "):
        return ": it is a Git LFS pointer; fetch the file itself (git lfs pull)"
    return ""


def _read_pytorch(path: Path, where: str) -> object:
    try:
        # The arguments of a script lie beside its weights in many checkpoints; a Namespace is attributes only.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = _UNSUPPORTED_GLOBAL.search(str(error))
        problem = (
            f"{where} holds more than tensors and plain values ({code.group(1)}), and loading that would execute code"
            if code
            else f"{where} cannot be read safely: {first_line(error)}"
        )
        raise BadConfig(
            "InvalidCheckpoint", f"{problem}; save the weights alone with torch.save(model.state_dict(), FILE)"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        if "TorchScript" in str(error):
            hint = "it is a TorchScript archive; save the weights with torch.save(model.state_dict(), FILE)"
            raise BadConfig("InvalidCheckpoint", f"{where} cannot be read: {hint}") from error
        raise BadConfig(
            "InvalidCheckpoint", f"{where} is damaged or no checkpoint of PyTorch: {first_line(error)}"
        ) from error


def _read_safetensors(path: Path, where: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path, device="cpu")
    except (SafetensorError, ValueError, KeyError, AttributeError, struct.error) as error:
        raise BadConfig("InvalidCheckpoint", f"{where} is a damaged safetensors file: {first_line(error)}") from error
    return tensors


def find_state_dict(document: Mapping[str, Any], *, where: str) -> StateDict:
    """Return the state dict of a document, where common training scripts put it.

    Raises:
        BadConfig: InvalidCheckpoint, where there is none.
    """
    path = _locate(document, depth=0)
    if path is None:
        keys = ", ".join(sorted(str(key) for key in document)[:8]) or "none"
        raise BadConfig(
            "InvalidCheckpoint",
            f"{where} holds no weights: its keys are {keys}; tensors are expected at the top, or under model, "
            "state_dict, model_state_dict or model_ema",
        )
    inner: Any = document
    for key in path:
        inner = inner[key]
    tensors = {name: value for name, value in inner.items() if isinstance(name, str) and _has_values(value)}
    return StateDict(tensors=tensors, entry=".".join(path), classes=_class_names(document))


def _locate(document: Mapping[Any, Any], *, depth: int) -> tuple[str, ...] | None:
    """Return the keys that lead to the state dict."""
    for key in _ENTRIES:
        inner = document.get(key)
        if isinstance(inner, Mapping) and depth < _MAX_DEPTH:
            below = _locate(inner, depth=depth + 1)
            if below is not None:
                return (key, *below)
    named = any(isinstance(key, str) and _has_values(value) and value.ndim for key, value in document.items())
    return () if named else None


def _has_values(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_meta


def _class_names(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of classes that scripts store beside the weights, torchvision's ``class_to_idx`` among them."""
    for key in ("classes", "class_names"):
        names = document.get(key)
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    numbers = document.get("class_to_idx")
    if isinstance(numbers, dict) and numbers and all(isinstance(name, str) for name in numbers):
        names = {number: name for name, number in numbers.items() if isinstance(number, int)}
        if sorted(names) == list(range(len(numbers))):
            return tuple(names[number] for number in range(len(numbers)))
    return ()


def compare(network: Mapping[str, Tensor], head: frozenset[str], tensors: Mapping[str, Tensor]) -> Fit:
    """Compare a file's tensors with a network's.

    Args:
        network: the network's state dict, on any device; only names, shapes and types are looked at.
        head: names of the parameters that depend on the classes.
        tensors: the file's; a common prefix such as ``module.`` is taken off where names fit only without it.
    """
    renamed = without_prefix(tensors, network)
    body = [name for name in network if is_body(name, head)]
    fitting = {name: renamed[name] for name in body if name in renamed and _fits(renamed[name], network[name])}
    extra = {
        name: value
        for name, value in renamed.items()
        if name in network and name not in head and name not in fitting and _fits(value, network[name])
    }
    total = sum(network[name].numel() for name in body)
    return Fit(
        tensors={**fitting, **extra},
        head={name: renamed[name] for name in head if name in renamed},
        body=len(body),
        fitting=len(fitting),
        share=sum(network[name].numel() for name in fitting) / total if total else 0.0,
        missing=tuple(name for name in body if name not in renamed),
        misshapen=tuple(name for name in body if name in renamed and name not in fitting),
        unused=sum(name not in network and not _is_expected_extra(name) for name in renamed),
    )


def is_body(name: str, head: frozenset[str]) -> bool:
    """Return whether a tensor is a weight of the body: neither of a head nor a counter."""
    return name not in head and not name.startswith(AUXILIARY_PREFIXES) and not name.endswith(_COUNTER)


def _is_expected_extra(name: str) -> bool:
    return name.startswith(AUXILIARY_PREFIXES) or name.endswith(_COUNTER) or name == "n_averaged"


def _fits(value: Tensor, own: Tensor) -> bool:
    if value.is_quantized or value.layout != torch.strided:
        return False
    return value.shape == own.shape and (value.is_floating_point() or not own.is_floating_point())


def without_prefix(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Take off the prefix with which most names of a file end in a name of the network.

    Wrappers put such prefixes before all names: ``module.`` (DistributedDataParallel, averaged models),
    ``_orig_mod.`` (torch.compile), ``model.`` (Lightning), ``backbone.``, and combinations of these.
    """
    known = set(names)
    votes: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in known:
                votes["".join(f"{part}." for part in parts[:cut])] += 1
    if not votes:
        return dict(tensors)
    # Of equal ones the shortest: a name that fits as it is must not be cut.
    prefix = min(votes, key=lambda prefix: (-votes[prefix], len(prefix)))
    if not prefix:
        return dict(tensors)
    inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return {**{name: value for name, value in tensors.items() if not name.startswith(prefix)}, **inside}


@cache
def shapes(preset: str) -> tuple[Mapping[str, Tensor], frozenset[str]]:
    """Return the state dict of a preset's network without values (on the meta device), and the names of its head."""
    known = PRESETS[preset]
    with torch.device("meta"):
        network = known.build(2, image_size=known.image_size).state_dict()
    return network, known.head(image_size=known.image_size)


def nearest_preset(tensors: Mapping[str, Tensor]) -> tuple[str, float]:
    """Return the preset with most of the file's values, and the share of its body that the file has.

    Several networks may be whole in one file (a ResNet-18 in a ResNet-34); the largest of these is the nearest.
    """

    def rank(preset: str) -> tuple[float, str]:
        fit = compare(*shapes(preset), tensors)
        return fit.share * sum(value.numel() for value in fit.tensors.values()), preset

    networks = [preset for preset in PRESETS if preset not in ALIASES]
    best = max(networks, key=rank)
    return best, compare(*shapes(best), tensors).share


def require_finite(tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Refuse weights that hold NaN or infinite values: no training recovers from them.

    Raises:
        BadConfig: InvalidCheckpoint, with the name of the tensor.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            raise BadConfig("InvalidCheckpoint", f"{where} holds values that are not finite, in {name}")
