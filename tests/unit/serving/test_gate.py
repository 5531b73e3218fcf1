"""Who is let in, and as what a request is counted."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Response

from bloomery_serving.auth import KeyRing, given_key
from bloomery_serving.gate import BodyLimits, Gate
from bloomery_serving.metrics import Metrics
from bloomery_serving.settings import Settings
from bloomery_serving.turns import Turns

PREDICTIONS = ("/", "/predict", "/v2/models/{model_name}/infer")


@pytest.fixture
def keys(tmp_path: Path) -> KeyRing:
    for name, key in (("default", "secret"), ("none", "another")):
        (tmp_path / name).write_text(hashlib.sha256(key.encode()).hexdigest())
    return KeyRing(tmp_path)


class Door:
    """A gate with keys before an application whose predictions are all answered."""

    def __init__(self, keys: KeyRing, *, places: int = 9) -> None:
        self.metrics = Metrics(Settings(model_uri="file:///model"), digest="sha256:0")
        self.app = FastAPI()
        for path in PREDICTIONS:
            self.app.add_api_route(path, lambda: Response(), methods=["POST"])
        self.gate = Gate(
            self.app,
            metrics=self.metrics,
            headers={},
            body=BodyLimits(1000, 10),
            turns=Turns(places=places, room=1000, gauge=self.metrics.in_flight),
            keys=keys,
        )

    def ask(self, method: str, path: str, *, key: str = "secret") -> int:
        """Send one request and return the answer's status."""
        scope = {
            "type": "http", "method": method, "path": path, "query_string": b"", "root_path": "",
            "headers": [(b"authorization", key.encode())] if key else [],
        }  # fmt: skip
        answers: list[dict[str, Any]] = []

        async def whole() -> None:
            body = iter([{"type": "http.request", "body": b"", "more_body": False}])

            async def receive() -> dict[str, Any]:
                return next(body, None) or await asyncio.Event().wait()  # type: ignore[return-value]

            async def send(message: Any) -> None:
                answers.append(message)

            await self.gate(scope, receive, send)

        asyncio.run(whole())
        return int(answers[0]["status"])

    @property
    def counted(self) -> dict[tuple[str, str, str], float]:
        """Requests by route, code and key."""
        family = next(family for family in self.metrics.registry.collect() if family.name == "bloomery_requests")
        return {
            (sample.labels["route"], sample.labels["code"], sample.labels["key"]): sample.value
            for sample in family.samples
            if sample.name.endswith("_total")
        }


@pytest.mark.feature("S10")
@pytest.mark.parametrize("path", ["/", "/predict", "/v2/models/colours/infer"])
def test_no_request_that_never_reached_the_model_counts_as_a_prediction(keys: KeyRing, path: str) -> None:
    door = Door(keys)
    assert [door.ask("POST", path, key=key) for key in ("", "wrong")] == [401, 401]
    assert door.ask("GET", path) == 405
    assert door.counted == {("other", "401", ""): 2, ("other", "405", "default"): 1}


@pytest.mark.feature("S10")
def test_a_prediction_that_found_no_place_counts_as_one(keys: KeyRing) -> None:
    door = Door(keys, places=0)
    for path in ("/predict", "/v2/models/colours/infer"):
        assert door.ask("POST", path) == 429
    assert set(door.counted) == {("/predict", "429", "default"), ("/v2/models/{model_name}/infer", "429", "default")}


@pytest.mark.feature("S13")
def test_a_key_named_none_is_counted_apart_from_requests_without_a_key(keys: KeyRing) -> None:
    door = Door(keys)
    assert (door.ask("POST", "/predict", key="another"), door.ask("GET", "/upload", key="")) == (200, 404)
    assert {key for _, _, key in door.counted} == {"none", ""}


@pytest.mark.feature("S13")
@pytest.mark.parametrize("key", ["voilà", "clé à", "мех"])
@pytest.mark.parametrize("form", ["{}", "Bearer {}", "  bearer  {}\t"])
def test_a_key_may_end_in_any_byte(key: str, form: str) -> None:
    # As a server shows a header's bytes.
    assert given_key(form.format(key).encode().decode("latin-1")).encode("latin-1") == key.encode()
