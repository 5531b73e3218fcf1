"""Connections of the operator to an MLflow behind a private CA, or behind a forward proxy, with real TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from bloomery_operator.clients.http import Proxies, trusting_context
from bloomery_operator.clients.mlflow import MlflowClient
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.verdict import Verdict
from testing.authorities import AuthorityFiles, make_authority
from testing.forward_proxy import run_forward_proxy

pytestmark = pytest.mark.feature("O6")

VERSION = {"name": "flowers", "version": "3", "tags": [{"key": "bloomery.dev/uri", "value": "s3://models/3"}]}


@pytest.fixture
def authority(tmp_path: Path) -> AuthorityFiles:
    return make_authority().write(tmp_path / "tls")


@asynccontextmanager
async def running_registry(authority: AuthorityFiles) -> AsyncIterator[int]:
    """Runs a registry that knows one version, by https; yields its port."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"model_version": VERSION})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate, authority.key)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def find(
    authority: AuthorityFiles, folder: Path | None, *, host: str = "localhost", proxied: bool = False, **variables: str
) -> ServedModel | Verdict:
    """Resolve a reference while the operator trusts the certificates of a folder."""

    async def run() -> ServedModel | Verdict:
        async with running_registry(authority) as port:
            connector = aiohttp.TCPConnector(ssl=trusting_context(folder))
            with run_forward_proxy(lambda _: ("127.0.0.1", port)) as proxy:
                proxies = Proxies(https=proxy.url if proxied else "")
                async with aiohttp.ClientSession(connector=connector) as session:
                    uri = f"https://{host}" if proxied else f"https://{host}:{port}"
                    client = MlflowClient(session, allowed=(uri,), proxies=proxies)
                    result = await client.find({"MLFLOW_TRACKING_URI": uri, **variables}, "models:/flowers/3")
                assert bool(proxy.hosts) is proxied
                return result

    return asyncio.run(run())


def test_unknown_authority_is_named_with_the_value_of_the_chart(authority: AuthorityFiles) -> None:
    refused = find(authority, None)
    assert isinstance(refused, Verdict)
    assert "its certificate is not valid" in refused.message
    assert "trustedCAs.configMap" in refused.message


def test_mounted_authority_is_trusted_by_the_operator(authority: AuthorityFiles) -> None:
    (authority.folder / "bundle.p12").write_bytes(b"\x30\x82")
    assert isinstance(find(authority, authority.folder), ServedModel)


def test_check_of_the_certificate_is_off_where_the_secret_says_so(authority: AuthorityFiles) -> None:
    assert isinstance(find(authority, None, MLFLOW_TRACKING_INSECURE_TLS="true"), ServedModel)
    assert isinstance(find(authority, None, MLFLOW_TRACKING_INSECURE_TLS="false"), Verdict)


def test_registry_that_only_the_proxy_knows_is_reached_through_it(authority: AuthorityFiles) -> None:
    assert isinstance(find(authority, authority.folder, host="mlflow.store.test", proxied=True), ServedModel)
