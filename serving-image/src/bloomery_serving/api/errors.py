"""Errors of requests: their status and code, and the one place that renders them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from bloomery_model import ImageError
from bloomery_serving.image_file import describe_image_error, describe_not_finite

logger = logging.getLogger(__name__)

_MAX_FIELDS = 5
"""Invalid fields that one message names."""
_CODES = {404: "NotFound", 405: "MethodNotAllowed"}


class RequestError(Exception):
    """A request that cannot be answered; ``status`` is HTTP's, ``code`` CamelCase, the message a sentence."""

    def __init__(self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    @property
    def document(self) -> dict[str, str]:
        """The error as the answer shows it."""
        return {"code": self.code, "message": self.message}


def error_response(error: RequestError, path: str) -> Response:
    """Render an error as JSON: in our form, or under /v2 in that of the Open Inference Protocol."""
    document = {"error": error.message} if path.startswith("/v2") else {"error": error.document}
    body = json.dumps(document, ensure_ascii=False).encode()
    return Response(body, error.status, error.headers, media_type="application/json")


def image_request_error(name: str, error: ImageError) -> RequestError:
    """Return the refusal of an image that cannot be decoded; the message names it and what is accepted."""
    status = 413 if error.code == "ImageTooLarge" else 400
    return RequestError(status, error.code, describe_image_error(name, error))


def not_finite_error(name: str, *, is_tensor: bool) -> RequestError:
    """Return the error for an image or tensor for which the model gave no numbers.

    Every image has the values of an image, so that it is the model's failure; a tensor may have any.
    """
    if is_tensor:
        message = f"The model gives NaN or an infinity for {name}: its values are not those of a normalised image."
        return RequestError(422, "ResultNotFinite", message)
    return RequestError(500, "ResultNotFinite", describe_not_finite(name))


def too_many_requests(cause: str) -> RequestError:
    """Return the refusal of a request for which there is no room now."""
    return RequestError(429, "TooManyRequests", f"{cause}; try again in a second.", headers={"retry-after": "1"})


def invalid_request(errors: Iterable[ErrorDetails], *, skip: int = 0) -> RequestError:
    """Return the refusal of a request that pydantic finds invalid; the message names the fields.

    Args:
        errors: pydantic's own.
        skip: the number of parts before a field's own path that are left out.
    """
    fields = [f"{'.'.join(map(str, error['loc'][skip:])) or 'the body'}: {error['msg']}" for error in errors]
    message = f"The request is not as it should be: {'; '.join(fields[:_MAX_FIELDS])}."
    return RequestError(400, "BadRequest", message)


def add_exception_handlers(app: FastAPI) -> None:
    """Answer every error with JSON that has a code and a sentence, and does not show how the server is built."""

    @app.exception_handler(RequestError)
    async def on_request_error(request: Request, error: RequestError) -> Response:
        return error_response(error, request.url.path)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        sentences = {
            404: f"There is nothing at {path}: images go to POST /predict.",
            405: f"{request.method} is not answered at {path}: images go to POST /predict.",
        }
        message = sentences.get(error.status_code, str(error.detail))
        code = _CODES.get(error.status_code, "BadRequest")
        return error_response(RequestError(error.status_code, code, message, headers=dict(error.headers or {})), path)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        return error_response(invalid_request(error.errors(), skip=1), request.url.path)

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> Response:
        path = request.url.path
        logger.error("a request to %s failed", path, exc_info=error)
        return error_response(
            RequestError(500, "InternalError", "The server failed on this request; see its log."), path
        )
