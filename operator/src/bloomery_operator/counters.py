"""Reads the counters of model servers: how a rollout does, whether a revision still gets requests, which model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from bloomery_operator.answers import read_bounded
from bloomery_operator.resources.serve import METRICS_PORT
from bloomery_operator.status.rollout import Figures
from bloomery_operator.status.workload import PodView

TIMEOUT = aiohttp.ClientTimeout(total=2)
LARGEST_ANSWER = 1024 * 1024
_FORGET_SECONDS = 3600.0
_FAILED = ("5", "429")


@dataclass(frozen=True)
class Counters:
    """What one pod has counted since it began: predictions only, not probes and pages."""

    requests: int = 0
    errors: int = 0
    buckets: Mapping[float, float] = field(default_factory=dict)
    """Requests that took at most so many seconds, by those seconds: Prometheus' cumulative buckets."""
    digest: str = ""

    def since(self, before: Counters) -> Counters:
        """Return what was counted after ``before``; a pod's server that began anew counts from nothing."""
        if self.requests < before.requests:
            return self
        buckets = {bound: count - before.buckets.get(bound, 0.0) for bound, count in self.buckets.items()}
        return Counters(self.requests - before.requests, self.errors - before.errors, buckets, self.digest)


@dataclass
class _Baseline:
    counters: dict[str, Counters]
    used: float


@dataclass
class _Silence:
    requests: int
    began: float


class ServerMeter:
    """Compares what pods count now with what they counted before.

    It remembers only that; an operator that begins anew measures a rollout's step, or a revision's silence, once more.
    """

    def __init__(self, session: aiohttp.ClientSession, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Use an HTTP session; the caller closes it."""
        self._session = session
        self._clock = clock
        self._baselines: dict[str, _Baseline] = {}
        self._silences: dict[str, _Silence] = {}

    async def figures(self, step: str, revisions: Mapping[str, Sequence[PodView]]) -> dict[str, Figures]:
        """Return what each revision's pods counted since a rollout's step was first asked for."""
        read = await self._read(pod for pods in revisions.values() for pod in pods)
        now = self._clock()
        known = step in self._baselines
        baseline = self._baselines.setdefault(step, _Baseline(dict(read), now))
        baseline.used = now
        self._forget_old(now)
        # A pod that came later has counted nothing but this step.
        deltas = {uid: counters.since(baseline.counters.get(uid, Counters())) for uid, counters in read.items()}
        return {
            revision: _figures([deltas[pod.uid] for pod in pods if pod.uid in deltas] if known else [])
            for revision, pods in revisions.items()
        }

    async def silence(self, revision: str, pods: Sequence[PodView]) -> float:
        """Return for how many seconds a revision's pods have seen no request, as far as is known."""
        requests = sum(counters.requests for counters in (await self._read(pods)).values())
        now = self._clock()
        silence = self._silences.get(revision)
        if silence is None or silence.requests != requests:
            silence = self._silences[revision] = _Silence(requests, now)
        return now - silence.began

    def forget(self, revision: str) -> None:
        """Forget a revision that is gone."""
        self._silences.pop(revision, None)

    async def digest(self, pods: Sequence[PodView]) -> str | None:
        """Return the digest of the model that the first ready pod serves."""
        ready = [pod for pod in pods if pod.ready][:1]
        return next((counters.digest for counters in (await self._read(ready)).values() if counters.digest), None)

    def _forget_old(self, now: float) -> None:
        for step in [step for step, b in self._baselines.items() if now - b.used > _FORGET_SECONDS]:
            del self._baselines[step]

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


def parse_counters(text: str) -> Counters:
    """Return a model server's counters from Prometheus' text format.

    Raises:
        ValueError, KeyError: it is something else.
    """
    requests, errors, digest = 0.0, 0.0, ""
    buckets: dict[float, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "bloomery_model_info":
                digest = labels.get("digest", "")
            elif sample.name == "bloomery_requests_total" and _predicts(sample):
                requests += sample.value
                errors += sample.value if labels["code"].startswith(_FAILED) else 0.0
            elif sample.name == "bloomery_request_seconds_bucket" and _predicts(sample):
                bound = float(labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
    return Counters(int(requests), int(errors), buckets, digest)


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
    return route in ("/", "/predict") or route.endswith("/infer")


def _figures(deltas: Sequence[Counters]) -> Figures:
    """Return several pods' counters together."""
    buckets: dict[float, float] = {}
    for counters in deltas:
        for bound, count in counters.buckets.items():
            buckets[bound] = buckets.get(bound, 0.0) + count
    return Figures(
        requests=sum(counters.requests for counters in deltas),
        errors=sum(counters.errors for counters in deltas),
        p99=percentile(buckets, 0.99),
    )
