"""POST /predict and POST /: one to ten images in a form, or one as the body."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from bloomery_model import ImageError
from bloomery_serving.about import About
from bloomery_serving.answers import Answerer
from bloomery_serving.api.capture import ID_HEADER, id_header, uploads_of
from bloomery_serving.api.errors import RequestError, image_request_error, not_finite_error
from bloomery_serving.api.openapi import BYTES, refusals
from bloomery_serving.api.schemas import OneImage, Refusal, SeveralImages
from bloomery_serving.batcher import Batcher, NotFinite
from bloomery_serving.capture.recorder import Upload
from bloomery_serving.image_file import ImageFile
from bloomery_serving.metrics import Metrics
from bloomery_serving.prediction import Prediction
from bloomery_serving.request_scope import key_name

FIELD = "image"
OTHER_FIELD = "file"
"""The name that many clients and pages give to the field of a file; it is read alike."""
_FORM = "multipart/form-data"
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            _FORM: {
                "schema": {
                    "type": "object",
                    "properties": {FIELD: {"type": "array", "items": BYTES}},
                    "required": [FIELD],
                }
            },
            "image/*": {"schema": BYTES},
            "application/octet-stream": {"schema": BYTES},
        },
    }
}
_MISTAKES = (
    "NoImage: nothing was sent, or not in the field 'image'. NotAFile: the field holds text. BadForm: the form cannot "
    "be read. TooManyImages: send them in several requests. NotAnImage, DamagedImage, ImageTooNarrow: the one "
    "image cannot be read; among several, the others are answered. BadRequest: HTTP itself does not allow it."
)


@dataclass(frozen=True)
class Failure:
    """One image of several that cannot be classified."""

    file: str
    error: RequestError


def build_router(batcher: Batcher, answerer: Answerer, metrics: Metrics, about: About, *, max_images: int) -> APIRouter:
    """Return the routes that classify images."""
    router = APIRouter()
    responses = {200: {"model": OneImage | SeveralImages, "headers": ID_HEADER}} | refusals(Refusal, _MISTAKES)

    @router.post("/predict", openapi_extra=_BODY, responses=responses, tags=["Images"])
    @router.post("/", include_in_schema=False)
    async def predict(request: Request) -> Response:
        """Classify images: the label of each, and the probability of each class."""
        with metrics.stage("parse"):
            files = await read_files(request, max_images)
        client = key_name(request.scope)
        uploads = uploads_of(request, client, files)
        outcomes = await _classify(batcher, answerer, client, files, uploads)
        model = about.identity.document
        headers = id_header([outcome.id for outcome in outcomes if isinstance(outcome, Prediction)])
        if len(outcomes) > 1:
            return _answer({"predictions": [_entry(outcome) for outcome in outcomes], "model": model}, headers)
        if isinstance(outcomes[0], Failure):
            raise outcomes[0].error
        return _answer({**outcomes[0].document, "model": model}, headers)

    return router


async def _classify(
    batcher: Batcher,
    answerer: Answerer,
    client: str,
    files: Sequence[ImageFile],
    uploads: Sequence[Upload],
) -> list[Prediction | Failure]:
    """Classify images; one that cannot be decoded is a Failure in its place."""
    outcomes: list[Prediction | Failure] = []
    for file, upload, result in zip(files, uploads, await batcher.submit(client, files), strict=True):
        match result:
            case ImageError():
                outcomes.append(Failure(file.name, image_request_error(file.name, result)))
            case NotFinite():
                # No mistake of one image: the whole request counts as failed.
                raise not_finite_error(file.name, is_tensor=False)
            case scored:
                outcomes.append(Prediction.of(file.name, answerer.answer(scored, upload), batcher.labels))
    return outcomes


def _answer(document: dict[str, Any], headers: Mapping[str, str]) -> Response:
    # A ready response: FastAPI would walk through every score to see whether JSON has it.
    content = json.dumps(document, ensure_ascii=False, allow_nan=False)
    return Response(content, headers=dict(headers), media_type="application/json")


def _entry(outcome: Prediction | Failure) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        return {"file": outcome.file, "error": outcome.error.document}
    return {"file": outcome.file, "id": outcome.id, **outcome.document}


async def read_files(request: Request, max_images: int) -> list[ImageFile]:
    """Return the images of a request, at least one.

    Raises:
        RequestError: there is no image, or more than ``max_images``.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == _FORM:
        return await _read_form(request, max_images)
    body = await request.body()
    if not body:
        message = f"The request is empty: send an image as the body, or in the field '{FIELD}' of a form."
        raise RequestError(400, "NoImage", message)
    if kind.startswith("text/") or kind in ("application/json", "application/x-www-form-urlencoded"):
        message = f"A body of the type {kind} is no image: send it as image/jpeg, or in the field '{FIELD}' of a form."
        raise RequestError(415, "UnsupportedMediaType", message)
    return [ImageFile("The body", body)]


async def _read_form(request: Request, max_images: int) -> list[ImageFile]:
    try:
        # One file more than is allowed, so that the request gets our own error message.
        form = await _without_charset(request).form(max_files=max_images + 1, max_fields=100)
    except HTTPException as error:
        if "Too many files" in str(error.detail):
            raise _too_many(max_images) from error
        raise RequestError(400, "BadForm", f"The form cannot be read: {error.detail}") from error
    uploads = [value for name, value in form.multi_items() if name in (FIELD, OTHER_FIELD)]
    if not uploads:
        names = ", ".join(f"'{name}'" for name in form) or "no field"
        raise RequestError(400, "NoImage", f"The form has {names}; send the image in the field '{FIELD}'.")
    if len(uploads) > max_images:
        raise _too_many(max_images)
    return [await _image_file(upload) for upload in uploads]


def _without_charset(request: Request) -> Request:
    """Return the request of a form without the ``charset`` of its client: texts are UTF-8 (RFC 7578, 5.1.2).

    Starlette decodes them by any codec of Python, on the event loop; ``punycode`` takes minutes for a megabyte.
    """
    kind, parameters = parse_options_header(request.headers["content-type"])
    boundary = parameters.get(b"boundary", b"").replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    value = kind + (b'; boundary="' + boundary + b'"' if boundary else b"")
    others = [(name, content) for name, content in request.scope["headers"] if name != b"content-type"]
    return Request({**request.scope, "headers": [*others, (b"content-type", value)]}, request.receive)


async def _image_file(upload: UploadFile | str) -> ImageFile:
    if isinstance(upload, str):
        message = f"The field '{FIELD}' holds text: send a file, with curl as -F {FIELD}=@photo.jpg."
        raise RequestError(400, "NotAFile", message)
    return ImageFile(upload.filename or "The image", await upload.read())


def _too_many(max_images: int) -> RequestError:
    images = "one image" if max_images == 1 else f"{max_images} images"
    return RequestError(400, "TooManyImages", f"A request may have {images} at most; send more in several.")
