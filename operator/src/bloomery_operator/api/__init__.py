"""The three kinds as frozen pydantic models: what users write in ``spec`` and read in ``status``."""

from bloomery_operator.api.common import Condition, CustomResource, InvalidResource, ObjectMeta
from bloomery_operator.api.dataset import Dataset
from bloomery_operator.api.inferenceservice import InferenceService
from bloomery_operator.api.trainingjob import TrainingJob

__all__ = [
    "Condition",
    "CustomResource",
    "Dataset",
    "InferenceService",
    "InvalidResource",
    "ObjectMeta",
    "TrainingJob",
]
