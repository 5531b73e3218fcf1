"""Predictions off the event loop: a queue before as many workers as there are processors.

A worker takes the requests that wait, up to the model's best batch: one alone while nothing else waits, several
together under load. An image that cannot be decoded costs the others of its batch nothing. Large images are decoded by
other workers, as far as the memory allows, and come back for the model: nobody waits for them but their own client.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL.Image import Image

from bloomery_model import ImageError, Tensor, decoding_bytes, to_rgb
from bloomery_serving.capacity import LARGE_DECODING_BYTES, Capacity
from bloomery_serving.fair_queue import ClientTimes, FairQueue
from bloomery_serving.image_file import ImageFile, Limits, open_file
from bloomery_serving.jobs import Job, Watchdog, lower_priority
from bloomery_serving.memory_budget import MemoryBudget
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import Model, ScoredImage

logger = logging.getLogger(__name__)

MAX_FAILED_BATCHES = 3
"""After so many batches in a row that could not be computed, it is not the images: a GPU was lost, or memory."""


@dataclass(frozen=True)
class NotFinite:
    """The result of an image or tensor for which the model gave NaN or an infinity."""


ImageResult = ScoredImage | ImageError | NotFinite
"""The scores of one image, or the reason why it has none."""


class _Abandoned(Exception):
    """The client of a request left while a worker was at it."""


class _PendingRequest(Job[list[ImageResult]]):
    """One request's images, on their way through the workers and back to the event loop."""

    def __init__(self, client: str, images: Sequence[ImageFile] | Sequence[Tensor]) -> None:
        super().__init__(client)
        self.images: Sequence[ImageFile | Tensor | Image | ImageError] = images
        """Files, then images whose headers are read, then tensors; or the reason why one cannot become a tensor."""
        self.has_files = isinstance(images[0], ImageFile) if images else False
        self.is_decoded = not self.has_files
        self.queued: float | None = time.perf_counter()
        """The time at which it was put into the queue; None once a worker has taken it."""


class Batcher:
    """Runs a model for many requests at a time; lives as long as the process."""

    def __init__(
        self,
        model: Model,
        metrics: Metrics,
        watchdog: Watchdog,
        *,
        limits: Limits,
        capacity: Capacity,
        budget: MemoryBudget | None = None,
        times: ClientTimes | None = None,
    ) -> None:
        """Start the workers; others may share the budget of memory for large images, and the clients' times."""
        self._model = model
        self._metrics = metrics
        self._watchdog = watchdog
        self._limits = limits
        self._budget = budget or MemoryBudget(capacity.decoding_bytes)
        times = times or ClientTimes()
        self._pending: FairQueue[_PendingRequest] = FairQueue(times)
        self._large: FairQueue[_PendingRequest] = FairQueue(times)
        self._failed_batches = 0
        self._lock = threading.Lock()
        for number in range(capacity.workers):
            _start_thread(self._run_worker, f"predict-{number}")
            _start_thread(self._run_decoder, f"decode-{number}")

    @property
    def labels(self) -> Sequence[str]:
        """The names of the classes, in the order of the scores."""
        return self._model.labels

    @property
    def is_healthy(self) -> bool:
        """Whether predictions can be expected to succeed.

        False after MAX_FAILED_BATCHES, until one succeeds again, and while a worker hangs.
        """
        return self._failed_batches < MAX_FAILED_BATCHES and not self._watchdog.is_hung

    async def submit(self, client: str, images: Sequence[ImageFile] | Sequence[Tensor]) -> list[ImageResult]:
        """Return the result of each image; tensors are preprocessed already.

        Args:
            client: the name of the client, among whom the workers' time is shared.
            images: all of one kind.
        """
        request = _PendingRequest(client, images)
        self._pending.put(client, request)
        return await request.wait(self._pending, self._large)

    def _run_worker(self) -> None:
        """Compute batches, for ever."""
        while True:
            batch = self._next_batch()
            began = time.perf_counter()
            self._work(batch)
            self._charge(self._pending, batch, time.perf_counter() - began)
            del batch  # its memory is free while the thread waits

    def _run_decoder(self) -> None:
        """Decode the images of large requests, for ever."""
        lower_priority()
        while True:
            request = self._large.get()
            # This thread waits for others, and for memory, at nobody's cost.
            began = time.thread_time()
            try:
                self._decode(request, self._to_tensor_within_budget)
            except Exception as error:
                request.complete(error)
            else:
                self._pending.put(request.client, request)
            self._charge(self._large, [request], time.thread_time() - began)
            del request

    def _next_batch(self) -> list[_PendingRequest]:
        """Wait for a request; return it with those behind it, up to the best batch."""
        batch = [self._pending.get()]
        while sum(len(request.images) for request in batch) < self._model.best_batch:
            request = self._pending.get_nowait()
            if request is None:
                break
            batch.append(request)
        return batch

    def _charge(self, queue: FairQueue[_PendingRequest], batch: Sequence[_PendingRequest], seconds: float) -> None:
        images = sum(len(request.images) for request in batch) or 1
        for request in batch:
            queue.charge(request.client, seconds * len(request.images) / images)

    def _work(self, batch: Sequence[_PendingRequest]) -> None:
        """Decode and compute the requests of a batch; pass large ones on."""
        ready = [request for request in batch if self._prepare(request)]
        try:
            results = self._compute(ready)
        except Exception as error:
            for request in ready:
                request.complete(error)
        else:
            for request, result in zip(ready, results, strict=True):
                request.complete(result)

    def _prepare(self, request: _PendingRequest) -> bool:
        """Decode a request's images; return False if it is large and waits for that, or has failed."""
        self._observe_wait(request)
        try:
            if not request.is_decoded and self._open(request):
                self._decode(request, self._to_tensor)
        except Exception as error:
            request.complete(error)
            return False
        return request.is_decoded

    def _observe_wait(self, request: _PendingRequest) -> None:
        if request.queued is not None:
            self._metrics.observe("queue", time.perf_counter() - request.queued)
            request.queued = None

    def _open(self, request: _PendingRequest) -> bool:
        """Read the headers of a request's images; return False if it is large, and now waits with the large ones."""
        request.images = [self._open_file(image) if isinstance(image, ImageFile) else image for image in request.images]
        if sum(self._decoding_bytes(image) for image in request.images) <= LARGE_DECODING_BYTES:
            return True
        self._large.put(request.client, request)
        return False

    def _open_file(self, file: ImageFile) -> Image | ImageError:
        try:
            return open_file(file, self._limits)
        except ImageError as error:
            return error

    def _decoding_bytes(self, image: object) -> int:
        side = self._model.preprocess.min_decode_side
        return decoding_bytes(image, min_side=side) if isinstance(image, Image) else 0

    def _decode(self, request: _PendingRequest, to_tensor: Callable[[Image], Tensor | ImageError]) -> None:
        """Turn a request's images into tensors, one after the other."""
        images: list[ImageFile | Tensor | Image | ImageError] = []
        with self._metrics.stage("decode"):
            for image in request.images:
                if request.is_abandoned:
                    raise _Abandoned
                images.append(to_tensor(image) if isinstance(image, Image) else image)
        request.images, request.is_decoded = images, True

    def _to_tensor_within_budget(self, image: Image) -> Tensor | ImageError:
        with self._budget.acquire(self._decoding_bytes(image)):
            return self._to_tensor(image)

    def _to_tensor(self, image: Image) -> Tensor | ImageError:
        preprocess = self._model.preprocess
        try:
            with self._watchdog.step():
                return preprocess.tensor(to_rgb(image, min_side=preprocess.min_decode_side))
        except ImageError as error:
            return error

    def _compute(self, batch: Sequence[_PendingRequest]) -> list[list[ImageResult]]:
        """Return each request's results: all images that could be decoded are computed together."""
        tensors = [image for request in batch for image in request.images if isinstance(image, np.ndarray)]
        scored = iter(self._infer(tensors) if tensors else ())
        results = [
            [image if isinstance(image, ImageError) else _finite(next(scored)) for image in request.images]
            for request in batch
        ]
        self._count_outcomes(batch, results)
        return results

    def _infer(self, tensors: Sequence[Tensor]) -> Sequence[ScoredImage]:
        with self._metrics.stage("infer"), self._watchdog.step():
            try:
                return self._model.predict(tensors)
            except Exception:
                self._count_failure()
                raise

    def _count_outcomes(self, batch: Sequence[_PendingRequest], results: Sequence[Sequence[ImageResult]]) -> None:
        """Count a batch as failed if the model gave no number for an image; tensors may be too large for any model."""
        by_files = [result for request, own in zip(batch, results, strict=True) if request.has_files for result in own]
        if any(isinstance(result, NotFinite) for result in by_files):
            self._count_failure()
        elif any(isinstance(result, ScoredImage) for own in results for result in own):
            with self._lock:
                self._failed_batches = 0

    def _count_failure(self) -> None:
        with self._lock:
            self._failed_batches += 1


def _finite(image: ScoredImage) -> ScoredImage | NotFinite:
    return image if np.isfinite(image.scores).all() else NotFinite()


def _start_thread(target: Callable[[], None], name: str) -> None:
    threading.Thread(target=target, name=name, daemon=True).start()
