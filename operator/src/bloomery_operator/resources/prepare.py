"""A Dataset's preparation as a task of the trainer image."""

from __future__ import annotations

from kubernetes.utils.quantity import parse_quantity

from bloomery_operator.api import Dataset
from bloomery_operator.resources.jobs import TrainerTask
from bloomery_operator.resources.metadata import REFRESH
from bloomery_operator.resources.pods import credentials
from bloomery_operator.settings import Settings

COMMAND = "prepare"
_ASKED = {"source", "split", "rules", "shards"}
SOURCE_PREFIX = "SOURCE_"
"""Before the names of the source's own keys, so that they stand beside the store's."""


def build_task(dataset: Dataset, settings: Settings) -> TrainerTask:
    """Return the preparation that the Dataset's spec asks for."""
    spec, metadata = dataset.spec, dataset.metadata
    rules = spec.rules.to_json() | {
        "maxBytes": int(parse_quantity(spec.rules.max_bytes)),  # type: ignore[no-untyped-call]
    }
    secret = spec.source.secret_ref
    return TrainerTask(
        command=COMMAND,
        config={
            "kind": COMMAND,
            "name": metadata.name,
            "namespace": metadata.namespace,
            "source": {"uri": spec.source.uri, "layout": spec.source.layout},
            "split": spec.split.to_json(),
            "rules": rules,
            "shards": spec.shards.to_json(),
            "output": {"uri": f"{settings.store_uri}/datasets/{metadata.namespace}/{metadata.name}"},
        },
        resources=spec.resources,
        secrets=(credentials(secret.name, prefix=SOURCE_PREFIX),) if secret else (),
        asked={
            # Without the defaults, so that a field of a later version changes no hash until it is used.
            "spec": spec.model_dump(mode="json", include=_ASKED, exclude_defaults=True),
            "refresh": metadata.annotations.get(REFRESH, ""),
        },
    )
