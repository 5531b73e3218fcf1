"""Proxy between an operator and the API server that injects the faults of networks and API servers.

The API server is real; the proxy injects only faults that an API server or a network can cause.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import aiohttp
import anyio.from_thread
from aiohttp import web
from yarl import URL

if TYPE_CHECKING:
    from testing.api_server import ApiServer

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")


@dataclass(frozen=True)
class Call:
    """A request of the operator."""

    method: str
    path: str
    query: str
    body: str

    @property
    def is_write(self) -> bool:
        """Whether the request changes an object; Events do not count."""
        return self.method != "GET" and not self.path.partition("?")[0].rstrip("/").endswith("/events")

    @property
    def is_list(self) -> bool:
        """Whether it lists a kind."""
        return self.method == "GET" and "limit=" in self.query and "watch=" not in self.query

    @property
    def is_watch(self) -> bool:
        """Whether it watches a kind."""
        return self.method == "GET" and "watch=" in self.query

    @property
    def what(self) -> str:
        """Method and path."""
        return f"{self.method} {self.path}"

    @property
    def kind(self) -> str:
        """``jobs``, or for a status ``datasets/status``."""
        plural, *rest = self.path.partition("/namespaces/")[2].split("/")[1:]
        return f"{plural}/status" if rest[1:] == ["status"] else plural

    @property
    def identity(self) -> tuple[str, str]:
        """Equal for the same request at another time; a creation is identified by name, because keys are random."""
        named = json.loads(self.body)["metadata"].get("name", "") if self.method == "POST" else self.body
        return self.what, _TIME.sub("", named)


@dataclass(frozen=True)
class Fault:
    """The fault that a request meets; by default none."""

    lost: bool = False
    """The request never arrives, and the operator waits for the answer forever."""

    unanswered: bool = False
    """The request succeeds, and the operator waits for the answer forever."""

    cut: bool = False
    """The request succeeds, and the connection closes without an answer; a watch ends after one event."""

    silent: bool = False
    """A watch stays open without events."""

    failed: int | None = None
    """A watch starts and sends an ERROR event with this status; 410 is an expired resourceVersion."""

    torn: bool = False
    """A watch sends one event, and its connection is reset at the next."""

    status: int | None = None
    """The request is rejected with this status."""

    stale: bool = False
    """A list gets the answer of the first such request."""


PASS = Fault()
Faults = Callable[[Call], Fault]


class FaultProxy:
    """A proxy in front of the API server, in its own thread and event loop."""

    def __init__(self, apiserver: ApiServer) -> None:
        """Forward requests with an administrator's rights."""
        self.faults: Faults = lambda _: PASS
        self.struck = threading.Event()
        """Set after a request was lost or unanswered."""
        self.held: list[Call] = []
        self.writes: list[Call] = []
        """All requests but GET, in order."""
        self.closed = threading.Event()
        """While set, the network is down: no request passes."""
        self.silenced = threading.Event()
        """While set, watches stay open without events."""
        self.url = ""
        self._apiserver = apiserver
        self._lists: dict[str, bytes] = {}

    def is_quiet(self, *, seconds: float = 3.0) -> bool:
        """Return whether no write arrives during this time."""
        count = len(self.writes)
        time.sleep(seconds)
        return len(self.writes) == count

    def kubeconfig(self, folder: Path) -> Path:
        """Write a kubeconfig for the proxy; return its path."""
        path = folder / "kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": "unused"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(json.dumps(document))
        return path

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Accept requests during the block."""
        trust = ssl.create_default_context(cafile=str(self._apiserver.ca_file))
        headers = {"Authorization": f"Bearer {self._apiserver.token}"}
        connector = aiohttp.TCPConnector(ssl=trust, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as self._session:
            app = web.Application(client_max_size=2**24)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            try:
                yield
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = (await request.read()).decode()
        call = Call(request.method, request.path, request.query_string, body)
        if call.method != "GET":
            self.writes.append(call)
        fault = Fault(lost=True) if self.closed.is_set() else self.faults(call)
        if fault.lost:
            return await self._hold(call)
        if fault.status is not None:
            return web.json_response(_status_object(fault.status), status=fault.status)
        if call.is_watch:
            return await self._watch(request, call, fault)
        if call.method == "GET":
            return await self._read(request, call, fault)
        return await self._write(request, call, fault)

    async def _read(self, request: web.Request, call: Call, fault: Fault) -> web.StreamResponse:
        if fault.stale and request.path_qs in self._lists:
            return web.Response(body=self._lists[request.path_qs], content_type="application/json")
        async with self._forward(request, call) as answer:
            content = await answer.read()
        if call.is_list and answer.ok:
            self._lists.setdefault(request.path_qs, content)
        return _cut(request) if fault.cut else _answer(answer, content)

    async def _watch(self, request: web.Request, call: Call, fault: Fault) -> web.StreamResponse:
        async with self._forward(request, call) as answer:
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
            await response.prepare(request)
            if fault.failed is not None:
                await response.write(
                    json.dumps({"type": "ERROR", "object": _status_object(fault.failed)}).encode() + b"\n"
                )
            else:
                await self._forward_events(answer, response, fault)
            if fault.torn:
                _reset(request)
                return response
            await response.write_eof()
            return response

    async def _forward_events(self, answer: aiohttp.ClientResponse, response: web.StreamResponse, fault: Fault) -> None:
        forwarded = 0
        async for event in answer.content:
            if self.closed.is_set() or ((fault.cut or fault.torn) and forwarded == 1):
                return
            if not fault.silent and not self.silenced.is_set():
                await response.write(event)
                forwarded += 1

    async def _write(self, request: web.Request, call: Call, fault: Fault) -> web.StreamResponse:
        async with self._forward(request, call) as answer:
            content = await answer.read()
        if fault.unanswered:
            return await self._hold(call)
        return _cut(request) if fault.cut else _answer(answer, content)

    async def _hold(self, call: Call) -> NoReturn:
        """Never answer; the task ends with the operator's connection."""
        self.held.append(call)
        self.struck.set()
        await asyncio.Event().wait()
        raise AssertionError("the event is never set")

    def _forward(self, request: web.Request, call: Call) -> aiohttp.client._RequestContextManager:
        headers = {name: request.headers[name] for name in ("Accept", "Content-Type") if name in request.headers}
        url = URL(f"{self._apiserver.url}{request.raw_path}", encoded=True)
        return self._session.request(call.method, url, data=call.body.encode() or None, headers=headers)


@contextmanager
def run_fault_proxy(apiserver: ApiServer) -> Iterator[FaultProxy]:
    """Run a fault proxy during the block."""
    fault_proxy = FaultProxy(apiserver)
    with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(fault_proxy.serving()):
        yield fault_proxy


def _answer(answer: aiohttp.ClientResponse, content: bytes) -> web.Response:
    return web.Response(status=answer.status, body=content, content_type=answer.content_type)


def _cut(request: web.Request) -> web.Response:
    """Close the connection; the returned answer is not sent."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _reset(request: web.Request) -> None:
    """Reset the connection, as a restarted machine does."""
    if request.transport is not None:
        at_once = struct.pack("ii", 1, 0)
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        request.transport.abort()


def _status_object(status: int) -> dict[str, Any]:
    reason = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}[
        status
    ]
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": status,
        "message": reason,
    }
