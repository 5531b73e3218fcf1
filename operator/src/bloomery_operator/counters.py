"""Reads the counters of model servers: how a rollout does, whether a revision still gets requests, which model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from bloomery_operator.answers import read_bounded
from bloomery_operator.domain.ports import METRICS_PORT
from bloomery_operator.domain.rollout import RequestStats
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.status.workloads import PodView, parse_time

TIMEOUT = aiohttp.ClientTimeout(total=2)
LARGEST_ANSWER = 1024 * 1024
_FORGET_SECONDS = 3600.0
_FAILED = ("5", "429", "499")
"""How the codes begin that count against a model; 499 is a client that left, as the gateway does after its minute."""
_TURNED_AWAY = ("401", "405")
"""Codes of requests that never came to the model: without a key, or by another method."""


@dataclass(frozen=True)
class Counters:
    """What one pod has counted since it began: predictions only, not probes and pages."""

    requests: int = 0
    errors: int = 0
    buckets: Mapping[float, float] = field(default_factory=dict)
    """Requests that took at most so many seconds, by those seconds: Prometheus' cumulative buckets."""
    model: ServedModel | None = None
    """What it serves, as far as it knows."""

    def since(self, before: Counters) -> Counters:
        """Return what was counted after ``before``; a pod's server that began anew counts from nothing."""
        if self.requests < before.requests:
            return self
        buckets = {bound: count - before.buckets.get(bound, 0.0) for bound, count in self.buckets.items()}
        return Counters(self.requests - before.requests, self.errors - before.errors, buckets, self.model)


@dataclass
class _Baseline:
    counters: dict[str, Counters]
    used: float


@dataclass
class _Silence:
    requests: int
    began: float
    used: float


_Key = TypeVar("_Key")
_Memory = TypeVar("_Memory", _Baseline, _Silence)


class ServerMeter:
    """Compares what pods count now with what they counted before.

    It remembers only that; an operator that begins anew measures a rollout's step, or a revision's silence, once more.
    """

    def __init__(self, session: aiohttp.ClientSession, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Use an HTTP session; the caller closes it."""
        self._session = session
        self._clock = clock
        self._baselines: dict[str, _Baseline] = {}
        self._silences: dict[frozenset[str], _Silence] = {}

    async def request_stats(
        self, step: str, since: datetime, revisions: Mapping[str, Sequence[PodView]]
    ) -> dict[str, RequestStats]:
        """Return what each revision's pods counted in a rollout's step, which began at a time, as far as is known."""
        every = [pod for pods in revisions.values() for pod in pods]
        read = await self._read(every)
        now = self._clock()
        known = step in self._baselines
        baseline = self._baselines.setdefault(step, _Baseline(dict(read), now))
        baseline.used = now
        _forget_old(self._baselines, now)
        for pod in every:
            if pod.uid in read and pod.uid not in baseline.counters:
                # One that came later has counted nothing but this step; one that did not answer before, who knows.
                came_later = (parse_time(pod.created) or since) >= since
                baseline.counters[pod.uid] = Counters() if came_later else read[pod.uid]
        deltas = {uid: counters.since(baseline.counters[uid]) for uid, counters in read.items()}
        return {
            revision: _figures([deltas[pod.uid] for pod in pods if pod.uid in deltas] if known else [])
            for revision, pods in revisions.items()
        }

    async def seconds_idle(self, pods: Sequence[PodView]) -> float:
        """Return for how many seconds a revision's pods have seen no request, as far as is known."""
        requests = sum(counters.requests for counters in (await self._read(pods)).values())
        now = self._clock()
        # By their uids: the name of a revision is not its own in all namespaces, nor for ever.
        uids = frozenset(pod.uid for pod in pods)
        silence = self._silences.get(uids)
        if silence is None or silence.requests != requests:
            silence = self._silences[uids] = _Silence(requests, now, now)
        silence.used = now
        _forget_old(self._silences, now)
        return now - silence.began

    async def model(self, pods: Sequence[PodView]) -> ServedModel | None:
        """Return the model that the first ready pod serves: its digest, and where it comes from."""
        ready = [pod for pod in pods if pod.ready][:1]
        return next((counters.model for counters in (await self._read(ready)).values() if counters.model), None)

    async def _read(self, pods: Iterable[PodView]) -> dict[str, Counters]:
        """Return the counters of the pods that answer, by the pods' uids."""
        asked = [pod for pod in pods if pod.ip and pod.phase == "Running"]
        answers = await asyncio.gather(*map(self._ask, asked))
        return {pod.uid: answer for pod, answer in zip(asked, answers, strict=True) if answer is not None}

    async def _ask(self, pod: PodView) -> Counters | None:
        url = f"http://{pod.host}:{METRICS_PORT}/metrics"
        try:
            async with self._session.get(url, timeout=TIMEOUT, allow_redirects=False) as response:
                content = await read_bounded(response, LARGEST_ANSWER)
                return parse_counters(content.decode()) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
            return None


def _forget_old(memory: dict[_Key, _Memory], now: float) -> None:
    """Forget what nobody has asked for in a long time: its service may be gone."""
    for key in [key for key, entry in memory.items() if now - entry.used > _FORGET_SECONDS]:
        del memory[key]


def parse_counters(text: str) -> Counters:
    """Return a model server's counters from Prometheus' text format.

    Raises:
        ValueError, KeyError: it is something else.
    """
    requests, errors, model = 0.0, 0.0, None
    buckets: dict[float, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "bloomery_model_info":
                model = _model(labels)
            elif sample.name == "bloomery_requests_total" and _predicts(sample):
                requests += sample.value
                errors += sample.value if labels["code"].startswith(_FAILED) else 0.0
            elif sample.name == "bloomery_request_seconds_bucket" and _predicts(sample):
                bound = float(labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
    return Counters(int(requests), int(errors), buckets, model)


def _model(labels: Mapping[str, str]) -> ServedModel | None:
    """Return what a server says of its model; without a digest that is nothing to go by."""
    known = {name: value for name, value in labels.items() if value}
    if "digest" not in known:
        return None
    dataset, _, version = known.get("dataset", "").partition("@")
    return ServedModel(
        uri="",
        digest=known["digest"],
        run_id=known.get("run_id"),
        training_job=known.get("training_job"),
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


def _predicts(sample: Sample) -> bool:
    route = sample.labels.get("route", "")
    if sample.labels.get("code") in _TURNED_AWAY:
        return False
    return route in ("/", "/predict") or route.endswith("/infer")


def _figures(deltas: Sequence[Counters]) -> RequestStats:
    """Return several pods' counters together."""
    buckets: dict[float, float] = {}
    for counters in deltas:
        for bound, count in counters.buckets.items():
            buckets[bound] = buckets.get(bound, 0.0) + count
    return RequestStats(
        requests=sum(counters.requests for counters in deltas),
        errors=sum(counters.errors for counters in deltas),
        p99=percentile(buckets, 0.99),
    )
