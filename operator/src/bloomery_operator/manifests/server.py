"""Parts of all containers of the serving image: the image, the model's lineage, and the form of the answers."""

from __future__ import annotations

from bloomery_operator.api.base import Resources
from bloomery_operator.api.inferenceservice import AnswerPolicy
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.manifests.accelerators import requests_nvidia
from bloomery_operator.settings import Settings

MODEL_FOLDER = "/models"
DEFAULT_SCRATCH = "10Gi"
"""Space for the model on the node's disk."""


def server_image(resources: Resources | None, settings: Settings) -> str:
    """Return the server's image: the one with CUDA if its container has a GPU, or a part of one."""
    uses_gpu = requests_nvidia(resources) and settings.serving_gpu_image
    return settings.serving_gpu_image if uses_gpu else settings.serving_image


def lineage_environment(model: ServedModel) -> dict[str, str | None]:
    """Return the variables that trace a model back to its training."""
    return {
        "MODEL_NAME": model.name,
        "MODEL_VERSION": model.version,
        "RUN_ID": model.run_id,
        "TRAINING_JOB": model.training_job,
        "DATASET_NAME": model.dataset,
        "DATASET_VERSION": model.dataset_version,
    }


def answer_environment(answer: AnswerPolicy | None, engine: str | None) -> dict[str, str | None]:
    """Return the variables that decide when an image is answered, and by which engine."""
    return {
        "ANSWER_MIN_CONFIDENCE": format_number(answer.min_confidence) if answer else None,
        "ANSWER_PRECISION": format_number(answer.precision) if answer else None,
        # Without it, servers decide: those of earlier versions have ONNX Runtime alone, and ignore it.
        "ENGINE": engine,
    }


def format_number(number: float | None) -> str | None:
    """Return a number as a variable has it."""
    return None if number is None else f"{number:g}"
