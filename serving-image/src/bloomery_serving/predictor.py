"""Predictions off the event loop: a bounded queue before as many workers as there are processors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bloomery_serving.errors import RequestError
from bloomery_serving.images import ImageFile, Limits, Tensor, decode
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import Model, Scores

Result = TypeVar("Result")


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image: each class' probability, the likeliest first."""

    file: str
    label: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Failure:
    """Why one image of several could not be read."""

    file: str
    error: RequestError


class Predictor:
    """Runs a model for many requests at a time; lives as long as the process."""

    def __init__(self, model: Model, metrics: Metrics, *, limits: Limits, workers: int, queue_size: int) -> None:
        self._model = model
        self._metrics = metrics
        self._limits = limits
        self._queue_size = queue_size
        self._in_flight = 0
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="predict")

    async def classify(self, files: Sequence[ImageFile]) -> list[Prediction | Failure]:
        """Classify images; one that can not be read is a Failure in its place.

        Raises:
            RequestError: 429, too many requests wait already.
        """
        return await self._queued(lambda: self._classify(files))

    async def score(self, tensors: Sequence[Tensor]) -> Scores:
        """Return the probabilities for tensors that are preprocessed already.

        Raises:
            RequestError: 429, too many requests wait already.
        """
        return await self._queued(lambda: self._infer(tensors))

    async def _queued(self, work: Callable[[], Result]) -> Result:
        if self._in_flight >= self._queue_size:
            message = f"{self._in_flight} requests wait already; try again in a second."
            raise RequestError(429, "TooManyRequests", message, headers={"retry-after": "1"})
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        queued = time.perf_counter()

        def timed() -> Result:
            self._metrics.observe("queue", time.perf_counter() - queued)
            return work()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, timed)
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)

    def _classify(self, files: Sequence[ImageFile]) -> list[Prediction | Failure]:
        with self._metrics.stage("decode"):
            decoded = [self._decode(file) for file in files]
        tensors = [tensor for tensor in decoded if not isinstance(tensor, RequestError)]
        scores = iter(self._infer(tensors) if tensors else ())
        return [
            Failure(file.name, outcome) if isinstance(outcome, RequestError) else self._prediction(file, next(scores))
            for file, outcome in zip(files, decoded, strict=True)
        ]

    def _decode(self, file: ImageFile) -> Tensor | RequestError:
        try:
            return self._model.preprocess.tensor(decode(file, self._limits))
        except RequestError as error:
            return error

    def _infer(self, tensors: Sequence[Tensor]) -> Scores:
        with self._metrics.stage("infer"):
            return self._model.predict(tensors)

    def _prediction(self, file: ImageFile, scores: Scores) -> Prediction:
        order = np.argsort(-scores, kind="stable")
        named = {self._model.labels[index]: round(float(scores[index]), 6) for index in order}
        return Prediction(file.name, self._model.labels[order[0]], named)
