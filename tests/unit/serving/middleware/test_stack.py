"""The middleware together, in the order of the application: refused requests and the routes that they count for."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bloomery_model import Preprocess, Tensor
from bloomery_model.statistics import Statistics
from bloomery_serving.app import create_app
from bloomery_serving.capacity import Capacity
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import ScoredImage
from bloomery_serving.settings import Settings

SIDE = 2
SECONDS = 10
GIB = 1024**3
IDENTITY = ModelIdentity(digest="sha256:0", variant="v1")
INFER = (
    b'{"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 3, 2, 2], "data": [0,0,0,0,0,0,0,0,0,0,0,0]}]}'
)


class Model:
    """A model that answers every image alike."""

    best_batch = 1
    assumes_imagenet = False
    labels = ("red", "green")
    preprocess = Preprocess.for_size(SIDE)
    statistics = Statistics()

    def predict(self, tensors: Sequence[Tensor]) -> list[ScoredImage]:
        return [ScoredImage(np.full(2, 0.5, np.float32), 0.0)] * len(tensors)


class SlowModel(Model):
    """The same, after half a second."""

    def predict(self, tensors: Sequence[Tensor]) -> list[ScoredImage]:
        time.sleep(0.5)
        return super().predict(tensors)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    for name, key in (("default", "secret"), ("none", "another")):
        (tmp_path / name).write_text(hashlib.sha256(key.encode()).hexdigest())
    return tmp_path


class Client:
    """Sends requests to an application with keys, without a network."""

    def __init__(self, keys: Path, model: Model | None = None, **settings: Any) -> None:
        self.metrics = Metrics(IDENTITY, service="colours")
        served = Settings(model_uri="file:///model", service_name="colours", api_keys_dir=keys, **settings)
        self.app = create_app(
            served,
            model or Model(),  # type: ignore[arg-type]
            IDENTITY,
            self.metrics,
            capacity=Capacity.of(served, processors=1, memory=2 * GIB),
        )

    def send(
        self,
        method: str,
        path: str,
        *,
        key: str = "secret",
        chunks: Sequence[bytes] = (b"",),
        headers: Sequence[tuple[bytes, bytes]] = (),
        closed: bool = False,
    ) -> tuple[int, dict[bytes, bytes]]:
        """Return the answer's status and headers; ``closed`` leaves once the body is sent."""
        scope = {
            "type": "http", "method": method, "path": path, "query_string": b"", "root_path": "",
            "headers": [*headers, *([(b"authorization", key.encode())] if key else [])],
        }  # fmt: skip
        answers: list[dict[str, Any]] = []
        last = len(chunks) - 1
        body = iter([{"type": "http.request", "body": chunk, "more_body": n < last} for n, chunk in enumerate(chunks)])

        async def receive() -> Any:
            message = next(body, None)
            if message is None and not closed:
                await asyncio.sleep(SECONDS)
            return message or {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            answers.append(message)

        asyncio.run(self.app(scope, receive, send))  # type: ignore[arg-type]
        return (int(answers[0]["status"]), dict(answers[0]["headers"])) if answers else (0, {})

    def status_of(self, method: str, path: str, **request: Any) -> int:
        return self.send(method, path, **request)[0]

    @property
    def counted(self) -> dict[tuple[str, str, str], float]:
        """Requests by route, code and key."""
        family = next(family for family in self.metrics.registry.collect() if family.name == "bloomery_requests")
        return {
            (sample.labels["route"], sample.labels["code"], sample.labels["key"]): sample.value
            for sample in family.samples
            if sample.name.endswith("_total")
        }

    @property
    def in_flight(self) -> float:
        return self.metrics.registry.get_sample_value("bloomery_requests_in_flight") or 0


@pytest.mark.feature("S10")
@pytest.mark.parametrize("path", ["/", "/predict", "/v2/models/colours/infer"])
def test_request_that_never_reached_the_model_is_no_prediction(keys: Path, path: str) -> None:
    client = Client(keys)
    assert [client.status_of("POST", path, key=key) for key in ("", "wrong")] == [401, 401]
    assert client.status_of("GET", path) == 405
    assert client.counted == {("other", "401", ""): 2, ("other", "405", "default"): 1}


@pytest.mark.feature("S10")
def test_prediction_that_is_not_admitted_counts_as_one(keys: Path) -> None:
    client = Client(keys, queue_size=0)
    for path in ("/predict", "/v2/models/colours/infer"):
        assert client.status_of("POST", path) == 429
    assert set(client.counted) == {("/predict", "429", "default"), ("/v2/models/{model_name}/infer", "429", "default")}


@pytest.mark.feature("S13")
def test_key_named_none_is_counted_apart_from_no_key(keys: Path) -> None:
    client = Client(keys)
    assert client.status_of("POST", "/v2/models/colours/infer", key="another", chunks=[INFER]) == 200
    assert client.status_of("GET", "/upload", key="") == 200
    assert {key for _, _, key in client.counted} == {"none", ""}


@pytest.mark.feature("S13")
def test_key_is_checked_before_length_and_admission(keys: Path) -> None:
    large = [(b"content-length", b"999999999")]
    client = Client(keys, queue_size=0)
    assert client.status_of("POST", "/predict", key="", headers=large) == 401
    assert client.status_of("POST", "/predict", headers=large) == 413
    assert client.status_of("POST", "/predict") == 429


@pytest.mark.feature("S12")
@pytest.mark.parametrize(("key", "status"), [("", 401), ("secret", 400)])
def test_refusals_have_the_lineage_headers_too(keys: Path, key: str, status: int) -> None:
    answer = Client(keys).send("POST", "/predict", key=key)
    assert answer[0] == status
    assert (answer[1][b"x-variant"], answer[1][b"x-model-digest"]) == (b"v1", b"sha256:0")


@pytest.mark.feature("S3")
def test_body_that_outgrows_its_announced_length_gives_its_room_back(keys: Path) -> None:
    client = Client(keys, max_images=1, max_image_bytes=3)  # and one MiB for the rest
    chunks = [bytes(600_000)] * 2
    assert client.status_of("POST", "/predict", chunks=chunks, headers=[(b"content-length", b"1")]) == 413
    assert client.in_flight == 0
    assert client.status_of("POST", "/v2/models/colours/infer", chunks=[INFER]) == 200


@pytest.mark.feature("S3")
def test_time_limit_of_the_body_does_not_limit_the_answer(keys: Path) -> None:
    client = Client(keys, SlowModel(), body_seconds=0.2)
    assert client.status_of("POST", "/v2/models/colours/infer", chunks=[INFER]) == 200


@pytest.mark.feature("S3")
def test_client_that_leaves_is_counted_as_499_without_an_answer(keys: Path) -> None:
    client = Client(keys, SlowModel())
    assert client.status_of("POST", "/v2/models/colours/infer", chunks=[INFER], closed=True) == 0
    assert client.counted == {("/v2/models/{model_name}/infer", "499", "default"): 1}
    assert client.in_flight == 0


class HeldModel(Model):
    """A model that computes until it may end."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()

    def predict(self, tensors: Sequence[Tensor]) -> list[ScoredImage]:
        self.began.set()
        assert self.may_end.wait(SECONDS)
        return super().predict(tensors)


@pytest.mark.feature("O7")
def test_client_that_leaves_counts_until_its_work_has_ended(keys: Path) -> None:
    model = HeldModel()
    client = Client(keys, model)

    async def leave() -> None:
        left = asyncio.Event()
        messages = iter([{"type": "http.request", "body": INFER, "more_body": False}])
        scope = {
            "type": "http", "method": "POST", "path": "/v2/models/colours/infer", "query_string": b"", "root_path": "",
            "headers": [(b"authorization", b"secret")],
        }  # fmt: skip

        async def receive() -> Any:
            message = next(messages, None)
            if message is None:
                await left.wait()
            return message or {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise AssertionError(f"nobody is there for {message}")

        request = asyncio.ensure_future(client.app(scope, receive, send))  # type: ignore[arg-type]
        assert await asyncio.to_thread(model.began.wait, SECONDS)
        left.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert (client.in_flight, request.done()) == (1, False)
        model.may_end.set()
        await request
        assert client.in_flight == 0

    asyncio.run(asyncio.wait_for(leave(), SECONDS))
