"""The kinds as frozen pydantic models: ``spec`` and ``status``."""

from bloomery_operator.api.batchprediction import BatchPrediction
from bloomery_operator.api.conditions import Condition
from bloomery_operator.api.custom_resource import CustomResource, InvalidResource, ObjectMeta
from bloomery_operator.api.dataset import Dataset
from bloomery_operator.api.inferenceservice import InferenceService
from bloomery_operator.api.retraining import Retraining
from bloomery_operator.api.trainingjob import TrainingJob

__all__ = [
    "BatchPrediction",
    "Condition",
    "CustomResource",
    "Dataset",
    "InferenceService",
    "InvalidResource",
    "ObjectMeta",
    "Retraining",
    "TrainingJob",
]
