"""Certificates of private CAs: trusted by every TLS library, besides the system's."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from bloomery_model.certificates import trust_private_authorities
from testing.authorities import make_authority

pytestmark = pytest.mark.feature("O6")

VARIABLES = {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE"}


def authorities(bundle: str) -> set[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(bundle)
    return {str(certificate["subject"]) for certificate in context.get_ca_certs()}


def test_private_authorities_join_those_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = make_authority().write(tmp_path / "system").folder / "ca.crt"
    monkeypatch.setenv("SSL_CERT_FILE", str(system))
    folder = make_authority().write(tmp_path / "private").folder
    # A ConfigMap may hold the same certificates in other forms, and its volume has hidden folders.
    (folder / "bundle.jks").write_bytes(b"\xfe\xed\xfe\xed")
    (folder / "..data").mkdir()
    environment = {"BLOOMERY_CA_FOLDER": str(folder)}
    trust_private_authorities(environment)
    assert environment.keys() == VARIABLES | {"BLOOMERY_CA_FOLDER"}
    bundles = {environment[name] for name in VARIABLES}
    assert len(bundles) == 1
    content = Path(bundles.pop()).read_bytes()
    assert system.read_bytes() in content
    assert (folder / "ca.crt").read_bytes() in content


def test_private_authority_is_read_from_the_bundle(tmp_path: Path) -> None:
    environment = {"BLOOMERY_CA_FOLDER": str(make_authority().write(tmp_path / "private").folder)}
    trust_private_authorities(environment)
    subjects = authorities(environment["SSL_CERT_FILE"])
    assert any("a private CA" in subject for subject in subjects)
    assert len(subjects) > 1


@pytest.mark.parametrize("folder", [None, "", "missing", "empty"])
def test_nothing_changes_without_private_certificates(
    folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "here.crt").write_bytes(b"-----BEGIN CERTIFICATE-----")
    environment = {} if folder is None else {"BLOOMERY_CA_FOLDER": folder}
    before = dict(environment)
    trust_private_authorities(environment)
    assert environment == before
