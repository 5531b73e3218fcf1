"""Certificates for servers of tests, from a CA of their own that no system trusts."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Authority:
    """A CA, and the certificate of one server on loopback.

    Attributes:
        folder: holds the CA's certificate alone, as a mounted ConfigMap would.
        certificate: of the server, for localhost, 127.0.0.1 and the names below ``store.test``.
        key: of the server.
    """

    folder: Path
    certificate: Path
    key: Path


def make_authority(folder: Path) -> Authority:
    """Make a CA and the certificate of a server in a folder."""
    ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("a private CA", "a private CA", ca_key, ca_key, authority=True)
    server = _certificate("localhost", "a private CA", server_key, ca_key, authority=False)
    made = Authority(folder / "cas", folder / "server.pem", folder / "server.key")
    made.folder.mkdir(parents=True)
    (made.folder / "ca.crt").write_bytes(ca.public_bytes(_PEM))
    made.certificate.write_bytes(server.public_bytes(_PEM))
    encoding = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    made.key.write_bytes(server_key.private_bytes(_PEM, *encoding))
    return made


def _certificate(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in ("localhost", "store.test", "*.store.test")]
    names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
