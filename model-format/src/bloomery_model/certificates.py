"""Certificates of private CAs, which an administrator mounts into the pods: trusted besides those of the system."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path

CA_FOLDER = "BLOOMERY_CA_FOLDER"
"""Environment variable: folder with certificates of CAs, in files in PEM form."""

_BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that TLS libraries read: OpenSSL and rustls, requests, botocore, curl."""

_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat
)
_BEGIN = b"-----BEGIN CERTIFICATE-----"


def trust_private_authorities(environment: MutableMapping[str, str]) -> None:
    """Point all TLS libraries of this process and of its children to one bundle: the system's CAs and the private ones.

    Without private certificates, nothing changes. Call it before the first connection.
    """
    folder = environment.get(CA_FOLDER)
    private = list(_read_certificates(Path(folder))) if folder else []
    if not private:
        return
    descriptor, bundle = tempfile.mkstemp(prefix="bloomery-ca-", suffix=".pem")
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"\n".join([_read_system_bundle(), *private]))
    environment.update(dict.fromkeys(_BUNDLE_VARIABLES, bundle))


def _read_certificates(folder: Path) -> Iterator[bytes]:
    """Yield the content of the folder's files in PEM form; a ConfigMap may hold the same in other forms."""
    for path in sorted(folder.glob("[!.]*")):
        if path.is_file() and _BEGIN in (content := path.read_bytes()):
            yield content


def _read_system_bundle() -> bytes:
    candidates = (ssl.get_default_verify_paths().cafile, *_SYSTEM_BUNDLES)
    paths = (Path(candidate) for candidate in candidates if candidate)
    return next((path.read_bytes() for path in paths if path.is_file()), b"")
