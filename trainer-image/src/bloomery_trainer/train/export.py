"""The model directory: ONNX for serving, weights for going on, and what is needed to use either.

Nothing in it needs code of its own to be executed when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from bloomery_trainer.images import Preprocess

FILES = ("model.onnx", "labels.txt", "preprocess.json", "state.pt")
METADATA = "metadata.json"
INPUT, OUTPUT = "images", "logits"
_TOLERANCE = 1e-3


def write_model(
    folder: Path, model: nn.Module, *, classes: tuple[str, ...], preprocess: Preprocess, examples: Tensor
) -> str:
    """Writes all FILES of the model directory but its metadata, and returns the model's digest.

    Args:
        folder: an empty local folder.
        model: on the CPU.
        classes: names in index order.
        preprocess: what the model expects to be done to images.
        examples: some normalised images float32 [N, 3, H, W], to compare the exported model with the trained one.
    """
    model.eval()
    torch.save(model.state_dict(), folder / "state.pt")
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    (folder / "preprocess.json").write_text(json.dumps(preprocess.document(), indent=1))
    _write_onnx(folder / "model.onnx", model, examples)
    return digest(file_digests(folder))


def file_digests(folder: Path) -> dict[str, str]:
    """`sha256:…` of each of FILES."""
    return {name: f"sha256:{_sha256(folder / name)}" for name in FILES}


def digest(files: Mapping[str, str]) -> str:
    """The model's digest: of the canonical JSON of its files' digests."""
    canonical = json.dumps(files, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def metadata(folder: Path, about: Mapping[str, Any]) -> bytes:
    """The content of metadata.json."""
    document = {"format": 1, "files": file_digests(folder), **about}
    return json.dumps(document, ensure_ascii=False, indent=1).encode()


def _write_onnx(path: Path, model: nn.Module, examples: Tensor) -> None:
    with warnings.catch_warnings():
        # The older exporter is chosen on purpose: it folds batch norms away, leaves the batch size open for
        # every architecture of torchvision, and takes a fifth of the time.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (examples[:1],),
            path,
            dynamo=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )
    _compare(path, model, examples)


def _compare(path: Path, model: nn.Module, examples: Tensor) -> None:
    """Raises RuntimeError where the exported model answers otherwise than the trained one."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (exported,) = session.run([OUTPUT], {INPUT: examples.numpy()})
    with torch.inference_mode():
        trained = model(examples).numpy()
    difference = float(np.abs(exported - trained).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(trained).max())):
        raise RuntimeError(f"the exported model differs from the trained one by {difference:g}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
