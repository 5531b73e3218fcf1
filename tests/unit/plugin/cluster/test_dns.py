"""Classification of host names."""

from __future__ import annotations

import pytest

from kubectl_bloomery.cluster.dns import is_cluster_name, is_local, service_of_host


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("bloomery-mlflow.bloomery-system", ("bloomery-mlflow", "bloomery-system")),
        ("mlflow.team.svc", ("mlflow", "team")),
        ("mlflow.team.svc.cluster.local", ("mlflow", "team")),
        ("mlflow", ("mlflow", "demo")),
        ("mlflow.example.com", None),
        ("127.0.0.1", None),
        ("::1", None),
        ("localhost", None),
    ],
)
def test_host_of_a_service_is_recognised(host: str, service: tuple[str, str] | None) -> None:
    assert service_of_host(host, "demo") == service


@pytest.mark.feature("O5")
def test_only_svc_names_are_certainly_in_cluster() -> None:
    assert is_cluster_name("mlflow.team.svc") and is_cluster_name("mlflow.team.svc.cluster.local")
    assert not is_cluster_name("mlflow.corp") and not is_cluster_name("mlflow")


@pytest.mark.feature("O5")
def test_this_machine_is_local() -> None:
    assert all(map(is_local, ("localhost", "127.0.0.1", "::1")))
    assert not any(map(is_local, ("mlflow", "10.0.0.1", "localhost.example.com")))
