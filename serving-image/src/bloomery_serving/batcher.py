"""Predictions off the event loop: a queue before as many workers as there are processors.

A worker takes the requests that wait, up to the model's best batch: one alone while nothing else waits, several
together under load. An image that cannot be decoded costs the others of its batch nothing.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bloomery_model import ImageError, Tensor
from bloomery_model.onnx_classifier import Scores
from bloomery_serving.image_file import ImageFile, Limits, decode_file
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import Model

MAX_FAILED_BATCHES = 3
"""After so many batches in a row that could not be computed, it is not the images: a GPU was lost, or memory."""

ImageResult = Scores | ImageError
"""The probabilities of one image's classes, or the reason why it has none."""


@dataclass
class _PendingRequest:
    """One request's images, on their way through a worker and back to the event loop."""

    images: Sequence[ImageFile] | Sequence[Tensor]
    answer: asyncio.Future[list[ImageResult]]
    queued: float = field(default_factory=time.perf_counter)
    tensors: list[Tensor | ImageError] = field(default_factory=list)

    def complete(self, outcome: list[ImageResult] | Exception) -> None:
        """Hand the outcome to the event loop; the client may have gone by now."""

        def settle() -> None:
            if self.answer.done():
                return
            if isinstance(outcome, Exception):
                self.answer.set_exception(outcome)
            else:
                self.answer.set_result(outcome)

        self.answer.get_loop().call_soon_threadsafe(settle)


class Batcher:
    """Runs a model for many requests at a time; lives as long as the process."""

    def __init__(self, model: Model, metrics: Metrics, *, limits: Limits, workers: int) -> None:
        self._model = model
        self._metrics = metrics
        self._limits = limits
        self._pending: queue.SimpleQueue[_PendingRequest] = queue.SimpleQueue()
        self._failed_batches = 0
        self._lock = threading.Lock()
        for number in range(workers):
            threading.Thread(target=self._run_worker, name=f"predict-{number}", daemon=True).start()

    @property
    def labels(self) -> Sequence[str]:
        """The names of the classes, in the order of the scores."""
        return self._model.labels

    @property
    def is_healthy(self) -> bool:
        """Whether predictions can be expected to succeed; false after MAX_FAILED_BATCHES, until one succeeds again."""
        return self._failed_batches < MAX_FAILED_BATCHES

    async def submit(self, images: Sequence[ImageFile] | Sequence[Tensor]) -> list[ImageResult]:
        """Return the probabilities for each image, or the reason why it has none; tensors are preprocessed already."""
        answer: asyncio.Future[list[ImageResult]] = asyncio.get_running_loop().create_future()
        self._pending.put(_PendingRequest(images, answer))
        return await answer

    def _run_worker(self) -> None:
        """Compute batches, for ever."""
        while True:
            batch = self._next_batch()
            try:
                results = self._compute(batch)
            except Exception as error:
                for request in batch:
                    request.complete(error)
            else:
                for request, result in zip(batch, results, strict=True):
                    request.complete(result)

    def _next_batch(self) -> list[_PendingRequest]:
        """Wait for a request; return it with those behind it, up to the best batch, whose clients are still there."""
        batch = [self._pending.get()]
        while sum(len(request.images) for request in batch) < self._model.best_batch:
            try:
                batch.append(self._pending.get_nowait())
            except queue.Empty:
                break
        return [request for request in batch if not request.answer.cancelled()]

    def _compute(self, batch: Sequence[_PendingRequest]) -> list[list[ImageResult]]:
        """Return each request's results: all images that can be decoded are computed together."""
        now = time.perf_counter()
        for request in batch:
            self._metrics.observe("queue", now - request.queued)
            with self._metrics.stage("decode"):
                request.tensors = [self._to_tensor(image) for image in request.images]
        tensors = [tensor for request in batch for tensor in request.tensors if not isinstance(tensor, ImageError)]
        scores = iter(self._infer(tensors) if tensors else ())
        return [[t if isinstance(t, ImageError) else next(scores) for t in request.tensors] for request in batch]

    def _to_tensor(self, image: ImageFile | Tensor) -> Tensor | ImageError:
        if not isinstance(image, ImageFile):
            return image
        preprocess = self._model.preprocess
        try:
            return preprocess.tensor(decode_file(image, self._limits, min_side=preprocess.min_decode_side))
        except ImageError as error:
            return error

    def _infer(self, tensors: Sequence[Tensor]) -> Scores:
        with self._metrics.stage("infer"):
            try:
                scores = self._model.predict(tensors)
            except Exception:
                with self._lock:
                    self._failed_batches += 1
                raise
        with self._lock:
            self._failed_batches = 0
        return scores
