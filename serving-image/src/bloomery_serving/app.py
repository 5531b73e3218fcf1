"""The web application of one loaded model."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from bloomery_serving import __version__
from bloomery_serving.api import oip, pages, predict
from bloomery_serving.api.description import DescribedAPI
from bloomery_serving.auth import KeyRing
from bloomery_serving.errors import RequestError, name_fields
from bloomery_serving.gate import BodyLimits, Gate, error_body
from bloomery_serving.image_file import Limits
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import Model
from bloomery_serving.predictor import Predictor
from bloomery_serving.settings import Settings
from bloomery_serving.turns import Turns

logger = logging.getLogger(__name__)

_CODES = {404: "NotFound", 405: "MethodNotAllowed"}


def create_app(settings: Settings, model: Model, metrics: Metrics, *, workers: int) -> ASGIApp:
    """Return the application; ``workers`` is how many predictions run side by side."""
    app = DescribedAPI(
        keyed=settings.api_keys_dir is not None,
        title=settings.title,
        description=settings.description,
        version=__version__,
        # FastAPI's own pages load their scripts from the internet, which a cluster may not have.
        docs_url=None,
        redoc_url=None,
        servers=[{"url": "."}],
        # A redirect would name an address without the prefix that the gateway took off.
        redirect_slashes=False,
    )
    limits = Limits(bytes=settings.max_image_bytes, pixels=settings.max_image_pixels)
    predictor = Predictor(model, metrics, limits=limits, workers=workers)
    identity = {
        "name": settings.model_name,
        "version": settings.model_version,
        "digest": model.digest,
        "variant": settings.variant,
    }
    app.include_router(predict.build_router(predictor, metrics, settings, {k: v for k, v in identity.items() if v}))
    app.include_router(oip.build_router(predictor, model, metrics, settings))
    app.include_router(pages.build_router(settings))
    _speak_json(app)
    return Gate(
        app,
        metrics=metrics,
        headers=settings.lineage_headers | {"x-model-digest": model.digest},
        body=BodyLimits(settings.max_body_bytes, settings.body_seconds),
        turns=Turns(places=settings.queue_size, room=settings.queue_bytes, gauge=metrics.in_flight),
        keys=KeyRing(settings.api_keys_dir) if settings.api_keys_dir is not None else None,
    )


def _speak_json(app: FastAPI) -> None:
    """Let every error be JSON with a code and a sentence, and none show how we are built."""

    @app.exception_handler(RequestError)
    async def on_request_error(request: Request, error: RequestError) -> Response:
        return _answer(request, error)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        sentences = {
            404: f"There is nothing at {path}: images go to POST /predict.",
            405: f"{request.method} is not answered at {path}: images go to POST /predict.",
        }
        message = sentences.get(error.status_code, str(error.detail))
        code = _CODES.get(error.status_code, "BadRequest")
        return _answer(request, RequestError(error.status_code, code, message, headers=dict(error.headers or {})))

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        fields = name_fields(error.errors(), whole="the body", skip=1)
        return _answer(request, RequestError(400, "BadRequest", f"The request is not as it should be: {fields}."))

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> Response:
        logger.error("a request to %s failed", request.url.path, exc_info=error)
        return _answer(
            request, RequestError(500, "InternalError", "The server failed on this request; its log says why.")
        )


def _answer(request: Request, error: RequestError) -> Response:
    body = error_body(error, request.url.path)
    return Response(body, error.status, error.headers, media_type="application/json")
