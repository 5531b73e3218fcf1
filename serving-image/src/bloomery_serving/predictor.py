"""Predictions off the event loop: a queue before as many workers as there are processors.

A worker takes what waits, up to the batch that is worth while for the model: alone while nothing else waits, together
under load. What can not be decoded costs its neighbours nothing.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bloomery_model import Tensor
from bloomery_serving.errors import RequestError
from bloomery_serving.image_file import ImageFile, Limits, decode_file
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import Model, Scores


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


FAILURES = 3
"""After so many batches in a row that could not be computed, it is not the images: a GPU was lost, or memory."""

Row = Scores | RequestError
"""The scores of one image, or why it has none."""


@dataclass
class _Work:
    """One request's images, on their way through a worker and back to the event loop."""

    prepare: Callable[[], list[Tensor | RequestError]]
    size: int
    answer: asyncio.Future[list[Row]]
    queued: float = field(default_factory=time.perf_counter)
    tensors: list[Tensor | RequestError] = field(default_factory=list)


class Predictor:
    """Runs a model for many requests at a time; lives as long as the process."""

    def __init__(self, model: Model, metrics: Metrics, *, limits: Limits, workers: int) -> None:
        self._model = model
        self._metrics = metrics
        self._limits = limits
        self._waiting: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._failed = 0
        self._counting = threading.Lock()
        for number in range(workers):
            threading.Thread(target=self._work, name=f"predict-{number}", daemon=True).start()

    @property
    def works(self) -> bool:
        """Whether predictions can be expected to succeed; false after FAILURES, until one succeeds again."""
        return self._failed < FAILURES

    async def classify(self, files: Sequence[ImageFile]) -> list[Prediction | Failure]:
        """Classify images; one that can not be read is a Failure in its place."""
        rows = await self.score_files(files)
        return [
            Failure(file.name, row) if isinstance(row, RequestError) else self._prediction(file, row)
            for file, row in zip(files, rows, strict=True)
        ]

    async def score_files(self, files: Sequence[ImageFile]) -> list[Row]:
        """Return the probabilities for each image, or why it has none."""
        return await self._ask(lambda: [self._decode(file) for file in files], len(files))

    async def score(self, tensors: Sequence[Tensor]) -> Scores:
        """Return the probabilities for tensors that are preprocessed already."""
        rows = await self._ask(lambda: list(tensors), len(tensors))
        return np.stack([row for row in rows if not isinstance(row, RequestError)])

    async def _ask(self, prepare: Callable[[], list[Tensor | RequestError]], size: int) -> list[Row]:
        answer: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
        self._waiting.put(_Work(prepare, size, answer))
        return await answer

    def _work(self) -> None:
        """Be one worker, for ever."""
        while True:
            batch = [self._waiting.get()]
            while sum(work.size for work in batch) < self._model.best_batch:
                try:
                    batch.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            # Who asked may have gone while it waited.
            batch = [work for work in batch if not work.answer.cancelled()]
            try:
                answers = self._rows(batch)
            except Exception as error:
                for work in batch:
                    _tell(work, error)
            else:
                for work, rows in zip(batch, answers, strict=True):
                    _tell(work, rows)

    def _rows(self, batch: Sequence[_Work]) -> list[list[Row]]:
        """Return each request's rows: all images that can be read are computed together."""
        now = time.perf_counter()
        for work in batch:
            self._metrics.observe("queue", now - work.queued)
            with self._metrics.stage("decode"):
                work.tensors = work.prepare()
        tensors = [tensor for work in batch for tensor in work.tensors if not isinstance(tensor, RequestError)]
        scores = iter(self._infer(tensors) if tensors else ())
        return [[t if isinstance(t, RequestError) else next(scores) for t in work.tensors] for work in batch]

    def _decode(self, file: ImageFile) -> Tensor | RequestError:
        try:
            preprocess = self._model.preprocess
            return preprocess.tensor(decode_file(file, self._limits, min_side=preprocess.min_decode_side))
        except RequestError as error:
            return error

    def _infer(self, tensors: Sequence[Tensor]) -> Scores:
        with self._metrics.stage("infer"):
            try:
                scores = self._model.predict(tensors)
            except Exception:
                with self._counting:
                    self._failed += 1
                raise
        with self._counting:
            self._failed = 0
        return scores

    def _prediction(self, file: ImageFile, scores: Scores) -> Prediction:
        order = np.argsort(-scores, kind="stable").tolist()
        rounded = scores.astype(float).round(6).tolist()
        named = {self._model.labels[index]: rounded[index] for index in order}
        return Prediction(file.name, self._model.labels[order[0]], named)


def _tell(work: _Work, outcome: list[Row] | Exception) -> None:
    """Hand an outcome to the event loop; who asked may have gone by now."""

    def settle() -> None:
        if work.answer.done():
            return
        if isinstance(outcome, Exception):
            work.answer.set_exception(outcome)
        else:
            work.answer.set_result(outcome)

    work.answer.get_loop().call_soon_threadsafe(settle)
