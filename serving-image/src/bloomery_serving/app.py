"""The web application of one loaded model: its routes, and the middleware before them."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp

from bloomery_serving import __version__
from bloomery_serving.about import About
from bloomery_serving.api import open_inference, pages, predict
from bloomery_serving.api.errors import add_exception_handlers
from bloomery_serving.api.openapi import DocumentedAPI
from bloomery_serving.batcher import Batcher
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.image_file import Limits
from bloomery_serving.key_ring import KeyRing
from bloomery_serving.metrics import Metrics
from bloomery_serving.middleware.admission import Admission, AdmissionControl
from bloomery_serving.middleware.api_key import ApiKey
from bloomery_serving.middleware.body_limits import BodyLimits
from bloomery_serving.middleware.disconnect import CancelOnDisconnect
from bloomery_serving.middleware.lineage_headers import LineageHeaders
from bloomery_serving.middleware.metrics import RequestMetrics
from bloomery_serving.middleware.refusals import Refusals
from bloomery_serving.model import Model
from bloomery_serving.settings import Settings


def create_app(settings: Settings, model: Model, identity: ModelIdentity, metrics: Metrics, *, workers: int) -> ASGIApp:
    """Return the application; ``workers`` is the number of predictions that run side by side."""
    about = About(settings, identity, on_change=metrics.describe)
    control = AdmissionControl(
        max_requests=settings.queue_size, max_bytes=settings.queue_bytes, gauge=metrics.in_flight
    )
    keys = [] if settings.api_keys_dir is None else [Middleware(ApiKey, keys=KeyRing(settings.api_keys_dir))]
    # From the outermost to the innermost. The order is the design: every refusal is counted and has the headers; the
    # key is checked before anything else, and a request is admitted before its body is read.
    return with_middleware(
        _create_api(settings, model, about, metrics, workers=workers),
        [
            Middleware(RequestMetrics, metrics=metrics),
            Middleware(LineageHeaders, about=about),
            Middleware(Refusals),
            *keys,
            Middleware(BodyLimits, max_bytes=settings.max_body_bytes, max_seconds=settings.body_seconds),
            Middleware(Admission, control=control),
            Middleware(CancelOnDisconnect),
        ],
    )


def with_middleware(app: ASGIApp, stack: list[Middleware]) -> ASGIApp:
    """Return an application behind middleware, of which the first is the outermost."""
    for middleware, arguments, options in reversed(stack):
        app = middleware(app, *arguments, **options)
    return app


def _create_api(settings: Settings, model: Model, about: About, metrics: Metrics, *, workers: int) -> ASGIApp:
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
    batcher = Batcher(model, metrics, limits=limits, workers=workers)
    api.include_router(predict.build_router(batcher, metrics, about, max_images=settings.max_images))
    api.include_router(
        open_inference.build_router(
            batcher,
            model,
            metrics,
            name=settings.service_name,
            version=about.identity.model_version or "1",
            max_images=settings.max_images,
        )
    )
    api.include_router(pages.build_router(settings, about))
    add_exception_handlers(api)
    return api
