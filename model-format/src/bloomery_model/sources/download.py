"""Downloads an archive from a store, or by https from a public server, without access to internal addresses.

The author of an https address may have no access to our network. So the name is resolved once, the address is checked,
and the connection goes to exactly that address; the same again after every redirect.

Behind a forward proxy, the proxy resolves the names of public servers once more. A name that leads to a private address
here is refused, too; one that is unknown here is left to the proxy, which knows the internet. The certificate must be
for the name in any case.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import shutil
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, SSLError

from bloomery_model.store_faults import CERTIFICATE_ADVICE
from bloomery_model.stores import Folder
from bloomery_model.task_errors import BadConfig, BadData, Unavailable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SendRequest = Callable[[str], urllib3.BaseHTTPResponse]

_MAX_REDIRECTS = 5
_TIMEOUT = urllib3.Timeout(connect=10, read=60)
_CHUNK_BYTES = 1024 * 1024
_NAT64_NETWORK = ipaddress.ip_network("64:ff9b::/96")
_CA_HINT = f"if a private CA issued it, {CERTIFICATE_ADVICE}"
_NOT_FOUND_STATUSES = {401, 403, 404, 410}


def parse_networks(text: str) -> tuple[Network, ...]:
    """Parse comma-separated networks such as ``10.0.0.0/8,fd00::/8``.

    Raises:
        BadConfig: one of them is not a network.
    """
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise BadConfig(
            "InvalidConfig", f"BLOOMERY_SOURCE_NETWORKS must hold networks like 10.0.0.0/8: {error}"
        ) from error


def download_from_store(folder: Folder, name: str, target: Path, *, max_bytes: int) -> str:
    """Download a file of a store to ``target``; return its hex sha256.

    Raises:
        BadConfig: the file does not exist, or does not fit on the disk.
        BadData: the file is too large.
    """
    uri = f"{folder.uri}/{name}"
    try:
        _refuse_too_large(folder.size_of(name), max_bytes=max_bytes, uri=uri, scratch=target.parent)
        return _save(folder.stream(name), target, max_bytes=max_bytes, uri=uri)
    except FileNotFoundError as error:
        raise BadConfig("SourceNotFound", f"there is no file {uri}") from error


def download_https(url: str, target: Path, *, max_bytes: int, networks: Sequence[Network]) -> str:
    """Download the file at the URL to ``target``; return its hex sha256.

    Args:
        url: its address.
        target: the file to write.
        max_bytes: ``rules.maxArchiveBytes``.
        networks: the networks, in addition to the public internet, that the address may be in.

    Raises:
        BadConfig: the address is not allowed or does not exist.
        BadData: the file is too large.
        Unavailable: the server does not answer.
    """
    label = without_query(url)
    with _translate_errors(label), _open_response(url, networks) as response:
        length = response.headers.get("Content-Length", "")
        if length.isdigit():
            _refuse_too_large(int(length), max_bytes=max_bytes, uri=label, scratch=target.parent)
        return _save(response.stream(_CHUNK_BYTES, decode_content=False), target, max_bytes=max_bytes, uri=label)


def without_query(url: str) -> str:
    """Return the URL without its query, which may be a signature."""
    return url.partition("?")[0].partition("#")[0]


def format_bytes(size: int) -> str:
    """Return a size for people, in MiB or GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _refuse_too_large(size: int, *, max_bytes: int, uri: str, scratch: Path) -> None:
    if size > max_bytes:
        raise BadData(
            "ArchiveTooLarge", f"{uri} has {format_bytes(size)}; rules.maxArchiveBytes allows {format_bytes(max_bytes)}"
        )
    free = shutil.disk_usage(scratch).free
    if size > free:
        raise BadConfig(
            "ScratchTooSmall", f"{uri} needs {format_bytes(size)} of local disk, {format_bytes(free)} are free"
        )


def _save(chunks: Iterable[bytes | memoryview], target: Path, *, max_bytes: int, uri: str) -> str:
    """Write the chunks to ``target``; return their hex sha256."""
    digest, size = hashlib.sha256(), 0
    try:
        with target.open("wb") as file:
            for chunk in chunks:
                size += len(chunk)
                if size > max_bytes:
                    raise BadData(
                        "ArchiveTooLarge",
                        f"{uri} has more than the {format_bytes(max_bytes)} of rules.maxArchiveBytes",
                    )
                digest.update(chunk)
                file.write(chunk)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadConfig("ScratchTooSmall", f"{uri} does not fit on the local disk") from error
        raise
    return digest.hexdigest()


@contextmanager
def _open_response(url: str, networks: Sequence[Network]) -> Iterator[urllib3.BaseHTTPResponse]:
    """Request the URL and follow its redirects, with every address checked."""
    for _ in range(_MAX_REDIRECTS + 1):
        host, port, path = _split_url(url)
        with _open_server(host, port, networks) as request:
            response = request(path)
            with closing(response):
                location = response.get_redirect_location()
                if not location:
                    _require_success(response.status, without_query(url))
                    yield response
                    return
                url = urljoin(url, location)
    raise BadConfig(
        "SourceRefused", f"the address redirects more than {_MAX_REDIRECTS} times; give the address at the end"
    )


@contextmanager
def _open_server(host: str, port: int, networks: Sequence[Network]) -> Iterator[SendRequest]:
    """Yield the function that requests a path of a server, which is reached directly or by the proxy."""
    proxy = _proxy_for(host)
    address = _resolve_allowed_address(host, port, networks, may_be_unknown=proxy is not None)
    headers, base = _request_headers(host, port), f"https://{_bracketed(host)}:{port}"
    if proxy is None or _is_private(address):
        opened: urllib3.HTTPSConnectionPool | urllib3.ProxyManager = _open_pool(host, port, address or host)
        base = ""
    else:
        opened = _open_proxy(proxy)
    try:
        yield lambda path: opened.urlopen(
            "GET", base + path, headers=headers, redirect=False, retries=False, preload_content=False
        )
    finally:
        opened.clear() if isinstance(opened, urllib3.ProxyManager) else opened.close()


def _proxy_for(host: str) -> str | None:
    """Return the proxy for https that the environment names, unless it excludes the host."""
    return None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get("https")


def _is_private(address: str | None) -> bool:
    """Return whether an allowed address is in one of our own networks, which a proxy to the internet does not reach."""
    return address is not None and not ipaddress.ip_address(address).is_global


def _open_proxy(proxy: str) -> urllib3.ProxyManager:
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    headers = None
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers = urllib3.make_headers(proxy_basic_auth=credentials)
    return urllib3.ProxyManager(
        parts.geturl(), proxy_headers=headers, timeout=_TIMEOUT, ssl_context=ssl.create_default_context()
    )


def _open_pool(host: str, port: int, address: str) -> urllib3.HTTPSConnectionPool:
    # Connects by address and verifies by name: the name is not resolved again, so a changed DNS answer has no effect.
    return urllib3.HTTPSConnectionPool(
        address,
        port,
        timeout=_TIMEOUT,
        maxsize=1,
        ssl_context=ssl.create_default_context(),
        server_hostname=host,
        assert_hostname=host,
    )


def _request_headers(host: str, port: int) -> dict[str, str]:
    name = _bracketed(host)
    return {
        "Host": name if port == 443 else f"{name}:{port}",
        "User-Agent": "bloomery",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
    }


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _split_url(url: str) -> tuple[str, int, str]:
    """Return host, port and path with query; urllib3 quotes what is not ASCII."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError as error:
        raise BadConfig("SourceRefused", f"{without_query(url)} is not a valid address: {error}") from error
    if parts.scheme != "https" or not host:
        raise BadConfig("SourceRefused", f"{without_query(url)} is refused: the address must begin with https://")
    if parts.username is not None or parts.password is not None:
        raise BadConfig(
            "SourceRefused", f"the address at {host} has a user name, which is never sent; remove it from the address"
        )
    return host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _resolve_allowed_address(host: str, port: int, networks: Sequence[Network], *, may_be_unknown: bool) -> str | None:
    """Return the first address of the host; None if it is unknown here and may be.

    Raises:
        BadConfig: any address of the host is not allowed.
    """
    try:
        addresses = _resolve(host, port)
    except (BadConfig, Unavailable):
        # A name without a dot is one of the proxy's own network.
        if may_be_unknown and "." in host:
            return None
        raise
    for address in addresses:
        if not _is_allowed(ipaddress.ip_address(address), networks):
            raise BadConfig(
                "AddressRefused",
                f"{host} is at {address}, which is not an address of the public internet; to allow such sources, "
                "the cluster's administrator adds the network to the chart's sources.allowedNetworks",
            )
    return addresses[0]


def _resolve(host: str, port: int) -> list[str]:
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise Unavailable("SourceUnreachable", f"the name {host} cannot be resolved now") from error
        raise BadConfig("SourceNotFound", f"there is no host {host}: {error.strerror}") from error
    except UnicodeError as error:
        raise BadConfig("SourceNotFound", f"{host!r} is not a host name") from error
    return [str(entry[4][0]).partition("%")[0] for entry in entries]


def _is_allowed(address: Address, networks: Sequence[Network]) -> bool:
    inner = _embedded_ipv4(address) or address
    if any(inner in network for network in networks):
        return True
    return inner.is_global and not inner.is_multicast


def _embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 one leads to: NAT64, IPv4-mapped, 6to4 or Teredo."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64_NETWORK:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _require_success(status: int, label: str) -> None:
    if status in _NOT_FOUND_STATUSES:
        raise BadConfig("SourceNotFound", f"{label} cannot be downloaded: the server answers {status}")
    if status == 429 or status >= 500:
        raise Unavailable("SourceUnreachable", f"{label} cannot be downloaded now: the server answers {status}")
    if status != 200:
        raise BadConfig("SourceRefused", f"{label} cannot be downloaded: the server answers {status}")


@contextmanager
def _translate_errors(label: str) -> Iterator[None]:
    try:
        yield
    except SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error) or "hostname" in str(error):
            raise BadConfig(
                "CertificateRefused", f"the certificate of {label} is not valid: {error}; {_CA_HINT}"
            ) from error
        raise Unavailable("SourceUnreachable", f"{label} cannot be read: {error}") from error
    except HTTPError as error:
        raise Unavailable("SourceUnreachable", f"{label} cannot be read: {error}") from error
