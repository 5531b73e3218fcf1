"""A life of the three kinds from the first apply to a replaced model, and what is there at its end.

``tell`` plays the user, the Job controller, the kubelet and the gateway; an operator has to do the rest. Whatever
happens to the operator meanwhile, ``ending`` must be the same.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from tests.component.operator_harness import (
    PATHS,
    Gone,
    Manifest,
    World,
    condition_of,
    dataset,
    inference_service,
    prepared,
    trained,
    training_job,
    variant,
)

CHAPTER_SECONDS = 240.0
_OWNERS = ("datasets", "trainingjobs", "inferenceservices")
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
class Chapter:
    """What the user does, and how it is seen to be done."""

    title: str
    act: Callable[[World], object]
    is_done: Callable[[World], bool]


def tell(world: World) -> Iterator[str]:
    """Play all chapters; gives the title of the one that is under way, again and again."""
    for chapter in CHAPTERS:
        chapter.act(world)
        deadline = time.monotonic() + CHAPTER_SECONDS
        while not chapter.is_done(world):
            if time.monotonic() > deadline:
                pytest.fail(
                    f"not within {CHAPTER_SECONDS:.0f} s: {chapter.title}; {json.dumps(ending(world), indent=1)}"
                )
            play(world)
            yield chapter.title


def ending(world: World) -> dict[str, Any]:
    """All that is there, without what differs between two runs that went the same way."""
    found = {plural: [_normal(world, plural, item) for item in world.list(plural)] for plural in (*_OWNERS, *_OURS)}
    return {plural: {item["metadata"]["name"]: item for item in items} for plural, items in found.items()}


def leaves(found: Any, expected: Any, path: str = "") -> Iterator[str]:
    """Where two documents differ, as far down as they are alike in form."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in found | expected:
            yield from leaves(found.get(key), expected.get(key), f"{path}.{key}")
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for number, pair in enumerate(zip(found, expected, strict=True)):
            yield from leaves(*pair, f"{path}[{number}]")
    elif found != expected:
        yield f"{path}: found {json.dumps(found)}, wanted {json.dumps(expected)}"


def versions(world: World) -> dict[tuple[str, str], str]:
    """The resourceVersion of every object."""
    return {
        (plural, item["metadata"]["name"]): item["metadata"]["resourceVersion"]
        for plural in PATHS
        for item in world.list(plural)
    }


def _set_variants(world: World, *variants: Manifest) -> None:
    world.patch("inferenceservices", "flowers", {"spec": {"variants": list(variants)}})


def _is_split(world: World, **weights: int) -> bool:
    """Whether exactly these variants are there, each with one revision, and share the traffic like that."""
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
        found = condition_of(world.get(plural, name), type_)
        return found.get("status") == status and reason in (None, found.get("reason"))

    return met


def _first_apply(world: World) -> None:
    for manifest in (dataset(), training_job(), inference_service()):
        world.create(manifest)


def _versions_of_dataset(world: World, count: int) -> bool:
    manifest = world.get("datasets", "flowers") or {}
    status = manifest.get("status", {})
    settled = status.get("observedGeneration") == manifest["metadata"]["generation"]
    return settled and len(status.get("versions", [])) == count and _has("datasets", "Ready", "True")(world)


def _is_scaled(world: World, autoscalers: int) -> bool:
    return _is_split(world, v2=100) and len(world.names("horizontalpodautoscalers")) == autoscalers


def _shows_tensorboard(world: World, wanted: bool) -> bool:
    status = (world.get("trainingjobs", "flowers") or {}).get("status", {})
    there = ["flowers-tensorboard" in world.names(plural) for plural in ("deployments", "services")]
    return {*there, "tensorboardURL" in status} == {wanted}


_TRAINED = {"name": "v1", "model": {"trainingJob": "flowers"}}
CHAPTERS = (
    Chapter("one apply ends in a served model", _first_apply, lambda w: _is_split(w, v1=100)),
    Chapter(
        "images are added",
        lambda w: w.patch("datasets", "flowers", {"spec": {"append": [{"uri": "s3://flowers/more"}]}}),
        lambda w: _versions_of_dataset(w, 2),
    ),
    Chapter(
        "a second variant comes",
        lambda w: _set_variants(w, _TRAINED | {"weight": 50}, variant("v2", 50)),
        lambda w: _is_split(w, v1=50, v2=50),
    ),
    Chapter(
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
    Chapter(
        "it is stopped",
        lambda w: w.patch("inferenceservices", "flowers", {"spec": {"stopped": True}}),
        _has("inferenceservices", "Ready", "False", "Stopped"),
    ),
    Chapter(
        "and started",
        lambda w: w.patch("inferenceservices", "flowers", {"spec": {"stopped": False}}),
        lambda w: _is_split(w, v1=10, v2=90),
    ),
    Chapter(
        "the first variant goes",
        lambda w: _set_variants(w, variant("v2", 100, model="s3://models/better")),
        lambda w: _is_split(w, v2=100),
    ),
    Chapter(
        "an autoscaler takes over",
        lambda w: _set_variants(w, variant("v2", 100, model="s3://models/better", autoscaling={"min": 1, "max": 3})),
        lambda w: _is_scaled(w, autoscalers=1),
    ),
    Chapter(
        "and goes",
        lambda w: _set_variants(w, variant("v2", 100, model="s3://models/better")),
        lambda w: _is_scaled(w, autoscalers=0),
    ),
    Chapter(
        "TensorBoard is asked for",
        lambda w: w.patch("trainingjobs", "flowers", {"spec": {"tensorboard": True}}),
        lambda w: _shows_tensorboard(w, True),
    ),
    Chapter(
        "and not any more",
        lambda w: w.patch("trainingjobs", "flowers", {"spec": {"tensorboard": False}}),
        lambda w: _shows_tensorboard(w, False),
    ),
    Chapter(
        "a training is suspended before it begins",
        lambda w: w.create(training_job("tulips", suspend=True)),
        _has("trainingjobs", "Suspended", "True", name="tulips"),
    ),
    Chapter(
        "and resumed",
        lambda w: w.patch("trainingjobs", "tulips", {"spec": {"suspend": False}}),
        _has("trainingjobs", "Complete", "True", name="tulips"),
    ),
    Chapter(
        "and deleted",
        lambda w: w.delete("trainingjobs", "tulips"),
        lambda w: w.get("trainingjobs", "tulips") is None,
    ),
)


def play(world: World) -> None:
    """Be the Job controller, the kubelets, the gateway and the garbage collector for one look: all goes well."""
    jobs = {job["metadata"]["uid"] for job in world.list("jobs")}
    for pod in world.list("pods"):
        if pod["metadata"]["ownerReferences"][0]["uid"] not in jobs:
            world.delete("pods", pod["metadata"]["name"])
    # The operator may remove any of them between two looks.
    for job in world.list("jobs"):
        name = job["metadata"]["name"]
        if not job["spec"].get("suspend") and not job.get("status", {}).get("completionTime"):
            with suppress(Gone):
                world.succeed(name, _prepared(world, name) if name.endswith("-prepare") else trained())
    for deployment in world.list("deployments"):
        wanted = deployment["spec"].get("replicas", 0)
        status = deployment.get("status", {})
        seen = status.get("observedGeneration") == deployment["metadata"]["generation"]
        if not seen or status.get("readyReplicas", 0) != wanted:
            with suppress(Gone):
                world.set_ready(deployment["metadata"]["name"], wanted, seen=deployment)
    for route in world.list("httproutes"):
        parents = route.get("status", {}).get("parents", [])
        conditions = [c for parent in parents for c in parent["conditions"]]
        if not any(c["observedGeneration"] == route["metadata"]["generation"] for c in conditions):
            with suppress(Gone):
                world.accept_route(route["metadata"]["name"], seen=route)


def _prepared(world: World, job: str) -> Manifest:
    """Return another version for other images."""
    configurations = json.dumps([item.get("data", {}) for item in world.list("configmaps")])
    return prepared("b" if "flowers/more" in configurations else "a")


def _normal(world: World, plural: str, item: Manifest) -> Manifest:
    metadata = {key: value for key, value in item["metadata"].items() if key not in _VOLATILE}
    content = {key: value for key, value in item.items() if key not in ("metadata", "data", "status")}
    if plural in _OWNERS:
        content["status"] = item.get("status", {})
    keys = sorted(item.get("data", {}))
    text = json.dumps(content | {"metadata": metadata, "keys": keys}).replace(world.namespace, "NAMESPACE")
    for pattern, word in _VARYING.items():
        text = pattern.sub(word, text)
    normal: Manifest = json.loads(text)
    return normal
