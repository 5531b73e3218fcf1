"""POST /predict and POST /: one to ten images in a form, or one as the body."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from bloomery_serving.errors import RequestError
from bloomery_serving.images import ImageFile
from bloomery_serving.metrics import Metrics
from bloomery_serving.predictor import Failure, Prediction, Predictor
from bloomery_serving.settings import Settings

FIELD = "image"
_FORM = "multipart/form-data"
_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            _FORM: {
                "schema": {
                    "type": "object",
                    "properties": {FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}}},
                    "required": [FIELD],
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def build_router(predictor: Predictor, metrics: Metrics, settings: Settings, model: dict[str, str]) -> APIRouter:
    """Return the routes; ``model`` is what each answer says of the model that gave it."""
    router = APIRouter()

    @router.post("/predict", openapi_extra=_OPENAPI)
    @router.post("/", include_in_schema=False)
    async def predict(request: Request) -> dict[str, Any]:
        """Say what an image shows: its label, and the probability of each class."""
        with metrics.stage("parse"):
            files = await _read(request, settings)
        outcomes = await predictor.classify(files)
        if len(outcomes) > 1:
            return {"predictions": [_entry(outcome) for outcome in outcomes], "model": model}
        if isinstance(outcomes[0], Failure):
            raise outcomes[0].error
        return {"label": outcomes[0].label, "scores": outcomes[0].scores, "model": model}

    return router


def _entry(outcome: Prediction | Failure) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        return {"file": outcome.file, "error": outcome.error.document}
    return {"file": outcome.file, "label": outcome.label, "scores": outcome.scores}


async def _read(request: Request, settings: Settings) -> list[ImageFile]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == _FORM:
        return await _read_form(request, settings)
    body = await request.body()
    if not body:
        message = f"The request is empty: send an image as the body, or in the field '{FIELD}' of a form."
        raise RequestError(400, "NoImage", message)
    if kind.startswith("text/") or kind in ("application/json", "application/x-www-form-urlencoded"):
        message = f"A body of the type {kind} is no image: send it as image/jpeg, or in the field '{FIELD}' of a form."
        raise RequestError(415, "UnsupportedMediaType", message)
    return [ImageFile("The body", body)]


async def _read_form(request: Request, settings: Settings) -> list[ImageFile]:
    limit = settings.max_images
    try:
        # One file more than is allowed, so that it is refused in our words.
        form = await request.form(max_files=limit + 1, max_fields=100)
    except HTTPException as error:
        if "Too many files" in str(error.detail):
            raise _too_many(limit) from error
        raise RequestError(400, "BadForm", f"The form can not be read: {error.detail}") from error
    uploads = form.getlist(FIELD)
    if not uploads:
        names = ", ".join(f"'{name}'" for name in form) or "no field"
        raise RequestError(400, "NoImage", f"The form has {names}; send the image in the field '{FIELD}'.")
    if len(uploads) > limit:
        raise _too_many(limit)
    return [await _image_file(upload) for upload in uploads]


async def _image_file(upload: UploadFile | str) -> ImageFile:
    if isinstance(upload, str):
        message = f"The field '{FIELD}' holds text: send a file, with curl as -F {FIELD}=@photo.jpg."
        raise RequestError(400, "NotAFile", message)
    return ImageFile(upload.filename or "The image", await upload.read())


def _too_many(limit: int) -> RequestError:
    return RequestError(400, "TooManyImages", f"A request may have {limit} images at most; send more in several.")
