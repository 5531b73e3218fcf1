"""Pod templates of Deployments, kept as they are until the user changes what they are made of.

A new version or other settings of the operator give another template, and a Deployment with another template replaces
its pods. Therefore each Deployment records its template, with the hash of the user's input to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from bloomery_operator.api.base import Manifest
from bloomery_operator.domain.digest import digest_of
from bloomery_operator.domain.labels import POD_TEMPLATE, SPEC_HASH
from bloomery_operator.domain.pod_annotations import is_annotation_allowed

_MAX_RECORD_BYTES = 128 * 1024
"""An object's annotations may have 256 KiB. A longer template is not recorded, and follows the operator."""
_RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
"""Annotation of a template by ``kubectl rollout restart``: if the operator owned it, it would undo the next restart."""


def record_template(deployment: Manifest, user_input: Mapping[str, Any]) -> Manifest:
    """Return a Deployment with annotations that record its template, and the hash of the user's input to it.

    Args:
        deployment: as the operator builds it now.
        user_input: the parts of a spec that the template is made of; those that are None do not count.
    """
    set_input = {name: value for name, value in user_input.items() if value is not None}
    return _with_template(deployment, deployment["spec"]["template"], digest_of(set_input))


def keep_template(deployment: Manifest, live: Manifest | None, *, adopts: bool) -> Manifest:
    """Return a Deployment with the template that it has in the cluster, if the user's input has not changed since.

    Args:
        deployment: as the operator builds it now, with its record.
        live: the Deployment in the cluster.
        adopts: whether the template of a Deployment without a record, of an earlier version, is kept.
    """
    template = _template_to_keep(deployment, live, adopts=adopts)
    if template is None:
        return deployment
    # A version before the list of refused annotations may have passed some on.
    allowed = _with_annotations(template, is_annotation_allowed)
    return _with_template(deployment, allowed, deployment["metadata"]["annotations"][SPEC_HASH])


def has_same_template(deployment: Manifest, other: Manifest) -> bool:
    """Return whether two Deployments have the same template."""
    return bool(deployment["spec"]["template"] == other["spec"]["template"])


def _template_to_keep(deployment: Manifest, live: Manifest | None, *, adopts: bool) -> Manifest | None:
    if live is None:
        return None
    annotations = live["metadata"].get("annotations", {})
    if SPEC_HASH not in annotations:
        return _with_annotations(live["spec"]["template"], lambda key: key != _RESTARTED_AT) if adopts else None
    if annotations[SPEC_HASH] != deployment["metadata"]["annotations"][SPEC_HASH]:
        return None
    try:
        template = json.loads(annotations.get(POD_TEMPLATE, ""))
    except ValueError:
        # A record that was edited is ignored.
        return None
    return template if _is_template(template) else None


def _is_template(document: object) -> bool:
    if not isinstance(document, dict) or "spec" not in document:
        return False
    metadata = document.get("metadata")
    return isinstance(metadata, dict) and isinstance(metadata.get("annotations", {}), dict)


def _with_annotations(template: Manifest, keeps: Callable[[str], bool]) -> Manifest:
    """Return a template with those of its annotations that are to be kept."""
    annotations = {key: value for key, value in template["metadata"].get("annotations", {}).items() if keeps(key)}
    others = {
        name: value for name, value in template["metadata"].items() if name not in ("annotations", "creationTimestamp")
    }
    return template | {"metadata": others | ({"annotations": annotations} if annotations else {})}


def _with_template(deployment: Manifest, template: Manifest, input_hash: str) -> Manifest:
    record = json.dumps(template, ensure_ascii=False)
    annotations = {**deployment["metadata"].get("annotations", {}), SPEC_HASH: input_hash}
    if len(record.encode()) <= _MAX_RECORD_BYTES:
        annotations[POD_TEMPLATE] = record
    else:
        annotations.pop(POD_TEMPLATE, None)
    return deployment | {
        "metadata": deployment["metadata"] | {"annotations": annotations},
        "spec": deployment["spec"] | {"template": template},
    }
