"""Writing a trained model as a model folder, and using what was written."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from bloomery_model import Preprocess
from bloomery_model.folder import EXPLANATION, MODEL, PREPROCESS, WEIGHTS, model_digest, write_labels
from bloomery_trainer.model_folder import file_digests
from bloomery_trainer.models.class_maps import write_class_maps
from bloomery_trainer.models.onnx_session import open_session

INPUT, OUTPUT = "images", "logits"
OPSET = 17
"""The version of ONNX's standard operators. Pinned, because the exporter's default moves with PyTorch: 17 has all that
these networks and their int8 form need, and every ONNX runtime since 2022 reads it."""

_TOLERANCE = 1e-3


def write_model(
    folder: Path, model: nn.Module, *, classes: tuple[str, ...], preprocess: Preprocess, examples: Tensor
) -> str:
    """Write all files of the model folder but its metadata, and return the model's digest.

    Args:
        folder: an empty local folder.
        model: on the CPU.
        classes: names in index order.
        preprocess: what the model expects to be done to images.
        examples: some normalised images float32 [N, 3, H, W], to compare the exported model with the trained one.
    """
    model.eval()
    torch.save(model.state_dict(), folder / WEIGHTS)
    write_labels(folder, classes)
    (folder / PREPROCESS).write_text(json.dumps(preprocess.document(), indent=1))
    _write_onnx(folder / MODEL, model, examples)
    write_class_maps(folder / MODEL, folder / EXPLANATION)
    return model_digest(file_digests(folder))


def divide_logits(path: Path, temperature: float) -> None:
    """Make an exported model divide its logits by a temperature; every user of the file then has calibrated scores."""
    model = onnx.load(path)
    graph = model.graph
    inner = f"{OUTPUT}_before_temperature"
    for node in graph.node:
        node.output[:] = [inner if name == OUTPUT else name for name in node.output]
        node.input[:] = [inner if name == OUTPUT else name for name in node.input]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(temperature, np.float32), "temperature"))
    graph.node.append(onnx.helper.make_node("Div", [inner, "temperature"], [OUTPUT], "divide_by_temperature"))
    onnx.save(model, path)


class OnnxNetwork(nn.Module):
    """An exported model behind the interface of a trained one; on the CPU, on all its processors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._session = open_session(path)
        images = self._session.get_inputs()[0]
        self._input: str = images.name
        # A model that was exported for one image takes no more at a time.
        self._single = images.shape[0] == 1

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 [N, classes]."""
        parts = torch.split(images, 1) if self._single else [images]
        logits = torch.cat([torch.from_numpy(self._session.run(None, {self._input: p.numpy()})[0]) for p in parts])
        return logits.float()


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
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )
    _compare(path, model, examples)


def _compare(path: Path, model: nn.Module, examples: Tensor) -> None:
    """Raise RuntimeError if the exported model answers otherwise than the trained one."""
    (exported,) = open_session(path).run([OUTPUT], {INPUT: examples.numpy()})
    with torch.inference_mode():
        trained = model(examples).numpy()
    difference = float(np.abs(exported - trained).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(trained).max())):
        raise RuntimeError(f"the exported model differs from the trained one by {difference:g}")
