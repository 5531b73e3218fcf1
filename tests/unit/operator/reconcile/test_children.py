"""Child objects: creation, ownership, and verdicts that block a reconcile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from bloomery_operator.api.reasons import Reason
from bloomery_operator.cluster.client import ClusterError, KubernetesCluster
from bloomery_operator.cluster.kinds import DEPLOYMENTS, SECRETS, ObjectKey, ResourceKind
from bloomery_operator.cluster.object_cache import ObjectCache
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests.api_keys import build_keys_secret
from bloomery_operator.reconcile import Context
from bloomery_operator.reconcile.blocked import Blocked, blocked_by, rejections_block
from bloomery_operator.reconcile.children import apply_child, create_child, delete_child
from bloomery_operator.reconcile.lookups import require_secret
from tests.unit.operator.samples import Manifest, inference_service, settings

OWNER = inference_service()
SECRET = build_keys_secret(OWNER, "key")
KEY = ObjectKey(OWNER.metadata.namespace, SECRET["metadata"]["name"])
DEPLOYMENT: Manifest = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": SECRET["metadata"] | {"name": "flowers--v1-1"},
    "spec": {"replicas": 1},
}


class OneSecret:
    """A cluster that may have one Secret, or another object, and records writes."""

    def __init__(self, existing: Manifest | None = None) -> None:
        self.existing = existing
        self.written: list[str] = []
        self.read = 0
        self.replaced: Manifest = {}

    async def get(self, kind: ResourceKind, key: ObjectKey) -> Manifest | None:
        assert (kind, key) in ((SECRETS, KEY), (DEPLOYMENTS, ObjectKey(KEY.namespace, "flowers--v1-1")))
        self.read += 1
        return self.existing

    async def create(self, manifest: Manifest) -> Manifest | None:
        if self.existing is not None:
            return None
        self.written.append("create")
        return manifest

    async def apply_new(self, manifest: Manifest) -> Manifest | None:
        return await self.create(manifest)

    async def apply(self, manifest: Manifest) -> Manifest:
        self.written.append("apply")
        return manifest

    async def replace(self, manifest: Manifest) -> Manifest | None:
        assert self.existing is not None
        versions = [m["metadata"]["resourceVersion"] for m in (manifest, self.existing)]
        if versions[0] != versions[1]:
            return None
        self.written.append("replace")
        self.replaced = manifest
        return manifest

    async def delete(self, kind: ResourceKind, key: ObjectKey, *, uid: str | None = None) -> None:
        del kind, key, uid
        self.written.append("delete")


def context(cluster: OneSecret) -> Context:
    async def unused(*_: Any) -> Any:
        return None

    return Context(
        cluster=cluster,  # type: ignore[arg-type]  # the steps under test use these methods only
        object_cache=ObjectCache(),
        settings=settings(),
        read_progress=unused,
        stop_trainer=unused,
        registry=unused,  # type: ignore[arg-type]
        servers=unused,  # type: ignore[arg-type]
    )


def existing(**metadata: Any) -> Manifest:
    """Return the Secret as it exists, with other metadata."""
    return SECRET | {"metadata": SECRET["metadata"] | {"uid": "uid-of-secret", "resourceVersion": "7"} | metadata}


def owned_by(**owner: Any) -> Mapping[str, Any]:
    return {"ownerReferences": [{"controller": True} | owner]}


FORMER_OWNER = owned_by(kind="InferenceService", name="flowers", uid="uid-of-a-former-one")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, None),
        ({"ownerReferences": []}, Reason.NAME_TAKEN),
        (owned_by(kind="Deployment", name="flowers", uid="other"), Reason.NAME_TAKEN),
        (FORMER_OWNER, Reason.REPLACING),
        ({"deletionTimestamp": "2026-05-01T11:59:00Z"}, Reason.REPLACING),
    ],
    ids=["own", "without owner", "of another owner", "of a former owner of the same name", "being deleted"],
)
@pytest.mark.parametrize("step", [create_child, apply_child])
def test_existing_object_blocks_unless_it_is_the_child(step: Any, metadata: Any, reason: Reason | None) -> None:
    cluster = OneSecret(existing(**metadata))
    verdict = asyncio.run(blocked_by(step(context(cluster), OWNER, SECRET)))
    assert (verdict.reason if verdict else None) == reason
    assert cluster.written == (["replace"] if step is apply_child and reason is None else [])


def test_missing_child_is_created() -> None:
    cluster = OneSecret()
    asyncio.run(create_child(context(cluster), OWNER, SECRET))
    assert cluster.written == ["create"]


@pytest.mark.parametrize("is_new", [True, False], ids=["new owner", "owner with a status"])
def test_child_applied_a_moment_ago_is_not_applied_again(is_new: bool) -> None:
    cluster = OneSecret()
    there = replace(context(cluster), is_first=is_new)
    for _ in range(2):
        asyncio.run(apply_child(there, OWNER, SECRET))
    assert cluster.written == ["create"]
    assert cluster.read == (0 if is_new else 1)


def watching(cluster: OneSecret) -> Context:
    """Return a context whose cache has no Deployment, according to a list and a watch."""
    there = context(cluster)
    there.object_cache.begin_relist(DEPLOYMENTS)
    return there


def test_child_of_a_watched_kind_is_created_without_a_read() -> None:
    cluster = OneSecret()
    asyncio.run(apply_child(watching(cluster), OWNER, DEPLOYMENT))
    assert (cluster.written, cluster.read) == (["create"], 0)


@pytest.mark.parametrize(
    ("metadata", "reason", "written"),
    [({}, None, ["apply"]), ({"ownerReferences": []}, Reason.NAME_TAKEN, []), (FORMER_OWNER, Reason.REPLACING, [])],
    ids=["own", "without owner", "of a former owner of the same name"],
)
def test_child_that_the_watch_has_not_shown_is_read_once_its_creation_fails(
    metadata: Any, reason: Reason | None, written: list[str]
) -> None:
    cluster = OneSecret(DEPLOYMENT | {"metadata": DEPLOYMENT["metadata"] | metadata})
    verdict = asyncio.run(blocked_by(apply_child(watching(cluster), OWNER, DEPLOYMENT)))
    assert (verdict.reason if verdict else None) == reason
    assert (cluster.written, cluster.read) == (written, 1)


def test_child_that_was_applied_is_read_until_the_watch_shows_it() -> None:
    cluster = OneSecret()
    there = watching(cluster)
    asyncio.run(apply_child(there, OWNER, DEPLOYMENT))
    cluster.existing = DEPLOYMENT
    asyncio.run(apply_child(there, OWNER, DEPLOYMENT))
    assert (cluster.written, cluster.read) == (["create"], 1)


@pytest.mark.parametrize(("code", "is_taken"), [(409, True), (422, False)], ids=["name in use", "invalid"])
def test_new_object_is_applied_to_a_version_that_no_object_has(code: int, is_taken: bool) -> None:
    class Refusing(KubernetesCluster):
        def __init__(self) -> None:
            self.sent: list[Manifest] = []

        async def apply(self, manifest: Manifest) -> Manifest:
            self.sent.append(manifest)
            raise ClusterError(code, "", "the object has been modified")

    cluster = Refusing()
    if is_taken:
        assert asyncio.run(cluster.apply_new(DEPLOYMENT)) is None
    else:
        with pytest.raises(ClusterError):
            asyncio.run(cluster.apply_new(DEPLOYMENT))
    assert [sent["metadata"]["resourceVersion"] for sent in cluster.sent] == ["1"]
    assert "resourceVersion" not in DEPLOYMENT["metadata"]


@pytest.mark.parametrize(
    ("is_first", "is_there", "written", "read"),
    [(True, False, [], 0), (False, False, [], 1), (False, True, ["replace"], 1)],
)
def test_unneeded_child_is_updated_only_if_it_exists(
    is_first: bool, is_there: bool, written: list[str], read: int
) -> None:
    cluster = OneSecret(existing() if is_there else None)
    there = replace(context(cluster), is_first=is_first)
    asyncio.run(apply_child(there, OWNER, SECRET, is_needed=False))
    assert (cluster.written, cluster.read) == (written, read)


def test_replaced_child_keeps_what_others_added_to_its_metadata() -> None:
    cluster = OneSecret(existing(annotations={"team": "a"}, labels={"team": "a"}))
    asyncio.run(apply_child(context(cluster), OWNER, SECRET))
    assert cluster.replaced["metadata"]["annotations"] == {"team": "a"}
    assert cluster.replaced["metadata"]["labels"] == {"team": "a"} | SECRET["metadata"]["labels"]
    assert cluster.replaced["data"] == SECRET["data"]


def test_child_that_changes_meanwhile_is_tried_again() -> None:
    class Changing(OneSecret):
        async def replace(self, manifest: Manifest) -> Manifest | None:
            del manifest
            return None

    with pytest.raises(ClusterError, match="'flowers-api-key' was changed meanwhile") as error:
        asyncio.run(apply_child(context(Changing(existing())), OWNER, SECRET))
    assert error.value.code == 409


@pytest.mark.parametrize(("metadata", "written"), [({}, ["delete"]), (FORMER_OWNER, [])], ids=["own", "other"])
def test_only_an_own_child_is_deleted(metadata: Any, written: list[str]) -> None:
    cluster = OneSecret(existing(**metadata))
    asyncio.run(delete_child(context(cluster), OWNER, SECRETS, KEY.name))
    assert cluster.written == written


def test_missing_secret_blocks_with_advice() -> None:
    step = require_secret(context(OneSecret()), KEY.namespace, KEY.name, advice="Create it.")
    verdict = asyncio.run(blocked_by(step))
    assert verdict is not None
    assert verdict.reason is Reason.SECRET_NOT_FOUND
    assert verdict.message.endswith("Create it.")


def test_rejected_request_blocks_and_other_errors_pass() -> None:
    with pytest.raises(Blocked) as blocked, rejections_block():
        raise ClusterError(403, "Forbidden", "exceeded quota")
    assert blocked.value.verdict.reason is Reason.REFUSED
    with pytest.raises(ClusterError), rejections_block():
        raise ClusterError(500, "InternalError", "etcd is down")


def test_blocked_carries_its_verdict() -> None:
    verdict = Verdict(Reason.REPLACING, "Wait.")
    assert str(Blocked(verdict)) == "Wait."
