"""Fixtures of a real API server for component tests: etcd and kube-apiserver, no kubelet and no controllers.

No garbage collector and no namespace controller run: owned objects outlive their owners, and namespaces are never
removed. Every test therefore gets a namespace of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testing.api_server import ApiServer, find_binary, install_kinds, private_apiserver
from tests.component.operator_fixtures import (  # noqa: F401 - pytest finds them here
    fault_proxy,
    gateway_api,
    new_operator,
    operator,
    operator_kubeconfig,
    own_operator,
    ready_world,
    shared_operator,
    trainer,
    world,
)


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Give a private API server with RBAC and an administrator, for the test session."""
    with private_apiserver(tmp_path_factory.mktemp("apiserver")) as server:
        yield server


@pytest.fixture(scope="session")
def crds(apiserver: ApiServer) -> ApiServer:
    """Give the API server with Bloomery's kinds."""
    install_kinds(apiserver)
    return apiserver


@pytest.fixture
def namespace(apiserver: ApiServer) -> str:
    """Give the name of a new, empty namespace."""
    name = f"test-{secrets.token_hex(4)}"
    done = apiserver.kubectl("create", "namespace", name)
    assert done.returncode == 0, done.stderr
    return name


@pytest.fixture(scope="session")
def program() -> Callable[[str], Path]:
    """Give the function that finds a program such as helm."""
    return find_binary
