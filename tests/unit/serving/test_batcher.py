"""Batches of waiting requests, and the probes when nothing can be computed any more."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from bloomery_model import Preprocess, Tensor
from bloomery_model.statistics import Statistics
from bloomery_serving import batcher as batcher_module
from bloomery_serving.app import create_app
from bloomery_serving.batcher import MAX_FAILED_BATCHES, Batcher
from bloomery_serving.capacity import Capacity
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.image_file import ImageFile, Limits
from bloomery_serving.jobs import Watchdog
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import ScoredImage
from bloomery_serving.settings import Settings

SIDE = 2
SECONDS = 10
SETTINGS = Settings(model_uri="file:///model", service_name="colours")
CAPACITY = Capacity.of(SETTINGS, processors=1, memory=2 * 1024**3)
IDENTITY = ModelIdentity(digest="sha256:0")
IMAGE = {"name": "images", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE], "data": [0.0] * 3 * SIDE * SIDE}
PROBES = ("/v2/health/live", "/v2/health/ready", "/v2/models/colours/ready")


@dataclass
class Network:
    """A model that computes once ``may_end`` is set, and fails if it is broken."""

    best_batch: int = 1
    assumes_imagenet: bool = False
    broken: bool = False
    labels: tuple[str, ...] = ("red", "green")
    digest: str = "sha256:0"
    preprocess: Preprocess = field(default_factory=lambda: Preprocess.for_size(SIDE))
    statistics: Statistics = field(default_factory=Statistics)
    batches: list[int] = field(default_factory=list)
    began: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)

    def predict(self, tensors: Sequence[Tensor]) -> list[ScoredImage]:
        self.batches.append(len(tensors))
        self.began.set()
        assert self.may_end.wait(SECONDS)
        if self.broken:
            raise RuntimeError("CUDA error 700: an illegal memory access was encountered")
        return [ScoredImage(np.full(2, 0.5, np.float32), 0.0)] * len(tensors)


def metrics() -> Metrics:
    return Metrics(IDENTITY, service=SETTINGS.service_name)


def batcher(network: Network) -> Batcher:
    limits = Limits(1000, 1000)
    return Batcher(network, metrics(), Watchdog(SECONDS), limits=limits, capacity=CAPACITY)  # type: ignore[arg-type]


def images(count: int) -> list[Tensor]:
    return [np.zeros((3, SIDE, SIDE), np.float32)] * count


def run(*coroutines: Coroutine[Any, Any, Any]) -> None:
    async def gather() -> None:
        await asyncio.wait_for(asyncio.gather(*coroutines), SECONDS)

    asyncio.run(gather())


@pytest.mark.feature("S3")
@pytest.mark.parametrize(
    ("best", "sizes", "batches"),
    [
        (1, [1, 1, 1], [1, 1, 1, 1]),
        (2, [1, 1, 1, 1, 1], [1, 2, 2, 1]),
        (32, [1, 2, 3], [1, 6]),
        (2, [5, 1], [1, 5, 1]),
    ],
)
def test_waiting_requests_are_computed_together_up_to_the_best_batch(
    best: int, sizes: list[int], batches: list[int]
) -> None:
    network = Network(best_batch=best)
    tested = batcher(network)

    async def submit_while_one_is_computed() -> None:
        first = asyncio.ensure_future(tested.submit("a", images(1)))
        assert await asyncio.to_thread(network.began.wait, SECONDS)
        waiting = [asyncio.ensure_future(tested.submit("a", images(size))) for size in sizes]
        await asyncio.sleep(0)  # each puts itself into the queue
        network.may_end.set()
        answers = await asyncio.gather(first, *waiting)
        assert [len(results) for results in answers] == [1, *sizes]

    run(submit_while_one_is_computed())
    assert network.batches == batches


@pytest.mark.feature("S3")
def test_image_is_computed_alone_while_nothing_else_waits() -> None:
    network = Network(best_batch=32)
    network.may_end.set()
    tested = batcher(network)
    run(tested.submit("a", images(1)))
    run(tested.submit("a", images(1)))
    assert network.batches == [1, 1]


@pytest.mark.feature("S2")
def test_probes_fail_after_failed_batches_until_one_succeeds() -> None:
    network = Network(broken=True)
    network.may_end.set()
    transport = httpx.ASGITransport(
        create_app(SETTINGS, network, IDENTITY, metrics(), capacity=CAPACITY),  # type: ignore[arg-type]
        raise_app_exceptions=False,
    )

    async def probe_statuses(client: httpx.AsyncClient) -> set[int]:
        return {(await client.get(probe)).status_code for probe in PROBES}

    async def infer(client: httpx.AsyncClient) -> int:
        return (await client.post("/v2/models/colours/infer", json={"inputs": [IMAGE]})).status_code

    async def requests() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            assert [await infer(client) for _ in range(MAX_FAILED_BATCHES - 1)] == [500] * (MAX_FAILED_BATCHES - 1)
            assert await probe_statuses(client) == {200}
            assert await infer(client) == 500
            assert await probe_statuses(client) == {503}
            assert (await client.get("/v2/health/live")).json() == {"live": False}
            assert (await client.get("/v2/health/ready")).json() == {"ready": False}
            network.broken = False
            assert await infer(client) == 200
            assert await probe_statuses(client) == {200}

    run(requests())


@pytest.mark.feature("S2")
def test_images_that_cannot_be_decoded_do_not_fail_the_probes() -> None:
    network = Network()
    network.may_end.set()
    transport = httpx.ASGITransport(create_app(SETTINGS, network, IDENTITY, metrics(), capacity=CAPACITY))  # type: ignore[arg-type]

    async def requests() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            for _ in range(2 * MAX_FAILED_BATCHES):
                assert (await client.post("/predict", content=b"no image")).status_code == 400
            assert (await client.get("/v2/health/live")).status_code == 200

    run(requests())


@pytest.mark.feature("O7")
def test_second_image_is_not_decoded_for_a_client_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network()
    network.may_end.set()
    tested = batcher(network)
    decoding, may_go_on, decoded = threading.Event(), threading.Event(), []

    def to_rgb(image: Image.Image, **_: object) -> Image.Image:
        decoding.set()
        assert may_go_on.wait(SECONDS)
        decoded.append(image)
        return image.convert("RGB")

    monkeypatch.setattr(batcher_module, "to_rgb", to_rgb)
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(buffer, "PNG")
    files = [ImageFile(f"{number}.png", buffer.getvalue()) for number in range(3)]

    async def leave() -> None:
        request = asyncio.ensure_future(tested.submit("a", files))
        assert await asyncio.to_thread(decoding.wait, SECONDS)
        request.cancel()
        await asyncio.sleep(0)
        may_go_on.set()
        await asyncio.wait((request,))
        assert request.cancelled()

    run(leave())
    assert (len(decoded), network.batches) == (1, [])


@pytest.mark.feature("S2")
def test_probes_fail_while_a_worker_hangs_and_then_pass() -> None:
    network = Network()
    settings = SETTINGS.model_copy(update={"hang_seconds": 0.05})
    transport = httpx.ASGITransport(create_app(settings, network, IDENTITY, metrics(), capacity=CAPACITY))  # type: ignore[arg-type]

    async def requests() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            hung = asyncio.ensure_future(client.post("/v2/models/colours/infer", json={"inputs": [IMAGE]}))
            assert await asyncio.to_thread(network.began.wait, SECONDS)
            while (await client.get("/v2/health/live")).status_code == 200:
                await asyncio.sleep(0.01)
            assert (await client.get("/v2/health/ready")).status_code == 503
            network.may_end.set()
            assert (await hung).status_code == 200
            assert (await client.get("/v2/health/live")).status_code == 200

    run(requests())
