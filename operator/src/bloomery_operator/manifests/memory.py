"""Default memory of a training pod: the need of its preset's own recipe.

Each limit covers the recipe with the images in memory on a processor without bfloat16, where activations are largest.
"""

from __future__ import annotations

from collections.abc import Mapping

from bloomery_operator.api.base import Resources

MEMORY_LIMITS: Mapping[str, str] = {
    "general": "5Gi",
    "high-precision": "8Gi",
    "high-performance": "4Gi",
    "inception-v3": "6Gi",
    "googlenet": "4Gi",
    "resnet18": "4Gi",
    "resnet34": "4Gi",
    "resnet50": "5Gi",
    "resnet101": "6Gi",
    "resnext50": "6Gi",
    "mobilenet-v2": "4Gi",
    "mobilenet-v3-small": "4Gi",
    "mobilenet-v3-large": "4Gi",
    "efficientnet-b0": "4Gi",
    "efficientnet-v2-s": "8Gi",
    "convnext-tiny": "6Gi",
    "convnext-small": "8Gi",
}
_DEFAULT_LIMIT = "4Gi"


def default_resources(preset: str) -> Resources:
    """Return the resources of a training pod whose TrainingJob sets none."""
    limit = MEMORY_LIMITS.get(preset, _DEFAULT_LIMIT)
    return Resources(requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": limit})
