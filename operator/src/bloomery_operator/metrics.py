"""The operator's own Prometheus metrics, named as controller-runtime names them."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily


class ObjectPhase(NamedTuple):
    """Labels under which an object is counted."""

    kind: str
    namespace: str
    phase: str


class OperatorMetrics:
    """OperatorMetrics of one operator process, in a registry of its own."""

    def __init__(self) -> None:
        """Register the metrics."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._reconciles = Counter(
            "bloomery_reconcile", "Reconciles by kind and result.", ["kind", "result"], registry=self._registry
        )
        self._seconds = Histogram(
            "bloomery_reconcile_seconds", "Duration of reconciles by kind.", ["kind"], registry=self._registry
        )
        self.queue_depth = Gauge("bloomery_workqueue_depth", "Keys that wait for a worker.", registry=self._registry)
        self.events = Counter("bloomery_watch_events", "Watch events by kind.", ["kind"], registry=self._registry)
        self.is_leader = Gauge("bloomery_leader", "1 for the leader, 0 for a standby.", registry=self._registry)
        self.missed_changes = Counter(
            "bloomery_missed_changes",
            "Changes that only the resync noticed, by kind.",
            ["kind"],
            registry=self._registry,
        )

    def count_objects(self, list_phases: Callable[[], Iterable[ObjectPhase]]) -> None:
        """Export the number of objects by kind, namespace and phase; each scrape calls ``list_phases``."""
        self._registry.register(_ObjectCollector(list_phases))

    @contextmanager
    def time_reconcile(self, kind: str) -> Iterator[None]:
        """Time one reconcile and count its result."""
        start, result = time.perf_counter(), "success"
        try:
            yield
        except BaseException:
            result = "error"
            raise
        finally:
            self._seconds.labels(kind).observe(time.perf_counter() - start)
            self._reconciles.labels(kind, result).inc()

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _ObjectCollector:
    def __init__(self, list_phases: Callable[[], Iterable[ObjectPhase]]) -> None:
        self._list_phases = list_phases

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield self._family()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = self._family()
        for labels, count in Tally(self._list_phases()).items():
            family.add_metric(labels, count)
        yield family

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "bloomery_objects", "Objects by kind, namespace and phase.", labels=ObjectPhase._fields
        )
