"""Addresses of services: what the cluster's gateway does not allow, or does not have."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from bloomery_operator.api.conditions import Condition
from bloomery_operator.cluster.client import ClusterError
from bloomery_operator.cluster.kinds import ObjectKey, ResourceKind
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.service_lifecycle import Lifecycle
from bloomery_operator.reconcile import Context
from bloomery_operator.reconcile.address import apply_address
from bloomery_operator.status.service_facts import ServiceFacts
from bloomery_operator.status.traffic_plan import TrafficPlan
from tests.unit.operator.samples import NOW, Manifest, inference_service, settings

pytestmark = pytest.mark.feature("O6")

UNDECLARED = "failed to create typed patch object (demo/flowers; gateway.networking.k8s.io/v1, Kind=HTTPRoute): "


class Guarded:
    """A cluster that refuses some requests, and records what it applied."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.applied: list[str] = []

    async def get(self, kind: ResourceKind, key: ObjectKey) -> Manifest | None:
        if kind.kind in self.refused:
            raise ClusterError(403, "Forbidden", f"{kind.plural} {key.name} is forbidden")
        return None

    async def create(self, manifest: Manifest) -> Manifest | None:
        return await self.apply(manifest)

    async def apply_new(self, manifest: Manifest) -> Manifest | None:
        return await self.apply(manifest)

    async def apply(self, manifest: Manifest) -> Manifest:
        if manifest["kind"] in self.refused:
            raise ClusterError(403, "Forbidden", f"{manifest['kind']} is forbidden")
        self.applied.append(manifest["kind"])
        return manifest


def context(cluster: Guarded, *, gateway: str) -> Context:
    async def unused(*_: Any) -> Any:
        return None

    return Context(
        cluster=cluster,  # type: ignore[arg-type]  # what is tested here does nothing else
        object_cache=ObjectCache(),
        settings=settings(gateway_name=gateway),
        read_progress=unused,
        stop_trainer=unused,
        registry=unused,  # type: ignore[arg-type]
        servers=unused,  # type: ignore[arg-type]
    )


def test_undeletable_route_of_a_former_gateway_is_logged_by_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    former = Condition(type="RouteReady", status="True", reason="Accepted", message="")
    service = inference_service()
    service = service.model_copy(update={"status": service.status.model_copy(update={"conditions": (former,)})})
    facts = ServiceFacts(
        service=service,
        now=NOW,
        lifecycle=Lifecycle(started_at=None),
        models={"v1": ServedModel(uri="s3://models/v1")},
        deployments={},
        pods={},
    )
    cluster = Guarded("HTTPRoute", "BackendTrafficPolicy")
    plan = TrafficPlan(serving={"v1": "flowers--v1-1"})
    asyncio.run(apply_address(context(cluster, gateway=""), facts, plan))
    assert cluster.applied == ["Service"]
    assert "remove HTTPRoute demo/flowers of the former gateway yourself" in caplog.text
    # A service that never had a route costs no request.
    caplog.clear()
    never = replace(facts, service=inference_service())
    asyncio.run(apply_address(context(cluster, gateway=""), never, plan))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("code", "message", "field", "expected"),
    [
        (500, f"{UNDECLARED}.spec.rules[0].timeouts: field not declared in schema", "timeouts", True),
        (
            500,
            f"{UNDECLARED}.spec.rules[2].filters[1].requestMirror.percent: field not declared in schema",
            "percent",
            True,
        ),
        (400, 'strict decoding error: unknown field "spec.rules[0].timeouts"', "timeouts", True),
        (500, f"{UNDECLARED}.spec.rules[0].timeouts: field not declared in schema", "percent", False),
        (422, 'spec.rules[0].timeouts.request: Invalid value: "x"', "timeouts", False),
        (500, "etcdserver: timeouts", "timeouts", False),
    ],
)
def test_field_that_the_cluster_does_not_have_is_recognised(
    code: int, message: str, field: str, expected: bool
) -> None:
    assert ClusterError(code, "", message).is_undeclared(field) is expected


def test_fields_that_the_kind_does_not_have_are_named_with_their_parents() -> None:
    message = (
        "failed to create typed patch object (a/b; bloomery.dev/v1alpha1, Kind=InferenceService): errors:\n"
        '  .status.variants[name="v1.2"].modelHash: field not declared in schema\n'
        "  .status.scaledReplicas: field not declared in schema"
    )
    assert ClusterError(500, "", message).undeclared_fields == {
        ("status", "variants", "modelHash"),
        ("status", "scaledReplicas"),
    }
