"""The one client of the API server: live reads and all writes.

``kubernetes.aio`` carries the requests; the paths are known, so nothing is discovered at run time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kubernetes.aio import client as kube

from bloomery_operator.api.base import Manifest
from bloomery_operator.cluster.kinds import Key, Kind, kind_of
from bloomery_operator.cluster.trimming import trimmed

FIELD_MANAGER = "bloomery-operator"
PAGE_SIZE = 100

# With the charset, kubernetes.aio sends a text as it is.
_APPLY = "application/apply-patch+yaml; charset=utf-8"
_MERGE = "application/merge-patch+json"
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class ClusterError(Exception):
    """The API server refused a request; ``code`` is the HTTP status, ``reason`` and ``causes`` the API's own words."""

    def __init__(self, code: int, reason: str, message: str, *, causes: tuple[str, ...] = ()) -> None:
        """Keep what the API server answered."""
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.causes = causes

    @property
    def is_refusal(self) -> bool:
        """Whether the same request would be refused again: the request is wrong, or not allowed."""
        # A field that the schema does not have is called an internal error by server-side apply.
        is_mistyped = self.code == 500 and "typed patch object" in str(self)
        return self.code in (400, 403, 422) or is_mistyped

    @property
    def is_unknown_kind(self) -> bool:
        """Whether the API server does not have the kind; of an object that is missing it says so in its own words."""
        return self.code == 404 and self.reason != "NotFound"


@dataclass(frozen=True)
class Listing:
    """What a list was answered with."""

    items: tuple[Manifest, ...]
    versions: tuple[str, ...]
    """The resourceVersion of the answer, or of each namespace's: they tell how old it is."""


class MayNotWrite(Exception):
    """Another process may be at work by now: this one must not write any more."""


class Cluster(Protocol):
    """What reconciling needs of a cluster."""

    async def get(self, kind: Kind, key: Key) -> Manifest | None:
        """Return the object as it is now, or None."""

    async def list(self, kind: Kind, *, namespace: str | None, selector: str) -> Listing:
        """Return the objects with those labels."""

    async def create(self, manifest: Manifest) -> Manifest | None:
        """Create the object; None where one of that name exists already."""

    async def apply(self, manifest: Manifest) -> Manifest:
        """Make the object as described, server-side, owning the described fields."""

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """Make the status as described, server-side."""

    async def annotate(self, kind: Kind, key: Key, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of an object that may be gone; None removes one."""

    async def merge(self, kind: Kind, key: Key, change: Manifest) -> None:
        """Change the named fields of an object that may be gone, and nothing else."""

    async def delete(self, kind: Kind, key: Key, *, uid: str | None = None) -> None:
        """Delete the object, and in the background what it owns; one that is gone, or another by now, is fine."""


class KubernetesCluster:
    """The real form of ``Cluster``."""

    def __init__(
        self, api: kube.ApiClient, *, timeout: float = 30.0, may_write: Callable[[], float] = lambda: math.inf
    ) -> None:
        """Use a configured client, which the caller closes.

        Args:
            timeout: how many seconds an answer may take.
            may_write: for how many seconds it is certain that no other process writes.
        """
        self._api = api
        self._timeout = timeout
        self._may_write = may_write

    async def get(self, kind: Kind, key: Key) -> Manifest | None:
        """Return the object as it is now, or None."""
        if not key.is_possible:
            return None
        try:
            return await self._request("GET", kind.path(key.namespace, key.name))
        except ClusterError as error:
            if error.code == 404:
                return None
            raise

    async def list(self, kind: Kind, *, namespace: str | None, selector: str) -> Listing:
        """Return the objects with those labels, trimmed to what decisions need."""
        query = {"limit": str(PAGE_SIZE)} | ({"labelSelector": selector} if selector else {})
        items: list[Manifest] = []
        while True:
            page = await self._request("GET", kind.path(namespace), query=query)
            names = {"apiVersion": kind.api_version, "kind": kind.kind}
            # Trimmed page by page: some thousand pods in full would be the most that the process ever holds.
            items += (trimmed(kind, names | item) for item in page["items"])
            token = page["metadata"].get("continue")
            if not token:
                return Listing(tuple(items), versions=(page["metadata"]["resourceVersion"],))
            query = query | {"continue": token}

    async def create(self, manifest: Manifest) -> Manifest | None:
        """Create the object; None where one of that name exists already."""
        path = kind_of(manifest).path(manifest["metadata"]["namespace"])
        try:
            return await self._request("POST", path, body=manifest, query=_strict())
        except ClusterError as error:
            if error.reason == "AlreadyExists":
                return None
            raise

    async def replace(self, manifest: Manifest) -> Manifest | None:
        """Replace the object of that resourceVersion; None where it has another by now, or is gone."""
        metadata = manifest["metadata"]
        path = kind_of(manifest).path(metadata["namespace"], metadata["name"])
        try:
            return await self._request("PUT", path, body=manifest, query=_strict())
        except ClusterError as error:
            if error.code in (404, 409):
                return None
            raise

    async def apply(self, manifest: Manifest) -> Manifest:
        """Make the object as described, server-side, owning the described fields."""
        return await self._apply(manifest, subresource=None)

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """Make the status as described, server-side."""
        return await self._apply(manifest, subresource="status")

    async def annotate(self, kind: Kind, key: Key, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of an object that may be gone; None removes one."""
        await self.merge(kind, key, {"metadata": {"annotations": dict(annotations)}})

    async def merge(self, kind: Kind, key: Key, change: Manifest) -> None:
        """Change the named fields of an object that may be gone, and nothing else."""
        path = kind.path(key.namespace, key.name)
        try:
            await self._request("PATCH", path, query=_strict(), body=change, content_type=_MERGE)
        except ClusterError as error:
            if error.code != 404:
                raise

    async def delete(self, kind: Kind, key: Key, *, uid: str | None = None) -> None:
        """Delete the object, and in the background what it owns; one that is gone, or another by now, is fine."""
        body: Manifest = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._request("DELETE", kind.path(key.namespace, key.name), body=body)
        except ClusterError as error:
            if error.code == 409 and uid is not None and await self._is_another(kind, key, uid):
                return
            if error.code != 404:
                raise

    async def _is_another(self, kind: Kind, key: Key, uid: str) -> bool:
        """Whether what has the name is not that object: a conflict may also be one of the API server's with itself."""
        live = await self.get(kind, key)
        return live is None or live["metadata"]["uid"] != uid

    async def _apply(self, manifest: Manifest, *, subresource: str | None) -> Manifest:
        metadata = manifest["metadata"]
        path = kind_of(manifest).path(metadata["namespace"], metadata["name"], subresource)
        query = _strict() | {"force": "true"}
        return await self._request("PATCH", path, body=_yaml(manifest), query=query, content_type=_APPLY)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Manifest | str | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        request = await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        timeout = self._timeout if method == "GET" else min(self._timeout, self._may_write())
        if timeout <= 0:
            raise MayNotWrite(f"{method} {path} was not sent")
        response = await self._api.call_api(*request, _request_timeout=timeout)
        content: bytes = await response.read()  # type: ignore[no-untyped-call]
        if not 200 <= response.status <= 299:
            raise _error(response.status, content)
        document: Any = json.loads(content)
        return dict(document)


def _strict() -> dict[str, str]:
    return {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}


def _yaml(manifest: Manifest) -> str:
    """Return JSON that is YAML too, which takes no halves of a character, as JSON escapes those beyond 16 bits."""
    text = json.dumps(manifest, ensure_ascii=False)
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _error(code: int, content: bytes) -> ClusterError:
    try:
        status = json.loads(content)
        causes = tuple(str(cause.get("reason", "")) for cause in (status.get("details") or {}).get("causes") or ())
        return ClusterError(code, str(status.get("reason", "")), str(status.get("message", "")), causes=causes)
    except (ValueError, AttributeError):
        return ClusterError(code, "", content.decode(errors="replace")[:500])
