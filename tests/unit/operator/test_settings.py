"""The environment variables of the operator."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bloomery_operator.cluster.kinds import HTTP_ROUTES
from bloomery_operator.controller.controller import watched_kinds
from bloomery_operator.settings import Settings, describe_settings_error
from tests.unit.operator.samples import settings


def test_environment_sets_the_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TRAINER_IMAGE": "t",
        "SERVING_IMAGE": "s",
        "NAMESPACES": " demo, other ,",
        "IMAGE_PULL_POLICY": "Never",
        "RESYNC_SECONDS": "60",
    }.items():
        monkeypatch.setenv(f"BLOOMERY_{name}", value)
    read = Settings()  # type: ignore[call-arg]
    assert (read.trainer_image, read.serving_image, read.image_pull_policy) == ("t", "s", "Never")
    assert read.namespaces == ("demo", "other")
    assert read.resync_seconds == 60


@pytest.mark.parametrize(
    ("variable", "field"),
    [
        ("PROGRESS_SECONDS", "progress_poll_seconds"),
        ("OBSTACLE_SECONDS", "retry_interval_seconds"),
        ("KEYS_SECONDS", "api_keys_poll_seconds"),
        ("REGISTRY_SECONDS", "mlflow_poll_seconds"),
        ("TRAFFIC_SECONDS", "rollout_poll_seconds"),
        ("REQUEST_SECONDS", "request_seconds"),
        ("RESYNC_SECONDS", "resync_seconds"),
    ],
)
def test_intervals_keep_their_environment_variables(variable: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOOMERY_TRAINER_IMAGE", "t")
    monkeypatch.setenv("BLOOMERY_SERVING_IMAGE", "s")
    monkeypatch.setenv(f"BLOOMERY_{variable}", "7.5")
    assert getattr(Settings(), field) == 7.5  # type: ignore[call-arg]
    monkeypatch.setenv(f"BLOOMERY_{variable}", "soon")
    with pytest.raises(ValidationError) as caught:
        Settings()  # type: ignore[call-arg]
    assert describe_settings_error(caught.value).startswith(f"BLOOMERY_{variable}: Input should be a valid number")


def test_empty_list_of_namespaces_means_the_whole_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOOMERY_NAMESPACES", "")
    monkeypatch.setenv("BLOOMERY_TRAINER_IMAGE", "t")
    monkeypatch.setenv("BLOOMERY_SERVING_IMAGE", "s")
    assert Settings().namespaces == ()  # type: ignore[call-arg]


def test_missing_image_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLOOMERY_TRAINER_IMAGE", raising=False)
    with pytest.raises(ValidationError, match="trainer_image") as caught:
        Settings(serving_image="s")  # type: ignore[call-arg]
    assert describe_settings_error(caught.value) == "BLOOMERY_TRAINER_IMAGE: Field required"


def test_routes_are_watched_only_with_a_gateway() -> None:
    assert HTTP_ROUTES in watched_kinds(settings())
    assert HTTP_ROUTES not in watched_kinds(settings(gateway_name=""))
