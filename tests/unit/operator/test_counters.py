"""What is read of a model server's counters."""

from __future__ import annotations

import itertools

import pytest

from bloomery_operator.counters import Counters, parse_counters, percentile
from bloomery_operator.resources.serve import ServedModel
from bloomery_serving.metrics import BUCKETS

pytestmark = pytest.mark.feature("S10")

TEXT = """\
# TYPE bloomery_requests counter
bloomery_requests_total{code="200",key="default",route="/predict"} 90.0
bloomery_requests_total{code="429",key="default",route="/predict"} 4.0
bloomery_requests_total{code="503",key="alice",route="/v2/models/{model_name}/infer"} 3.0
bloomery_requests_total{code="400",key="alice",route="/"} 2.0
bloomery_requests_total{code="200",key="none",route="/upload"} 1000.0
# TYPE bloomery_request_seconds histogram
bloomery_request_seconds_bucket{le="0.1",route="/predict"} 90.0
bloomery_request_seconds_bucket{le="0.2",route="/predict"} 100.0
bloomery_request_seconds_bucket{le="+Inf",route="/predict"} 100.0
bloomery_request_seconds_bucket{le="0.1",route="/upload"} 1000.0
# TYPE bloomery_model_info gauge
bloomery_model_info{digest="sha256:d",run_id="r",training_job="flowers",dataset="flowers@a,b",variant="v1"} 1.0
"""


def test_predictions_count_and_pages_do_not() -> None:
    counters = parse_counters(TEXT)
    assert (counters.requests, counters.errors) == (99, 7)
    assert counters.buckets == {0.1: 90.0, 0.2: 100.0, float("inf"): 100.0}


def test_a_server_says_where_its_model_comes_from_as_far_as_it_knows() -> None:
    told = ServedModel(
        uri="", digest="sha256:d", run_id="r", training_job="flowers", dataset="flowers", dataset_version="a,b"
    )
    assert parse_counters(TEXT).model == told
    gauge = "# TYPE bloomery_model_info gauge\nbloomery_model_info"
    assert parse_counters(f'{gauge}{{digest="sha256:d",run_id=""}} 1\n').model == ServedModel(uri="", digest="sha256:d")
    assert parse_counters(f'{gauge}{{digest=""}} 1\n').model is None


def test_what_came_before_does_not_count() -> None:
    now = Counters(150, 10, {0.1: 100.0, float("inf"): 150.0})
    assert now.since(Counters(99, 7, {0.1: 90.0, float("inf"): 100.0})) == Counters(
        51, 3, {0.1: 10.0, float("inf"): 50.0}
    )


def test_a_server_that_began_anew_counts_from_nothing() -> None:
    now = Counters(5, 1)
    assert now.since(Counters(99, 7)) == now


def test_a_percentile_is_that_of_prometheus() -> None:
    assert percentile({0.1: 90.0, 0.2: 100.0, float("inf"): 100.0}, 0.99) == pytest.approx(0.19)
    assert percentile({0.1: 0.0, float("inf"): 10.0}, 0.99) == 0.1
    assert percentile({}, 0.99) is None
    assert percentile({0.1: 0.0, float("inf"): 0.0}, 0.99) is None


def test_the_servers_buckets_are_fine_enough_to_compare() -> None:
    assert max(high / low for low, high in itertools.pairwise(BUCKETS)) <= 1.2 + 1e-9
