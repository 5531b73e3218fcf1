"""What a spec asks for beyond the defaults of chart 0.1.0: the part that hashes are made of.

Hashes decide whether work is done again, and objects outlive the version that stored them. So they must not depend on
today's defaults: a default that changes, or leaves the kind, would otherwise give every stored object another hash.
The defaults of chart 0.1.0 stand here as that version's kinds had them. Entries are never changed or removed. A later
field either has no default in its model, or is added here with the default that it had when it was introduced.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bloomery_operator.api.common import ApiModel

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Dataset": {
        "source.layout": "Auto",
        "append": [],
        "exclude": [],
        "rename": {},
        "classes": [],
        "split": {},
        "split.validation": 0.2,
        "split.test": 0.0,
        "split.seed": 0,
        "rules": {},
        "rules.check": True,
        "rules.min_images_per_class": 20,
        "rules.min_classes": 2,
        "rules.max_classes": 1000,
        "rules.formats": ["jpg", "jpeg", "png", "bmp"],
        "rules.max_bytes": "4Mi",
        "rules.max_archive_bytes": "5Gi",
        "rules.max_aspect_ratio": 3,
        "rules.min_side": 31,
        "rules.max_side": 4095,
        "shards": {},
        "shards.images": 1000,
        "resources.requests": {},
        "resources.limits": {},
    },
    "TrainingJob": {
        "datasets.classes": [],
        "hyperparameters": {},
        "hyperparameters.batch_size": 32,
        "hyperparameters.label_smoothing": 0.1,
        "hyperparameters.horizontal_flip": True,
        "hyperparameters.mixup": 0,
        "hyperparameters.ema": 0,
        "hyperparameters.trainable": "All",
        "hyperparameters.seed": 0,
        "metric": "top1",
        "early_stopping.patience": 5,
        "checkpoint": {},
        "checkpoint.every": "5m",
        "checkpoint.keep": 2,
        "nodes": 1,
        "resources.requests": {},
        "resources.limits": {},
        "scratch": "5Gi",
        "pod_template.labels": {},
        "pod_template.annotations": {},
        "pod_template.node_selector": {},
        "pod_template.tolerations": [],
        "backoff_limit": 3,
        "output": {},
        "output.promote.better_than_current": False,
        "output.quantization": "None",
    },
}
"""By kind: the fields of the spec, dotted and as the models name them, and their values; items of lists have no number.

``{}`` of an object means one in which every field has its default.
"""


def beyond_defaults(kind: str, spec: ApiModel, *, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a spec that are set to something else than chart 0.1.0's default.

    Args:
        kind: such as ``TrainingJob``, a key of :data:`DEFAULTS`.
        spec: the object's spec.
        leave_out: top-level fields, as the model names them, that change no result.
    """
    document = spec.model_dump(mode="json", exclude=set(leave_out))
    return _subtract(document, DEFAULTS[kind], "")


def _subtract(document: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    left: dict[str, Any] = {}
    for name, value in document.items():
        path = f"{prefix}{name}"
        remaining = _below(value, defaults, f"{path}.")
        is_default = path in defaults and remaining == defaults[path]
        if remaining is not None and not is_default:
            left[name] = remaining
    return left


def _below(value: Any, defaults: Mapping[str, Any], prefix: str) -> Any:
    if isinstance(value, dict):
        return _subtract(value, defaults, prefix)
    if isinstance(value, list):
        return [_below(item, defaults, prefix) for item in value]
    return value
