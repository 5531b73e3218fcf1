"""Shared parts of the HTTP clients: bodies of limited size, circuit breakers, and words for failures."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from cachetools import TTLCache
from yarl import URL

MAX_OPEN_SECONDS = 60.0
"""The longest time for which a circuit stays open after a failure."""
_MAX_CIRCUITS = 10_000

ReleasedSlot = Callable[[], AbstractAsyncContextManager[None]]
"""Returns a block in which a reconcile waits for another server, while its slot is free for the next reconcile."""


def no_slot() -> AbstractAsyncContextManager[None]:
    """Return the block of a caller that has no slot."""
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Proxies:
    """Forward proxies by the scheme of a URL, and the hosts that are reached without them."""

    http: str = ""
    https: str = ""
    excluded: str = ""

    def proxy_for(self, url: URL) -> str | None:
        """Return the proxy for a URL, or None."""
        proxy = {"http": self.http, "https": self.https}.get(url.scheme)
        if not proxy or self._excludes(url.host or ""):
            return None
        return proxy

    def _excludes(self, host: str) -> bool:
        entries = [entry.strip() for entry in self.excluded.split(",") if entry.strip()]
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return any(_names_host(entry, host) for entry in entries)
        return any(_contains_address(entry, address) for entry in entries)


NO_PROXIES = Proxies()


def _names_host(entry: str, host: str) -> bool:
    name = entry.lstrip("*.").lower()
    return entry == "*" or host.lower() == name or host.lower().endswith(f".{name}")


def _contains_address(entry: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return entry == "*"


def trusting_context(folder: Path | None) -> ssl.SSLContext:
    """Return a TLS context that trusts the system's CAs, and those of a folder with certificates in PEM form."""
    context = ssl.create_default_context()
    for path in sorted(folder.glob("[!.]*")) if folder else ():
        if path.is_file() and "BEGIN CERTIFICATE" in (content := path.read_text(errors="replace")):
            context.load_verify_locations(cadata=content)
    return context


@dataclass(frozen=True, kw_only=True)
class PodRequest:
    """A request to a pod that the operator made itself."""

    url: str
    max_bytes: int
    """The longest body of an answer."""
    method: str = "GET"
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


async def read_limited(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Return the body of a response.

    Raises:
        ValueError: the body has more than ``max_bytes`` bytes; the rest is not read.
    """
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > max_bytes:
            raise ValueError(f"the answer is longer than {max_bytes} bytes")
    return bytes(content)


async def fetch_from_pod(
    session: aiohttp.ClientSession, request: PodRequest, *, timeout: aiohttp.ClientTimeout
) -> bytes | None:
    """Return the body of a pod's answer; None if it is an error, or the pod accepts no connections.

    Raises:
        aiohttp.ClientError, TimeoutError: the pod does not answer in time, or not by HTTP.
        ValueError: the body is longer than ``request.max_bytes``.
    """
    try:
        async with session.request(
            request.method,
            request.url,
            params=request.query,
            headers=request.headers,
            timeout=timeout,
            allow_redirects=False,
        ) as response:
            return await read_limited(response, request.max_bytes) if response.status in (200, 202) else None
    except aiohttp.ClientConnectorError:
        # Refused at once: a program that starts. Only pods that make the caller wait are asked more rarely.
        return None


_CERTIFICATE_ADVICE = "add the CA's certificate to the ConfigMap that the chart's trustedCAs.configMap names"


@dataclass(frozen=True)
class _OpenCircuit:
    detail: str
    until: float
    failures: int


class CircuitBreaker:
    """Fails requests at once while their server is known not to answer.

    After a failed request the circuit of its server stays open for ``open_seconds``, and twice as long after each
    further one. The first request after that is the probe: until it ends, and for at most ``probe_seconds``, all
    others still fail at once. So a server that hangs delays one request at a time, and more and more rarely.
    """

    def __init__(
        self, *, open_seconds: float, probe_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with all circuits closed; ``clock`` gives seconds."""
        self._open_seconds = open_seconds
        self._probe_seconds = probe_seconds
        self._clock = clock
        # An entry outlives its circuit, so that the next failure is known to be a further one.
        seconds = 2 * max(MAX_OPEN_SECONDS, open_seconds)
        self._open: TTLCache[str, _OpenCircuit, float] = TTLCache(_MAX_CIRCUITS, seconds, timer=clock)

    @contextmanager
    def guard(self, server: str) -> Iterator[None]:
        """Send one request to the server within the block.

        Raises:
            TimeoutError: the circuit is open; the message is that of the last failure.
        """
        circuit = self._open.get(server)
        failures = circuit.failures if circuit is not None else 0
        if circuit is not None:
            if self._clock() < circuit.until:
                raise TimeoutError(circuit.detail)
            self._trip(server, circuit.detail, self._probe_seconds, failures)
        try:
            yield
        except (aiohttp.ClientError, TimeoutError) as error:
            seconds = min(self._open_seconds * 2**failures, max(MAX_OPEN_SECONDS, self._open_seconds))
            self._trip(server, describe_error(error, self._probe_seconds), seconds, failures + 1)
            raise
        self._open.pop(server, None)

    def _trip(self, server: str, detail: str, seconds: float, failures: int) -> None:
        self._open[server] = _OpenCircuit(detail, self._clock() + seconds, failures)


def describe_error(error: Exception, timeout_seconds: float) -> str:
    """Return why a request failed, in words of our own: conditions must not show what the other side sent."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = re.search(r"certificate verify failed: ([^(]+)", str(error))
            detail = f" ({reason.group(1).strip()})" if reason else ""
            return f"its certificate is not valid{detail}: {_CERTIFICATE_ADVICE}"
        case aiohttp.ClientSSLError():
            return "it does not answer by https as expected; check the address"
        case aiohttp.ClientProxyConnectionError():
            return "the proxy cannot be reached"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy refuses the connection with status {error.status}"
        case aiohttp.ClientConnectorDNSError():
            return "its name cannot be resolved"
        case aiohttp.ClientConnectorError():
            return "it cannot be reached"
        case aiohttp.ServerTimeoutError():
            return f"no answer within {timeout_seconds:.0f} s"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | aiohttp.ClientPayloadError():
            return "the connection broke"
        case TimeoutError():
            # The circuit breaker's has a text, which is one of these.
            return str(error) or f"no answer within {timeout_seconds:.0f} s"
        case aiohttp.ClientError():
            return "the answer is not HTTP"
    return str(error)
