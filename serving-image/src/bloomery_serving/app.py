"""The web application of one loaded model: its routes, and the middleware before them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Lifespan

from bloomery_serving import __version__
from bloomery_serving.about import About
from bloomery_serving.answers import Answerer, AnswerPolicy
from bloomery_serving.api import explain, feedback, open_inference, pages, predict
from bloomery_serving.api.capture import NO_CAPTURE, PREDICTION_ID
from bloomery_serving.api.compare import create_comparison_api
from bloomery_serving.api.errors import add_exception_handlers
from bloomery_serving.api.open_inference_codec import ANSWERED_OUTPUTS, JSON_LENGTH, OUTPUTS, RequestLimits
from bloomery_serving.api.openapi import DocumentedAPI
from bloomery_serving.batcher import Batcher
from bloomery_serving.capacity import Capacity
from bloomery_serving.capture.feedback import FeedbackRecorder, LiveAccuracy
from bloomery_serving.capture.recorder import CaptureRecorder
from bloomery_serving.capture.store import CaptureStore
from bloomery_serving.explainer import Explainer
from bloomery_serving.fair_queue import ClientTimes
from bloomery_serving.identity import HEADERS, ModelIdentity
from bloomery_serving.image_file import Limits
from bloomery_serving.jobs import CallRunner, Watchdog
from bloomery_serving.key_ring import KeyRing, SingleKey
from bloomery_serving.memory_budget import MemoryBudget
from bloomery_serving.metrics import Metrics
from bloomery_serving.middleware.admission import Admission, AdmissionControl, AdmissionLimits
from bloomery_serving.middleware.api_key import ApiKey
from bloomery_serving.middleware.body_limits import BodyLimits
from bloomery_serving.middleware.disconnect import CancelOnDisconnect
from bloomery_serving.middleware.lineage_headers import LineageHeaders
from bloomery_serving.middleware.metrics import RequestMetrics
from bloomery_serving.middleware.port_switch import PortSwitch
from bloomery_serving.middleware.refusals import Refusals
from bloomery_serving.middleware.request_line import RequestLine
from bloomery_serving.model import Model
from bloomery_serving.peer_comparison import PeerComparison
from bloomery_serving.quality_metrics import QualityMetrics
from bloomery_serving.settings import Settings

_CORS_HEADERS = ("Authorization", "Content-Encoding", "X-Variant", JSON_LENGTH, NO_CAPTURE)
"""Headers that a page of another origin may send, beside those that every page may."""

_CAPTURE_DRAIN_SECONDS = 10
"""A pod has 90 seconds to end, of which its requests may take 70."""

_EXPLANATIONS = 8
"""One of so many of the requests that wait may be for an explanation: those are slow, and predictions come first."""


def create_app(
    settings: Settings, model: Model, identity: ModelIdentity, metrics: Metrics, *, capacity: Capacity
) -> ASGIApp:
    """Return the application."""
    about = About(settings, identity, on_change=metrics.describe)
    limits = AdmissionLimits(receiving=settings.receiving_size, waiting=settings.queue_size, bytes=capacity.queue_bytes)
    control = AdmissionControl(limits, gauge=metrics.in_flight)
    keys = [] if settings.api_keys_dir is None else [Middleware(ApiKey, keys=KeyRing(settings.api_keys_dir))]
    workers = _Workers.start(settings, model, metrics, capacity)
    # From the outermost to the innermost. The order is the design: every refusal is counted and has the headers; a
    # browser's question about another origin has no key, but for that the key is checked before anything else, and a
    # request is admitted before its body is read.
    return with_middleware(
        _create_api(settings, model, about, metrics, capacity, workers),
        [
            *_comparison_port(settings, workers.batcher),
            Middleware(RequestLine),
            Middleware(RequestMetrics, metrics=metrics),
            Middleware(LineageHeaders, about=about),
            *_cors(settings),
            Middleware(Refusals),
            *keys,
            Middleware(BodyLimits, max_bytes=capacity.max_body_bytes, max_seconds=settings.body_seconds),
            Middleware(Admission, control=control),
            Middleware(CancelOnDisconnect),
        ],
    )


def with_middleware(app: ASGIApp, stack: list[Middleware]) -> ASGIApp:
    """Return an application behind middleware, of which the first is the outermost."""
    for middleware, arguments, options in reversed(stack):
        app = middleware(app, *arguments, **options)
    return app


def _comparison_port(settings: Settings, batcher: Batcher) -> list[Middleware]:
    """Return the middleware that answers pods of the same service on a port of its own, if there is one."""
    if not settings.compares:
        return []
    api = with_middleware(
        create_comparison_api(batcher),
        [
            Middleware(Refusals),
            # No API key of the service can have the name, so the pods have a share of their own of the workers.
            Middleware(ApiKey, keys=SingleKey("(comparison)", settings.compare_token)),
            Middleware(BodyLimits, max_bytes=settings.max_image_bytes, max_seconds=settings.body_seconds),
        ],
    )
    return [Middleware(PortSwitch, port=settings.compare_port, other=api)]


def _cors(settings: Settings) -> list[Middleware]:
    """Return the middleware that lets pages of other origins in, if there are any."""
    if not settings.allowed_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=_CORS_HEADERS,
            expose_headers=(*HEADERS, *explain.HEADERS, PREDICTION_ID, "retry-after", JSON_LENGTH),
            # A page of the internet may ask a service in a private network, if its owner lists it.
            allow_private_network=True,
        )
    ]


@dataclass(frozen=True)
class _Workers:
    """The batcher, and what other workers share with it."""

    batcher: Batcher
    watchdog: Watchdog
    budget: MemoryBudget
    times: ClientTimes
    limits: Limits

    @classmethod
    def start(cls, settings: Settings, model: Model, metrics: Metrics, capacity: Capacity) -> Self:
        limits = Limits(bytes=settings.max_image_bytes, pixels=settings.max_image_pixels)
        watchdog = Watchdog(settings.hang_seconds)
        budget, times = MemoryBudget(capacity.decoding_bytes), ClientTimes()
        batcher = Batcher(model, metrics, watchdog, limits=limits, capacity=capacity, budget=budget, times=times)
        return cls(batcher, watchdog, budget, times, limits)


def _create_api(
    settings: Settings, model: Model, about: About, metrics: Metrics, capacity: Capacity, workers: _Workers
) -> ASGIApp:
    capture = _open_capture(settings, model, about, metrics)
    api = DocumentedAPI(
        keyed=settings.api_keys_dir is not None,
        about=about,
        version=__version__,
        # FastAPI's own pages load their scripts from the internet, which a cluster may not have.
        docs_url=None,
        redoc_url=None,
        servers=[{"url": "."}],
        # A redirect would name an address without the prefix that the gateway took off.
        redirect_slashes=False,
        lifespan=_draining(capture.recorder if capture else None),
    )
    batcher, explainer = workers.batcher, _create_explainer(settings, model, workers)
    quality = QualityMetrics(metrics.registry, model.labels, model.statistics.reference)
    policy = AnswerPolicy.of(settings, model.statistics, classes=len(model.labels))
    comparison = None
    if settings.compares:
        comparison = PeerComparison(about, token=settings.compare_token, registry=metrics.registry)
    answerer = Answerer(model.labels, policy, quality, capture.recorder if capture else None, comparison)
    api.include_router(predict.build_router(batcher, answerer, metrics, about, max_images=settings.max_images))
    api.include_router(
        open_inference.build_router(
            batcher,
            answerer,
            CallRunner(workers.watchdog, name="parse", times=workers.times),
            model,
            metrics,
            name=settings.service_name,
            about=about,
            limits=RequestLimits(
                images=settings.max_images,
                side=model.preprocess.crop,
                bytes=capacity.max_body_bytes,
                outputs=OUTPUTS if policy.may_be_unknown else ANSWERED_OUTPUTS,
            ),
        )
    )
    api.include_router(explain.build_router(explainer, metrics, is_on=settings.explain))
    api.include_router(
        feedback.build_router(capture.feedback if capture else None, keys=settings.allowed_feedback_keys)
    )
    api.include_router(pages.build_router(settings, about, explains=explainer is not None))
    add_exception_handlers(api)
    return api


def _create_explainer(settings: Settings, model: Model, workers: _Workers) -> Explainer | None:
    if not settings.explain or model.explanation is None:
        return None
    waiting = max(1, settings.queue_size // _EXPLANATIONS)
    return Explainer(
        model, model.explanation, workers.watchdog, limits=workers.limits, budget=workers.budget, max_waiting=waiting
    )


@dataclass(frozen=True)
class _Capture:
    """The parts of a server that captures images."""

    recorder: CaptureRecorder
    feedback: FeedbackRecorder


def _open_capture(settings: Settings, model: Model, about: About, metrics: Metrics) -> _Capture | None:
    if not settings.capture_uri:
        return None
    store = CaptureStore.of(settings, os.environ)
    accuracy = LiveAccuracy(metrics.registry, variant=settings.variant, digest=about.identity.digest)
    recorder = CaptureRecorder(store, settings, about, model.labels, metrics.registry)
    return _Capture(recorder, FeedbackRecorder(store, accuracy))


def _draining(recorder: CaptureRecorder | None) -> Lifespan[FastAPI]:
    """Return a lifespan at whose end the captures that wait are stored, as far as the store takes them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if recorder is not None:
            await run_in_threadpool(recorder.drain, _CAPTURE_DRAIN_SECONDS)

    return lifespan
