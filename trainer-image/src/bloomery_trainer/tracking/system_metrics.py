"""The machine's own figures while a run goes on: processors, memory, disk, network and GPUs, as MLflow names them.

MLflow's own monitor ends for good when the server does not answer once; here only its instruments are used.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

logger = logging.getLogger(__name__)

PREFIX = "system/"
_SECONDS = 5.0

Sink = Callable[[Mapping[str, float], int], None]


class SystemMetrics:
    """Measures every few seconds, from ``start`` until ``stop``; the samples are numbered from 0."""

    def __init__(self, sink: Sink, *, seconds: float = _SECONDS) -> None:
        self._sink = sink
        self._seconds = seconds
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start to measure in the background."""
        threading.Thread(target=self._measure_until_stopped, name="system-metrics", daemon=True).start()

    def stop(self) -> None:
        """Stop measuring."""
        self._stopped.set()

    def _measure_until_stopped(self) -> None:
        try:
            monitors = _open_monitors()
            sample = 0
            while not self._stopped.wait(self._seconds if sample else 0):
                self._sink(_measure(monitors), sample)
                sample += 1
        except Exception as error:
            logger.warning("the machine's figures are not recorded: %s", error)


def _open_monitors() -> list[BaseMetricsMonitor]:
    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]  # type: ignore[no-untyped-call]
    try:
        monitors.append(GPUMonitor())  # type: ignore[no-untyped-call]
    except Exception:
        logger.debug("there is no NVIDIA GPU to measure")
    return monitors


def _measure(monitors: list[BaseMetricsMonitor]) -> dict[str, float]:
    measured: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()  # type: ignore[no-untyped-call]
        values = monitor.aggregate_metrics()  # type: ignore[no-untyped-call]
        measured |= {f"{PREFIX}{name}": float(value) for name, value in values.items()}
        monitor.clear_metrics()  # type: ignore[no-untyped-call]
    return measured
