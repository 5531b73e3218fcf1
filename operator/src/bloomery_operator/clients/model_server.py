"""Client of model servers: reads their Prometheus metrics, and compares them over time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import aiohttp

from bloomery_operator.clients.exposition import Sample, read_samples
from bloomery_operator.clients.http import CircuitBreaker, ReleasedSlot, no_slot, read_limited
from bloomery_operator.domain.ports import METRICS_PORT
from bloomery_operator.domain.rollout import RequestStats
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.status.workloads import PodView, parse_time

_TIMEOUT_SECONDS = 2.0
_TIMEOUT = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
_PAUSE_SECONDS = 5.0
"""Pause after a pod did not answer; longer after each further time."""
_MAX_METRICS_BYTES = 256 * 1024
"""Twice what a server with all its routes and a dozen keys has for the metrics below."""
_MODEL, _REQUESTS, _SECONDS = "bloomery_model_info", "bloomery_requests_total", "bloomery_request_seconds_bucket"
_METRICS = frozenset({_MODEL, _REQUESTS, _SECONDS})
_UNUSED_ENTRY_TTL_SECONDS = 3600.0
_ERROR_CODE_PREFIXES = ("5", "429", "499")
"""Prefixes of the status codes that count as errors of the model. 499: the client closed the request, as the gateway
does after its timeout of a minute.
"""
_REJECTED_CODES = ("401", "405")
"""Status codes of requests that never reached the model: no valid API key, or a wrong method."""


@dataclass(frozen=True)
class Counters:
    """Counters of one pod since it started; predictions only, no probes and no pages."""

    requests: int = 0
    errors: int = 0
    buckets: Mapping[float, float] = field(default_factory=dict)
    """Prometheus' cumulative histogram: upper bound in seconds, to the number of requests."""
    model: ServedModel | None = None
    """The model that the pod serves, if its metrics name one."""

    def since(self, baseline: Counters) -> Counters:
        """Return what was counted after ``baseline``; the counters of a restarted server count from zero."""
        if self.requests < baseline.requests:
            return self
        buckets = {bound: count - baseline.buckets.get(bound, 0.0) for bound, count in self.buckets.items()}
        return Counters(self.requests - baseline.requests, self.errors - baseline.errors, buckets, self.model)


@dataclass
class _Baseline:
    counters: dict[str, Counters]
    last_used: float


@dataclass
class _IdlePeriod:
    requests: int
    started: float
    last_used: float


_Key = TypeVar("_Key")
_Entry = TypeVar("_Entry", _Baseline, _IdlePeriod)


class ModelServerMetrics:
    """Compares the current counters of pods with earlier ones.

    The earlier counters are in memory only: after a restart of the operator, the measurement of a rollout step, or of
    an idle revision, starts again.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        clock: Callable[[], float] = time.monotonic,
        released_slot: ReleasedSlot = no_slot,
    ) -> None:
        """Use an HTTP session, which the caller closes."""
        self._session = session
        self._clock = clock
        self._released_slot = released_slot
        self._circuits = CircuitBreaker(open_seconds=_PAUSE_SECONDS, probe_seconds=_TIMEOUT_SECONDS)
        self._baselines: dict[str, _Baseline] = {}
        self._idle_periods: dict[frozenset[str], _IdlePeriod] = {}

    async def request_stats(
        self, step: str, since: datetime, revisions: Mapping[str, Sequence[PodView]]
    ) -> dict[str, RequestStats]:
        """Return what each revision's pods counted during a rollout step.

        Args:
            step: identifies the step; its first call takes the baseline.
            since: when the step began.
            revisions: the pods of each revision.
        """
        pods = [pod for group in revisions.values() for pod in group]
        counters = await self._read_counters(pods)
        is_first_call = step not in self._baselines
        baseline = self._baseline(step, since, pods, counters)
        deltas = {uid: current.since(baseline[uid]) for uid, current in counters.items()}
        return {
            revision: _sum_stats([] if is_first_call else [deltas[pod.uid] for pod in group if pod.uid in deltas])
            for revision, group in revisions.items()
        }

    async def seconds_idle(self, pods: Sequence[PodView]) -> float:
        """Return for how many seconds a revision's pods are known to have received no request."""
        requests = sum(counters.requests for counters in (await self._read_counters(pods)).values())
        now = self._clock()
        # Keyed by uid: the name of a revision is unique neither across namespaces nor over time.
        uids = frozenset(pod.uid for pod in pods)
        period = self._idle_periods.get(uids)
        if period is None or period.requests != requests:
            period = self._idle_periods[uids] = _IdlePeriod(requests, now, now)
        period.last_used = now
        _drop_unused(self._idle_periods, now)
        return now - period.started

    async def model(self, pods: Sequence[PodView]) -> ServedModel | None:
        """Return the digest and the lineage of the model that the first ready pod serves."""
        ready = [pod for pod in pods if pod.ready][:1]
        return next((c.model for c in (await self._read_counters(ready)).values() if c.model), None)

    def _baseline(
        self, step: str, since: datetime, pods: Iterable[PodView], counters: Mapping[str, Counters]
    ) -> Mapping[str, Counters]:
        """Return the counters at the start of a step, by the pods' uids."""
        now = self._clock()
        baseline = self._baselines.setdefault(step, _Baseline(dict(counters), now))
        baseline.last_used = now
        _drop_unused(self._baselines, now)
        for pod in pods:
            if pod.uid in counters and pod.uid not in baseline.counters:
                # A pod created after the step began starts from zero; for any other pod the current value is the
                # baseline.
                is_new = (parse_time(pod.created) or since) >= since
                baseline.counters[pod.uid] = Counters() if is_new else counters[pod.uid]
        return baseline.counters

    async def _read_counters(self, pods: Iterable[PodView]) -> dict[str, Counters]:
        """Return the counters of the pods that answer, by the pods' uids."""
        running = [pod for pod in pods if pod.ip and pod.phase == "Running"]
        async with self._released_slot():
            results = await asyncio.gather(*map(self._fetch_counters, running))
        return {pod.uid: counters for pod, counters in zip(running, results, strict=True) if counters is not None}

    async def _fetch_counters(self, pod: PodView) -> Counters | None:
        try:
            with self._circuits.guard(pod.uid):
                content = await self._fetch(pod)
            # In a thread: a long text must not stop all other work.
            return await asyncio.to_thread(parse_counters, content.decode()) if content is not None else None
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
            return None

    async def _fetch(self, pod: PodView) -> bytes | None:
        """Return the metrics of a pod that are used here; None if the pod answers with an error."""
        url, names = f"http://{pod.host}:{METRICS_PORT}/metrics", [("name[]", name) for name in sorted(_METRICS)]
        try:
            async with self._session.get(url, params=names, timeout=_TIMEOUT, allow_redirects=False) as response:
                return await read_limited(response, _MAX_METRICS_BYTES) if response.status == 200 else None
        except aiohttp.ClientConnectorError:
            # Refused at once: a server that starts. Only pods that make the caller wait are asked more rarely.
            return None


def _drop_unused(entries: dict[_Key, _Entry], now: float) -> None:
    """Drop entries that were not used for a long time: their service may be gone."""
    for key in [key for key, entry in entries.items() if now - entry.last_used > _UNUSED_ENTRY_TTL_SECONDS]:
        del entries[key]


def parse_counters(text: str) -> Counters:
    """Return a model server's counters from Prometheus' text format.

    Raises:
        ValueError, KeyError: the text is not the metrics of a model server.
    """
    requests, errors, model = 0.0, 0.0, None
    buckets: dict[float, float] = {}
    for sample in read_samples(text, _METRICS):
        labels = sample.labels
        if sample.name == _MODEL:
            model = _parse_model(labels)
        elif sample.name == _REQUESTS and _is_prediction(sample):
            requests += sample.value
            errors += sample.value if labels["code"].startswith(_ERROR_CODE_PREFIXES) else 0.0
        elif sample.name == _SECONDS and _is_prediction(sample):
            bound = float(labels["le"])
            if math.isnan(bound):
                raise ValueError("the bound of a bucket is not a number")
            buckets[bound] = buckets.get(bound, 0.0) + sample.value
    return Counters(int(requests), int(errors), buckets, model)


def _parse_model(labels: Mapping[str, str]) -> ServedModel | None:
    """Return the model that the labels of ``bloomery_model_info`` describe; None without a digest."""
    values = {name: value for name, value in labels.items() if value}
    if "digest" not in values:
        return None
    dataset, _, version = values.get("dataset", "").partition("@")
    return ServedModel(
        uri="",
        digest=values["digest"],
        run_id=values.get("run_id"),
        training_job=values.get("training_job"),
        dataset=dataset or None,
        dataset_version=version or None,
    )


def percentile(buckets: Mapping[float, float], share: float) -> float | None:
    """Return a percentile in seconds, interpolated within its bucket as Prometheus' histogram_quantile does."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (rank - below) / (buckets[bound] - below)
        lower, below = bound, buckets[bound]
    return lower


def _is_prediction(sample: Sample) -> bool:
    route = sample.labels.get("route", "")
    if sample.labels.get("code") in _REJECTED_CODES:
        return False
    return route in ("/", "/predict") or route.endswith("/infer")


def _sum_stats(deltas: Sequence[Counters]) -> RequestStats:
    """Return the statistics of several pods together."""
    buckets: dict[float, float] = {}
    for counters in deltas:
        for bound, count in counters.buckets.items():
            buckets[bound] = buckets.get(bound, 0.0) + count
    return RequestStats(
        requests=sum(counters.requests for counters in deltas),
        errors=sum(counters.errors for counters in deltas),
        p99=percentile(buckets, 0.99),
    )
