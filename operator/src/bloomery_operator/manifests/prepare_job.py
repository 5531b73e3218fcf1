"""Task of a Dataset: its preparation by the trainer image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bloomery_operator.api import Dataset
from bloomery_operator.api.base import Manifest
from bloomery_operator.api.dataset import DatasetSpec
from bloomery_operator.domain.labels import REFRESH
from bloomery_operator.domain.spec_hash import beyond_defaults
from bloomery_operator.domain.timestamps import format_time
from bloomery_operator.manifests.job import TrainerTask
from bloomery_operator.manifests.pod import credentials, size_in_bytes
from bloomery_operator.settings import Settings

COMMAND = "prepare"
_HASHED_FIELDS = {"source", "append", "exclude", "move", "rename", "classes", "split", "rules", "shards"}
_QUANTITY_RULES = {"maxBytes", "maxArchiveBytes"}
"""Rules that the spec has as quantities and the trainer as bytes."""
DEFAULT_MAX_ARCHIVE_BYTES = "5Gi"
SOURCE_PREFIX = "SOURCE_"
"""Prefix of the variables of the source's own Secret, beside those of the store's."""

_CLAIM_SCHEME = "pvc://"
_SCRATCH_FACTORS = {".zip": 1, ".tar.gz": 5, ".tgz": 5}
"""Scratch space of an archive as a multiple of its size limit: a zip is read in place, a tar unpacks at most fourfold.
"""
_WORKING_BYTES = 2 * 1024**3
"""Scratch space for the list of images and the shard being written, beside the archives."""


def build_task(dataset: Dataset, settings: Settings) -> TrainerTask:
    """Return the preparation of a Dataset's spec."""
    spec, metadata, refreshed = dataset.spec, dataset.metadata, dataset.status.last_refresh_time
    claims = _claims(dataset)
    return TrainerTask(
        command=COMMAND,
        config=_configuration(dataset, claims, settings),
        resources=spec.resources,
        scratch=_scratch_bytes(dataset),
        pod_template=spec.pod_template,
        hashes_pod_template=True,
        secrets=tuple(credentials(name, prefix=prefix) for prefix, name in source_secrets(dataset).items()),
        environment=_environment(settings),
        volumes=tuple(_claim_volume(number, claim) for number, claim in enumerate(claims)),
        mounts=tuple(_claim_mount(number) for number in range(len(claims))),
        hash_input={
            "spec": beyond_defaults(dataset.KIND, spec, leave_out=DatasetSpec.model_fields.keys() - _HASHED_FIELDS),
            "refresh": metadata.annotations.get(REFRESH, ""),
            **({"refreshTime": format_time(refreshed)} if refreshed is not None else {}),
        },
    )


def source_secrets(dataset: Dataset) -> dict[str, str]:
    """Return the names of the sources' own Secrets, by the prefix of their variables."""
    spec = dataset.spec
    references = {SOURCE_PREFIX: spec.source.secret_ref}
    references |= {f"APPEND_{number}_": addition.secret_ref for number, addition in enumerate(spec.append)}
    return {prefix: reference.name for prefix, reference in references.items() if reference is not None}


def _configuration(dataset: Dataset, claims: tuple[str, ...], settings: Settings) -> dict[str, Any]:
    spec, metadata = dataset.spec, dataset.metadata
    append = [
        {"uri": _source_uri(addition.uri, claims)}
        | _omit_empty({"class": addition.class_name, "encoding": addition.encoding, "from": addition.from_})
        | ({} if addition.trust_above is None else {"trustAbove": addition.trust_above})
        for addition in spec.append
    ]
    source = {"uri": _source_uri(spec.source.uri, claims), "layout": spec.source.layout}
    optional: dict[str, Any] = {
        "displayName": spec.display_name,
        "description": spec.description,
        "append": append,
        "exclude": list(spec.exclude),
        "move": [{"image": move.image, "class": move.class_name} for move in spec.move],
        "rename": dict(spec.rename),
        "classes": list(spec.classes),
    }
    return {
        "kind": COMMAND,
        "name": metadata.name,
        "namespace": metadata.namespace,
        "source": source | _omit_empty({"encoding": spec.source.encoding}),
        **_omit_empty(optional),
        "split": dict(spec.split),
        "rules": {
            name: size_in_bytes(value) if name in _QUANTITY_RULES else value for name, value in spec.rules.items()
        },
        "shards": dict(spec.shards),
        "output": {"uri": f"{settings.store_uri}/datasets/{metadata.namespace}/{metadata.name}"},
    }


def _omit_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value}


def _source_uris(dataset: Dataset) -> Iterable[str]:
    return (dataset.spec.source.uri, *(addition.uri for addition in dataset.spec.append))


def _claims(dataset: Dataset) -> tuple[str, ...]:
    """Return the PersistentVolumeClaims that images are read from, each once."""
    names = (
        uri.removeprefix(_CLAIM_SCHEME).partition("/")[0]
        for uri in _source_uris(dataset)
        if uri.startswith(_CLAIM_SCHEME)
    )
    return tuple(dict.fromkeys(names))


def _source_uri(uri: str, claims: tuple[str, ...]) -> str:
    """Return a URI for the trainer, for which a claim is a folder of its pod."""
    if not uri.startswith(_CLAIM_SCHEME):
        return uri
    claim, _, path = uri.removeprefix(_CLAIM_SCHEME).partition("/")
    return f"file://{_mount_path(claims.index(claim))}/{path}"


def _mount_path(number: int) -> str:
    return f"/sources/{number}"


def _claim_volume(number: int, claim: str) -> Manifest:
    return {"name": f"source-{number}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}


def _claim_mount(number: int) -> Manifest:
    return {"name": f"source-{number}", "mountPath": _mount_path(number), "readOnly": True}


def _scratch_bytes(dataset: Dataset) -> str:
    paths = [uri.partition("?")[0].lower() for uri in _source_uris(dataset)]
    sizes = sum(space for path in paths for suffix, space in _SCRATCH_FACTORS.items() if path.endswith(suffix))
    return str(
        _WORKING_BYTES + sizes * size_in_bytes(dataset.spec.rules.get("maxArchiveBytes", DEFAULT_MAX_ARCHIVE_BYTES))
    )


def _environment(settings: Settings) -> tuple[Manifest, ...]:
    networks = ",".join(settings.source_networks)
    return ({"name": "BLOOMERY_SOURCE_NETWORKS", "value": networks},) if networks else ()
