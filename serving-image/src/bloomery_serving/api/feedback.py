"""POST /feedback: the true classes of images that were captured."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import Field, TypeAdapter, ValidationError

from bloomery_serving.api.errors import RequestError, invalid_request, too_many_requests
from bloomery_serving.api.openapi import refusals
from bloomery_serving.api.schemas import (
    Explanation,
    Feedback,
    FeedbackAnswer,
    FeedbackOfSeveral,
    Refusal,
    SeveralFeedbackAnswers,
)
from bloomery_serving.capture.feedback import FeedbackCode, FeedbackError, FeedbackRecorder
from bloomery_serving.request_scope import key_name

MAX_ENTRIES = 100
"""True labels in one request."""
_MAX_BODY_BYTES = 1024 * 1024
"""More is parsed for nobody: it would hold up the predictions."""
_SEVERAL = TypeAdapter(Annotated[list[Feedback], Field(min_length=1, max_length=MAX_ENTRIES)])
_MAX_RUNNING = 8
"""Requests at a time: each waits for the store, and takes a place that a prediction could have."""

_STATUS: Mapping[FeedbackCode, int] = {
    "BadId": 400,
    "BadLabel": 400,
    "UnknownClass": 400,
    "NotCaptured": 404,
    "StoreUnavailable": 503,
}
_MISTAKES = (
    "BadRequest: the body has not the fields id and label. BadId: it is no id of a prediction. BadLabel: it is empty, "
    "too long or has control characters. UnknownClass: the model has no such class, and newClass is not true."
)


_SCHEMA = Feedback.model_json_schema()
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"anyOf": [_SCHEMA, {"type": "array", "items": _SCHEMA, "maxItems": MAX_ENTRIES}]}
            }
        },
    }
}


class _Turns:
    """Requests for feedback that run at a time; for one event loop, so that nothing is locked."""

    def __init__(self) -> None:
        self._running = 0

    def __enter__(self) -> None:
        """Take a place.

        Raises:
            RequestError: 429, there is none.
        """
        if self._running >= _MAX_RUNNING:
            raise too_many_requests(f"{self._running} requests with feedback run already")
        self._running += 1

    def __exit__(self, *_: object) -> None:
        """Give the place back."""
        self._running -= 1


def build_router(recorder: FeedbackRecorder | None, *, keys: Collection[str]) -> APIRouter:
    """Return the route that takes feedback.

    Args:
        recorder: None if the service captures nothing.
        keys: the names of the API keys that may send it; empty: all.
    """
    router = APIRouter()
    turns = _Turns()
    responses: dict[int | str, dict[str, Any]] = {
        **refusals(Refusal, _MISTAKES),
        403: {"model": Refusal, "description": "Forbidden: feedback is taken with other keys of the service only."},
    }

    @router.post(
        "/feedback", openapi_extra=_BODY, responses=responses, include_in_schema=recorder is not None, tags=["Images"]
    )
    async def feedback(request: Request) -> FeedbackAnswer | SeveralFeedbackAnswers:
        """Say which class an image has whose prediction was captured; the last one counts."""
        if recorder is None:
            raise _disabled()
        key = key_name(request.scope)
        if keys and key not in keys:
            raise _forbidden(key, keys)
        entries = await _read_entries(request)
        with turns:
            if isinstance(entries, Feedback):
                return await run_in_threadpool(_record, recorder, entries, key)
            return await run_in_threadpool(_record_several, recorder, entries, key)

    return router


async def _read_entries(request: Request) -> Feedback | list[Feedback]:
    """Return the body of a request: one entry, or a list of them."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            message = f"Feedback may have {_MAX_BODY_BYTES} bytes at most: send it in several requests."
            raise RequestError(413, "BodyTooLarge", message)
    try:
        if body.lstrip().startswith(b"["):
            return _SEVERAL.validate_json(bytes(body))
        return Feedback.model_validate_json(bytes(body))
    except ValidationError as error:
        raise invalid_request(error.errors()) from error


def _record(recorder: FeedbackRecorder, entry: Feedback, key: str) -> FeedbackAnswer:
    try:
        label = recorder.record(entry.id, entry.label, key=key, is_new_class=entry.new_class).label
    except FeedbackError as error:
        headers = {"retry-after": "5"} if error.code == "StoreUnavailable" else None
        raise RequestError(_STATUS[error.code], error.code, str(error), headers=headers) from error
    return FeedbackAnswer(id=entry.id, label=label)


def _record_several(recorder: FeedbackRecorder, entries: list[Feedback], key: str) -> SeveralFeedbackAnswers:
    """Record each entry; one that is refused costs the others nothing.

    Raises:
        RequestError: the store does not take them; those before are stored, and may be sent again.
    """
    answers = []
    for entry in entries:
        try:
            answers.append(FeedbackOfSeveral(id=entry.id, label=_record(recorder, entry, key).label))
        except RequestError as error:
            if error.code == "StoreUnavailable":
                raise
            explanation = Explanation(code=error.code, message=error.message)
            answers.append(FeedbackOfSeveral(id=entry.id, error=explanation))
    return SeveralFeedbackAnswers(feedback=answers)


def _disabled() -> RequestError:
    message = "This service captures nothing, and takes no feedback: set spec.capture of its InferenceService."
    return RequestError(404, "CaptureDisabled", message)


def _forbidden(key: str, keys: Collection[str]) -> RequestError:
    message = f"The key {key!r} may not send feedback: spec.feedback.keys allows {', '.join(sorted(keys))}."
    return RequestError(403, "Forbidden", message)
