"""Lets in requests that carry one of the service's API keys."""

from __future__ import annotations

from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from bloomery_serving.api.errors import RequestError
from bloomery_serving.key_ring import key_of
from bloomery_serving.request_scope import keep_key_name

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready", "/upload", "/docs", "/openapi.json")
OPEN_FOLDERS = ("/upload/", "/docs/")
"""Paths that are read without a key: probes, and the pages with their files."""

_HOW = "send it as 'Authorization: KEY' or 'Authorization: Bearer KEY'"
_MISSING_KEY = f"This service needs a key: {_HOW}."
_WRONG_KEY = f"This service needs another key than the one sent: {_HOW}; new keys take up to two minutes."


class Keys(Protocol):
    """The keys of a port."""

    def name_of(self, key: str) -> str | None:
        """Return the name of a key, or None."""


class ApiKey:
    """Refuses requests without a valid key, by their headers alone; notes the name of the key in the scope."""

    def __init__(self, app: ASGIApp, *, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that has a key or needs none.

        Raises:
            RequestError: 401, the key is missing or not one of the service's.
        """
        if scope["type"] == "http" and not _is_open(scope):
            keep_key_name(scope, self._require_key(Headers(scope=scope).get("authorization", "")))
        await self._app(scope, receive, send)

    def _require_key(self, authorization: str) -> str:
        """Return the name of the key in an Authorization header."""
        name = self._keys.name_of(key_of(authorization))
        if name is None:
            message = _WRONG_KEY if authorization else _MISSING_KEY
            raise RequestError(401, "Unauthorized", message, headers={"www-authenticate": "Bearer"})
        return name


def _is_open(scope: Scope) -> bool:
    path: str = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (path in OPEN_PATHS or path.startswith(OPEN_FOLDERS))
