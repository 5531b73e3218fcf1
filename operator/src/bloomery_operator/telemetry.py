"""The operator's own Prometheus metrics, named as controller-runtime names them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Telemetry:
    """Counters of one operator process, in a registry of its own."""

    def __init__(self) -> None:
        """Register the metrics."""
        self._registry = CollectorRegistry()
        self._reconciles = Counter(
            "bloomery_reconcile", "Reconciles by kind and result.", ["kind", "result"], registry=self._registry
        )
        self._seconds = Histogram(
            "bloomery_reconcile_seconds", "Duration of reconciles by kind.", ["kind"], registry=self._registry
        )
        self.queue_depth = Gauge("bloomery_workqueue_depth", "Keys that wait for a worker.", registry=self._registry)
        self.events = Counter("bloomery_watch_events", "Watch events by kind.", ["kind"], registry=self._registry)
        self.missed = Counter(
            "bloomery_missed_changes",
            "Changes that only the resync noticed, by kind.",
            ["kind"],
            registry=self._registry,
        )

    @contextmanager
    def reconcile(self, item: object) -> Iterator[None]:
        """Time one reconcile and count its result."""
        kind = str(item).split(" ", 1)[0]
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
