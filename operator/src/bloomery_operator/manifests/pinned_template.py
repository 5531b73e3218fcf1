"""Pod templates of Deployments, kept as they are until the user changes what they are made of.

A new version or other settings of the operator give another template, and a Deployment with another template replaces
its pods. Therefore each Deployment records its template, with the hash of the user's input to it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from bloomery_operator.api.base import Manifest
from bloomery_operator.domain.digest import digest_of
from bloomery_operator.domain.labels import POD_TEMPLATE, SPEC_HASH

_MAX_RECORD_CHARACTERS = 128 * 1024
"""An object's annotations may have 256 KiB. A longer template is not recorded, and follows the operator."""
_RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
"""Annotation of a template by ``kubectl rollout restart``: if the operator owned it, it would undo the next restart."""


def record_template(deployment: Manifest, user_input: Mapping[str, Any]) -> Manifest:
    """Return a Deployment with annotations that record its template, and the hash of the user's input to it.

    Args:
        deployment: as the operator builds it now.
        user_input: the parts of a spec that the template is made of; entries without a value do not count.
    """
    set_input = {name: value for name, value in user_input.items() if value}
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
    return _with_template(deployment, template, deployment["metadata"]["annotations"][SPEC_HASH])


def has_same_template(deployment: Manifest, other: Manifest) -> bool:
    """Return whether two Deployments have the same template."""
    return bool(deployment["spec"]["template"] == other["spec"]["template"])


def _template_to_keep(deployment: Manifest, live: Manifest | None, *, adopts: bool) -> Manifest | None:
    if live is None:
        return None
    annotations = live["metadata"].get("annotations", {})
    if SPEC_HASH not in annotations:
        return _without_restart(live["spec"]["template"]) if adopts else None
    if annotations[SPEC_HASH] != deployment["metadata"]["annotations"][SPEC_HASH]:
        return None
    try:
        template = json.loads(annotations.get(POD_TEMPLATE, ""))
    except ValueError:
        # A record that was edited is ignored.
        return None
    return template if isinstance(template, dict) and {"metadata", "spec"} <= template.keys() else None


def _without_restart(template: Manifest) -> Manifest:
    copied = copy.deepcopy(template)
    copied["metadata"].pop("creationTimestamp", None)
    copied["metadata"].get("annotations", {}).pop(_RESTARTED_AT, None)
    return copied


def _with_template(deployment: Manifest, template: Manifest, input_hash: str) -> Manifest:
    record = json.dumps(template, ensure_ascii=False)
    annotations = {**deployment["metadata"].get("annotations", {}), SPEC_HASH: input_hash}
    if len(record.encode()) <= _MAX_RECORD_CHARACTERS:
        annotations[POD_TEMPLATE] = record
    else:
        annotations.pop(POD_TEMPLATE, None)
    return deployment | {
        "metadata": deployment["metadata"] | {"annotations": annotations},
        "spec": deployment["spec"] | {"template": template},
    }
