"""What a user gets from an archive at an https address, and what an address into our network gets: real TLS servers."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bloomery_trainer.errors import BadConfig
from bloomery_trainer.prepare.sources.download import fetch_https, parse_networks

Prepare = Callable[..., Any]
ALLOWED = "BLOOMERY_SOURCE_NETWORKS"


@dataclass
class Server:
    """Files and redirects behind TLS at localhost."""

    port: int
    certificate: Path
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    without_length: bool = False

    def url(self, path: str, host: str = "localhost") -> str:
        return f"https://{host}:{self.port}{path}"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost, and its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(pem) + private)
    return path


@pytest.fixture
def server(certificate: Path) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            about.asked.append(self.path)
            content = about.files.get(self.path, b"")
            known = self.path in about.files
            status = about.statuses.get(self.path, 302 if self.path in about.redirects else 200 if known else 404)
            self.send_response(status)
            if self.path in about.redirects:
                self.send_header("Location", about.redirects[self.path])
            if not about.without_length:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are kept in `asked`."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    about = Server(http.server_address[1], certificate)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield about
    http.shutdown()
    http.server_close()


@pytest.fixture
def trusted(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with its certificate and its network allowed."""
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
    monkeypatch.setenv(ALLOWED, "127.0.0.1/32, ::1/128")
    return server


@pytest.fixture
def packed(flowers: Path, tmp_path: Path) -> bytes:
    path = tmp_path / "flowers.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(flowers.rglob("*.*")):
            archive.write(file, str(file.relative_to(flowers)))
    return path.read_bytes()


@pytest.mark.feature("D4")
def test_a_zip_by_https_gives_the_same_version_as_its_folders(
    prepare: Prepare, trusted: Server, flowers: Path, packed: bytes
) -> None:
    trusted.files["/data/flowers.zip?token=secret"] = packed
    folders = prepare(flowers)
    ended = prepare(flowers, source={"uri": trusted.url("/data/flowers.zip?token=secret")}, store="other")

    assert ended.code == 0
    assert ended.message["version"] == folders.message["version"]
    report = Path(ended.message["report"].removeprefix("file://")).read_text(encoding="utf-8")
    assert "/data/flowers.zip" in report
    assert "secret" not in report


def test_an_archive_by_https_can_be_appended(prepare: Prepare, trusted: Server, flowers: Path, packed: bytes) -> None:
    trusted.files["/more.zip"] = packed
    ended = prepare(flowers, append=[{"uri": trusted.url("/more.zip")}])

    assert ended.message["images"] == 90


def test_redirects_are_followed_five_times_and_no_more(
    prepare: Prepare, trusted: Server, flowers: Path, packed: bytes
) -> None:
    trusted.files["/f.zip"] = packed
    steps = ["/0.zip", "/1", "/2", "/3", "/4", "/f.zip"]
    trusted.redirects |= dict(pairwise(steps)) | {"/more.zip": "/0.zip"}
    five, six = (prepare(flowers, source={"uri": trusted.url(path)}) for path in ("/0.zip", "/more.zip"))

    assert five.code == 0
    assert (six.code, six.reason) == (2, "SourceRefused")
    assert "more than 5 times" in six.sentence


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://localhost/f.zip", "SourceRefused"),
        ("https://127.0.0.2/f.zip", "AddressRefused"),
        ("https://169.254.169.254/latest/meta-data/f.zip", "AddressRefused"),
        ("https://[::ffff:10.0.0.1]/f.zip", "AddressRefused"),
        ("file:///etc/passwd", "SourceRefused"),
    ],
)
def test_a_redirect_leads_nowhere_that_its_address_may_not(
    prepare: Prepare, trusted: Server, flowers: Path, target: str, reason: str
) -> None:
    trusted.redirects["/f.zip"] = target
    ended = prepare(flowers, source={"uri": trusted.url("/f.zip")})

    assert (ended.code, ended.reason) == (2, reason)


def test_an_address_in_our_network_is_refused_unless_it_is_allowed(
    prepare: Prepare, server: Server, flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
    ended = prepare(flowers, source={"uri": server.url("/f.zip")})

    assert (ended.code, ended.reason) == (2, "AddressRefused")
    assert "sources.allowedNetworks" in ended.sentence
    assert server.asked == []


def test_a_certificate_that_nobody_vouches_for_is_refused(
    prepare: Prepare, server: Server, flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED, "127.0.0.0/8,::1/128")
    ended = prepare(flowers, source={"uri": server.url("/f.zip")})

    assert (ended.code, ended.reason) == (2, "CertificateRefused")


def test_a_certificate_for_another_name_is_refused(prepare: Prepare, trusted: Server, flowers: Path) -> None:
    ended = prepare(flowers, source={"uri": trusted.url("/f.zip", host="127.0.0.1")})

    assert (ended.code, ended.reason) == (2, "CertificateRefused")


@pytest.mark.parametrize(("without_length", "words"), [(False, "allows 0.1 MiB"), (True, "more than the 0.1 MiB")])
def test_more_bytes_than_allowed_are_refused_also_where_nobody_announced_them(
    prepare: Prepare, trusted: Server, flowers: Path, without_length: bool, words: str
) -> None:
    trusted.files["/f.zip"] = bytes(200_000)
    trusted.without_length = without_length
    ended = prepare(flowers, source={"uri": trusted.url("/f.zip")}, rules={"maxArchiveBytes": 100_000})

    assert (ended.code, ended.reason) == (3, "ArchiveTooLarge")
    assert words in ended.sentence


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [(404, 2, "SourceNotFound"), (403, 2, "SourceNotFound"), (503, 1, "SourceUnreachable")],
)
def test_what_the_server_answers_is_told(
    prepare: Prepare, trusted: Server, flowers: Path, status: int, code: int, reason: str
) -> None:
    trusted.statuses["/f.zip"] = status
    ended = prepare(flowers, source={"uri": trusted.url("/f.zip")})

    assert (ended.code, ended.reason) == (code, reason)
    assert str(status) in ended.sentence


@pytest.mark.parametrize(
    ("path", "words"),
    [("/folder/", "by https only .zip, .tar.gz, .tgz can be read"), ("/page.html", "is no archive")],
)
def test_by_https_only_archives_are_taken(
    prepare: Prepare, trusted: Server, flowers: Path, path: str, words: str
) -> None:
    ended = prepare(flowers, source={"uri": trusted.url(path)})

    assert (ended.code, ended.reason) == (2, "SourceRefused")
    assert words in ended.sentence


def test_nobody_listening_is_worth_another_try(prepare: Prepare, trusted: Server, flowers: Path) -> None:
    ended = prepare(flowers, source={"uri": "https://127.0.0.1:1/f.zip"})

    assert (ended.code, ended.reason) == (1, "SourceUnreachable")


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "0.0.0.0", "169.254.169.254", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]", "[64:ff9b::a00:1]",
        "[2002:a00:1::]", "[fd00:ec2::254]", "2130706433", "0x7f.1", "localhost",
    ],
)  # fmt: skip
def test_no_address_outside_the_public_internet_is_asked(tmp_path: Path, host: str) -> None:
    with pytest.raises(BadConfig) as caught:
        fetch_https(f"https://{host}/f.zip", tmp_path / "f.zip", limit=1, networks=())

    assert caught.value.reason == "AddressRefused"


def test_networks_are_read_and_others_refused_in_words() -> None:
    assert parse_networks(" 10.0.0.0/8, fd00::/8,") == (
        ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"),
    )  # fmt: skip
    with pytest.raises(BadConfig, match=r"networks like 10\.0\.0\.0/8"):
        parse_networks("10.0.0.1/8")
