"""Fields of a spec that differ from the defaults of chart 0.1.0: the input of its hash.

Hashes decide whether work is repeated, and objects outlive the version that stored them, so a hash must not depend on
today's defaults: a default that changes or disappears would change the hash of every stored object. ``DEFAULTS`` holds
the defaults of chart 0.1.0. Never change or remove an entry. A later field either has no default in its model, or its
original default is added here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic.alias_generators import to_snake

from bloomery_operator.api import InvalidResource
from bloomery_operator.api.base import ApiModel

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Dataset": {
        "source.layout": "Auto",
        "append": [],
        "exclude": [],
        "move": [],
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
"""By kind, the default of each field of the spec, by its dotted Python name; items of lists have no index.

For an object, ``{}`` means that all its fields have their defaults.
"""


PASS_THROUGH: Mapping[str, tuple[str, ...]] = {
    "Dataset": ("split", "rules", "shards"),
    "TrainingJob": ("hyperparameters",),
}
"""By kind, the fields of the spec that the operator hands on without a model of their own."""

FLOATS = frozenset(
    {
        "split.validation",
        "split.test",
        "rules.max_aspect_ratio",
        "hyperparameters.learning_rate",
        "hyperparameters.momentum",
        "hyperparameters.weight_decay",
        "hyperparameters.warmup_epochs",
        "hyperparameters.label_smoothing",
        "hyperparameters.mixup",
        "hyperparameters.ema",
    }
)
"""Numbers that chart 0.1.0 hashed as floats, so that 1 counts as 1.0. Never change or remove an entry."""


def beyond_defaults(kind: str, spec: ApiModel, *, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a spec whose values differ from the defaults of chart 0.1.0.

    Args:
        kind: such as ``TrainingJob``, a key of :data:`DEFAULTS`.
        spec: the object's spec.
        leave_out: Python names of top-level fields that change no result.
    """
    document = spec.model_dump(mode="json", exclude=set(leave_out))
    for name in PASS_THROUGH[kind]:
        if name in document:
            document[name] = _by_python_names(document[name], prefix=f"{name}.")
    return _subtract(document, DEFAULTS[kind], "")


def _by_python_names(document: Mapping[str, Any], *, prefix: str) -> dict[str, Any]:
    """Return a part of a spec as a model of its fields would dump it."""
    names = {to_snake(name): value for name, value in document.items() if value is not None}
    return {
        name: _to_float(f"{prefix}{name}", value) if f"{prefix}{name}" in FLOATS else value
        for name, value in names.items()
    }


def _to_float(path: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InvalidResource(f"spec.{path}: input should be a valid number") from error


def _subtract(document: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    for name, value in document.items():
        path = f"{prefix}{name}"
        remaining = _subtract_nested(value, defaults, f"{path}.")
        is_default = path in defaults and remaining == defaults[path]
        if remaining is not None and not is_default:
            rest[name] = remaining
    return rest


def _subtract_nested(value: Any, defaults: Mapping[str, Any], prefix: str) -> Any:
    if isinstance(value, dict):
        return _subtract(value, defaults, prefix)
    if isinstance(value, list):
        return [_subtract_nested(item, defaults, prefix) for item in value]
    return value
