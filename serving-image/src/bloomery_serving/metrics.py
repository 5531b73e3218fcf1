"""The server's Prometheus metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bloomery_serving.engines.base import EngineReport
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.metrics_server import start_metrics_server

BUCKETS = tuple(0.001 * 1.2**exponent for exponent in range(60))
"""Seconds, 1 ms to 47 s in steps of 1.2: fine enough to compare two variants' 99th percentiles."""


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, identity: ModelIdentity, *, service: str) -> None:
        """``service`` is the name of the served InferenceService."""
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "bloomery_requests", "Requests by route, status code and key.", ["route", "code", "key"],
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "bloomery_request_seconds", "Duration of requests by route.", ["route"], buckets=BUCKETS,
            registry=self.registry,
        )  # fmt: skip
        self._stages = Histogram(
            "bloomery_stage_seconds", "Duration of a prediction's stages.", ["stage"], buckets=BUCKETS,
            registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge("bloomery_requests_in_flight", "Predictions that wait or run.", registry=self.registry)
        self._service = service
        self._info = Gauge(
            "bloomery_model_info", "The model that is served; always 1.", ["service", *identity.metric_labels],
            registry=self.registry,
        )  # fmt: skip
        self._engine = Gauge(
            "bloomery_engine_info", "The engine that computes the model; always 1.", ["engine", "precision"],
            registry=self.registry,
        )  # fmt: skip
        self._engine_seconds = Gauge(
            "bloomery_engine_image_seconds", "Time of an image on one thread, by the engines that were measured.",
            ["engine", "precision"], registry=self.registry,
        )  # fmt: skip
        self.describe(identity)

    def serve(self, port: int) -> None:
        """Serve ``/metrics`` from a thread of its own, until the process ends."""
        if port:
            start_metrics_server(port, self.registry)

    def describe(self, identity: ModelIdentity) -> None:
        """Show the identity of the served model, in place of the one before."""
        self._info.clear()
        self._info.labels(service=self._service, **identity.metric_labels).set(1)

    def describe_engine(self, report: EngineReport) -> None:
        """Show the engine that computes, in place of the one before, and the figures of all that were measured."""
        self._engine.clear()
        self._engine.labels(report.form.name, report.form.precision).set(1)
        for each in report.measured:
            seconds = min(each.milliseconds.values()) / 1000
            self._engine_seconds.labels(each.form.name, each.form.precision).set(seconds)

    def count(self, route: str, code: int, key: str, seconds: float) -> None:
        """Count one request that was answered."""
        self._requests.labels(route, code, key).inc()
        self._seconds.labels(route).observe(seconds)

    def observe(self, stage: str, seconds: float) -> None:
        """Record how long a stage took."""
        self._stages.labels(stage).observe(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record how long the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.observe(name, time.perf_counter() - start)
