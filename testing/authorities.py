"""Certificates for servers of tests, from a CA of their own that no system trusts."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID_DAYS = 2
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "store.test", "*.store.test")


@dataclass(frozen=True)
class Authority:
    """PEM of a CA's certificate, and of the certificate and the key of a server."""

    root: bytes
    certificate: bytes
    key: bytes

    def write(self, folder: Path) -> AuthorityFiles:
        """Write all three to a folder."""
        files = AuthorityFiles(folder / "cas", folder / "server.pem", folder / "server.key")
        files.folder.mkdir(parents=True)
        (files.folder / "ca.crt").write_bytes(self.root)
        files.certificate.write_bytes(self.certificate)
        files.key.write_bytes(self.key)
        return files


@dataclass(frozen=True)
class AuthorityFiles:
    """An authority on disk.

    Attributes:
        folder: holds the CA's certificate alone, as a mounted ConfigMap would.
        certificate: of the server.
        key: of the server.
    """

    folder: Path
    certificate: Path
    key: Path


def make_authority(hosts: Sequence[str] = LOOPBACK_HOSTS) -> Authority:
    """Make a CA, and one certificate for all host names and addresses."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name = _name("a private CA")
    root = (
        _builder(root_name, root_name, root_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    certificate = (
        _builder(_name(hosts[0]), root_name, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(list(map(_alternative_name, hosts))), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Authority(root.public_bytes(pem), certificate.public_bytes(pem), private)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )
