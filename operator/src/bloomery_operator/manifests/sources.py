"""Sources of images in pods: mounted volume claims, scratch space for archives, and the networks to download from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bloomery_operator.api.base import Manifest
from bloomery_operator.manifests.pod import size_in_bytes
from bloomery_operator.settings import Settings

SOURCE_PREFIX = "SOURCE_"
"""Prefix of the variables of the source's own Secret, beside those of the store's."""
DEFAULT_MAX_ARCHIVE_BYTES = "5Gi"

_CLAIM_SCHEME = "pvc://"
_SCRATCH_FACTORS = {".zip": 1, ".tar.gz": 5, ".tgz": 5}
"""Scratch space of an archive as a multiple of its size limit: a zip is read in place, a tar unpacks at most fourfold.
"""
_WORKING_BYTES = 2 * 1024**3
"""Scratch space for the list of images and the shard being written, beside the archives."""


def claims_of(uris: Iterable[str]) -> tuple[str, ...]:
    """Return the PersistentVolumeClaims that images are read from, each once."""
    names = (uri.removeprefix(_CLAIM_SCHEME).partition("/")[0] for uri in uris if uri.startswith(_CLAIM_SCHEME))
    return tuple(dict.fromkeys(names))


def mounted_uri(uri: str, claims: Sequence[str]) -> str:
    """Return a URI for the pod, for which a claim is a folder."""
    if not uri.startswith(_CLAIM_SCHEME):
        return uri
    claim, _, path = uri.removeprefix(_CLAIM_SCHEME).partition("/")
    return f"file://{_mount_path(claims.index(claim))}/{path}"


def claim_volumes(claims: Sequence[str]) -> tuple[Manifest, ...]:
    """Return the volumes of claims, which are only read."""
    return tuple(
        {"name": f"source-{number}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        for number, claim in enumerate(claims)
    )


def claim_mounts(claims: Sequence[str]) -> tuple[Manifest, ...]:
    """Return the mounts of claims."""
    return tuple(
        {"name": f"source-{number}", "mountPath": _mount_path(number), "readOnly": True}
        for number in range(len(claims))
    )


def scratch_bytes(uris: Iterable[str], max_archive_bytes: str | int) -> str:
    """Return the scratch space for the archives among some URIs, each up to a size, and for the work beside them."""
    paths = [uri.partition("?")[0].lower() for uri in uris]
    sizes = sum(space for path in paths for suffix, space in _SCRATCH_FACTORS.items() if path.endswith(suffix))
    return str(_WORKING_BYTES + sizes * size_in_bytes(max_archive_bytes))


def networks_environment(settings: Settings) -> tuple[Manifest, ...]:
    """Return the variable with the networks, beside the public internet, that archives may be downloaded from."""
    networks = ",".join(settings.source_networks)
    return ({"name": "BLOOMERY_SOURCE_NETWORKS", "value": networks},) if networks else ()


def _mount_path(number: int) -> str:
    return f"/sources/{number}"
