"""What is computed together, and what the probes say when nothing can be computed any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest

from bloomery_model import Preprocess, Tensor
from bloomery_serving.app import create_app
from bloomery_serving.image_file import Limits
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import Scores
from bloomery_serving.predictor import FAILURES, Predictor
from bloomery_serving.settings import Settings

SIDE = 2
SECONDS = 10
SETTINGS = Settings(model_uri="file:///model", service_name="colours")
IMAGE = {"name": "images", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE], "data": [0.0] * 3 * SIDE * SIDE}
PROBES = ("/v2/health/live", "/v2/health/ready", "/v2/models/colours/ready")


@dataclass
class Network:
    """A model that computes when it is let, and fails when it is told to."""

    best_batch: int = 1
    broken: bool = False
    labels: tuple[str, ...] = ("red", "green")
    digest: str = "sha256:0"
    preprocess: Preprocess = field(default_factory=lambda: Preprocess.for_size(SIDE))
    batches: list[int] = field(default_factory=list)
    began: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)

    def predict(self, tensors: Sequence[Tensor]) -> Scores:
        self.batches.append(len(tensors))
        self.began.set()
        assert self.may_end.wait(SECONDS)
        if self.broken:
            raise RuntimeError("CUDA error 700: an illegal memory access was encountered")
        return np.full((len(tensors), 2), 0.5, np.float32)


def metrics() -> Metrics:
    return Metrics(SETTINGS, digest="sha256:0")


def predictor(network: Network) -> Predictor:
    return Predictor(network, metrics(), limits=Limits(1000, 1000), workers=1)  # type: ignore[arg-type]


def images(count: int) -> list[Tensor]:
    return [np.zeros((3, SIDE, SIDE), np.float32)] * count


def run(*asked: Coroutine[Any, Any, Any]) -> None:
    async def all_of_them() -> None:
        await asyncio.wait_for(asyncio.gather(*asked), SECONDS)

    asyncio.run(all_of_them())


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
def test_what_waits_is_computed_together_as_far_as_that_is_worth_while(
    best: int, sizes: list[int], batches: list[int]
) -> None:
    network = Network(best_batch=best)
    asked = predictor(network)

    async def while_one_is_computed() -> None:
        first = asyncio.ensure_future(asked.score(images(1)))
        assert await asyncio.to_thread(network.began.wait, SECONDS)
        waiting = [asyncio.ensure_future(asked.score(images(size))) for size in sizes]
        await asyncio.sleep(0)  # each puts itself into the queue
        network.may_end.set()
        answers = await asyncio.gather(first, *waiting)
        assert [len(scores) for scores in answers] == [1, *sizes]

    run(while_one_is_computed())
    assert network.batches == batches


@pytest.mark.feature("S3")
def test_an_image_that_comes_when_nothing_waits_is_computed_alone_and_at_once() -> None:
    network = Network(best_batch=32)
    network.may_end.set()
    asked = predictor(network)
    run(asked.score(images(1)))
    run(asked.score(images(1)))
    assert network.batches == [1, 1]


@pytest.mark.feature("S2")
def test_the_probes_say_when_predictions_fail_in_a_row_and_when_they_succeed_again() -> None:
    network = Network(broken=True)
    network.may_end.set()
    transport = httpx.ASGITransport(
        create_app(SETTINGS, network, metrics(), workers=1),  # type: ignore[arg-type]
        raise_app_exceptions=False,
    )

    async def told(client: httpx.AsyncClient) -> set[int]:
        return {(await client.get(probe)).status_code for probe in PROBES}

    async def ask(client: httpx.AsyncClient) -> int:
        return (await client.post("/v2/models/colours/infer", json={"inputs": [IMAGE]})).status_code

    async def story() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            assert [await ask(client) for _ in range(FAILURES - 1)] == [500] * (FAILURES - 1)
            assert await told(client) == {200}
            assert await ask(client) == 500
            assert await told(client) == {503}
            assert (await client.get("/v2/health/live")).json() == {"live": False}
            assert (await client.get("/v2/health/ready")).json() == {"ready": False}
            network.broken = False
            assert await ask(client) == 200
            assert await told(client) == {200}

    run(story())


@pytest.mark.feature("S2")
def test_images_that_can_not_be_read_are_no_failure_of_the_server() -> None:
    network = Network()
    network.may_end.set()
    transport = httpx.ASGITransport(create_app(SETTINGS, network, metrics(), workers=1))  # type: ignore[arg-type]

    async def story() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            for _ in range(2 * FAILURES):
                assert (await client.post("/predict", content=b"no image")).status_code == 400
            assert (await client.get("/v2/health/live")).status_code == 200

    run(story())
