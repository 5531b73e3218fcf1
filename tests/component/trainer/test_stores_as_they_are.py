"""A real S3 server as companies run it: the bucket in the host's name, a private CA, a region of its own.

A proxy stands in for DNS, as no names below a domain of ours lead to loopback.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from bloomery_model.stores import Retry, S3Access, StoreError, open_folder
from bloomery_serving.storage import fetch_model
from testing.authorities import AuthorityFiles, make_authority
from testing.forward_proxy import ForwardProxy, run_forward_proxy
from testing.processes import free_port
from testing.servers import S3_PROGRAM, S3Server
from tests.component.serving.conftest import write_model

pytestmark = pytest.mark.feature("O6")

READ_IN_A_POD = """
import os, sys
from bloomery_trainer import cli
sys.exit(cli.main(["weights", "list", "--uri", "s3://models/weights"]))
"""
"""A command of the trainer that lists a folder of the store."""


@contextmanager
def running_store(folder: Path, *options: str) -> Iterator[S3Server]:
    if not S3_PROGRAM.exists():
        pytest.skip("`make cluster` builds the S3 server")
    server = S3Server(free_port(), "store", folder / "store", folder / "store.log", options=options)
    server.start()
    try:
        (server.folder / "models").mkdir()
        yield server
    finally:
        server.kill()


@pytest.fixture
def virtual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[S3Server, ForwardProxy]]:
    """A store whose buckets are names below ``store.test``, and the proxy that leads there."""
    with (
        running_store(tmp_path, "--virtual-domain", "store.test") as server,
        run_forward_proxy(lambda _: ("127.0.0.1", server.port)) as proxy,
    ):
        for name, value in proxy.environment().items():
            monkeypatch.setenv(name, value)
        yield server, proxy


@pytest.fixture
def authority(tmp_path: Path) -> AuthorityFiles:
    return make_authority().write(tmp_path / "tls")


@pytest.fixture
def secured(tmp_path: Path, authority: AuthorityFiles) -> Iterator[S3Server]:
    """A store whose certificate is of a private CA."""
    with running_store(tmp_path, "--cert", str(authority.certificate), "--key", str(authority.key)) as server:
        yield server


def virtual_environment(server: S3Server) -> dict[str, str]:
    return server.environment() | {"AWS_ENDPOINT_URL": "http://store.test", "AWS_S3_ADDRESSING_STYLE": "virtual"}


def secured_environment(server: S3Server) -> dict[str, str]:
    return server.environment() | {"AWS_ENDPOINT_URL": f"https://localhost:{server.port}"}


def test_folder_of_a_virtual_host_bucket_is_written_listed_and_cleared(
    virtual: tuple[S3Server, ForwardProxy], tmp_path: Path
) -> None:
    server, proxy = virtual
    folder = open_folder("s3://models/a folder", S3Access.from_environment(virtual_environment(server)))
    (tmp_path / "file").write_bytes(b"x" * 10_000_000)
    folder.upload(tmp_path / "file", "large")
    with folder.writer("deep/花") as writer:
        writer.write(b"content")
    assert [(file.path, file.size) for file in folder.list()] == [("deep/花", 7), ("large", 10_000_000)]
    assert (folder.read("deep/花"), folder.size_of("large")) == (b"content", 10_000_000)
    folder.clear("deep")
    assert [file.path for file in folder.list()] == ["large"]
    assert set(proxy.hosts) == {"models.store.test"}
    assert (server.folder / "models/a folder/large").stat().st_size == 10_000_000


def test_model_server_fetches_with_the_bucket_in_the_host_name(
    virtual: tuple[S3Server, ForwardProxy], tmp_path: Path
) -> None:
    server, _ = virtual
    (server.folder / "models/model").mkdir()
    write_model(server.folder / "models/model")
    stored = fetch_model("s3://models/model", tmp_path / "fetched", digest="", environment=virtual_environment(server))
    assert "model.onnx" in stored.files


def list_weights(environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the trainer's command as a pod does."""
    return subprocess.run(
        [sys.executable, "-c", READ_IN_A_POD],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_store_of_a_private_ca_is_trusted_by_the_mounted_certificates(
    secured: S3Server, authority: AuthorityFiles
) -> None:
    environment = secured_environment(secured)
    refused = list_weights(environment)
    assert refused.returncode == 2
    assert "is from a CA that is not trusted" in refused.stderr
    assert "trustedCAs.configMap" in refused.stderr
    trusted = list_weights(environment | {"BLOOMERY_CA_FOLDER": str(authority.folder)})
    assert trusted.returncode == 0, trusted.stderr


def test_line_breaks_in_a_secret_do_not_reach_the_store(secured: S3Server, authority: AuthorityFiles) -> None:
    environment = {name: f"{value}\n" for name, value in secured_environment(secured).items()}
    done = list_weights(environment | {"AWS_REGION": "us-east-1\n", "BLOOMERY_CA_FOLDER": str(authority.folder)})
    assert done.returncode == 0, done.stderr


def test_bucket_of_another_region_is_named_with_it(tmp_path: Path) -> None:
    with running_store(tmp_path, "--region", "eu-west-1") as server:
        folder = open_folder("s3://models/a", S3Access.from_environment(server.environment()))
        with pytest.raises(StoreError, match="set AWS_REGION to") as refused:
            folder.require()
        assert (refused.value.kind, refused.value.reason) == ("Refused", "WrongRegion")
        right = server.environment() | {"AWS_DEFAULT_REGION": "eu-west-1"}
        open_folder("s3://models/a", S3Access.from_environment(right)).require()
        (server.folder / "models/model").mkdir()
        write_model(server.folder / "models/model")
        fetch_model("s3://models/model", tmp_path / "fetched", digest="", environment=right)


def test_plain_address_of_a_server_that_speaks_only_tls_is_named(secured: S3Server) -> None:
    environment = secured.environment() | {"AWS_ENDPOINT_URL": f"http://localhost:{secured.port}"}
    folder = open_folder("s3://models/a", S3Access.from_environment(environment), retry=Retry(max_retries=1, seconds=5))
    with pytest.raises(StoreError, match="if it speaks only TLS, AWS_ENDPOINT_URL must begin with https://"):
        folder.require()
