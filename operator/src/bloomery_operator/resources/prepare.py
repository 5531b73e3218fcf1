"""A Dataset's preparation as a task of the trainer image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bloomery_operator.api import Dataset
from bloomery_operator.api.common import Manifest
from bloomery_operator.api.dataset import DatasetSpec
from bloomery_operator.resources.jobs import TrainerTask
from bloomery_operator.resources.metadata import REFRESH
from bloomery_operator.resources.pods import credentials, size_in_bytes
from bloomery_operator.resources.spec_hash import beyond_defaults
from bloomery_operator.settings import Settings

COMMAND = "prepare"
_ASKED = {"source", "append", "exclude", "rename", "classes", "split", "rules", "shards"}
SOURCE_PREFIX = "SOURCE_"
"""Before the names of the source's own keys, so that they stand beside the store's."""

_CLAIM = "pvc://"
_SPACE_OF = {".zip": 1, ".tar.gz": 5, ".tgz": 5}
"""How often its own largest size an archive may need: a zip is read as it is, a tar is unpacked, at most fourfold."""

_WORKING_SPACE = 2 * 1024**3
"""For the list of images and what is being written, beside the archives."""


def build_task(dataset: Dataset, settings: Settings) -> TrainerTask:
    """Return the preparation that the Dataset's spec asks for."""
    spec, metadata = dataset.spec, dataset.metadata
    secret = spec.source.secret_ref
    claims = _claims(dataset)
    return TrainerTask(
        command=COMMAND,
        config=_document(dataset, claims, settings),
        resources=spec.resources,
        scratch=_scratch(dataset),
        secrets=(credentials(secret.name, prefix=SOURCE_PREFIX),) if secret else (),
        environment=_environment(settings),
        volumes=tuple(_volume(number, claim) for number, claim in enumerate(claims)),
        mounts=tuple(_mount(number) for number in range(len(claims))),
        asked={
            "spec": beyond_defaults(dataset.KIND, spec, leave_out=DatasetSpec.model_fields.keys() - _ASKED),
            "refresh": metadata.annotations.get(REFRESH, ""),
        },
    )


def _document(dataset: Dataset, claims: tuple[str, ...], settings: Settings) -> dict[str, Any]:
    spec, metadata = dataset.spec, dataset.metadata
    sizes = {"maxBytes": spec.rules.max_bytes, "maxArchiveBytes": spec.rules.max_archive_bytes}
    append = [
        {"uri": _address(addition.uri, claims)} | ({"class": addition.class_name} if addition.class_name else {})
        for addition in spec.append
    ]
    optional: dict[str, Any] = {
        "displayName": spec.display_name,
        "description": spec.description,
        "append": append,
        "exclude": list(spec.exclude),
        "rename": dict(spec.rename),
        "classes": list(spec.classes),
    }
    return {
        "kind": COMMAND,
        "name": metadata.name,
        "namespace": metadata.namespace,
        "source": {"uri": _address(spec.source.uri, claims), "layout": spec.source.layout},
        **{key: value for key, value in optional.items() if value},
        "split": spec.split.to_json(),
        "rules": spec.rules.to_json() | {name: size_in_bytes(quantity) for name, quantity in sizes.items()},
        "shards": spec.shards.to_json(),
        "output": {"uri": f"{settings.store_uri}/datasets/{metadata.namespace}/{metadata.name}"},
    }


def _uris(dataset: Dataset) -> Iterable[str]:
    return (dataset.spec.source.uri, *(addition.uri for addition in dataset.spec.append))


def _claims(dataset: Dataset) -> tuple[str, ...]:
    """The names of the PersistentVolumeClaims that images are read from, each once."""
    names = (uri.removeprefix(_CLAIM).partition("/")[0] for uri in _uris(dataset) if uri.startswith(_CLAIM))
    return tuple(dict.fromkeys(names))


def _address(uri: str, claims: tuple[str, ...]) -> str:
    """An address as the trainer takes it: a claim is a folder of its pod."""
    if not uri.startswith(_CLAIM):
        return uri
    claim, _, path = uri.removeprefix(_CLAIM).partition("/")
    return f"file://{_folder(claims.index(claim))}/{path}"


def _folder(number: int) -> str:
    return f"/sources/{number}"


def _volume(number: int, claim: str) -> Manifest:
    return {"name": f"source-{number}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}


def _mount(number: int) -> Manifest:
    return {"name": f"source-{number}", "mountPath": _folder(number), "readOnly": True}


def _scratch(dataset: Dataset) -> str:
    paths = [uri.partition("?")[0].lower() for uri in _uris(dataset)]
    sizes = sum(space for path in paths for ending, space in _SPACE_OF.items() if path.endswith(ending))
    return str(_WORKING_SPACE + sizes * size_in_bytes(dataset.spec.rules.max_archive_bytes))


def _environment(settings: Settings) -> tuple[Manifest, ...]:
    networks = ",".join(settings.source_networks)
    return ({"name": "BLOOMERY_SOURCE_NETWORKS", "value": networks},) if networks else ()
