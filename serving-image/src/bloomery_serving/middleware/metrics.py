"""Counts every request by its route, status and key, and observes its duration."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloomery_serving.metrics import Metrics
from bloomery_serving.middleware.disconnect import CLIENT_CLOSED_REQUEST, ClientDisconnected
from bloomery_serving.request_scope import key_name

OTHER_ROUTE = "other"


class RequestMetrics:
    """The outermost middleware, so that refusals are counted, too."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request and count it; an answer that fails before it begins counts as status 500."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note_status)
        except ClientDisconnected:
            status = CLIENT_CLOSED_REQUEST
        finally:
            self._metrics.count(_route_pattern(scope, status), status, key_name(scope), time.perf_counter() - start)


def _route_pattern(scope: Scope, status: int) -> str:
    """Return the pattern of a request's route: text from users must not become label values."""
    route, path = scope.get("route"), scope["path"]
    if status == 405:  # the route knows the path, but answers another method
        return OTHER_ROUTE
    if route is not None:
        return str(getattr(route, "path", OTHER_ROUTE))
    # It was refused before it was routed. A prediction with status 429 counts as one; every other refusal says nothing
    # about the model.
    if status != 429:
        return OTHER_ROUTE
    if path in ("/", "/predict", "/explain"):
        return str(path)
    return "/v2/models/{model_name}/infer" if path.endswith("/infer") else OTHER_ROUTE
