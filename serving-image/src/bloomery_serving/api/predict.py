"""POST /predict and POST /: one to ten images in a form, or one as the body."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from bloomery_serving.api.description import BYTES, refusals
from bloomery_serving.errors import RequestError
from bloomery_serving.image_file import ImageFile
from bloomery_serving.metrics import Metrics
from bloomery_serving.predictor import Failure, Prediction, Predictor
from bloomery_serving.settings import Settings

FIELD = "image"
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
    "NoImage: nothing was sent, or not in the field 'image'. NotAFile: the field holds text. BadForm: the form can "
    "not be read. TooManyImages: send them in several requests. NotAnImage, DamagedImage, ImageTooNarrow: the one "
    "image can not be read; among several, the others are answered. BadRequest: what HTTP itself does not allow."
)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ServedModel(_Answer):
    """Which model answered, as far as it has a name."""

    name: str | None = None
    version: str | None = None
    digest: str
    variant: str | None = None


class Explanation(_Answer):
    """What is wrong, for programs and for people."""

    code: str
    message: str


class Refusal(_Answer):
    """Why a request was not answered."""

    error: Explanation


class OneImage(_Answer):
    """The answer to one image: its label, and each class' probability, the likeliest first."""

    label: str
    scores: dict[str, float]
    model: ServedModel


class ImageOfSeveral(_Answer):
    """One of several images: label and scores, or what is wrong with it."""

    file: str
    label: str | None = None
    scores: dict[str, float] | None = None
    error: Explanation | None = None


class SeveralImages(_Answer):
    """The answer to several images, in their order."""

    predictions: list[ImageOfSeveral]
    model: ServedModel


def build_router(predictor: Predictor, metrics: Metrics, settings: Settings, model: dict[str, str]) -> APIRouter:
    """Return the routes; ``model`` is what each answer says of the model that gave it."""
    router = APIRouter()

    answers = {200: {"model": OneImage | SeveralImages}} | refusals(Refusal, _MISTAKES)

    @router.post("/predict", openapi_extra=_BODY, responses=answers, tags=["Images"])
    @router.post("/", include_in_schema=False)
    async def predict(request: Request) -> Response:
        """Say what an image shows: its label, and the probability of each class."""
        with metrics.stage("parse"):
            files = await _read(request, settings)
        outcomes = await predictor.classify(files)
        if len(outcomes) > 1:
            return _answer({"predictions": [_entry(outcome) for outcome in outcomes], "model": model})
        if isinstance(outcomes[0], Failure):
            raise outcomes[0].error
        return _answer({"label": outcomes[0].label, "scores": outcomes[0].scores, "model": model})

    return router


def _answer(document: dict[str, Any]) -> Response:
    # A ready response: FastAPI would walk through every score to see whether JSON has it.
    return Response(json.dumps(document, ensure_ascii=False), media_type="application/json")


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
