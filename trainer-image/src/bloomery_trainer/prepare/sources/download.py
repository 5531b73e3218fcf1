"""Fetching an archive: from a store, or from anywhere in the world by https.

An https address is written by somebody who may not look into our network. So the name is resolved once, the
address is checked, and the connection goes to just that address; the same again after every redirect.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import shutil
import socket
import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, SSLError

from bloomery_trainer.errors import BadConfig, BadData, Unavailable
from bloomery_trainer.storage import Folder

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_REDIRECTS = 5
_CHUNK = 1024 * 1024
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GONE = {401, 403, 404, 410}


def parse_networks(text: str) -> tuple[Network, ...]:
    """Reads comma-separated networks such as `10.0.0.0/8,fd00::/8`; raises BadConfig where one is none."""
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise BadConfig(
            "InvalidConfig", f"BLOOMERY_SOURCE_NETWORKS must hold networks like 10.0.0.0/8: {error}"
        ) from error


def fetch_from_store(folder: Folder, name: str, target: Path, *, limit: int) -> str:
    """Writes the file to `target`; returns its hex sha256. Raises BadConfig or BadData where it cannot be had."""
    uri = f"{folder.uri}/{name}"
    try:
        refuse_large(folder.size_of(name), limit=limit, uri=uri, scratch=target.parent)
        return _save(folder.stream(name), target, limit=limit, uri=uri)
    except FileNotFoundError as error:
        raise BadConfig("SourceNotFound", f"there is no file {uri}") from error


def fetch_https(url: str, target: Path, *, limit: int, networks: Sequence[Network]) -> str:
    """Writes what is at the address to `target`; returns its hex sha256."""
    shown = without_query(url)
    with _explained(shown), _opened(url, networks) as response:
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit():
            refuse_large(int(announced), limit=limit, uri=shown, scratch=target.parent)
        return _save(response.stream(_CHUNK, decode_content=False), target, limit=limit, uri=shown)


def without_query(url: str) -> str:
    """The address without what may be a signature."""
    return url.partition("?")[0].partition("#")[0]


def refuse_large(size: int, *, limit: int, uri: str, scratch: Path) -> None:
    """Raises where a file is larger than the rules or the disk allow."""
    if size > limit:
        raise BadData("ArchiveTooLarge", f"{uri} has {gib(size)}; rules.maxArchiveBytes allows {gib(limit)}")
    free = shutil.disk_usage(scratch).free
    if size > free:
        raise BadConfig("ScratchTooSmall", f"{uri} needs {gib(size)} of local disk, {gib(free)} are free")


def gib(size: int) -> str:
    """Bytes, for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _save(chunks: Iterable[bytes | memoryview], target: Path, *, limit: int, uri: str) -> str:
    digest, size = hashlib.sha256(), 0
    try:
        with target.open("wb") as file:
            for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise BadData("ArchiveTooLarge", f"{uri} has more than the {gib(limit)} of rules.maxArchiveBytes")
                digest.update(chunk)
                file.write(chunk)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadConfig("ScratchTooSmall", f"{uri} does not fit on the local disk") from error
        raise
    return digest.hexdigest()


@contextmanager
def _opened(url: str, networks: Sequence[Network]) -> Iterator[urllib3.BaseHTTPResponse]:
    for _ in range(_REDIRECTS + 1):
        host, port, path = _parts(url)
        address = _allowed_address(host, port, networks)
        with closing(_pool(host, port, address)) as pool:
            response = pool.urlopen(
                "GET", path, headers=_headers(host, port), redirect=False, retries=False, preload_content=False
            )
            with closing(response):
                location = response.get_redirect_location()
                if not location:
                    _require_success(response.status, without_query(url))
                    yield response
                    return
                url = urljoin(url, location)
    raise BadConfig("SourceRefused", f"the address leads on more than {_REDIRECTS} times; give the one at its end")


def _pool(host: str, port: int, address: str) -> urllib3.HTTPSConnectionPool:
    # Connected by address, checked by name: whatever the name's owner says next is not asked for.
    return urllib3.HTTPSConnectionPool(
        address,
        port,
        timeout=urllib3.Timeout(connect=10, read=60),
        maxsize=1,
        ssl_context=ssl.create_default_context(),
        server_hostname=host,
        assert_hostname=host,
    )


def _headers(host: str, port: int) -> dict[str, str]:
    name = f"[{host}]" if ":" in host else host
    return {
        "Host": name if port == 443 else f"{name}:{port}",
        "User-Agent": "bloomery",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
    }


def _parts(url: str) -> tuple[str, int, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError as error:
        raise BadConfig("SourceRefused", f"{without_query(url)} is no address: {error}") from error
    if parts.scheme != "https" or not host:
        raise BadConfig("SourceRefused", f"{without_query(url)} is refused: archives come by https only")
    if parts.username is not None or parts.password is not None:
        raise BadConfig("SourceRefused", f"the address at {host} names a user; that is never sent, so leave it out")
    # What is not ASCII yet is quoted by urllib3.
    return host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _allowed_address(host: str, port: int, networks: Sequence[Network]) -> str:
    """The first address of the host; raises BadConfig where any of them is not for us."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise Unavailable("SourceUnreachable", f"the name {host} cannot be looked up now") from error
        raise BadConfig("SourceNotFound", f"there is no host {host}: {error.strerror}") from error
    except UnicodeError as error:
        raise BadConfig("SourceNotFound", f"{host!r} is no host name") from error
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    for text in addresses:
        if not _is_allowed(ipaddress.ip_address(text), networks):
            raise BadConfig(
                "AddressRefused",
                f"{host} is at {text}, which is not an address of the public internet; where such sources are wanted, "
                "the cluster's administrator names the network in the chart's sources.allowedNetworks",
            )
    return addresses[0]


def _is_allowed(address: Address, networks: Sequence[Network]) -> bool:
    inner = _inner(address)
    if any(inner in network for network in networks):
        return True
    return inner.is_global and not inner.is_multicast


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to, where it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)


def _require_success(status: int, shown: str) -> None:
    if status in _GONE:
        raise BadConfig("SourceNotFound", f"{shown} cannot be had: the server answers {status}")
    if status == 429 or status >= 500:
        raise Unavailable("SourceUnreachable", f"{shown} cannot be had now: the server answers {status}")
    if status != 200:
        raise BadConfig("SourceRefused", f"{shown} cannot be had: the server answers {status}")


@contextmanager
def _explained(shown: str) -> Iterator[None]:
    try:
        yield
    except SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error) or "hostname" in str(error):
            raise BadConfig("CertificateRefused", f"the certificate of {shown} is not valid: {error}") from error
        raise Unavailable("SourceUnreachable", f"{shown} cannot be read: {error}") from error
    except HTTPError as error:
        raise Unavailable("SourceUnreachable", f"{shown} cannot be read: {error}") from error
