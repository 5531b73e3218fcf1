"""Client of the API server: live reads and all writes.

``kubernetes.aio`` sends the requests. The paths are built here, so that nothing is discovered at run time.
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
from bloomery_operator.cluster.kinds import ObjectKey, ResourceKind, kind_of
from bloomery_operator.cluster.unused_fields import strip_unused_fields

FIELD_MANAGER = "bloomery-operator"
PAGE_SIZE = 100

_VERSION_OF_NO_OBJECT = "1"
"""resourceVersion that no object has: it is the revision of an empty etcd. An apply that names it can only create."""
# Because of the charset, kubernetes.aio sends a text body unchanged.
_APPLY_PATCH = "application/apply-patch+yaml; charset=utf-8"
_MERGE_PATCH = "application/merge-patch+json"
_UNDECLARED = re.compile(
    r"(?P<applied>(?:\.[A-Za-z]\w*(?:\[[^\]]*\])?)+): field not declared in schema"
    r'|unknown field "(?P<decoded>[^"]+)"'
)
"""The messages of server-side apply, and of strict decoding."""
_LIST_KEY = re.compile(r"\[[^\]]*\]")
_INVALID_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class ClusterError(Exception):
    """The API server rejected a request: HTTP status, and reason and causes from the response."""

    def __init__(self, code: int, reason: str, message: str, *, causes: tuple[str, ...] = ()) -> None:
        """Describe the response of the API server."""
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.causes = causes

    @property
    def is_refusal(self) -> bool:
        """Whether the API server would reject the same request again, as invalid or not allowed."""
        # Server-side apply reports a field that the schema does not have as an internal error.
        is_mistyped = self.code == 500 and "typed patch object" in str(self)
        return self.code in (400, 403, 422) or is_mistyped

    def is_undeclared(self, field: str) -> bool:
        """Whether the kind in the cluster, of an older version perhaps, does not have a field of the object."""
        return any(path[-1] == field for path in self.undeclared_fields)

    @property
    def undeclared_fields(self) -> frozenset[tuple[str, ...]]:
        """Fields of an applied object that its kind does not have, each with its parents: status, variants, uri."""
        matches = _UNDECLARED.finditer(str(self)) if self.is_refusal else ()
        paths = (match["applied"] or match["decoded"] for match in matches)
        return frozenset(tuple(_LIST_KEY.sub("", path).strip(".").split(".")) for path in paths)

    @property
    def is_unknown_kind(self) -> bool:
        """Whether the API server does not have the kind; for a missing object the reason is NotFound."""
        return self.code == 404 and self.reason != "NotFound"


@dataclass(frozen=True)
class Listing:
    """Result of a list request."""

    items: tuple[Manifest, ...]
    versions: tuple[str, ...]
    """The resourceVersion of the list, or of each namespace's list: the age of the result."""


class NotLeader(Exception):
    """The lease has expired: another process may be the leader, so this one must not write."""


class Cluster(Protocol):
    """The part of the API server that reconciles need."""

    async def get(self, kind: ResourceKind, key: ObjectKey) -> Manifest | None:
        """Return the current object, or None."""

    async def list(self, kind: ResourceKind, *, namespace: str | None, selector: str = "", fields: str = "") -> Listing:
        """Return the objects that the label selector and the field selector match."""

    async def create(self, manifest: Manifest) -> Manifest | None:
        """Create the object; return None if its name is in use."""

    async def apply(self, manifest: Manifest) -> Manifest:
        """Apply the object server-side, and own the fields of the manifest."""

    async def apply_new(self, manifest: Manifest) -> Manifest | None:
        """Create the object server-side applied, and own its fields; return None if its name is in use."""

    async def replace(self, manifest: Manifest) -> Manifest | None:
        """Replace the object if it still has that resourceVersion; else return None."""

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """Apply the status server-side."""

    async def annotate(self, kind: ResourceKind, key: ObjectKey, annotations: Mapping[str, str | None]) -> None:
        """Set annotations, and remove those that are None; do nothing if the object is gone."""

    async def merge(self, kind: ResourceKind, key: ObjectKey, change: Manifest) -> None:
        """Send a merge patch; do nothing if the object is gone."""

    async def delete(self, kind: ResourceKind, key: ObjectKey, *, uid: str | None = None) -> None:
        """Delete the object, and its dependents in the background; do nothing if it is gone or has another uid."""


class KubernetesCluster:
    """``Cluster`` on a real API server."""

    def __init__(
        self,
        api: kube.ApiClient,
        *,
        timeout: float = 30.0,
        lease_remaining_seconds: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """Use a configured client, which the caller closes.

        Args:
            api: the client.
            timeout: seconds within which a request must be answered.
            lease_remaining_seconds: returns for how long it is certain that no other process writes.
        """
        self._api = api
        self._timeout = timeout
        self._lease_remaining_seconds = lease_remaining_seconds

    async def get(self, kind: ResourceKind, key: ObjectKey) -> Manifest | None:
        """Return the current object, or None."""
        if not key.is_valid:
            return None
        try:
            return await self._request("GET", kind.path(key.namespace, key.name))
        except ClusterError as error:
            if error.code == 404:
                return None
            raise

    async def list(self, kind: ResourceKind, *, namespace: str | None, selector: str = "", fields: str = "") -> Listing:
        """Return the objects that the label selector and the field selector match, without unused fields."""
        selectors = {"labelSelector": selector, "fieldSelector": fields}
        query = {"limit": str(PAGE_SIZE)} | {name: value for name, value in selectors.items() if value}
        items: list[Manifest] = []
        while True:
            page = await self._request("GET", kind.path(namespace), query=query)
            names = {"apiVersion": kind.api_version, "kind": kind.kind}
            # Page by page: some thousand complete pods would need more memory than all else in the process.
            items += (strip_unused_fields(kind, names | item) for item in page["items"])
            token = page["metadata"].get("continue")
            if not token:
                return Listing(tuple(items), versions=(page["metadata"]["resourceVersion"],))
            query = query | {"continue": token}

    async def create(self, manifest: Manifest) -> Manifest | None:
        """Create the object; return None if its name is in use."""
        path = kind_of(manifest).path(manifest["metadata"]["namespace"])
        try:
            return await self._request("POST", path, body=manifest, query=_strict_query())
        except ClusterError as error:
            if error.reason == "AlreadyExists":
                return None
            raise

    async def replace(self, manifest: Manifest) -> Manifest | None:
        """Replace the object if it still has that resourceVersion; else return None."""
        metadata = manifest["metadata"]
        path = kind_of(manifest).path(metadata["namespace"], metadata["name"])
        try:
            return await self._request("PUT", path, body=manifest, query=_strict_query())
        except ClusterError as error:
            if error.code in (404, 409):
                return None
            raise

    async def apply(self, manifest: Manifest) -> Manifest:
        """Apply the object server-side, and own the fields of the manifest."""
        return await self._apply(manifest, subresource=None)

    async def apply_new(self, manifest: Manifest) -> Manifest | None:
        """Create the object server-side applied, and own its fields; return None if its name is in use."""
        # Not by POST: fields that were created so would stay when a later apply leaves them out.
        new = manifest | {"metadata": manifest["metadata"] | {"resourceVersion": _VERSION_OF_NO_OBJECT}}
        try:
            return await self.apply(new)
        except ClusterError as error:
            if error.code == 409:
                return None
            raise

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """Apply the status server-side."""
        return await self._apply(manifest, subresource="status")

    async def annotate(self, kind: ResourceKind, key: ObjectKey, annotations: Mapping[str, str | None]) -> None:
        """Set annotations, and remove those that are None; do nothing if the object is gone."""
        await self.merge(kind, key, {"metadata": {"annotations": dict(annotations)}})

    async def merge(self, kind: ResourceKind, key: ObjectKey, change: Manifest) -> None:
        """Send a merge patch; do nothing if the object is gone."""
        path = kind.path(key.namespace, key.name)
        try:
            await self._request("PATCH", path, query=_strict_query(), body=change, content_type=_MERGE_PATCH)
        except ClusterError as error:
            if error.code != 404:
                raise

    async def delete(self, kind: ResourceKind, key: ObjectKey, *, uid: str | None = None) -> None:
        """Delete the object, and its dependents in the background; do nothing if it is gone or has another uid."""
        body: Manifest = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._request("DELETE", kind.path(key.namespace, key.name), body=body)
        except ClusterError as error:
            if error.code == 409 and uid is not None and await self._has_other_uid(kind, key, uid):
                return
            if error.code != 404:
                raise

    async def _has_other_uid(self, kind: ResourceKind, key: ObjectKey, uid: str) -> bool:
        """Return whether the name now belongs to another object; a conflict may have other causes as well."""
        live = await self.get(kind, key)
        return live is None or live["metadata"]["uid"] != uid

    async def _apply(self, manifest: Manifest, *, subresource: str | None) -> Manifest:
        metadata = manifest["metadata"]
        path = kind_of(manifest).path(metadata["namespace"], metadata["name"], subresource)
        query = _strict_query() | {"force": "true"}
        return await self._request("PATCH", path, body=_to_yaml(manifest), query=query, content_type=_APPLY_PATCH)

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
        timeout = self._timeout if method == "GET" else min(self._timeout, self._lease_remaining_seconds())
        if timeout <= 0:
            raise NotLeader(f"{method} {path} was not sent: the lease has expired")
        response = await self._api.call_api(*request, _request_timeout=timeout)
        content: bytes = await response.read()  # type: ignore[no-untyped-call]
        if not 200 <= response.status <= 299:
            raise _parse_error(response.status, content)
        document: Any = json.loads(content)
        return dict(document)


def _strict_query() -> dict[str, str]:
    return {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}


def _to_yaml(manifest: Manifest) -> str:
    """Return a manifest as JSON that is valid YAML; YAML does not accept JSON's escapes by surrogate pairs."""
    text = json.dumps(manifest, ensure_ascii=False)
    return _INVALID_IN_YAML.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _parse_error(code: int, content: bytes) -> ClusterError:
    try:
        status = json.loads(content)
        causes = tuple(str(cause.get("reason", "")) for cause in (status.get("details") or {}).get("causes") or ())
        return ClusterError(code, str(status.get("reason", "")), str(status.get("message", "")), causes=causes)
    except (ValueError, AttributeError):
        return ClusterError(code, "", content.decode(errors="replace")[:500])
