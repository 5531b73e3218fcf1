"""Lists the keys of an S3 bucket as they are, also those that are no paths, which the client of stores refuses."""

from __future__ import annotations

import hashlib
import hmac
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from http.client import HTTPException
from typing import cast
from urllib.parse import quote, unquote_plus, urlencode, urlsplit
from xml.etree import ElementTree

from obstore.store import S3Store
from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception,
    stop_after_attempt,
    wait_chain,
    wait_fixed,
)

from bloomery_model.stores import S3Access, StoredFile
from bloomery_model.task_errors import BadData, Unavailable

logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 60.0
_MAX_PAGE_BYTES = 64 * 1024 * 1024
"""Many times what 1,000 keys need."""

_RETRY_SECONDS = (1.0, 4.0, 15.0)
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


def list_keys(store: S3Store, access: S3Access, *, uri: str) -> Iterator[StoredFile]:
    """Yield all files of a folder in the order of the store, each with its key below the folder as its path.

    Args:
        store: the client of the folder, with its address.
        access: to the store.
        uri: the folder's address, for messages.

    Raises:
        Unavailable: the store does not answer, or with an error.
        BadData: its answer cannot be parsed.
    """
    # The client gives all values as text.
    config = cast(Mapping[str, str], store.config)
    is_virtual = config.get("virtual_hosted_style_request") == "true"
    address = f"{config['endpoint'].rstrip('/')}/{'' if is_virtual else config['bucket']}"
    prefix = f"{store.prefix}/" if store.prefix else ""
    token: str | None = None
    while True:
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        page = _fetch_page(address, query | ({"continuation-token": token} if token else {}), access, uri=uri)
        is_encoded = page.findtext("{*}EncodingType") == "url"
        for entry in page.iterfind("{*}Contents"):
            key = entry.findtext("{*}Key") or ""
            key = (unquote_plus(key) if is_encoded else key).removeprefix(prefix)
            if key:
                yield StoredFile(key, int(entry.findtext("{*}Size") or 0), entry.findtext("{*}ETag") or "")
        token = page.findtext("{*}NextContinuationToken")
        if not token:
            return


def _fetch_page(address: str, query: Mapping[str, str], access: S3Access, *, uri: str) -> ElementTree.Element:
    text = urlencode(sorted(query.items()), quote_via=quote, safe="-_.~")
    retrying = Retrying(
        stop=stop_after_attempt(len(_RETRY_SECONDS) + 1),
        wait=wait_chain(*map(wait_fixed, _RETRY_SECONDS)),
        retry=retry_if_exception(_may_pass),
        before_sleep=before_sleep_log(logger, logging.WARNING),
        reraise=True,
    )
    try:
        return ElementTree.fromstring(retrying(_read_page, address, text, access))
    except ElementTree.ParseError as error:
        raise BadData("InvalidPath", f"the names in {uri} cannot be listed: {error}") from error
    except (OSError, HTTPException) as error:
        raise Unavailable("StoreFailed", f"the store of {uri} cannot be listed: {error}") from error


def _read_page(address: str, query: str, access: S3Access) -> bytes:
    request = urllib.request.Request(f"{address}?{query}", headers=sign_request(address, query, access))
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        page: bytes = response.read(_MAX_PAGE_BYTES)
        # Python takes a connection that breaks for the end of the page.
        if response.length:
            raise OSError("the connection broke before the end of a page, or the page is far too long")
    return page


def _may_pass(error: BaseException) -> bool:
    """Return whether a fault of the store may pass by itself."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code == 429
    return isinstance(error, OSError | HTTPException)


def sign_request(address: str, query: str, access: S3Access, *, now: datetime | None = None) -> dict[str, str]:
    """Return the headers of a GET request without a body, with AWS' Signature Version 4 if there is a key.

    Args:
        address: without the query.
        query: encoded and sorted.
        access: the keys and the region.
        now: the time of the request.
    """
    if access.key_id is None or access.secret is None:
        return {}
    parts = urlsplit(address)
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": parts.netloc, "x-amz-content-sha256": _EMPTY_SHA256, "x-amz-date": stamp}
    if access.session_token is not None:
        headers["x-amz-security-token"] = access.session_token
    signed = ";".join(headers)
    lines = [f"{name}:{value}\n" for name, value in headers.items()]
    request = "\n".join(["GET", parts.path, query, "".join(lines), signed, _EMPTY_SHA256])
    scope = f"{stamp[:8]}/{access.region}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{access.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), "sha256").hex()
    credential = f"{access.key_id}/{scope}"
    return headers | {
        "authorization": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed}, Signature={signature}"
    }
