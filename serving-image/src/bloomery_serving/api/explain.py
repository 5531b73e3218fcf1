"""POST /explain: a picture of where in an image the model found a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response

from bloomery_model import ImageError
from bloomery_model.folder import EXPLANATION
from bloomery_serving.api.errors import RequestError, image_request_error, not_finite_error, too_many_requests
from bloomery_serving.api.openapi import BYTES, refusals
from bloomery_serving.api.predict import FIELD, read_files
from bloomery_serving.api.schemas import Refusal
from bloomery_serving.batcher import NotFinite
from bloomery_serving.explainer import Explainer, Explanation, ExplanationError, TooManyExplanations
from bloomery_serving.image_file import ImageFile
from bloomery_serving.metrics import Metrics
from bloomery_serving.request_scope import key_name

HEADERS = ("x-class", "x-score")
"""Headers of an answer: the explained class, in UTF-8 with %-escapes, and its probability."""

_MAX_LISTED = 50
"""Classes that one message names."""
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {FIELD: BYTES}, "required": [FIELD]},
            },
            "image/*": {"schema": BYTES},
            "application/octet-stream": {"schema": BYTES},
        },
    }
}
_ANSWER: dict[str, Any] = {
    "description": "The part of the image that the model saw, bright where it found the class and dark elsewhere.",
    "content": {"image/png": {"schema": BYTES}},
    "headers": {
        "X-Class": {"description": "The explained class, in UTF-8 with %-escapes.", "schema": {"type": "string"}},
        "X-Score": {"description": "The probability of the class.", "schema": {"type": "number"}},
    },
}
_MISTAKES = (
    "UnknownClass: the model has no class of that name; the message names those it has. NoImage, NotAFile, BadForm, "
    "TooManyImages, NotAnImage, DamagedImage, ImageTooNarrow, BadRequest: as of /predict, for one image."
)
_CONFLICT = "NoExplanation: this model has no explain.onnx; the message says which models have it."


def build_router(explainer: Explainer | None, metrics: Metrics, *, is_on: bool) -> APIRouter:
    """Return the route that explains answers.

    Args:
        explainer: None if the model has no network for explanations, or the service wants none.
        metrics: of the server.
        is_on: whether the service wants explanations.
    """
    router = APIRouter()
    responses: dict[int | str, dict[str, Any]] = {
        200: _ANSWER,
        **refusals(Refusal, _MISTAKES),
        409: {"model": Refusal, "description": _CONFLICT},
    }

    @router.post(
        "/explain",
        openapi_extra=_BODY,
        responses=responses,
        response_class=Response,
        include_in_schema=is_on,
        tags=["Images"],
    )
    async def explain(
        request: Request,
        name: Annotated[str | None, Query(alias="class", description="The class; left out, the likeliest.")] = None,
    ) -> Response:
        """Explain the answer for one image: a PNG of where in the image the model found a class."""
        if explainer is None:
            raise _no_explanation() if is_on else _disabled()
        number = None if name is None else explainer.class_number(name)
        if name is not None and number is None:
            raise _unknown_class(name, explainer.labels)
        with metrics.stage("parse"):
            (file,) = await read_files(request, 1)
        explanation = await _explain(explainer, key_name(request.scope), file, number)
        headers = dict(zip(HEADERS, (quote(explanation.label), f"{explanation.score:.6f}"), strict=True))
        return Response(explanation.png, media_type="image/png", headers=headers)

    return router


async def _explain(explainer: Explainer, client: str, file: ImageFile, number: int | None) -> Explanation:
    try:
        explanation = await explainer.explain(client, file, number)
    except ImageError as error:
        raise image_request_error(file.name, error) from error
    except TooManyExplanations as error:
        raise too_many_requests(str(error)) from error
    except ExplanationError as error:
        message = f"{EXPLANATION} of this model cannot be used: {error}."
        raise RequestError(500, "ExplanationFailed", message) from error
    if isinstance(explanation, NotFinite):
        raise not_finite_error(file.name, is_tensor=False)
    return explanation


def _disabled() -> RequestError:
    message = "This service gives no explanations: set spec.explain: true of its InferenceService."
    return RequestError(404, "ExplainDisabled", message)


def _no_explanation() -> RequestError:
    message = (
        f"This model cannot be explained: its folder has no {EXPLANATION}. A training writes it if the network ends in "
        "pooling and one linear layer, as those of all presets but mobilenet-v3 and convnext do, and if its images are "
        "large enough for more than one place in it (more than 32 pixels for most). Models that were trained by an "
        "earlier version, or imported without such a folder, have none. Train again with such a preset and imageSize."
    )
    return RequestError(409, "NoExplanation", message)


def _unknown_class(name: str, labels: Sequence[str]) -> RequestError:
    more = f" and {len(labels) - _MAX_LISTED} more" if len(labels) > _MAX_LISTED else ""
    known = ", ".join(labels[:_MAX_LISTED])
    return RequestError(400, "UnknownClass", f"The model has no class {name!r}. Its classes are {known}{more}.")
