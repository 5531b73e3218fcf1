"""The objects that an event queues, and the liveness check."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bloomery_operator.cluster.client import Listing
from bloomery_operator.cluster.kinds import (
    DATASETS,
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    JOBS,
    PODS,
    RETRAININGS,
    TRAINING_JOBS,
    ObjectKey,
    ObjectReference,
    ResourceKind,
)
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.controller.controller import RECONCILERS, Controller
from bloomery_operator.controller.workqueue import WorkerSlots
from bloomery_operator.metrics import OperatorMetrics
from bloomery_operator.reconcile import Context
from bloomery_operator.reconcile.served_tags import ServedTags
from tests.unit.operator.samples import Manifest, metadata, settings


class Lists:
    """A cluster that can only be listed, and has nothing to get."""

    def __init__(self) -> None:
        self.objects: dict[ResourceKind, tuple[Manifest, ...]] = {}

    async def list(self, kind: ResourceKind, *, namespace: str | None, selector: str) -> Listing:
        del namespace, selector
        return Listing(self.objects.get(kind, ()), versions=("1000",))

    async def get(self, *_: Any) -> None:
        return None


@pytest.fixture
def lists() -> Lists:
    return Lists()


@pytest.fixture
def object_cache() -> ObjectCache:
    return ObjectCache()


@pytest.fixture
def controller(lists: Lists, object_cache: ObjectCache) -> Controller:
    async def silent(*_: Any) -> Any:
        return None

    context = Context(
        cluster=lists,  # type: ignore[arg-type]  # what is tested here only lists
        object_cache=object_cache,
        settings=settings(),
        read_progress=silent,
        stop_trainer=silent,
        registry=silent,  # type: ignore[arg-type]
        servers=silent,  # type: ignore[arg-type]
    )
    return Controller(
        context,
        OperatorMetrics(),
        kinds=(DATASETS, TRAINING_JOBS, INFERENCE_SERVICES, JOBS),
        slots=WorkerSlots(8),
        served_tags=ServedTags(context, silent),  # type: ignore[arg-type]
    )


def queued(controller: Controller) -> set[str]:
    return {str(item) for item in controller._queue._ready}


def delayed(controller: Controller) -> set[str]:
    return {str(item) for item in controller._queue._delayed}


def test_event_of_a_child_queues_its_owner(controller: Controller) -> None:
    for kind, label in (
        (JOBS, "dataset"),
        (PODS, "trainingjob"),
        (DEPLOYMENTS, "inferenceservice"),
    ):
        labels = {f"bloomery.dev/{label}": "flowers"}
        controller.observe(kind, {"metadata": metadata("child", labels=labels)}, deleted=False)
    # Further events of the same start or end may follow.
    assert queued(controller) == set()
    assert delayed(controller) == {
        "Dataset demo/flowers",
        "TrainingJob demo/flowers",
        "InferenceService demo/flowers",
    }


@pytest.mark.parametrize(
    "change", [{"generation": 2}, {"annotations": {"bloomery.dev/refresh": "2"}}, {"labels": {"team": "a"}}]
)
def test_owners_status_is_reconciled_a_moment_later_than_its_spec(
    controller: Controller, object_cache: ObjectCache, change: Manifest
) -> None:
    def job(version: str, **fields: Any) -> Manifest:
        known = metadata("flowers", resourceVersion=version, **{"generation": 1, **fields})
        return {"metadata": known, "spec": {"datasets": []}}

    object_cache.put(TRAINING_JOBS, job("100"))
    controller.observe(TRAINING_JOBS, job("101"), deleted=False)
    assert (queued(controller), delayed(controller)) == (set(), {"TrainingJob demo/flowers"})
    controller.observe(TRAINING_JOBS, job("102", **change), deleted=False)
    assert (queued(controller), delayed(controller)) == ({"TrainingJob demo/flowers"}, set())


def test_event_of_an_owner_queues_its_dependents(controller: Controller, object_cache: ObjectCache) -> None:
    waiting = {"metadata": metadata("waiting"), "spec": {"datasets": [{"name": "flowers"}]}}
    other = {"metadata": metadata("other"), "spec": {"datasets": [{"name": "tulips"}]}}
    elsewhere = {"metadata": metadata("waiting", namespace="elsewhere"), "spec": {"datasets": [{"name": "flowers"}]}}
    for manifest in (waiting, other, elsewhere):
        object_cache.put(TRAINING_JOBS, manifest)
    service = {"metadata": metadata("shop"), "spec": {"variants": [{"model": {"trainingJob": "waiting"}}]}}
    object_cache.put(INFERENCE_SERVICES, service)
    controller.observe(DATASETS, {"metadata": metadata("flowers"), "spec": {}}, deleted=True)
    controller.observe(TRAINING_JOBS, waiting, deleted=False)
    assert queued(controller) == {
        "Dataset demo/flowers",
        "TrainingJob demo/waiting",
        "InferenceService demo/shop",
    }


@pytest.mark.feature("S23")
def test_event_of_a_dataset_or_of_its_training_queues_a_retraining(
    controller: Controller, object_cache: ObjectCache
) -> None:
    for name, dataset in (("flowers", "flowers"), ("tulips", "tulips")):
        template = {"spec": {"datasets": [{"name": dataset}]}}
        object_cache.put(RETRAININGS, {"metadata": metadata(name), "spec": {"template": template}})
    controller.observe(DATASETS, {"metadata": metadata("tulips"), "spec": {}}, deleted=False)
    training = {"metadata": metadata("flowers-1", labels={"bloomery.dev/retraining": "flowers"}), "spec": {}}
    controller.observe(TRAINING_JOBS, training, deleted=True)
    assert queued(controller) == {
        "Dataset demo/tulips",
        "Retraining demo/tulips",
        "TrainingJob demo/flowers-1",
        "Retraining demo/flowers",
    }


def test_changed_path_queues_services_with_overlapping_paths(controller: Controller, object_cache: ObjectCache) -> None:
    def service(name: str, path: str, **meta: Any) -> Manifest:
        return {"metadata": metadata(name, **meta), "spec": {"path": path, "variants": []}}

    others = {"below": "/shop/all", "equal": "/shop", "around": "/old", "beside": "/shopping"}
    for name, path in others.items():
        object_cache.put(INFERENCE_SERVICES, service(name, path))
    # A service of another namespace looks again by itself: nobody can make the operator work for others.
    object_cache.put(INFERENCE_SERVICES, service("elsewhere", "/shop/x", namespace="elsewhere"))
    older = service("older", "/old/one")
    object_cache.put(INFERENCE_SERVICES, older)
    controller.observe(INFERENCE_SERVICES, older, deleted=False)
    assert (queued(controller), delayed(controller)) == (set(), {"InferenceService demo/older"})
    controller.observe(INFERENCE_SERVICES, service("older", "/shop", resourceVersion="101"), deleted=False)
    assert queued(controller) == {f"InferenceService demo/{name}" for name in ("older", "below", "equal", "around")}


def test_resync_queues_every_owner(controller: Controller, lists: Lists) -> None:
    lists.objects = {
        DATASETS: (
            {"metadata": metadata("a")},
            {"metadata": metadata("b")},
        )
    }
    asyncio.run(controller.resync())
    assert {ObjectReference(DATASETS, ObjectKey("demo", name)) for name in ("a", "b")} == set(controller._queue._ready)


def test_metrics_count_objects_by_phase(controller: Controller, object_cache: ObjectCache) -> None:
    for name, status in (("a", {"phase": "Running"}), ("b", {"phase": "Running"}), ("new", {})):
        object_cache.put(TRAINING_JOBS, {"metadata": metadata(name), "status": status})
    text = controller._metrics.exposition().decode()
    assert 'bloomery_objects{kind="TrainingJob",namespace="demo",phase="Running"} 2.0' in text
    assert 'bloomery_objects{kind="TrainingJob",namespace="demo",phase="Pending"} 1.0' in text


def test_liveness_fails_when_a_watch_misses_an_object_twice(controller: Controller, lists: Lists) -> None:
    assert controller.liveness_error() is None
    lists.objects = {JOBS: ({"metadata": metadata("a")},)}
    asyncio.run(controller.resync())
    assert controller.liveness_error() is None, "an event may be just under way"
    lists.objects = {JOBS: ({"metadata": metadata("a", resourceVersion="101")},)}
    asyncio.run(controller.resync())
    assert controller.liveness_error() == "the watch of jobs is dead: it missed Job demo/a in two resyncs"


@pytest.mark.parametrize("has_event", [False, True])
def test_own_write_to_a_missed_object_is_expected_as_an_event(
    controller: Controller, lists: Lists, object_cache: ObjectCache, has_event: bool
) -> None:
    lists.objects = {TRAINING_JOBS: ({"metadata": metadata("a")},)}
    asyncio.run(controller.resync())
    # Its status is written, and is in the cache at once.
    written = {"metadata": metadata("a", resourceVersion="101")}
    object_cache.put(TRAINING_JOBS, written)
    if has_event:
        controller.observe(TRAINING_JOBS, written, deleted=False)
    lists.objects = {TRAINING_JOBS: (written,)}
    asyncio.run(controller.resync())
    assert (controller.liveness_error() is None) == has_event


def test_liveness_passes_when_a_watch_is_only_late(controller: Controller, lists: Lists) -> None:
    lists.objects = {JOBS: ({"metadata": metadata("a")},)}
    asyncio.run(controller.resync())
    controller.observe(JOBS, {"metadata": metadata("a")}, deleted=False)
    lists.objects = {JOBS: ({"metadata": metadata("a", resourceVersion="101")},)}
    asyncio.run(controller.resync())
    assert controller.liveness_error() is None


def test_missed_changes_do_not_count_the_first_list(controller: Controller, lists: Lists) -> None:
    async def start_and_list_again() -> None:
        lists.objects = {JOBS: ({"metadata": metadata("a")},)}
        await controller.resync(is_first=True)
        lists.objects = {JOBS: ({"metadata": metadata("a")}, {"metadata": metadata("b")})}
        await controller.resync()

    asyncio.run(start_and_list_again())
    assert b'bloomery_missed_changes_total{kind="Job"} 1.0' in controller._metrics.exposition()


def test_cancelled_run_ends_only_after_the_reconciles_have_ended(
    controller: Controller, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connections that they use are closed right after it."""
    ended = []

    async def scenario() -> None:
        began = asyncio.Event()

        async def reconcile(*_: Any) -> None:
            try:
                began.set()
                await asyncio.Event().wait()
            finally:
                # As the end of a request does, which takes some rounds of the event loop.
                for _ in range(20):
                    await asyncio.sleep(0)
                ended.append(True)

        monkeypatch.setitem(RECONCILERS, DATASETS, reconcile)
        lists.objects[DATASETS] = ({"metadata": metadata()},)
        run = asyncio.create_task(controller.run())
        await began.wait()
        run.cancel()
        await asyncio.wait([run])
        assert ended == [True]

    asyncio.run(scenario())
