"""Task of a Dataset: its preparation by the trainer image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bloomery_operator.api import Dataset
from bloomery_operator.api.dataset import DatasetSpec
from bloomery_operator.domain.labels import REFRESH
from bloomery_operator.domain.spec_hash import beyond_defaults
from bloomery_operator.domain.timestamps import format_time
from bloomery_operator.manifests.job import TrainerTask
from bloomery_operator.manifests.pod import credentials, size_in_bytes
from bloomery_operator.manifests.sources import (
    DEFAULT_MAX_ARCHIVE_BYTES,
    SOURCE_PREFIX,
    claim_mounts,
    claim_volumes,
    claims_of,
    mounted_uri,
    networks_environment,
    scratch_bytes,
)
from bloomery_operator.settings import Settings

COMMAND = "prepare"
_HASHED_FIELDS = {"source", "append", "exclude", "move", "rename", "classes", "split", "rules", "shards"}
_QUANTITY_RULES = {"maxBytes", "maxArchiveBytes"}
"""Rules that the spec has as quantities and the trainer as bytes."""


def build_task(dataset: Dataset, settings: Settings) -> TrainerTask:
    """Return the preparation of a Dataset's spec."""
    spec, metadata, refreshed = dataset.spec, dataset.metadata, dataset.status.last_refresh_time
    claims = claims_of(_source_uris(dataset))
    return TrainerTask(
        command=COMMAND,
        config=_configuration(dataset, claims, settings),
        resources=spec.resources,
        scratch=scratch_bytes(_source_uris(dataset), spec.rules.get("maxArchiveBytes", DEFAULT_MAX_ARCHIVE_BYTES)),
        pod_template=spec.pod_template,
        hashes_pod_template=True,
        secrets=tuple(credentials(name, prefix=prefix) for prefix, name in source_secrets(dataset).items()),
        environment=networks_environment(settings),
        volumes=claim_volumes(claims),
        mounts=claim_mounts(claims),
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
        {"uri": mounted_uri(addition.uri, claims)}
        | _omit_empty({"class": addition.class_name, "encoding": addition.encoding, "from": addition.from_})
        | ({} if addition.trust_above is None else {"trustAbove": addition.trust_above})
        for addition in spec.append
    ]
    source = {"uri": mounted_uri(spec.source.uri, claims), "layout": spec.source.layout}
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


def _source_uris(dataset: Dataset) -> tuple[str, ...]:
    return (dataset.spec.source.uri, *(addition.uri for addition in dataset.spec.append))
