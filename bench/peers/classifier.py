"""Classifier of the peers: the recipe of each one's documentation, on the same ONNX file."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image


class Classifier:
    """Decodes with Pillow, resizes, runs the session, names the classes."""

    def __init__(self) -> None:
        folder = Path(os.environ["MODEL_FOLDER"])
        self._session = ort.InferenceSession(str(folder / "model.onnx"), _options(), providers=["CPUExecutionProvider"])
        self._labels = (folder / "labels.txt").read_text().split("\n")[:-1]
        document = json.loads((folder / "preprocess.json").read_text())
        self._resize, self._crop = document["resize"], document["crop"]
        self._mean, self._std = np.float32(document["mean"]), np.float32(document["std"])

    def __call__(self, jpeg: bytes) -> dict[str, Any]:
        """The label and each class' probability."""
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        scale = self._resize / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - self._crop) // 2, (image.height - self._crop) // 2
        pixels = np.asarray(image.crop((left, top, left + self._crop, top + self._crop)), np.float32) / 255
        tensor = ((pixels - self._mean) / self._std).transpose(2, 0, 1)[None]
        (logits,) = self._session.run(None, {"images": tensor})
        scores = np.exp(logits[0] - logits[0].max())
        scores /= scores.sum()
        named = {label: float(score) for label, score in zip(self._labels, scores, strict=True)}
        return {"label": self._labels[int(scores.argmax())], "scores": named}


def _options() -> ort.SessionOptions:
    """ONNX Runtime's defaults, or with SESSION=tuned one thread that does not spin, for as many workers as cores."""
    options = ort.SessionOptions()
    if os.environ.get("SESSION") == "tuned":
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
