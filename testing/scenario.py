"""A scenario with all kinds, from the first apply to a replaced model, and its final state.

``run_scenario`` acts as the user, the Job controller, the kubelet and the gateway; the test runs the operator.
``final_state`` must be the same whatever happens to the operator during the scenario.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from bloomery_operator.domain.digest import digest_of
from testing.kubernetes_api import PATHS, Gone, Manifest, condition_of
from testing.samples import dataset, inference_service, prepared, retraining, trained, training_job, variant
from testing.simulated_controllers import World

STEP_TIMEOUT_SECONDS = 240.0
_OWNERS = ("datasets", "trainingjobs", "retrainings", "inferenceservices")
_OURS = (
    *("jobs", "deployments", "services", "configmaps", "secrets", "httproutes", "backendtrafficpolicies"),
    *("poddisruptionbudgets", "horizontalpodautoscalers"),
)
_VARYING = {
    re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"): "TIME",
    re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"): "UID",
    re.compile(r'"observedGeneration": \d+'): '"observedGeneration": 0',
    re.compile(r"10\.96\.\d+\.\d+"): "ADDRESS",
}
_VOLATILE = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "selfLink")


@dataclass(frozen=True)
class Step:
    """An action of the user, and the check that it is finished."""

    title: str
    act: Callable[[World], object]
    is_done: Callable[[World], bool]


def run_scenario(world: World) -> Iterator[str]:
    """Run all steps; yield the title of the current step after each round of the simulated controllers."""
    for step in STEPS:
        step.act(world)
        deadline = time.monotonic() + STEP_TIMEOUT_SECONDS
        while not step.is_done(world):
            if time.monotonic() > deadline:
                pytest.fail(
                    f"not within {STEP_TIMEOUT_SECONDS:.0f} s: {step.title}; {json.dumps(final_state(world), indent=1)}"
                )
            simulate_controllers(world)
            yield step.title


def final_state(world: World) -> dict[str, Any]:
    """Return all objects, without the values that differ between two equal runs."""
    names = _names_by_number(world)
    objects = {
        plural: [_normal(world, plural, item, names) for item in world.list(plural)] for plural in (*_OWNERS, *_OURS)
    }
    return {plural: {item["metadata"]["name"]: item for item in items} for plural, items in objects.items()}


def differences(actual: Any, expected: Any, path: str = "") -> Iterator[str]:
    """Yield the paths at which two documents differ."""
    if isinstance(actual, dict) and isinstance(expected, dict):
        for key in actual | expected:
            yield from differences(actual.get(key), expected.get(key), f"{path}.{key}")
    elif isinstance(actual, list) and isinstance(expected, list) and len(actual) == len(expected):
        for number, pair in enumerate(zip(actual, expected, strict=True)):
            yield from differences(*pair, f"{path}[{number}]")
    elif actual != expected:
        yield f"{path}: is {json.dumps(actual)}, should be {json.dumps(expected)}"


def resource_versions(world: World) -> dict[tuple[str, str], str]:
    """Return the resourceVersion of every object."""
    return {
        (plural, item["metadata"]["name"]): item["metadata"]["resourceVersion"]
        for plural in PATHS
        for item in world.list(plural)
    }


def _set_variants(world: World, *variants: Manifest) -> None:
    world.patch("inferenceservices", "flowers", {"spec": {"variants": list(variants)}})


def _is_split(world: World, **weights: int) -> bool:
    """Return whether exactly these variants exist, each with one revision and this weight."""
    manifest = world.get("inferenceservices", "flowers") or {}
    status = manifest.get("status", {})
    names = {name for variant_ in weights for name in world.deployments_of("flowers", variant_)}
    split = {entry["name"]: entry["weight"] for entry in status.get("variants", [])}
    settled = manifest.get("metadata", {}).get("generation") == status.get("observedGeneration")
    return (
        settled
        and split == weights
        and len(names) == len(weights)
        and world.names("deployments") == names
        and condition_of(manifest, "Ready").get("status") == "True"
        and sorted(world.weights("flowers").values()) == sorted(weights.values())
    )


def _has(
    plural: str, type_: str, status: str, reason: str | None = None, *, name: str = "flowers"
) -> Callable[[World], bool]:
    def met(world: World) -> bool:
        condition = condition_of(world.get(plural, name), type_)
        return condition.get("status") == status and reason in (None, condition.get("reason"))

    return met


def _first_apply(world: World) -> None:
    for manifest in (dataset(), training_job(), inference_service()):
        world.create(manifest)


def _versions_of_dataset(world: World, count: int) -> bool:
    manifest = world.get("datasets", "flowers") or {}
    status = manifest.get("status", {})
    settled = status.get("observedGeneration") == manifest["metadata"]["generation"]
    return settled and len(status.get("versions", [])) == count and _has("datasets", "Ready", "True")(world)


def _has_retrained(world: World, trainings: int, jobs: int) -> bool:
    manifest = world.get("retrainings", "lilies") or {}
    status = manifest.get("status", {})
    names = [name for name in world.names("trainingjobs") if name.startswith("lilies-")]
    return (status.get("phase"), status.get("trainings"), len(names)) == ("Waiting", trainings, jobs)


def _is_scaled(world: World, autoscalers: int) -> bool:
    return _is_split(world, v2=100) and len(world.names("horizontalpodautoscalers")) == autoscalers


def _shows_tensorboard(world: World, expected: bool) -> bool:
    status = (world.get("trainingjobs", "flowers") or {}).get("status", {})
    there = ["flowers-tensorboard" in world.names(plural) for plural in ("deployments", "services")]
    return {*there, "tensorboardURL" in status} == {expected}


_TRAINED = {"name": "v1", "model": {"trainingJob": "flowers"}}
STEPS = (
    Step("one apply ends in a served model", _first_apply, lambda w: _is_split(w, v1=100)),
    Step(
        "images are added",
        lambda w: w.patch("datasets", "flowers", {"spec": {"append": [{"uri": "s3://flowers/more"}]}}),
        lambda w: _versions_of_dataset(w, 2),
    ),
    Step(
        "a second variant comes",
        lambda w: _set_variants(w, _TRAINED | {"weight": 50}, variant("v2", 50)),
        lambda w: _is_split(w, v1=50, v2=50),
    ),
    Step(
        "its model is replaced by steps",
        lambda w: w.patch(
            "inferenceservices",
            "flowers",
            {
                "spec": {
                    "rollout": {"steps": [40], "interval": "1s"},
                    "variants": [_TRAINED | {"weight": 10}, variant("v2", 90, model="s3://models/better")],
                }
            },
        ),
        lambda w: _is_split(w, v1=10, v2=90),
    ),
    Step(
        "it is stopped",
        lambda w: w.patch("inferenceservices", "flowers", {"spec": {"stopped": True}}),
        _has("inferenceservices", "Ready", "True", "Stopped"),
    ),
    Step(
        "and started",
        lambda w: w.patch("inferenceservices", "flowers", {"spec": {"stopped": False}}),
        lambda w: _is_split(w, v1=10, v2=90),
    ),
    Step(
        "the first variant goes",
        lambda w: _set_variants(w, variant("v2", 100, model="s3://models/better")),
        lambda w: _is_split(w, v2=100),
    ),
    Step(
        "an autoscaler takes over",
        lambda w: _set_variants(w, variant("v2", 100, model="s3://models/better", autoscaling={"min": 1, "max": 3})),
        lambda w: _is_scaled(w, autoscalers=1),
    ),
    Step(
        "and goes",
        lambda w: _set_variants(w, variant("v2", 100, model="s3://models/better")),
        lambda w: _is_scaled(w, autoscalers=0),
    ),
    Step(
        "a Retraining trains on the version that is there",
        lambda w: w.create(retraining("lilies", onNewVersion=True, historyLimit=1)),
        lambda w: _has_retrained(w, trainings=1, jobs=1),
    ),
    Step(
        "and on the next one, after which the first training goes",
        lambda w: w.patch("datasets", "flowers", {"spec": {"append": [{"uri": "s3://flowers/most"}]}}),
        lambda w: _has_retrained(w, trainings=2, jobs=1),
    ),
    Step(
        "TensorBoard is asked for",
        lambda w: w.patch("trainingjobs", "flowers", {"spec": {"tensorboard": True}}),
        lambda w: _shows_tensorboard(w, True),
    ),
    Step(
        "and not any more",
        lambda w: w.patch("trainingjobs", "flowers", {"spec": {"tensorboard": False}}),
        lambda w: _shows_tensorboard(w, False),
    ),
    Step(
        "a training is suspended before it begins",
        lambda w: w.create(training_job("tulips", suspend=True)),
        _has("trainingjobs", "Suspended", "True", name="tulips"),
    ),
    Step(
        "and resumed",
        lambda w: w.patch("trainingjobs", "tulips", {"spec": {"suspend": False}}),
        _has("trainingjobs", "Complete", "True", name="tulips"),
    ),
    Step(
        "and deleted",
        lambda w: w.delete("trainingjobs", "tulips"),
        lambda w: w.get("trainingjobs", "tulips") is None,
    ),
)


def simulate_controllers(world: World) -> None:
    """Act once as Job controller, kubelets, gateway and garbage collector, with success everywhere."""
    _collect_garbage(world)
    # The operator may delete any object between a list and an update.
    for job in world.list("jobs"):
        name = job["metadata"]["name"]
        if not job["spec"].get("suspend") and not job.get("status", {}).get("completionTime"):
            with suppress(Gone):
                world.succeed(name, _preparation_result(world) if name.endswith("-prepare") else trained())
    for deployment in world.list("deployments"):
        replicas = deployment["spec"].get("replicas", 0)
        status = deployment.get("status", {})
        seen = status.get("observedGeneration") == deployment["metadata"]["generation"]
        if not seen or status.get("readyReplicas", 0) != replicas:
            with suppress(Gone):
                world.set_ready(deployment["metadata"]["name"], replicas, seen=deployment)
    for route in world.list("httproutes"):
        parents = route.get("status", {}).get("parents", [])
        conditions = [c for parent in parents for c in parent["conditions"]]
        if not any(c["observedGeneration"] == route["metadata"]["generation"] for c in conditions):
            with suppress(Gone):
                world.accept_route(route["metadata"]["name"], seen=route)


def _collect_garbage(world: World) -> None:
    """Delete what belongs to an owner that is gone."""
    # The owners last: one that is created meanwhile has no children yet.
    dependents = [(plural, item["metadata"]) for plural in (*_OURS, "pods") for item in world.list(plural)]
    owners = {item["metadata"]["uid"] for plural in (*_OWNERS, "jobs") for item in world.list(plural)}
    for plural, metadata in dependents:
        references = metadata.get("ownerReferences", [])
        if references and not any(reference["uid"] in owners for reference in references):
            world.delete(plural, metadata["name"])


def _preparation_result(world: World) -> Manifest:
    """Return the result of a preparation, with another version each time that images were added."""
    configurations = json.dumps([item.get("data", {}) for item in world.list("configmaps")])
    if "flowers/most" in configurations:
        return prepared("c")
    return prepared("b" if "flowers/more" in configurations else "a")


def _names_by_number(world: World) -> dict[str, str]:
    """Return another name for each training of a Retraining: its own is a hash of the uid."""
    return {
        f"{name}-{digest_of([uid, number])}": f"{name}-{number}"
        for name, uid, trainings in (
            (item["metadata"]["name"], item["metadata"]["uid"], item.get("status", {}).get("trainings", 0))
            for item in world.list("retrainings")
        )
        for number in range(1, trainings + 1)
    }


def _normal(world: World, plural: str, item: Manifest, names: Mapping[str, str]) -> Manifest:
    metadata = {key: value for key, value in item["metadata"].items() if key not in _VOLATILE}
    content = {key: value for key, value in item.items() if key not in ("metadata", "data", "status")}
    if plural in _OWNERS:
        content["status"] = item.get("status", {})
    keys = sorted(item.get("data", {}))
    text = json.dumps(content | {"metadata": metadata, "keys": keys}).replace(world.namespace, "NAMESPACE")
    for name, other in names.items():
        text = text.replace(name, other)
    for pattern, word in _VARYING.items():
        text = pattern.sub(word, text)
    normal: Manifest = json.loads(text)
    return normal
