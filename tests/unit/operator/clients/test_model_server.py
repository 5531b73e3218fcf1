"""The metrics of model servers, and their comparison over time."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime, timedelta

import aiohttp
import pytest
from prometheus_client import start_http_server

from bloomery_operator.clients.model_server import (
    Counters,
    MetricsUnreadable,
    ModelServerMetrics,
    parse_counters,
    percentile,
)
from bloomery_operator.domain.ports import METRICS_PORT
from bloomery_operator.domain.rollout import RequestStats
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.status.workloads import PodView
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.metrics import BUCKETS, Metrics
from tests.unit.operator.samples import NOW

pytestmark = pytest.mark.feature("S10")

TEXT = """\
# TYPE bloomery_requests counter
bloomery_requests_total{code="200",key="default",route="/predict"} 90.0
bloomery_requests_total{code="429",key="default",route="/predict"} 4.0
bloomery_requests_total{code="503",key="alice",route="/v2/models/{model_name}/infer"} 3.0
bloomery_requests_total{code="400",key="alice",route="/"} 2.0
bloomery_requests_total{code="499",key="alice",route="/predict"} 5.0
bloomery_requests_total{code="401",key="",route="/predict"} 70.0
bloomery_requests_total{code="405",key="",route="/predict"} 60.0
bloomery_requests_total{code="200",key="",route="/upload"} 1000.0
# TYPE bloomery_request_seconds histogram
bloomery_request_seconds_bucket{le="0.1",route="/predict"} 90.0
bloomery_request_seconds_bucket{le="0.2",route="/predict"} 100.0
bloomery_request_seconds_bucket{le="+Inf",route="/predict"} 100.0
bloomery_request_seconds_bucket{le="0.1",route="/upload"} 1000.0
# TYPE bloomery_model_info gauge
bloomery_model_info{digest="sha256:d",run_id="r",training_job="flowers",dataset="flowers@a,b",variant="v1"} 1.0
"""


def test_counters_include_predictions_only() -> None:
    counters = parse_counters(TEXT)
    assert (counters.requests, counters.errors) == (104, 12)
    assert counters.buckets == {0.1: 90.0, 0.2: 100.0, float("inf"): 100.0}


def test_model_info_gives_digest_and_lineage() -> None:
    expected = ServedModel(
        uri="", digest="sha256:d", run_id="r", training_job="flowers", dataset="flowers", dataset_version="a,b"
    )
    assert parse_counters(TEXT).model == expected
    gauge = "# TYPE bloomery_model_info gauge\nbloomery_model_info"
    assert parse_counters(f'{gauge}{{digest="sha256:d",run_id=""}} 1\n').model == ServedModel(uri="", digest="sha256:d")
    assert parse_counters(f'{gauge}{{digest=""}} 1\n').model is None


@pytest.mark.feature("O7")
@pytest.mark.parametrize(
    "line",
    [
        'bloomery_requests_total{code="200"',
        'bloomery_requests_total{code="200",route="/predict"} many',
        'bloomery_requests_total{code="200",route="/predict"} NaN',
        'bloomery_requests_total{code="200",route="/predict"} +Inf',
        'bloomery_requests_total{code=200,route="/predict"} 1',
        'bloomery_requests_total{route="/predict"} 1',
        'bloomery_request_seconds_bucket{le="nan",route="/predict"} 1',
        'bloomery_request_seconds_bucket{le="fast",route="/predict"} 1',
        "bloomery_model_info{} 1 2 3",
    ],
)
def test_text_that_is_no_exposition_is_rejected(line: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        parse_counters(f"{TEXT}{line}\n")


@pytest.mark.feature("O7")
@pytest.mark.parametrize(
    "unit",
    ['\\"', "}", "} ", '",a="', "\\\\", '\\"} 1 '],
    ids=["quotes", "braces", "ends", "labels", "escapes", "lines"],
)
def test_time_of_parsing_grows_with_the_length_only(unit: str) -> None:
    """A pod of the namespace chooses the text: 256 KiB of escaped quotes took seconds."""
    text = f'bloomery_model_info{{digest="{unit * (256 * 1024 // len(unit))}"}} 1\n'
    start = time.process_time()
    with suppress(ValueError):
        parse_counters(text)
    assert time.process_time() - start < 1


def test_labels_with_escapes_are_read() -> None:
    text = 'bloomery_model_info{digest="a\\\\b\\"c\\nd}",run_id="r"} 1.0 1700000000000\n'
    assert parse_counters(text).model == ServedModel(uri="", digest='a\\b"c\nd}', run_id="r")


def test_since_subtracts_the_baseline() -> None:
    now = Counters(150, 10, {0.1: 100.0, float("inf"): 150.0})
    assert now.since(Counters(99, 7, {0.1: 90.0, float("inf"): 100.0})) == Counters(
        51, 3, {0.1: 10.0, float("inf"): 50.0}
    )


def test_scores_are_summed_and_compared_over_time() -> None:
    text = "bloomery_prediction_confidence_sum 90.5\nbloomery_prediction_confidence_count 100.0\n"
    assert not parse_counters(text).can_compare
    text += "bloomery_compared_images_total 50.0\nbloomery_disagreements_total 7.0\n"
    now = parse_counters(text)
    assert now.can_compare
    assert (now.images, now.confidence, now.compared, now.disagreements) == (100, 90.5, 50, 7)
    before = Counters(images=40, confidence=30.5, compared=20, disagreements=2)
    since = now.since(before).plus(Counters(images=1, confidence=0.5, compared=1, disagreements=1))
    assert (since.images, since.confidence, since.compared, since.disagreements) == (61, 60.5, 31, 6)


def test_restarted_server_counts_from_zero() -> None:
    now = Counters(5, 1)
    assert now.since(Counters(99, 7)) == now


class Server:
    """Real metrics of a pod at an address of its own; it answers once it is started."""

    def __init__(self, number: int, *, created: datetime) -> None:
        address = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.{number}"
        uid = f"uid-{number}"
        self.pod = PodView(name=uid, uid=uid, phase="Running", ip=address, created=created.isoformat())
        self.metrics = Metrics(ModelIdentity(digest="sha256:d"), service="model")

    def answer(self, count: int, *, code: int = 200) -> None:
        """Count requests as if they had been answered."""
        for _ in range(count):
            self.metrics.count("/predict", code, "default", 0.05)

    def start(self, stack: ExitStack) -> None:
        """Serve the metrics."""
        server, thread = start_http_server(METRICS_PORT, str(self.pod.ip), self.metrics.registry)
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.anyio
async def test_requests_before_the_step_do_not_count(
    stack: ExitStack,
) -> None:
    before, after = NOW - timedelta(hours=1), NOW + timedelta(seconds=5)
    known, slow, young = Server(1, created=before), Server(2, created=before), Server(3, created=after)
    revision = {"old": [server.pod for server in (known, slow, young)]}
    for server in (known, slow):
        server.answer(100, code=500)
    known.start(stack)
    async with aiohttp.ClientSession() as session:
        metrics = ModelServerMetrics(session)
        assert (await metrics.request_stats("step", NOW, revision))["old"] == RequestStats()
        young.answer(7)
        for server in (slow, young):
            server.start(stack)
        stats = (await metrics.request_stats("step", NOW, revision))["old"]
        assert (stats.requests, stats.errors) == (7, 0)
        for server in (known, slow, young):
            server.answer(2, code=500)
        stats = (await metrics.request_stats("step", NOW, revision))["old"]
        assert (stats.requests, stats.errors) == (13, 6)


@pytest.mark.anyio
async def test_idle_time_is_measured_for_each_set_of_pods(stack: ExitStack) -> None:
    clock = iter((0.0, 0.0, 10.0, 10.0, 20.0, 20.0, 7200.0, 7200.0))
    one, other = Server(1, created=NOW), Server(2, created=NOW)
    other.answer(5)
    for server in (one, other):
        server.start(stack)
    async with aiohttp.ClientSession() as session:
        metrics = ModelServerMetrics(session, clock=clock.__next__)

        async def idle_seconds() -> list[float]:
            return [await metrics.seconds_idle([server.pod]) for server in (other, one)]

        assert await idle_seconds() == [0.0, 0.0]
        assert await idle_seconds() == [10.0, 10.0]
        other.answer(1)
        assert await idle_seconds() == [0.0, 20.0]
        # Idle periods that were not read for an hour are dropped.
        assert await idle_seconds() == [7180.0, 0.0]


def test_percentile_is_interpolated_as_in_prometheus() -> None:
    assert percentile({0.1: 90.0, 0.2: 100.0, float("inf"): 100.0}, 0.99) == pytest.approx(0.19)
    assert percentile({0.1: 0.0, float("inf"): 10.0}, 0.99) == 0.1
    assert percentile({}, 0.99) is None
    assert percentile({0.1: 0.0, float("inf"): 0.0}, 0.99) is None


def test_server_buckets_grow_by_a_fifth_at_most() -> None:
    assert max(high / low for low, high in itertools.pairwise(BUCKETS)) <= 1.2 + 1e-9


@pytest.mark.anyio
async def test_crashes_of_a_server_count_as_failed_requests(stack: ExitStack) -> None:
    """The counters of a server that crashed start again, and the gateway's answers for it are counted nowhere."""
    crashing, replaced = Server(1, created=NOW - timedelta(hours=1)), Server(2, created=NOW + timedelta(seconds=5))
    crashing.start(stack)
    replaced.start(stack)
    async with aiohttp.ClientSession() as session:
        metrics = ModelServerMetrics(session)
        await metrics.request_stats("step", NOW, {"new": [replace(crashing.pod, restarts=3)]})
        crashing.answer(8)
        await metrics.request_stats("step", NOW, {"new": [replace(crashing.pod, restarts=3)]})
        again = Server(3, created=NOW - timedelta(hours=1))
        again.pod = replace(again.pod, uid=crashing.pod.uid, restarts=5)
        again.start(stack)
        again.answer(1)
        stats = (await metrics.request_stats("step", NOW, {"new": [again.pod, replaced.pod]}))["new"]
        assert (stats.requests, stats.errors) == (8 + 1 + 2, 2)
        replaced.answer(4, code=500)
        await metrics.request_stats("step", NOW, {"new": [again.pod, replaced.pod]})
        # What a pod counted stays counted once the pod is gone.
        stats = (await metrics.request_stats("step", NOW, {"new": [again.pod]}))["new"]
        assert (stats.requests, stats.errors) == (15, 6)


@pytest.mark.anyio
async def test_ready_pods_that_do_not_answer_are_unknown_and_not_idle() -> None:
    silent = replace(Server(1, created=NOW).pod, ready=True)
    async with aiohttp.ClientSession() as session:
        metrics = ModelServerMetrics(session)
        assert await metrics.seconds_idle([silent]) is None
        assert (await metrics.request_stats("step", NOW, {"a": [silent]}))["a"].unreadable == 1
        with pytest.raises(MetricsUnreadable, match=rf"pod uid-1 cannot be read at {silent.ip}:9090"):
            await metrics.model([silent])
        # A pod that is not ready gets no requests.
        assert await metrics.seconds_idle([replace(silent, ready=False)]) == 0
        assert await metrics.model([replace(silent, ready=False)]) is None
