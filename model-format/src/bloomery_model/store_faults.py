"""Errors of stores, and the faults of an address, a region, a clock or a certificate that a client's text shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

StoreErrorKind = Literal["Refused", "BadContent", "Unavailable"]

_VIRTUAL_HOST_CODES = (
    "InvalidPathAccess",  # Volcengine TOS
    "PathStyleDomainForbidden",  # Tencent COS
    "SecondLevelDomainForbidden",  # Alibaba Cloud OSS
    "VirtualHostDomainRequired",  # Huawei OBS
)
"""Codes of stores that take a bucket's name only as a part of the host's."""

_WRONG_REGION_CODES = ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect")

_BARE_REDIRECT = "Received redirect without LOCATION"

CERTIFICATE_ADVICE = "add the CA's certificate to the ConfigMap that the chart's trustedCAs.configMap names"

_CERTIFICATE_FAULTS = {
    "Expired": "has expired",
    "NotValidForName": "is for another host name",
    "NotValidYet": "is not valid yet",
    "UnknownIssuer": f"is from a CA that is not trusted: {CERTIFICATE_ADVICE}",
}
"""What rustls finds, in words."""


class StoreError(Exception):
    """A store that cannot be used; the message is a sentence without its full stop.

    Attributes:
        kind: Refused: the address or the keys are wrong. BadContent: a name or file there is wrong. Unavailable: the
            store does not answer or fails, and trying again may help.
        reason: CamelCase, for conditions.
    """

    def __init__(self, kind: StoreErrorKind, reason: str, message: str) -> None:
        super().__init__(message)
        self.kind: StoreErrorKind = kind
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class StoreAnswer:
    """The text of a client's error, for the folder at ``uri``."""

    text: str
    uri: str

    @property
    def code(self) -> str:
        """The code of the store's answer, such as NoSuchBucket; empty if it has none."""
        return self._element("Code")

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.uri.removeprefix("s3://").partition("/")[0]

    @property
    def requires_virtual_host(self) -> bool:
        """Whether the store takes the bucket's name only as a part of the host's."""
        return self.code in _VIRTUAL_HOST_CODES

    @property
    def is_bare_redirect(self) -> bool:
        """Whether it is a redirect without a target, of which the client keeps neither headers nor body."""
        return _BARE_REDIRECT in self.text

    @property
    def is_wrong_region(self) -> bool:
        """Whether the bucket is in another region or at another endpoint."""
        return self.code in _WRONG_REGION_CODES or self.is_bare_redirect or self._other_endpoint != ""

    def find_fault(self, region: str | None = None) -> StoreError | None:
        """Return what is wrong with the address, the region, the clock or the certificate; None if it is none of them.

        Args:
            region: the region that the bucket is in, if the store names it elsewhere.
        """
        if self.requires_virtual_host:
            message = (
                f"the store of {self.uri} takes the bucket only as a part of the host's name ({self.code}): "
                "set AWS_S3_ADDRESSING_STYLE to virtual"
            )
            return StoreError("Refused", "InvalidEndpoint", message)
        if self.is_wrong_region:
            return StoreError("Refused", "WrongRegion", self._describe_region(region))
        if self.code == "RequestTimeTooSkewed":
            message = (
                f"the clock of this machine differs from the clock of the store of {self.uri} by more than the store "
                "allows (RequestTimeTooSkewed): set the node's clock by NTP"
            )
            return StoreError("Unavailable", "ClockSkewed", message)
        return self._find_tls_fault()

    def _describe_region(self, region: str | None) -> str:
        region = self._element("Region") or region
        if region:
            return f"the bucket {self.bucket!r} is in the region {region}: set AWS_REGION to {region}"
        if endpoint := self._other_endpoint:
            address = endpoint.removeprefix(f"{self.bucket}.")
            return f"the bucket {self.bucket!r} is at {address}: set AWS_ENDPOINT_URL to https://{address}"
        return f"the bucket {self.bucket!r} is in another region than AWS_REGION says; set it to the bucket's"

    @property
    def _other_endpoint(self) -> str:
        return self._element("Endpoint") if "must be addressed using the specified endpoint" in self.text else ""

    def _find_tls_fault(self) -> StoreError | None:
        address = self.address
        if match := re.search(r"InvalidCertificate\(\s*(\w+)", self.text):
            fault = _CERTIFICATE_FAULTS.get(match.group(1).removesuffix("Context"), f"is not valid ({match.group(1)})")
            return StoreError("Refused", "CertificateRefused", f"the certificate of {address} {fault}")
        if address.startswith("https://") and "InvalidContentType" in self.text:
            message = f"the store at {address} does not speak TLS: AWS_ENDPOINT_URL must begin with http://"
            return StoreError("Refused", "InvalidEndpoint", message)
        if address.startswith("http://") and "HTTP request to an HTTPS server" in self.text:
            message = f"the store at {address} speaks only TLS: AWS_ENDPOINT_URL must begin with https://"
            return StoreError("Refused", "InvalidEndpoint", message)
        return None

    @property
    def address(self) -> str:
        """The address of the request that failed, without its path."""
        match = re.search(r"https?://[^/?\s]+", self.text)
        return match.group(0) if match else self.text.splitlines()[0]

    @property
    def tls_hint(self) -> str:
        """Advice for an address without TLS whose server closes connections; it may also be starting."""
        is_closed = "ConnectionReset" in self.text or "IncompleteMessage" in self.text
        if not is_closed or not self.address.startswith("http://"):
            return ""
        return "; if it speaks only TLS, AWS_ENDPOINT_URL must begin with https://"

    def _element(self, name: str) -> str:
        match = re.search(rf"<{name}>([^<]+)</{name}>", self.text)
        return match.group(1).strip() if match else ""
