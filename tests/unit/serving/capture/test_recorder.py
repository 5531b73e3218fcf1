"""The recorder: its bounds, and what it drops, with a store in memory."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from bloomery_model.capture import CaptureRecord
from bloomery_model.stores import StoreError
from bloomery_serving.about import About
from bloomery_serving.capture import recorder as recorder_module
from bloomery_serving.capture.ids import new_prediction_id
from bloomery_serving.capture.recorder import CaptureQueue, CaptureRecorder, PendingCapture, Upload
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.settings import Settings
from tests.unit.serving.capture.test_image_metadata import encoded, exif

LABELS = ("rose", "tulip")
SCORES = np.asarray([0.25, 0.75], np.float32)
IDENTITY = ModelIdentity(digest="sha256:1", variant="v1")
WAIT_SECONDS = 20.0


class Store:
    """A store in memory that may refuse, or be away."""

    def __init__(self) -> None:
        self.captures: dict[str, tuple[CaptureRecord, bytes]] = {}
        self.fault: StoreError | None = None
        self.opened = threading.Event()
        self.opened.set()
        self.tries = 0

    def write(self, record: CaptureRecord, data: bytes) -> None:
        self.tries += 1
        assert self.opened.wait(WAIT_SECONDS)
        if self.fault is not None:
            raise self.fault
        self.captures[record.id] = (record, data)


@pytest.fixture
def store() -> Store:
    return Store()


class Recorder:
    """A recorder of everything, and its counters."""

    def __init__(self, store: Store, **settings: Any) -> None:
        self.registry = CollectorRegistry()
        everything = {"capture_percent": 100, "capture_uri": "file:///captures", "service_name": "flowers"}
        served = Settings(model_uri="file:///model", **everything | settings)
        self.recorder = CaptureRecorder(store, served, About(served, IDENTITY), LABELS, self.registry)  # type: ignore[arg-type]

    def offer(self, data: bytes) -> str:
        prediction = new_prediction_id()
        self.recorder.offer(prediction, Upload(data=data, key="app"), SCORES, is_unknown=False)
        return prediction

    def dropped(self, cause: str) -> float | None:
        return self.registry.get_sample_value("bloomery_dropped_captures_total", {"cause": cause})

    def drain(self) -> None:
        self.recorder.drain(WAIT_SECONDS)


@pytest.mark.feature("S19")
def test_record_says_what_was_answered(store: Store) -> None:
    recorder, image = Recorder(store), encoded("PNG")
    prediction = recorder.offer(image)
    recorder.drain()

    record, data = store.captures[prediction]
    assert data == image
    assert (record.predicted, record.scores, record.key) == ("tulip", {"rose": 0.25, "tulip": 0.75}, "app")
    assert (record.variant, record.model.digest, record.reason) == ("v1", "sha256:1", "Random")


@pytest.mark.feature("S19")
def test_offer_never_waits_for_a_store_that_hangs(store: Store) -> None:
    recorder, image = Recorder(store, capture_queue_size=5), encoded("PNG")
    store.opened.clear()

    began = time.monotonic()
    for _ in range(100):
        recorder.offer(image)

    assert time.monotonic() - began < 1
    assert recorder.dropped("QueueFull") == 95
    store.opened.set()
    recorder.drain()
    assert len(store.captures) == 5


@pytest.mark.feature("S19")
def test_bytes_of_images_that_are_being_written_count() -> None:
    queue = CaptureQueue(max_captures=100, max_bytes=1000)

    def pending(size: int) -> PendingCapture:
        upload = Upload(data=bytes(size), key="")
        return PendingCapture(id="", upload=upload, scores=SCORES, is_unknown=False, reason="Random", identity=IDENTITY)

    assert [queue.put(pending(400)) for _ in range(3)] == [True, True, False]
    capture = queue.get()
    assert not queue.put(pending(400))
    queue.release(capture)
    assert queue.put(pending(400))
    assert (queue.captures, queue.bytes) == (2, 800)


@pytest.mark.feature("S19")
def test_store_that_refuses_is_not_asked_again(store: Store) -> None:
    recorder = Recorder(store)
    store.fault = StoreError("Refused", "AccessDenied", "the store refuses access")
    recorder.offer(encoded("PNG"))
    recorder.drain()

    assert (store.tries, recorder.dropped("StoreRefused")) == (1, 1)


@pytest.mark.feature("S19")
def test_store_that_is_away_for_too_long_loses_captures(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(recorder_module, "MAX_OUTAGE_SECONDS", 0.2)
    recorder = Recorder(store)
    store.fault = StoreError("Unavailable", "StoreUnreachable", "the store does not answer")
    recorder.offer(encoded("PNG"))
    recorder.drain()

    assert store.tries > 2
    assert recorder.dropped("StoreUnavailable") == 1


@pytest.mark.feature("S19")
def test_image_whose_metadata_cannot_be_removed_is_not_stored(store: Store) -> None:
    recorder = Recorder(store, capture_strip_metadata=True)
    data = bytearray(encoded("JPEG", exif=exif(1)))
    position = data.index(b"\xff\xdb")
    data[position + 2 : position + 4] = b"\0\x05"
    recorder.offer(bytes(data))
    recorder.drain()

    assert (store.captures, recorder.dropped("BadImage")) == ({}, 1)


@pytest.mark.feature("S19")
def test_failure_of_one_capture_ends_no_writer(store: Store) -> None:
    recorder = Recorder(store)
    for _ in range(5):
        recorder.offer(b"no image")
    prediction = recorder.offer(encoded("PNG"))
    recorder.drain()

    assert set(store.captures) == {prediction}
    assert recorder.dropped("BadImage") == 5
