"""Shared parts of the HTTP clients: bodies of limited size, and a circuit breaker."""

from __future__ import annotations

import ipaddress
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from yarl import URL


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


_CERTIFICATE_ADVICE = "add the CA's certificate to the ConfigMap that the chart's trustedCAs.configMap names"


@dataclass(frozen=True)
class _OpenCircuit:
    detail: str
    until: float


class CircuitBreaker:
    """Fails requests at once while their server is known not to answer.

    After a failed request the circuit of its server stays open for ``open_seconds``. The first request after that is
    the probe: until it ends, and for at most ``probe_seconds``, all others still fail at once. So a server that hangs
    delays one request at a time.
    """

    def __init__(
        self, *, open_seconds: float, probe_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with all circuits closed; ``clock`` gives seconds."""
        self._open_seconds = open_seconds
        self._probe_seconds = probe_seconds
        self._clock = clock
        self._open: dict[str, _OpenCircuit] = {}

    @contextmanager
    def guard(self, server: str) -> Iterator[None]:
        """Send one request to the server within the block.

        Raises:
            TimeoutError: the circuit is open; the message is that of the last failure.
        """
        circuit = self._open.get(server)
        if circuit is not None:
            if self._clock() < circuit.until:
                raise TimeoutError(circuit.detail)
            self._trip(server, circuit.detail, self._probe_seconds)
        try:
            yield
        except (aiohttp.ClientError, TimeoutError) as error:
            self._trip(server, describe_error(error, self._probe_seconds), self._open_seconds)
            raise
        self._open.pop(server, None)

    def _trip(self, server: str, detail: str, seconds: float) -> None:
        self._open[server] = _OpenCircuit(detail, self._clock() + seconds)


def describe_error(error: Exception, timeout_seconds: float) -> str:
    """Return why a request failed; aiohttp's timeouts have no text of their own."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        reason = re.search(r"certificate verify failed: ([^(]+)", str(error))
        if reason:
            return f"its certificate is not valid ({reason.group(1).strip()}): {_CERTIFICATE_ADVICE}"
    if text := str(error):
        return text
    return f"no answer within {timeout_seconds:.0f} s" if isinstance(error, TimeoutError) else type(error).__name__
