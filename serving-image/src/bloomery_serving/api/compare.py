"""POST /compare, on a port of its own: the class of an image for pods of the same service, counted nowhere."""

from __future__ import annotations

import asyncio
import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bloomery_model import ImageError
from bloomery_serving.api.errors import (
    RequestError,
    error_response,
    image_request_error,
    not_finite_error,
    too_many_requests,
)
from bloomery_serving.batcher import Batcher, NotFinite
from bloomery_serving.image_file import ImageFile
from bloomery_serving.peer_comparison import PATH
from bloomery_serving.request_scope import key_name


def create_comparison_api(batcher: Batcher) -> Starlette:
    """Return the application of the port; it answers one image at a time, so that requests of clients come first."""
    turn = asyncio.Lock()

    async def compare(request: Request) -> Response:
        if turn.locked():
            raise too_many_requests("Another image is being compared")
        async with turn:
            image = ImageFile("The body", await request.body())
            (result,) = await batcher.submit(key_name(request.scope), [image])
        match result:
            case ImageError():
                raise image_request_error(image.name, result)
            case NotFinite():
                raise not_finite_error(image.name, is_tensor=False)
            case scored:
                label = batcher.labels[int(scored.scores.argmax())]
        return Response(json.dumps({"label": label}), media_type="application/json")

    def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return error_response(error, request.url.path)

    return Starlette(routes=[Route(PATH, compare, methods=["POST"])], exception_handlers={RequestError: refuse})
