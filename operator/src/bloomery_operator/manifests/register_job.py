"""Task of a TrainingJob: the later registration of a model that MLflow could not take at the end of the training."""

from __future__ import annotations

from bloomery_operator.api import TrainingJob
from bloomery_operator.domain.names import config_map_name
from bloomery_operator.manifests import train_job
from bloomery_operator.manifests.job import TrainerTask

COMMAND = "register"
_BACKOFF_LIMIT = 100
"""The Job controller waits up to six minutes between tries: MLflow may be down for a night."""


def build_task(job: TrainingJob, spec_hash: str) -> TrainerTask:
    """Return the registration of a finished training, which uses the training's configuration."""
    return TrainerTask(
        command=COMMAND,
        config={},
        hash_input={"register": job.metadata.uid},
        backoff_limit=_BACKOFF_LIMIT,
        # It runs on the nodes that took its training.
        pod_template=job.spec.pod_template,
        shared_config_map=config_map_name(job, train_job.COMMAND, spec_hash),
    )
