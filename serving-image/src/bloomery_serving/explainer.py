"""Explanations: pictures of where in an image the model found a class, made for one image at a time."""

from __future__ import annotations

import logging
import unicodedata
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bloomery_model import Tensor, decoding_bytes, to_rgb
from bloomery_model.spotlight import heat_map, spotlight
from bloomery_serving.batcher import NotFinite
from bloomery_serving.engines.onnx_runtime import CPU, session_options
from bloomery_serving.image_file import ImageFile, Limits, open_file
from bloomery_serving.jobs import CallRunner, Watchdog
from bloomery_serving.memory_budget import MemoryBudget
from bloomery_serving.model import Model

logger = logging.getLogger(__name__)


class ExplanationError(Exception):
    """The network of explain.onnx cannot be used; the message says why."""


class TooManyExplanations(Exception):
    """As many requests wait for an explanation as may; the message says how many."""


@dataclass(frozen=True)
class Explanation:
    """The picture of where the model found a class: a PNG of the pixels that it saw, dark where nothing speaks for it.

    Attributes:
        label: the class.
        score: its probability, as in a prediction of the same image.
        png: the file.
    """

    label: str
    score: float
    png: bytes


class Explainer:
    """Explains the answers of one model; lives as long as the process.

    One thread makes all explanations, so that they take the memory of one image, and one of the workers' time.
    """

    def __init__(
        self, model: Model, file: Path, watchdog: Watchdog, *, limits: Limits, budget: MemoryBudget, max_waiting: int
    ) -> None:
        """Nothing is loaded before the first explanation.

        Args:
            model: whose answers are explained.
            file: the network of its class activation maps.
            watchdog: watches each explanation.
            limits: of the images.
            budget: of the memory for decoding.
            max_waiting: requests that wait or are worked on; one more is refused.
        """
        self._model = model
        self._limits = limits
        self._budget = budget
        self._watchdog = watchdog
        self._class_maps = _ClassMaps(file, classes=len(model.labels), side=model.preprocess.crop)
        self._runner = CallRunner(watchdog, name="explain")
        self._max_waiting = max_waiting
        self._waiting = 0

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._model.labels

    def class_number(self, name: str) -> int | None:
        """Return the number of a class, in whichever way its letters are composed; None if there is none."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        return numbers.get(name, numbers.get(unicodedata.normalize("NFC", name)))

    async def explain(self, client: str, file: ImageFile, number: int | None) -> Explanation | NotFinite:
        """Explain the answer for one image; call it on the event loop.

        Args:
            client: the name of the client; clients take turns.
            file: the image.
            number: of the class to explain; None is the likeliest.

        Raises:
            ImageError: the image cannot be decoded.
            ExplanationError: explain.onnx cannot be used.
            TooManyExplanations: too many requests wait.
        """
        if self._waiting >= self._max_waiting:
            raise TooManyExplanations(f"{self._waiting} requests wait for an explanation already")
        self._waiting += 1
        try:
            return await self._runner.run(client, lambda: self._explain(file, number))
        finally:
            self._waiting -= 1

    def _explain(self, file: ImageFile, number: int | None) -> Explanation | NotFinite:
        preprocess = self._model.preprocess
        image = open_file(file, self._limits)
        with ExitStack() as memory:
            with self._watchdog.pause():
                memory.enter_context(self._budget.acquire(decoding_bytes(image, min_side=preprocess.min_decode_side)))
            rgb = to_rgb(image, min_side=preprocess.min_decode_side)
            pixels, tensor = preprocess.pixels(rgb), preprocess.tensor(rgb)
        del image, rgb
        # The scores of the model that predicts: in int8, they are not quite those of explain.onnx.
        scores = self._model.predict([tensor])[0].scores
        if not np.isfinite(scores).all():
            return NotFinite()
        if number is None:
            number = int(np.argmax(scores))
        heat = heat_map(self._class_maps.of(tensor)[number])
        buffer = BytesIO()
        spotlight(pixels, heat).save(buffer, "PNG")
        return Explanation(self.labels[number], float(scores[number]), buffer.getvalue())


class _ClassMaps:
    """The network of a model's class activation maps, loaded at the first use; for one thread.

    A file that cannot be used is not tried again: the next start fetches it again.
    """

    def __init__(self, file: Path, *, classes: int, side: int) -> None:
        self._file = file
        self._classes = classes
        self._side = side
        self._session: ort.InferenceSession | None = None
        self._fault: str | None = None

    def of(self, tensor: Tensor) -> NDArray[np.float32]:
        """Return the map of each class, float32 [classes, h, w], of a tensor [3, crop, crop].

        Raises:
            ExplanationError: the file does not load or run, or gives something else.
        """
        if self._fault is not None:
            raise ExplanationError(self._fault)
        try:
            self._session = self._session or self._load()
            maps = np.asarray(self._session.run(None, {self._session.get_inputs()[0].name: tensor[None]})[0][0])
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            self._fault = str(error).splitlines()[0]
            logger.error("%s cannot be used: %s", self._file.name, self._fault)
            raise ExplanationError(self._fault) from error
        if not np.isfinite(maps).all():
            raise ExplanationError("it gives NaN or an infinity for this image")
        return maps.astype(np.float32)

    def _load(self) -> ort.InferenceSession:
        """Load the file; raise ExplanationError unless it has one input of images and one output of small maps."""
        session = ort.InferenceSession(self._file, session_options(1), providers=[CPU])
        shapes = [tensor.shape for tensor in (*session.get_inputs(), *session.get_outputs())]
        match shapes:
            case [[_, 3, _, _], [_, self._classes, int(height), int(width)]] if 0 < height * width <= self._side**2:
                return session
        raise ExplanationError(f"its tensors have the shapes {shapes}, not those of an image and a map of each class")
