"""S3 stores: the access to one, as the variables of a Secret give it, and the client of a bucket."""

from __future__ import annotations

import ipaddress
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from obstore.store import S3Store

from bloomery_model.secret_variables import read_variable
from bloomery_model.store_faults import StoreError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential

_REGION_TIMEOUT_SECONDS = 5.0
_ADDRESSING_STYLES = ("", "auto", "path", "virtual")


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often a failed request is repeated, and for how long."""

    max_retries: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class S3Access:
    """Address and keys of an S3 store; without a key, access is anonymous.

    Attributes:
        addressing_style: path or virtual; empty or auto: path, and virtual if the store requires it.
        adds_checksums: whether uploads have checksums in their headers, which some stores refuse.
    """

    endpoint: str | None
    region: str
    key_id: str | None
    secret: str | None
    session_token: str | None
    addressing_style: str = ""
    adds_checksums: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], prefix: str = "") -> Self:
        """Read AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, …, each with ``prefix`` before it."""

        def value(name: str) -> str | None:
            return read_variable(environment, f"{prefix}{name}")

        return cls(
            endpoint=value("AWS_ENDPOINT_URL_S3") or value("AWS_ENDPOINT_URL"),
            region=value("AWS_REGION") or value("AWS_DEFAULT_REGION") or "us-east-1",
            key_id=value("AWS_ACCESS_KEY_ID"),
            secret=value("AWS_SECRET_ACCESS_KEY"),
            session_token=value("AWS_SESSION_TOKEN"),
            addressing_style=(value("AWS_S3_ADDRESSING_STYLE") or "").lower(),
            adds_checksums=(value("AWS_REQUEST_CHECKSUM_CALCULATION") or "").lower() == "when_supported",
        )

    @classmethod
    def of_own_secret(cls, environment: Mapping[str, str], prefix: str) -> Self:
        """Return the access by the Secret whose variables have ``prefix``, if there is one, else the store's.

        Nothing is mixed: what has a Secret of its own never sees the keys of the common store.
        """
        has_own = any(name.startswith(prefix) for name in environment)
        return cls.from_environment(environment, prefix if has_own else "")

    def credentials(self) -> S3Credential:
        """Return the keys in the form of the client."""
        return {
            "access_key_id": self.key_id or "",
            "secret_access_key": self.secret or "",
            "token": self.session_token,
            "expires_at": None,
        }

    def require_valid(self) -> None:
        """Check the values that the client does not check.

        Raises:
            StoreError: one of them cannot be right; names its variable, and never shows a key.
        """
        if self.endpoint and not _is_address(self.endpoint):
            message = f"AWS_ENDPOINT_URL must be http(s)://host:port, not {self.endpoint!r}"
            raise StoreError("Refused", "InvalidEndpoint", message)
        if self.addressing_style == "virtual" and self.is_at_ip_address:
            message = (
                f"AWS_S3_ADDRESSING_STYLE is virtual, but AWS_ENDPOINT_URL is {self.endpoint}: "
                "a bucket's name can stand only before a host name, not before an IP address"
            )
            raise StoreError("Refused", "InvalidEndpoint", message)
        if self.addressing_style not in _ADDRESSING_STYLES:
            message = f"AWS_S3_ADDRESSING_STYLE must be path, virtual or auto, not {self.addressing_style!r}"
            raise StoreError("Refused", "InvalidEndpoint", message)
        for name, text in self._header_values().items():
            # The client passes them on as parts of HTTP headers.
            if not re.fullmatch(r"[!-~]*", text or ""):
                message = f"{name} contains a space, a line break or a character that is not ASCII: copy it again"
                raise StoreError("Refused", "InvalidCredentials", message)

    @property
    def is_at_ip_address(self) -> bool:
        """Whether the endpoint names its host by an IP address."""
        try:
            ipaddress.ip_address(urlsplit(self.endpoint or "").hostname or "")
        except ValueError:
            return False
        return True

    def _header_values(self) -> dict[str, str | None]:
        return {
            "AWS_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_SESSION_TOKEN": self.session_token,
        }


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A bucket, or a folder of it, with the access to its store."""

    name: str
    prefix: str
    access: S3Access
    retry: Retry

    @property
    def is_style_open(self) -> bool:
        """Whether the store decides if the bucket's name belongs to the path or to the host."""
        return self.access.addressing_style in ("", "auto") and not self.access.is_at_ip_address

    def open(self, *, virtual: bool | None = None) -> S3Store:
        """Return a client of the folder.

        Args:
            virtual: whether the bucket's name is a part of the host's; None: as the access says.

        Raises:
            StoreError: a value of the access cannot be right.
        """
        self.access.require_valid()
        if virtual is None:
            virtual = self.access.addressing_style == "virtual"
        access, address = self.access, self._address(virtual=virtual)
        # Every setting is explicit: those left out, the client would take from the AWS_* variables of the process,
        # which belong to the store, not to a source with keys of its own.
        config: S3Config = {
            "endpoint": address,
            "region": access.region,
            "virtual_hosted_style_request": virtual,
            "skip_signature": access.key_id is None,
        }
        if access.adds_checksums:
            config["checksum_algorithm"] = "SHA256"
        client: ClientConfig = {
            "allow_http": address.startswith("http://"),
            "connect_timeout": "5s",
            "read_timeout": "60s",
            "timeout": "1h",
        }
        return S3Store(
            self.name,
            prefix=self.prefix or None,
            config=config,
            client_options=client,
            retry_config={
                "max_retries": self.retry.max_retries,
                "retry_timeout": timedelta(seconds=self.retry.seconds),
            },
            credential_provider=access.credentials,
        )

    def find_region(self) -> str | None:
        """Ask the store for the region of the bucket, which it names to everybody; None if it does not."""
        address = f"{self._address(virtual=False)}/{self.name}"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(address, method="HEAD"), timeout=_REGION_TIMEOUT_SECONDS
            ) as response:
                headers = response.headers
        except urllib.error.HTTPError as error:
            headers = error.headers
        except OSError:
            return None
        region: str | None = headers.get("x-amz-bucket-region")
        return region

    def _address(self, *, virtual: bool) -> str:
        """Return the endpoint, with the bucket in the host's name if it is ``virtual``."""
        endpoint = (self.access.endpoint or f"https://s3.{self.access.region}.amazonaws.com").rstrip("/")
        if not virtual:
            return endpoint
        parts = urlsplit(endpoint)
        return f"{parts.scheme}://{self.name}.{parts.netloc}"


def _is_address(endpoint: str) -> bool:
    try:
        # Raises for a port that is not a number, and for an IPv6 address without its brackets.
        urlsplit(endpoint).port  # noqa: B018
    except ValueError:
        return False
    return re.fullmatch(r"https?://[^/\s?#@]+/?", endpoint) is not None
