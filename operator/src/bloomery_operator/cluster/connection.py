"""Connection to the API server: credentials and the HTTP client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kubernetes.aio import client as kube
from kubernetes.aio import config as kube_config

ConfigurationError = kube_config.ConfigException
"""There are no credentials: neither a pod's, nor a kubeconfig."""


@asynccontextmanager
async def connect() -> AsyncIterator[kube.ApiClient]:
    """Yield a client of the API server that is open within the block.

    Raises:
        ConfigurationError: there are no credentials.
    """
    try:
        kube_config.load_incluster_config()  # type: ignore[no-untyped-call]
    except kube_config.ConfigException:
        await kube_config.load_kube_config()  # type: ignore[no-untyped-call]
    configuration = kube.Configuration.get_default_copy()
    # No proxy, as kopf's watches use none. Otherwise each request would start two threads, which search the
    # environment and look for a ~/.netrc.
    configuration.client_session_kwargs = {"trust_env": False}
    async with kube.ApiClient(configuration) as api:
        yield api
