"""Random specs of the kinds: rejected with a message or reconciled, and undone by the previous spec."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from testing.kubernetes_api import PATHS, Manifest
from testing.operator_process import GATEWAY, OperatorProcess, running
from testing.samples import dataset, inference_service, retraining, training_job, variant
from testing.scenario import differences, final_state, simulate_controllers
from testing.simulated_controllers import World
from testing.waiting import eventually
from tests.component.operator.specs import mutations
from tests.component.operator_fixtures import NewOperator

pytestmark = [pytest.mark.feature("O2"), pytest.mark.extended]

BASES = {
    "datasets": dataset("any"),
    "trainingjobs": training_job("any", datasets=[{"name": "any"}]),
    # Suspended: TrainingJobs that it made would stay.
    "retrainings": retraining("any", schedule="0 0 1 1 *", suspend=True),
    "inferenceservices": inference_service("any", variants=[variant("v1", 100)]),
}
SETTLE_SECONDS = 120.0
"""A revision that was replaced stays for as long as requests may be on their way to it."""


@pytest.fixture(scope="module")
def any_operator(new_operator: NewOperator) -> Iterator[OperatorProcess]:
    with running(
        new_operator(GATEWAY | {"BLOOMERY_TRAFFIC_SECONDS": "1", "BLOOMERY_OBSTACLE_SECONDS": "1"})
    ) as operator:
        yield operator


@pytest.mark.parametrize("plural", BASES)
def test_any_spec_is_refused_in_words_or_reconciled(plural: str, any_operator: OperatorProcess, world: World) -> None:
    """It leaves nothing behind once the former spec is back."""
    base = BASES[plural]
    accepted: list[Manifest] = []
    settled = _settled_ending(world, plural, base)

    # Nothing is shrunk: each attempt meets what the one before has left.
    @settings(
        max_examples=120,
        phases=[Phase.generate],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(changed=mutations(base))
    def attempt(changed: Manifest) -> None:
        if _offer(world, plural, changed):
            accepted.append(changed["spec"])
            _wait_until_observed(world, plural)
        any_operator.assert_calm()

    attempt()
    assert len(accepted) >= 35, "too few of the specs were good ones"
    assert _offer(world, plural, base)
    eventually(
        lambda: _is_like(_played(world), settled), lambda: _describe_differences(world, settled), seconds=SETTLE_SECONDS
    )


SPECS: dict[str, tuple[Manifest, ...]] = {
    "datasets": (
        BASES["datasets"]["spec"],
        {"source": {"uri": "s3://tulips/raw", "layout": "Folders"}, "split": {"validation": 0.3, "test": 0.1}},
        {"source": {"uri": "https://example.com/a.zip"}, "rename": {"tulip": "tulips"}, "displayName": "郁金香"},
    ),
    "inferenceservices": (
        BASES["inferenceservices"]["spec"],
        {"variants": [variant("v1", 30), variant("v2", 70, replicas=3)], "auth": "None"},
        {"variants": [variant("v3", 100, autoscaling={"min": 1, "max": 3})], "autoStop": "9h", "displayName": "花"},
        {"variants": [variant("v1", 100), variant("v2", 0, mirrorPercent=10)], "replicas": 2},
    ),
}


@pytest.mark.usefixtures("any_operator")
@pytest.mark.parametrize(
    ("plural", "number"), [(plural, n) for plural, specs in SPECS.items() for n in range(len(specs))]
)
def test_a_changed_spec_ends_like_a_fresh_one(plural: str, number: int, world: World, fresh: World) -> None:
    manifest = BASES[plural] | {"spec": SPECS[plural][number]}
    expected = _settled_ending(fresh, plural, manifest)
    for other in SPECS[plural]:
        _settled_ending(world, plural, BASES[plural] | {"spec": other}, patient=False)
    assert _offer(world, plural, manifest)
    eventually(
        lambda: _is_like(_played(world), expected),
        lambda: _describe_differences(world, expected),
        seconds=SETTLE_SECONDS,
    )


@pytest.fixture
def fresh(world: World) -> World:
    """Give a second empty namespace."""
    namespace = f"{world.namespace}-fresh"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    assert world.client.post("/api/v1/namespaces", json=body).is_success
    other = World(world.client, namespace)
    other.make_storage_secret()
    return other


def _offer(world: World, plural: str, manifest: Manifest) -> bool:
    """Apply a spec as kubectl would; return whether it was taken. A refusal must name the field that is wrong."""
    root, name = f"/{PATHS[plural]}/namespaces/{world.namespace}/{plural}", manifest["metadata"]["name"]
    strictly = {"fieldValidation": "Strict"}
    if plural == "trainingjobs" and world.get(plural, name):
        world.delete(plural, name)
    if world.get(plural, name):
        change = json.dumps([{"op": "replace", "path": "/spec", "value": manifest["spec"]}])
        headers = {"Content-Type": "application/json-patch+json"}
        answer = world.client.patch(f"{root}/{name}", content=change, headers=headers, params=strictly)
    else:
        answer = world.client.post(root, json=manifest, params=strictly)
    if answer.is_success:
        return True
    document = answer.json()
    assert answer.status_code in (400, 422), document
    assert "spec" in document["message"], document
    return False


def _wait_until_observed(world: World, plural: str) -> None:
    def observed() -> bool:
        manifest = world.get(plural, "any") or {}
        status = manifest.get("status", {})
        conditions = status.get("conditions", [])
        seen = status.get("observedGeneration") == manifest["metadata"]["generation"]
        return seen and bool(conditions) and all(c["reason"] and c["message"] for c in conditions)

    eventually(observed, lambda: f"it is reconciled: {json.dumps(world.get(plural, 'any'), indent=1)}")


def _settled_ending(world: World, plural: str, manifest: Manifest, *, patient: bool = True) -> dict[str, Any]:
    """Apply a spec, let it settle, and return what is there then."""
    assert _offer(world, plural, manifest)
    _wait_until_observed(world, plural)
    last: list[dict[str, Any]] = [_played(world)]

    def still() -> bool:
        last.append(_played(world))
        return len(last) > 30 and all(state == last[-1] for state in last[-30:])

    if patient:
        eventually(still, "it settles", seconds=SETTLE_SECONDS)
    return last[-1]


def _played(world: World) -> dict[str, Any]:
    """Let the cluster's other controllers do their part, and return what is there."""
    simulate_controllers(world)
    return final_state(world)


def _is_like(actual: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether all is as expected; which preparation was the last one does not matter, and keys are kept."""
    return not _differences(actual, expected)


def _describe_differences(world: World, expected: dict[str, Any]) -> str:
    return "\n".join(["", *_differences(final_state(world), expected)])


def _differences(actual: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    lines = []
    for plural in expected:
        for name in expected[plural] | actual[plural]:
            one, other = actual[plural].get(name), expected[plural].get(name)
            is_record = plural in ("jobs", "configmaps") and "-prepare" in name
            # Pods that show a text notice only a file that is empty, not one that is gone.
            is_kept = other is None and (plural == "secrets" or name.endswith("-about"))
            if not is_record and not is_kept:
                lines += [f"{plural} {name}{line}" for line in differences(one, other)]
    return lines
