"""TrainingJob of a Retraining: its template, with the champion to start from and to beat."""

from __future__ import annotations

from bloomery_operator.api import Retraining, TrainingJob
from bloomery_operator.api.base import API_GROUP, API_VERSION, Manifest
from bloomery_operator.api.retraining import Trigger
from bloomery_operator.api.trainingjob import InitialModel, Promotion, TrainingJobSpec
from bloomery_operator.domain.labels import TRIGGER
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.domain.trigger import training_name
from bloomery_operator.manifests.metadata import child_metadata
from bloomery_operator.manifests.train_job import COMMAND

DEFAULT_CONFIDENCE = 0.975
"""The required confidence of a comparison with the champion: nobody looks at each of many trainings."""


def build_training_job(retraining: Retraining, trigger: Trigger, start: ServedModel | None) -> Manifest:
    """Return the TrainingJob of a trigger, which starts from a version of the registry unless the template differs."""
    record = trigger.model_dump_json(by_alias=True, exclude_none=True)
    spec = _training_spec(retraining, start)
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": TrainingJob.KIND,
        "metadata": child_metadata(
            retraining,
            name=training_name(retraining, trigger.number),
            role=COMMAND,
            annotations={TRIGGER: record},
        ),
        # As the user wrote it: the API server adds the defaults.
        "spec": spec.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True),
    }


def _training_spec(retraining: Retraining, start: ServedModel | None) -> TrainingJobSpec:
    spec = retraining.spec.template.spec
    name = spec.output.registered_model or retraining.metadata.name
    output = spec.output.model_copy(update={"registered_model": name, "promote": _promotion(spec.output.promote)})
    changes: dict[str, object] = {"output": output}
    if start is not None and spec.initial_model is None:
        changes["initial_model"] = InitialModel(mlflow=f"models:/{start.name}/{start.version}")
    return spec.model_copy(update=changes)


def _promotion(promotion: Promotion | None) -> Promotion | None:
    if promotion is None or not promotion.better_than_current or promotion.confidence is not None:
        return promotion
    return promotion.model_copy(update={"confidence": DEFAULT_CONFIDENCE})
