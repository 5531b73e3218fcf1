"""Progress of an InferenceService that is being deployed: changes of its status that nobody has to act on."""

from __future__ import annotations

from bloomery_operator.api.conditions import Condition
from bloomery_operator.api.inferenceservice import InferenceServiceStatus, VariantStatus
from bloomery_operator.status.conditions import RECONCILING, STALLED

_LINEAGE = ("digest", "run_id", "training_job", "dataset", "dataset_version")
"""What a pod reports of a model that was named without a digest."""
_UNKNOWN_LINEAGE = dict.fromkeys(_LINEAGE)


def is_only_progress(before: InferenceServiceStatus, after: InferenceServiceStatus) -> bool:
    """Return whether two statuses differ, but only in what is known of pods and in messages, while pods start.

    Never in a rollout, whose messages say why it waits, nor in a phase that shows that the service answers or failed.
    """
    if any(status.phase != "Deploying" or status.rollout is not None for status in (before, after)):
        return False
    former, latter = _own_conditions(before), _own_conditions(after)
    return former != latter and _without_progress(former) == _without_progress(latter)


def _own_conditions(status: InferenceServiceStatus) -> InferenceServiceStatus:
    """Return a status without the conditions that repeat others."""
    own = tuple(c for c in status.conditions if c.type not in (RECONCILING, STALLED))
    return status.model_copy(update={"conditions": own})


def _without_progress(status: InferenceServiceStatus) -> InferenceServiceStatus:
    return status.model_copy(
        update={
            "replicas": None,
            "ready_replicas": None,
            "ready": None,
            "scaled_replicas": None,
            # If the service is to stop by itself, the time at which it does is new, too.
            "started_at": None,
            "variants": tuple(_variant_without_progress(variant) for variant in status.variants),
            "conditions": tuple(_condition_without_progress(c) for c in status.conditions),
        }
    )


def _variant_without_progress(variant: VariantStatus) -> VariantStatus:
    return variant.model_copy(update={"replicas": 0, "ready": 0, "message": None, "image": None, **_UNKNOWN_LINEAGE})


def _condition_without_progress(condition: Condition) -> Condition:
    return condition.model_copy(update={"message": ""})
