"""Task of a TrainingJob: the later registration of a model that MLflow could not take at the end of the training."""

from __future__ import annotations

from bloomery_operator.api import TrainingJob
from bloomery_operator.domain.names import config_name
from bloomery_operator.manifests import train_job
from bloomery_operator.manifests.job import TrainerTask, config_source

COMMAND = "register"
_BACKOFF_LIMIT = 100
"""The Job controller waits up to six minutes between tries: MLflow may be down for a night."""


def build_task(job: TrainingJob, spec_hash: str, *, has_secret: bool = True) -> TrainerTask:
    """Return the registration of a finished training, which uses the training's configuration.

    Args:
        job: the training.
        spec_hash: of its Job.
        has_secret: whether the configuration is in a Secret; releases before 0.3.0 stored it in a ConfigMap.
    """
    name = config_name(job, train_job.COMMAND, spec_hash)
    return TrainerTask(
        command=COMMAND,
        config={},
        hash_input={"register": job.metadata.uid},
        backoff_limit=_BACKOFF_LIMIT,
        # It runs on the nodes that took its training.
        pod_template=job.spec.pod_template,
        shared_config=config_source(name, is_secret=has_secret),
    )
