"""Parts of /openapi.json beside the routes: every form of refusal, the key, and the protocol's request."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from bloomery_serving.about import About
from bloomery_serving.api.open_inference_codec import JSON_LENGTH
from bloomery_serving.api.schemas import InferRequest

OPEN: dict[str, Any] = {"security": []}
"""Marks a route that needs no key."""

BYTES = {"type": "string", "format": "binary"}

_REFERENCES = "#/components/schemas/{model}"
_REFUSALS = {
    401: "Unauthorized: the service needs a key, and there was none, or another.",
    404: "NotFound: there is nothing at that path. ModelNotFound: this server has another model.",
    405: "MethodNotAllowed: the path is answered to another method.",
    408: "RequestTimeout: the body did not arrive in time.",
    413: "BodyTooLarge: the request has too many bytes. ImageTooLarge: one image has too many bytes or pixels. "
    "TooManyNumbers: more than the largest tensor has.",
    415: "UnsupportedMediaType: the body is of a type that is no image. PackedBody: it has a Content-Encoding that is "
    "not read here.",
    429: "TooManyRequests: as many wait as the memory can hold; Retry-After says in how many seconds to come again.",
    500: "InternalError: the server failed; its log says why. ResultNotFinite: the model gave NaN or an infinity.",
    503: "ServerStopping: the server is being stopped; send the request again.",
}


def refusals(model: type[BaseModel], bad_request: str = "", *, posted: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of a route's refusals.

    Args:
        model: the form of the answer.
        bad_request: the mistakes that get status 400.
        posted: whether it reads a body.
    """
    described = _REFUSALS if posted else {status: _REFUSALS[status] for status in (401, 404, 405, 500)}
    described = ({400: bad_request} if bad_request else {}) | described
    return {status: {"model": model, "description": sentence} for status, sentence in described.items()}


def infer_body(example: dict[str, Any]) -> dict[str, Any]:
    """Return the documentation of a request to infer."""
    description = "Where the JSON ends and binary data begin; 0 if the whole body is one image."
    header = {"name": JSON_LENGTH, "in": "header", "required": False, "description": description}
    schema = {"$ref": _REFERENCES.format(model=InferRequest.__name__)}
    return {
        "parameters": [header | {"schema": {"type": "integer"}}],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema, "example": example},
                "application/octet-stream": {"schema": BYTES},
            },
        },
    }


class DocumentedAPI(FastAPI):
    """A FastAPI whose OpenAPI document is complete."""

    def __init__(self, *, keyed: bool, about: About, **settings: Any) -> None:
        super().__init__(title=about.title, description=about.description, **settings)
        self._keyed = keyed
        self._about = about

    def openapi(self) -> dict[str, Any]:
        """Return the document; made at the first request, as a server is to be ready in a second."""
        document = super().openapi()
        document["info"] |= {"title": self._about.title, "description": self._about.description}
        components = document.setdefault("components", {})
        _, definitions = models_json_schema([(InferRequest, "validation")], ref_template=_REFERENCES)
        components.setdefault("schemas", {}).update(definitions["$defs"])
        if self._keyed:
            key = {
                "type": "apiKey",
                "in": "header",
                "name": "Authorization",
                "description": "KEY or Bearer KEY",
            }
            components["securitySchemes"] = {"key": key}
            document["security"] = [{"key": []}]
        return document
