"""Archives at https addresses, with real TLS servers, and the refusal of internal addresses."""

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

from bloomery_model.sources.download import download_https, parse_networks
from bloomery_trainer.errors import BadConfig, Unavailable
from testing.forward_proxy import ForwardProxy, run_forward_proxy

Prepare = Callable[..., Any]
ALLOWED = "BLOOMERY_SOURCE_NETWORKS"
BEHIND_PROXY = "archives.example"
"""A name that only the proxy resolves: nobody has names of this domain."""


@dataclass
class Server:
    """Files and redirects behind TLS at localhost."""

    port: int
    certificate: Path
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    requested_paths: list[str] = field(default_factory=list)
    without_length: bool = False

    def url(self, path: str, host: str = "localhost") -> str:
        return f"https://{host}:{self.port}{path}"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost, and its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate_of_localhost = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in ("localhost", BEHIND_PROXY)]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(certificate_of_localhost.public_bytes(pem) + private)
    return path


@pytest.fixture
def server(certificate: Path) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            about.requested_paths.append(self.path)
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
            """Requests are kept in `requested_paths`."""

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
def trusted_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with its certificate and its network allowed."""
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
    monkeypatch.setenv(ALLOWED, "127.0.0.1/32, ::1/128")
    return server


@pytest.fixture
def zip_bytes(flowers: Path, tmp_path: Path) -> bytes:
    path = tmp_path / "flowers.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(flowers.rglob("*.*")):
            archive.write(file, str(file.relative_to(flowers)))
    return path.read_bytes()


@pytest.mark.feature("D4")
def test_https_archive_gives_the_same_version_as_its_folders(
    prepare: Prepare, trusted_server: Server, flowers: Path, zip_bytes: bytes
) -> None:
    trusted_server.files["/data/flowers.zip?token=secret"] = zip_bytes
    folders = prepare(flowers)
    result = prepare(flowers, source={"uri": trusted_server.url("/data/flowers.zip?token=secret")}, store="other")

    assert result.code == 0
    assert result.message["version"] == folders.message["version"]
    report = Path(result.message["report"].removeprefix("file://")).read_text(encoding="utf-8")
    assert "/data/flowers.zip" in report
    assert "secret" not in report


def test_https_archive_can_be_appended(
    prepare: Prepare, trusted_server: Server, flowers: Path, zip_bytes: bytes
) -> None:
    trusted_server.files["/more.zip"] = zip_bytes
    result = prepare(flowers, append=[{"uri": trusted_server.url("/more.zip")}])

    assert result.message["images"] == 90


def test_at_most_five_redirects_are_followed(
    prepare: Prepare, trusted_server: Server, flowers: Path, zip_bytes: bytes
) -> None:
    trusted_server.files["/f.zip"] = zip_bytes
    steps = ["/0.zip", "/1", "/2", "/3", "/4", "/f.zip"]
    trusted_server.redirects |= dict(pairwise(steps)) | {"/more.zip": "/0.zip"}
    five, six = (prepare(flowers, source={"uri": trusted_server.url(path)}) for path in ("/0.zip", "/more.zip"))

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
def test_redirect_to_a_refused_address_is_refused(
    prepare: Prepare, trusted_server: Server, flowers: Path, target: str, reason: str
) -> None:
    trusted_server.redirects["/f.zip"] = target
    result = prepare(flowers, source={"uri": trusted_server.url("/f.zip")})

    assert (result.code, result.reason) == (2, reason)


def test_internal_address_is_refused_unless_allowed(
    prepare: Prepare, server: Server, flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
    result = prepare(flowers, source={"uri": server.url("/f.zip")})

    assert (result.code, result.reason) == (2, "AddressRefused")
    assert "sources.allowedNetworks" in result.sentence
    assert server.requested_paths == []


def test_untrusted_certificate_is_refused(
    prepare: Prepare, server: Server, flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED, "127.0.0.0/8,::1/128")
    result = prepare(flowers, source={"uri": server.url("/f.zip")})

    assert (result.code, result.reason) == (2, "CertificateRefused")


def test_certificate_for_another_name_is_refused(prepare: Prepare, trusted_server: Server, flowers: Path) -> None:
    result = prepare(flowers, source={"uri": trusted_server.url("/f.zip", host="127.0.0.1")})

    assert (result.code, result.reason) == (2, "CertificateRefused")


@pytest.mark.parametrize(("without_length", "words"), [(False, "allows 0.1 MiB"), (True, "more than the 0.1 MiB")])
def test_download_over_the_limit_is_refused(
    prepare: Prepare, trusted_server: Server, flowers: Path, without_length: bool, words: str
) -> None:
    trusted_server.files["/f.zip"] = bytes(200_000)
    trusted_server.without_length = without_length
    result = prepare(flowers, source={"uri": trusted_server.url("/f.zip")}, rules={"maxArchiveBytes": 100_000})

    assert (result.code, result.reason) == (3, "ArchiveTooLarge")
    assert words in result.sentence


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [(404, 2, "SourceNotFound"), (403, 2, "SourceNotFound"), (503, 1, "SourceUnreachable")],
)
def test_error_names_the_status_of_the_server(
    prepare: Prepare, trusted_server: Server, flowers: Path, status: int, code: int, reason: str
) -> None:
    trusted_server.statuses["/f.zip"] = status
    result = prepare(flowers, source={"uri": trusted_server.url("/f.zip")})

    assert (result.code, result.reason) == (code, reason)
    assert str(status) in result.sentence


@pytest.mark.parametrize(
    ("path", "words"),
    [("/folder/", "an https source must end in .zip, .tar.gz, .tgz"), ("/page.html", "is not an archive")],
)
def test_https_source_must_be_an_archive(
    prepare: Prepare, trusted_server: Server, flowers: Path, path: str, words: str
) -> None:
    result = prepare(flowers, source={"uri": trusted_server.url(path)})

    assert (result.code, result.reason) == (2, "SourceRefused")
    assert words in result.sentence


def test_closed_port_can_be_retried(prepare: Prepare, trusted_server: Server, flowers: Path) -> None:
    result = prepare(flowers, source={"uri": "https://127.0.0.1:1/f.zip"})

    assert (result.code, result.reason) == (1, "SourceUnreachable")


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "0.0.0.0", "169.254.169.254", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]", "[64:ff9b::a00:1]",
        "[2002:a00:1::]", "[fd00:ec2::254]", "2130706433", "0x7f.1", "localhost",
    ],
)  # fmt: skip
def test_addresses_outside_the_public_internet_are_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(BadConfig) as caught:
        download_https(f"https://{host}/f.zip", tmp_path / "f.zip", max_bytes=1, networks=())

    assert caught.value.reason == "AddressRefused"


def test_networks_are_parsed_or_refused() -> None:
    assert parse_networks(" 10.0.0.0/8, fd00::/8,") == (
        ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"),
    )  # fmt: skip
    with pytest.raises(BadConfig, match=r"networks like 10\.0\.0\.0/8"):
        parse_networks("10.0.0.1/8")


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForwardProxy]:
    """A forward proxy that leads every name to the server, whose certificate is trusted; no network is allowed."""
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
    server.files["/flowers.zip"] = b"content"
    with run_forward_proxy(lambda _: ("127.0.0.1", server.port)) as proxy:
        for name, value in proxy.environment().items():
            monkeypatch.setenv(name, value)
        yield proxy


def download(url: str, folder: Path, networks: str = "") -> bytes:
    target = folder / "archive"
    download_https(url, target, max_bytes=1000, networks=parse_networks(networks))
    return target.read_bytes()


@pytest.mark.feature("O6")
def test_server_that_only_the_proxy_knows_is_reached_through_it(
    proxy: ForwardProxy, server: Server, tmp_path: Path
) -> None:
    assert download(f"https://{BEHIND_PROXY}/flowers.zip", tmp_path) == b"content"
    assert proxy.hosts == [f"{BEHIND_PROXY}:443"]


@pytest.mark.feature("O6")
def test_allowed_private_server_is_reached_without_the_proxy(
    proxy: ForwardProxy, server: Server, tmp_path: Path
) -> None:
    assert download(server.url("/flowers.zip"), tmp_path, "127.0.0.0/8, ::1/128") == b"content"
    assert proxy.hosts == []


@pytest.mark.feature("O7")
@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("localhost", "AddressRefused"),
        ("169.254.169.254", "AddressRefused"),
        ("10.0.0.1", "AddressRefused"),
        ("[fd00::1]", "AddressRefused"),
        ("[::ffff:10.0.0.1]", "AddressRefused"),
        ("intranet", "SourceNotFound"),
    ],
)
def test_internal_address_is_refused_before_the_proxy_is_asked(
    host: str, reason: str, proxy: ForwardProxy, tmp_path: Path
) -> None:
    with pytest.raises((BadConfig, Unavailable)) as refused:
        download(f"https://{host}/flowers.zip", tmp_path)
    assert refused.value.reason in (reason, "SourceUnreachable" if reason == "SourceNotFound" else reason)
    assert proxy.hosts == []


@pytest.mark.feature("O7")
def test_redirect_behind_the_proxy_to_an_internal_address_is_refused(
    proxy: ForwardProxy, server: Server, tmp_path: Path
) -> None:
    server.redirects["/moved.zip"] = "https://10.0.0.1/flowers.zip"
    with pytest.raises(BadConfig, match=r"10\.0\.0\.1") as refused:
        download(f"https://{BEHIND_PROXY}/moved.zip", tmp_path)
    assert refused.value.reason == "AddressRefused"
    assert len(proxy.hosts) == 1


@pytest.mark.feature("O7")
def test_certificate_behind_the_proxy_must_be_for_the_name(proxy: ForwardProxy, tmp_path: Path) -> None:
    with pytest.raises(BadConfig) as refused:
        download("https://another.example/flowers.zip", tmp_path)
    assert refused.value.reason == "CertificateRefused"


@pytest.mark.feature("O6")
def test_excluded_host_is_never_asked_through_the_proxy(
    proxy: ForwardProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", ".example")
    with pytest.raises((BadConfig, Unavailable)):
        download(f"https://{BEHIND_PROXY}/flowers.zip", tmp_path)
    assert proxy.hosts == []


@pytest.mark.feature("O6")
def test_proxy_that_refuses_is_named_and_tried_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_forward_proxy(lambda _: None) as proxy:
        for name, value in proxy.environment().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(Unavailable, match="502") as unavailable:
            download(f"https://{BEHIND_PROXY}/flowers.zip", tmp_path)
    assert unavailable.value.reason == "SourceUnreachable"
