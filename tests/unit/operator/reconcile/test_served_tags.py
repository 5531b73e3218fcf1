"""Tags of the model versions that services serve: written and removed beside all other work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest

from bloomery_operator.cluster.kinds import DEPLOYMENTS, INFERENCE_SERVICES, ObjectKey, ResourceKind
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.domain.served_model import ServedModel, ServedVersion, model_annotations
from bloomery_operator.reconcile import Context, served_tags
from bloomery_operator.reconcile.served_tags import ServedTags
from tests.unit.operator.samples import Manifest, inference_service, metadata, settings

KEY = "bloomery.dev/served-by.bloomery.demo.flowers"
FLOWERS = ObjectKey("demo", "flowers")


class Registry:
    """Tags of model versions; a namespace's registry may hang or reject."""

    def __init__(self, *, hangs: str = "") -> None:
        self.tags: dict[tuple[ServedVersion, str], str] = {}
        self.requests: list[str] = []
        self.accepts = True
        self._hangs = hangs

    async def tag_served(
        self, environment: Mapping[str, str], model: ServedVersion, *, tag: str, variants: str
    ) -> bool:
        del environment
        self.requests.append(tag)
        if self._hangs and f".{self._hangs}." in tag:
            await asyncio.Event().wait()
        if self.accepts and variants:
            self.tags[model, tag] = variants
        elif self.accepts:
            self.tags.pop((model, tag), None)
        return self.accepts


class World:
    """The objects of the cache; annotations are written into it, as a watch would."""

    def __init__(self, **registry: str) -> None:
        self.object_cache = ObjectCache()
        self.registry = Registry(**registry)
        self.now = 1000.0
        self.tags = ServedTags(self._context(), self.registry, clock=lambda: self.now)

    def _context(self) -> Context:
        async def silent(*_: Any) -> Any:
            return None

        return Context(
            cluster=self,  # type: ignore[arg-type]  # only reads Secrets and annotates
            object_cache=self.object_cache,
            settings=settings(),
            read_progress=silent,
            stop_trainer=silent,
            registry=silent,  # type: ignore[arg-type]
            servers=silent,  # type: ignore[arg-type]
        )

    async def get(self, *_: Any) -> None:
        return None

    async def annotate(self, kind: ResourceKind, key: ObjectKey, annotations: Mapping[str, str | None]) -> None:
        manifest = self.object_cache.get(kind, key)
        assert manifest is not None
        known = manifest["metadata"]["annotations"]
        values = {name: value for name, value in {**known, **annotations}.items() if value is not None}
        changed = {"annotations": values, "resourceVersion": str(int(manifest["metadata"]["resourceVersion"]) + 1)}
        self.object_cache.put(kind, {**manifest, "metadata": manifest["metadata"] | changed})

    def serve(self, namespace: str = "demo") -> None:
        """Put the service into the cache."""
        manifest = inference_service().model_dump(mode="json", by_alias=True, exclude_none=True)
        self.object_cache.put(INFERENCE_SERVICES, {**manifest, "metadata": metadata(namespace=namespace)})

    def deploy(
        self, version: str, *, variant: str = "v1", ready: int = 1, namespace: str = "demo", **annotations: str
    ) -> Manifest:
        """Put a Deployment of a model version into the cache."""
        model = ServedModel(uri=f"s3://models/{version}", name="flowers", version=version)
        recorded = model_annotations(inference_service().spec.variants[0], model)
        owner = {"kind": "InferenceService", "name": "flowers", "uid": "uid-of-flowers", "controller": True}
        manifest = {
            "metadata": metadata(
                f"flowers--{variant}-{version}",
                namespace=namespace,
                annotations=recorded | {f"bloomery.dev/{name.replace('_', '-')}": v for name, v in annotations.items()},
                labels={"bloomery.dev/variant": variant},
                ownerReferences=[owner],
            ),
            "spec": {"replicas": 1},
            "status": {"readyReplicas": ready},
        }
        self.object_cache.put(DEPLOYMENTS, manifest)
        return manifest

    async def look(self, key: ObjectKey = FLOWERS) -> None:
        """Look at a service, and wait until its namespace is done."""
        self.tags.look_at(key)
        await self.tags._tasks[key.namespace]


def run(scenario: Callable[[World], Coroutine[Any, Any, None]], **registry: str) -> World:
    async def scenario_in_loop() -> World:
        world = World(**registry)
        await scenario(world)
        return world

    return asyncio.run(scenario_in_loop())


def version(number: str) -> ServedVersion:
    return ("flowers", number)


@pytest.mark.feature("S12")
def test_tag_names_all_variants_that_serve_a_version() -> None:
    async def scenario(world: World) -> None:
        world.serve()
        world.deploy("4", variant="v1")
        world.deploy("4", variant="v2")
        world.deploy("5", variant="v3", ready=0)
        for _ in range(3):
            await world.look()

    world = run(scenario)
    assert world.registry.tags == {(version("4"), KEY): "v1,v2"}
    assert len(world.registry.requests) == 2, "nothing is written again"


@pytest.mark.feature("S12")
def test_tag_goes_with_a_retired_revision_and_with_the_service() -> None:
    async def scenario(world: World) -> None:
        world.serve()
        world.deploy("4")
        await world.look()
        world.deploy("5")
        retired = world.object_cache.get(DEPLOYMENTS, ObjectKey("demo", "flowers--v1-4"))
        assert retired is not None
        await world.annotate(
            DEPLOYMENTS, ObjectKey("demo", "flowers--v1-4"), {"bloomery.dev/retired-at": "2026-05-01T12:00:00Z"}
        )
        await world.look()
        assert world.registry.tags == {(version("5"), KEY): "v1"}
        service = world.object_cache.get(INFERENCE_SERVICES, FLOWERS)
        assert service is not None
        world.object_cache.remove(INFERENCE_SERVICES, service)
        await world.look()
        assert world.tags._memory == {}

    assert run(scenario).registry.tags == {}


@pytest.mark.feature("S12")
def test_tag_that_mlflow_did_not_take_is_written_after_a_pause() -> None:
    async def scenario(world: World) -> None:
        world.serve()
        world.deploy("4")
        world.registry.accepts = False
        for _ in range(5):
            await world.look()
        assert len(world.registry.requests) == 1
        world.registry.accepts = True
        world.now += served_tags.RETRY_SECONDS
        await world.look()

    assert run(scenario).registry.tags == {(version("4"), KEY): "v1"}


@pytest.mark.feature("O7")
def test_tags_of_a_deleted_service_are_not_retried_for_ever() -> None:
    async def scenario(world: World) -> None:
        world.serve()
        world.deploy("4")
        await world.look()
        world.registry.accepts = False
        service = world.object_cache.get(INFERENCE_SERVICES, FLOWERS)
        assert service is not None
        world.object_cache.remove(INFERENCE_SERVICES, service)
        for _ in range(served_tags.MAX_FAILURES + 1):
            world.now += served_tags.RETRY_SECONDS
            await world.look()
        assert world.tags._memory == {}

    run(scenario)


@pytest.mark.feature("O7")
def test_tags_of_another_cluster_stay() -> None:
    """Two clusters with services of the same names may share an MLflow."""
    others = {(version("4"), "bloomery.dev/served-by.berlin.demo.flowers"): "v1"}

    async def scenario(world: World) -> None:
        world.registry.tags |= others
        world.serve()
        world.deploy("5")
        await world.look()
        world.tags.look_at_all()

    assert run(scenario).registry.tags == {**others, (version("5"), KEY): "v1"}


def test_tag_of_an_earlier_version_is_replaced() -> None:
    """The keys of version 0.1 were without the cluster."""

    async def scenario(world: World) -> None:
        world.registry.tags[version("4"), "bloomery.dev/served-by.demo.flowers"] = "v1"
        world.serve()
        world.deploy("4", served_tag="v1")
        await world.look()

    assert run(scenario).registry.tags == {(version("4"), KEY): "v1"}


@pytest.mark.feature("O7")
def test_registry_that_hangs_delays_no_other_namespace() -> None:
    async def scenario(world: World) -> None:
        for namespace in ("one", "two"):
            world.serve(namespace)
            world.deploy("4", namespace=namespace)
            world.tags.look_at(ObjectKey(namespace, "flowers"))
        await asyncio.wait_for(world.tags._tasks["two"], 5)
        world.tags._tasks["one"].cancel()

    world = run(scenario, hangs="one")
    assert world.registry.tags == {(version("4"), "bloomery.dev/served-by.bloomery.two.flowers"): "v1"}
