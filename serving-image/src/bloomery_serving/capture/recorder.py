"""Recorder of captures: a bounded queue, and threads of its own that write to the store.

A request never waits for it: what finds no room in the queue is dropped and counted.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

from bloomery_model import ImageError, open_image
from bloomery_model.capture import AnsweringModel, CaptureRecord, Reason
from bloomery_model.onnx_classifier import Scores
from bloomery_model.stores import StoreError
from bloomery_serving.about import About
from bloomery_serving.capture.ids import time_of
from bloomery_serving.capture.image_metadata import strip_metadata
from bloomery_serving.capture.selection import CapturePolicy, Selector
from bloomery_serving.capture.store import EXTENSIONS, CaptureStore
from bloomery_serving.fault_log import FaultLog
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.image_file import FORMATS
from bloomery_serving.jobs import lower_priority, lower_priority_of
from bloomery_serving.settings import Settings

logger = logging.getLogger(__name__)

WRITERS = 2
MAX_OUTAGE_SECONDS = 300.0
"""A capture that the store did not take for so long is dropped."""
RETRY_SECONDS = 2.0
_CLIENT_THREAD = "tokio-rt-worker"
"""Name of the threads of the store's client, which take most of a capture's time."""

DropCause = Literal["HourlyLimit", "QueueFull", "StoreUnavailable", "StoreRefused", "BadImage"]
REASONS: tuple[Reason, ...] = ("Random", "LowConfidence", "PerClass")
DROP_CAUSES: tuple[DropCause, ...] = ("HourlyLimit", "QueueFull", "StoreUnavailable", "StoreRefused", "BadImage")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An image as a client sent it, the name of the client's key, and whether the client lets it be captured."""

    data: bytes
    key: str
    may_capture: bool = True


@dataclass(frozen=True, kw_only=True)
class PendingCapture:
    """A capture that is not stored yet."""

    id: str
    upload: Upload
    scores: Scores
    is_unknown: bool
    reason: Reason
    identity: ModelIdentity


class CaptureQueue:
    """Captures that wait or are being written, bounded by their number and their bytes."""

    def __init__(self, *, max_captures: int, max_bytes: int) -> None:
        self._max_captures = max_captures
        self._max_bytes = max_bytes
        self._waiting: deque[PendingCapture] = deque()
        self._changed = threading.Condition()
        self.captures = 0
        self.bytes = 0

    def put(self, capture: PendingCapture) -> bool:
        """Add a capture; return False if there is no room."""
        size = len(capture.upload.data)
        with self._changed:
            if self.captures >= self._max_captures or self.bytes + size > self._max_bytes:
                return False
            self.captures += 1
            self.bytes += size
            self._waiting.append(capture)
            self._changed.notify()
            return True

    def get(self) -> PendingCapture:
        """Wait for a capture; it takes its room until it is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            return self._waiting.popleft()

    def release(self, capture: PendingCapture) -> None:
        """Give back the room of a capture that is done."""
        with self._changed:
            self.captures -= 1
            self.bytes -= len(capture.upload.data)
            self._changed.notify_all()

    def wait_until_empty(self, seconds: float) -> bool:
        """Return whether all captures are done within a time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.captures, seconds)


class CaptureMetrics:
    """Counters of captures; all series exist from the start."""

    def __init__(self, registry: CollectorRegistry, queue: CaptureQueue) -> None:
        stored = Counter("bloomery_captures", "Images that were captured, by reason.", ["reason"], registry=registry)
        dropped = Counter(
            "bloomery_dropped_captures", "Images that were to be captured and are not stored, by cause.", ["cause"],
            registry=registry,
        )  # fmt: skip
        self.stored = {reason: stored.labels(reason) for reason in REASONS}
        self.dropped = {cause: dropped.labels(cause) for cause in DROP_CAUSES}
        waiting = Gauge("bloomery_capture_queue_bytes", "Bytes of images that wait for the store.", registry=registry)
        waiting.set_function(lambda: queue.bytes)


class CaptureRecorder:
    """Selects images of answered requests, and stores them."""

    def __init__(
        self,
        store: CaptureStore,
        settings: Settings,
        about: About,
        labels: Sequence[str],
        registry: CollectorRegistry,
        *,
        selector: Selector | None = None,
    ) -> None:
        """Start the writers; ``selector`` is that of the settings unless it is given."""
        self._store = store
        self._settings = settings
        self._about = about
        self._labels = labels
        self._selector = selector or Selector(CapturePolicy.of(settings))
        self._queue = CaptureQueue(max_captures=settings.capture_queue_size, max_bytes=settings.capture_queue_bytes)
        self._metrics = CaptureMetrics(registry, self._queue)
        self._faults = FaultLog(logger, end="captures are stored again")
        for number in range(WRITERS):
            threading.Thread(target=self._run, name=f"capture-{number}", daemon=True).start()

    def offer(self, prediction_id: str, upload: Upload, scores: Scores, *, is_unknown: bool) -> None:
        """Capture an answered image if it is selected and there is room; never wait."""
        label = int(scores.argmax())
        reason = self._selector.find_reason(label, float(scores[label]), is_unknown=is_unknown)
        if reason is None:
            return
        if not self._selector.acquire(label, reason):
            self._metrics.dropped["HourlyLimit"].inc()
            return
        capture = PendingCapture(
            id=prediction_id,
            upload=upload,
            scores=scores,
            is_unknown=is_unknown,
            reason=reason,
            identity=self._about.identity,
        )
        if not self._queue.put(capture):
            self._metrics.dropped["QueueFull"].inc()

    def drain(self, seconds: float) -> None:
        """Wait until all captures are stored, but not longer than that."""
        if not self._queue.wait_until_empty(seconds):
            logger.warning("%d captures are lost: the store did not take them in time", self._queue.captures)

    def _run(self) -> None:
        lower_priority()
        lower_priority_of(_CLIENT_THREAD)  # they run already where the model came from a store
        while True:
            capture = self._queue.get()
            try:
                self._record(capture)
            except Exception:
                logger.exception("the capture %s is lost", capture.id)
            self._queue.release(capture)
            del capture  # its memory is free while the thread waits

    def _record(self, capture: PendingCapture) -> None:
        try:
            record, data = self._describe(capture)
        except ImageError:
            self._metrics.dropped["BadImage"].inc()
            return
        self._write(partial(self._store.write, record, data), capture)

    def _write(self, write: Callable[[], None], capture: PendingCapture) -> None:
        """Write a capture; while the store does not answer, try again."""
        deadline = time_of(capture.id).timestamp() + MAX_OUTAGE_SECONDS
        while True:
            try:
                write()
            except StoreError as error:
                self._faults.report(f"captures are not stored: {error}")
                if error.kind == "Unavailable" and time.time() < deadline:
                    time.sleep(RETRY_SECONDS)
                    continue
                self._metrics.dropped["StoreUnavailable" if error.kind == "Unavailable" else "StoreRefused"].inc()
            else:
                self._faults.clear()
                self._metrics.stored[capture.reason].inc()
            return

    def _describe(self, capture: PendingCapture) -> tuple[CaptureRecord, bytes]:
        """Return the record and the file of a capture.

        Raises:
            ImageError: the image's metadata cannot be removed.
        """
        data, identity = capture.upload.data, capture.identity
        kind = str(open_image(data, formats=FORMATS).format)
        if self._settings.capture_strip_metadata:
            data = strip_metadata(data, kind=kind)
        record = CaptureRecord(
            id=capture.id,
            time=time_of(capture.id),
            image=f"{capture.id}.{EXTENSIONS[kind]}",
            sha256=hashlib.sha256(data).hexdigest(),
            predicted=self._labels[int(capture.scores.argmax())],
            unknown=capture.is_unknown,
            scores=dict(zip(self._labels, capture.scores.astype(float).round(6).tolist(), strict=True)),
            reason=capture.reason,
            service=self._settings.service_name,
            namespace=self._settings.service_namespace,
            variant=identity.variant,
            model=AnsweringModel(
                digest=identity.digest, name=identity.model_name or None, version=identity.model_version or None
            ),
            run=identity.run_id,
            key=capture.upload.key,
        )
        return record, data
