"""The web application of one loaded model: its routes, and the middleware before them."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from bloomery_serving import __version__
from bloomery_serving.about import About
from bloomery_serving.answers import Answerer, AnswerPolicy
from bloomery_serving.api import explain, open_inference, pages, predict
from bloomery_serving.api.errors import add_exception_handlers
from bloomery_serving.api.open_inference_codec import ANSWERED_OUTPUTS, JSON_LENGTH, OUTPUTS, RequestLimits
from bloomery_serving.api.openapi import DocumentedAPI
from bloomery_serving.batcher import Batcher
from bloomery_serving.capacity import Capacity
from bloomery_serving.explainer import Explainer
from bloomery_serving.fair_queue import ClientTimes
from bloomery_serving.identity import HEADERS, ModelIdentity
from bloomery_serving.image_file import Limits
from bloomery_serving.jobs import CallRunner, Watchdog
from bloomery_serving.key_ring import KeyRing
from bloomery_serving.memory_budget import MemoryBudget
from bloomery_serving.metrics import Metrics
from bloomery_serving.middleware.admission import Admission, AdmissionControl, AdmissionLimits
from bloomery_serving.middleware.api_key import ApiKey
from bloomery_serving.middleware.body_limits import BodyLimits
from bloomery_serving.middleware.disconnect import CancelOnDisconnect
from bloomery_serving.middleware.lineage_headers import LineageHeaders
from bloomery_serving.middleware.metrics import RequestMetrics
from bloomery_serving.middleware.refusals import Refusals
from bloomery_serving.middleware.request_line import RequestLine
from bloomery_serving.model import Model
from bloomery_serving.quality_metrics import QualityMetrics
from bloomery_serving.settings import Settings

_CORS_HEADERS = ("Authorization", "Content-Encoding", "X-Variant", JSON_LENGTH)
"""Headers that a page of another origin may send, beside those that every page may."""

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
    # From the outermost to the innermost. The order is the design: every refusal is counted and has the headers; a
    # browser's question about another origin has no key, but for that the key is checked before anything else, and a
    # request is admitted before its body is read.
    return with_middleware(
        _create_api(settings, model, about, metrics, capacity),
        [
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
            expose_headers=(*HEADERS, *explain.HEADERS, "retry-after", JSON_LENGTH),
            # A page of the internet may ask a service in a private network, if its owner lists it.
            allow_private_network=True,
        )
    ]


def _create_api(settings: Settings, model: Model, about: About, metrics: Metrics, capacity: Capacity) -> ASGIApp:
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
    )
    limits = Limits(bytes=settings.max_image_bytes, pixels=settings.max_image_pixels)
    watchdog = Watchdog(settings.hang_seconds)
    budget, times = MemoryBudget(capacity.decoding_bytes), ClientTimes()
    batcher = Batcher(model, metrics, watchdog, limits=limits, capacity=capacity, budget=budget, times=times)
    explainer = None
    if settings.explain and model.explanation is not None:
        waiting = max(1, settings.queue_size // _EXPLANATIONS)
        explainer = Explainer(model, model.explanation, watchdog, limits=limits, budget=budget, max_waiting=waiting)
    quality = QualityMetrics(metrics.registry, model.labels, model.statistics.reference)
    policy = AnswerPolicy.of(settings, model.statistics, classes=len(model.labels))
    answerer = Answerer(model.labels, policy, quality)
    api.include_router(predict.build_router(batcher, answerer, metrics, about, max_images=settings.max_images))
    api.include_router(
        open_inference.build_router(
            batcher,
            answerer,
            CallRunner(watchdog, name="parse", times=times),
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
    api.include_router(pages.build_router(settings, about, explains=explainer is not None))
    add_exception_handlers(api)
    return api
