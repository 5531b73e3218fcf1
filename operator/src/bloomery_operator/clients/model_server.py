"""Client of model servers: reads their Prometheus metrics, and compares them over time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import reduce
from typing import TypeVar

import aiohttp

from bloomery_operator.clients.exposition import Sample, read_samples
from bloomery_operator.clients.http import CircuitBreaker, PodRequest, ReleasedSlot, fetch_from_pod, no_slot
from bloomery_operator.domain.ports import METRICS_PORT
from bloomery_operator.domain.rollout import Feedback, RequestStats
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.timestamps import read_time
from bloomery_operator.status.workloads import PodView

_TIMEOUT_SECONDS = 2.0
_TIMEOUT = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
_PAUSE_SECONDS = 5.0
"""Pause after a pod did not answer; longer after each further time."""
_MAX_METRICS_BYTES = 256 * 1024
"""Twice what a server with all its routes and a dozen keys has for the metrics below."""
_MODEL, _REQUESTS, _SECONDS = "bloomery_model_info", "bloomery_requests_total", "bloomery_request_seconds_bucket"
_CONFIDENCE_SUM, _CONFIDENCE_COUNT = "bloomery_prediction_confidence_sum", "bloomery_prediction_confidence_count"
_COMPARED, _DISAGREEMENTS = "bloomery_compared_images_total", "bloomery_disagreements_total"
_FAILED_COMPARISONS = "bloomery_failed_comparisons_total"
_LABELLED, _CORRECT = "bloomery_live_labelled_total", "bloomery_live_correct_total"
_SUMS = (_CONFIDENCE_SUM, _CONFIDENCE_COUNT, _COMPARED, _DISAGREEMENTS, _FAILED_COMPARISONS)
"""Metrics without labels."""
_METRICS = frozenset({_MODEL, _REQUESTS, _SECONDS, _LABELLED, _CORRECT, *_SUMS})
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
    images: int = 0
    """Images that were answered; a request may have several."""
    confidence: float = 0.0
    """The sum of the scores of their likeliest classes."""
    compared: int = 0
    """Images whose class was compared with that of what the pod replaces."""
    disagreements: int = 0
    """Those of them with another class."""
    failed_comparisons: int = 0
    """Images for which what the pod replaces gave no class."""
    can_compare: bool = False
    """Whether the pod compares, and answers those that do."""
    labelled: Mapping[str, float] = field(default_factory=dict)
    """Answers whose true class was sent to the pod, by the digest of the model that gave them in whichever pod."""
    correct: Mapping[str, float] = field(default_factory=dict)
    """Those of them with the true class."""

    def since(self, baseline: Counters) -> Counters:
        """Return what was counted after ``baseline``; the counters of a restarted server count from zero."""
        if self.requests < baseline.requests:
            return self
        return replace(
            self,
            requests=self.requests - baseline.requests,
            errors=self.errors - baseline.errors,
            buckets=_subtract(self.buckets, baseline.buckets),
            images=self.images - baseline.images,
            confidence=self.confidence - baseline.confidence,
            compared=self.compared - baseline.compared,
            disagreements=self.disagreements - baseline.disagreements,
            failed_comparisons=self.failed_comparisons - baseline.failed_comparisons,
            labelled=_subtract(self.labelled, baseline.labelled),
            correct=_subtract(self.correct, baseline.correct),
        )

    def plus(self, other: Counters) -> Counters:
        """Return the sum."""
        return replace(
            self,
            model=self.model or other.model,
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            buckets=_add(self.buckets, other.buckets),
            images=self.images + other.images,
            confidence=self.confidence + other.confidence,
            compared=self.compared + other.compared,
            disagreements=self.disagreements + other.disagreements,
            failed_comparisons=self.failed_comparisons + other.failed_comparisons,
            labelled=_add(self.labelled, other.labelled),
            correct=_add(self.correct, other.correct),
        )


class MetricsUnreadable(Exception):
    """A ready pod does not answer with its metrics."""

    def __init__(self, pod: PodView) -> None:
        """Name the pod and the address."""
        super().__init__(f"the metrics of pod {pod.name} cannot be read at {pod.host}:{METRICS_PORT}")


@dataclass
class _StepFigures:
    """Figures of one pod during a rollout step, also of containers and pods that are gone."""

    revision: str
    restarts: int
    """Restarts at the last look."""
    start: Counters | None
    """Counters at the step's beginning, or of a container that started later; None before they could be read."""
    last: Counters = field(default_factory=Counters)
    """Counters at the last look at which they could be read."""
    former: Counters = field(default_factory=Counters)
    """What the containers before counted during the step."""
    crashes: int = 0

    def look(self, pod: PodView, current: Counters | None) -> None:
        """Take in a look at the pod."""
        self.crashes += max(0, pod.restarts - self.restarts)
        self.restarts = pod.restarts
        if current is None:
            return
        if self.start is None:
            self.start = current
        elif current.requests < self.last.requests:
            self.former = self.former.plus(self.last.since(self.start))
            self.start = Counters()
        self.last = current

    @property
    def counted(self) -> Counters:
        """What was counted during the step, with each crash as a request that failed."""
        running = self.last.since(self.start) if self.start is not None else Counters()
        return self.former.plus(running).plus(Counters(self.crashes, self.crashes))


@dataclass
class _Step:
    pods: dict[str, _StepFigures]
    """By the pods' uids."""
    last_used: float


@dataclass
class _IdlePeriod:
    requests: int
    started: float
    last_used: float


_Key = TypeVar("_Key")
_Entry = TypeVar("_Entry", _Step, _IdlePeriod)


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
        self._steps: dict[str, _Step] = {}
        self._idle_periods: dict[frozenset[str], _IdlePeriod] = {}

    async def request_stats(
        self, step: str, since: datetime, revisions: Mapping[str, Sequence[PodView]]
    ) -> dict[str, RequestStats]:
        """Return what each revision's pods counted during a rollout step, also those that are gone.

        A crash of a server counts as a request that failed: the gateway's answers for a pod that is gone are counted
        nowhere.

        Args:
            step: identifies the step; its first call takes the baseline.
            since: when the step began.
            revisions: the pods of each revision.
        """
        counters = await self._read_counters(pod for group in revisions.values() for pod in group)
        is_first_call = step not in self._steps
        figures = self._look(step, since, revisions, counters)
        counted = [] if is_first_call else [(pod.revision, pod.counted) for pod in figures.values()]
        # Feedback about any pod's answer is counted by the pod that it reaches.
        everywhere = reduce(Counters.plus, (counts for _, counts in counted), Counters())
        return {
            name: _sum_stats(
                [counts for revision, counts in counted if revision == name],
                everywhere,
                unreadable=len(_unread(group, counters)),
                can_compare=_can_compare(group, counters),
            )
            for name, group in revisions.items()
        }

    async def seconds_idle(self, pods: Sequence[PodView]) -> float | None:
        """Return for how many seconds a revision's pods are known to have received no request.

        None if the metrics of a ready pod cannot be read: it may be busy.
        """
        counters = await self._read_counters(pods)
        if _unread(pods, counters):
            return None
        requests = sum(read.requests for read in counters.values())
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
        """Return the digest and the lineage of the model that the first ready pod serves; None without such a pod.

        Raises:
            MetricsUnreadable: the pod does not answer.
        """
        ready = [pod for pod in pods if pod.ready][:1]
        counters = await self._read_counters(ready)
        for pod in _unread(ready, counters):
            raise MetricsUnreadable(pod)
        return next((read.model for read in counters.values() if read.model), None)

    def _look(
        self, step: str, since: datetime, revisions: Mapping[str, Sequence[PodView]], counters: Mapping[str, Counters]
    ) -> Mapping[str, _StepFigures]:
        """Take in a look at a step's pods; return their figures by uid."""
        now = self._clock()
        is_first_call = step not in self._steps
        known = self._steps.setdefault(step, _Step({}, now))
        known.last_used = now
        _drop_unused(self._steps, now)
        for revision, pods in revisions.items():
            for pod in pods:
                # A pod created after the step began starts from zero; for any other pod the first value is the
                # baseline, as is that of the first call.
                has_baseline = is_first_call and pod.uid in counters
                is_new = not has_baseline and (read_time(pod.created) or since) >= since
                new = _StepFigures(revision, 0 if is_new else pod.restarts, Counters() if is_new else None)
                known.pods.setdefault(pod.uid, new).look(pod, counters.get(pod.uid))
        return known.pods

    async def _read_counters(self, pods: Iterable[PodView]) -> dict[str, Counters]:
        """Return the counters of the pods that answer, by the pods' uids."""
        running = [pod for pod in pods if pod.ip and pod.phase == "Running"]
        async with self._released_slot():
            results = await asyncio.gather(*map(self._fetch_counters, running))
        return {pod.uid: counters for pod, counters in zip(running, results, strict=True) if counters is not None}

    async def _fetch_counters(self, pod: PodView) -> Counters | None:
        try:
            with self._circuits.guard(pod.uid):
                content = await fetch_from_pod(self._session, _metrics_request(pod), timeout=_TIMEOUT)
            # In a thread: a long text must not stop all other work.
            return await asyncio.to_thread(parse_counters, content.decode()) if content is not None else None
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
            return None


def _metrics_request(pod: PodView) -> PodRequest:
    """Return the request for those metrics of a pod that are used here."""
    return PodRequest(
        url=f"http://{pod.host}:{METRICS_PORT}/metrics",
        query=[("name[]", name) for name in sorted(_METRICS)],
        max_bytes=_MAX_METRICS_BYTES,
    )


def _drop_unused(entries: dict[_Key, _Entry], now: float) -> None:
    """Drop entries that were not used for a long time: their service may be gone."""
    for key in [key for key, entry in entries.items() if now - entry.last_used > _UNUSED_ENTRY_TTL_SECONDS]:
        del entries[key]


def _subtract(counts: Mapping[_Key, float], baseline: Mapping[_Key, float]) -> dict[_Key, float]:
    return {key: count - baseline.get(key, 0.0) for key, count in counts.items()}


def _add(counts: Mapping[_Key, float], others: Mapping[_Key, float]) -> dict[_Key, float]:
    return {key: counts.get(key, 0.0) + others.get(key, 0.0) for key in {**counts, **others}}


def parse_counters(text: str) -> Counters:
    """Return a model server's counters from Prometheus' text format.

    Raises:
        ValueError, KeyError: the text is not the metrics of a model server.
    """
    requests, errors, model = 0.0, 0.0, None
    buckets: dict[float, float] = {}
    sums: dict[str, float] = {}
    live: dict[str, dict[str, float]] = {_LABELLED: {}, _CORRECT: {}}
    for sample in read_samples(text, _METRICS):
        labels = sample.labels
        if sample.name == _MODEL:
            model = _parse_model(labels)
        elif sample.name == _REQUESTS and _is_prediction(sample):
            requests += sample.value
            errors += sample.value if labels["code"].startswith(_ERROR_CODE_PREFIXES) else 0.0
        elif sample.name in live:
            # Pods of releases before the gate have no digest here.
            digest = labels.get("digest", "")
            live[sample.name][digest] = live[sample.name].get(digest, 0.0) + sample.value
        elif sample.name in _SUMS:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        elif sample.name == _SECONDS and _is_prediction(sample):
            bound = float(labels["le"])
            if math.isnan(bound):
                raise ValueError("the bound of a bucket is not a number")
            buckets[bound] = buckets.get(bound, 0.0) + sample.value
    return Counters(
        int(requests),
        int(errors),
        buckets,
        model,
        images=int(sums.get(_CONFIDENCE_COUNT, 0.0)),
        confidence=sums.get(_CONFIDENCE_SUM, 0.0),
        compared=int(sums.get(_COMPARED, 0.0)),
        disagreements=int(sums.get(_DISAGREEMENTS, 0.0)),
        failed_comparisons=int(sums.get(_FAILED_COMPARISONS, 0.0)),
        # Servers have the metric only with a token and a port of their own.
        can_compare=_COMPARED in sums,
        labelled=live[_LABELLED],
        correct=live[_CORRECT],
    )


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


def _unread(pods: Iterable[PodView], counters: Mapping[str, Counters]) -> list[PodView]:
    """Return the ready pods whose metrics could not be read."""
    return [pod for pod in pods if pod.ready and not pod.deleting and pod.uid not in counters]


def _can_compare(pods: Iterable[PodView], counters: Mapping[str, Counters]) -> bool:
    """Return whether all pods compare whose metrics could be read."""
    read = [counters[pod.uid].can_compare for pod in pods if pod.uid in counters]
    return bool(read) and all(read)


def _sum_stats(
    counted: Sequence[Counters], everywhere: Counters, *, unreadable: int, can_compare: bool
) -> RequestStats:
    """Return the statistics of a revision's pods together; ``everywhere`` is what the pods of all revisions counted."""
    total = reduce(Counters.plus, counted, Counters())
    digests = {pod.model.digest for pod in counted if pod.model is not None and pod.model.digest is not None}
    return RequestStats(
        requests=total.requests,
        errors=total.errors,
        p99=percentile(total.buckets, 0.99),
        unreadable=unreadable,
        images=total.images,
        confidence=total.confidence,
        compared=total.compared,
        disagreements=total.disagreements,
        failed_comparisons=total.failed_comparisons,
        can_compare=can_compare,
        feedback={
            digest: Feedback(int(everywhere.labelled.get(digest, 0.0)), int(everywhere.correct.get(digest, 0.0)))
            for digest in sorted(digests)
        },
    )
