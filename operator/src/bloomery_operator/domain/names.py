"""Names of child objects."""

from __future__ import annotations

from bloomery_operator.api import InferenceService, TrainingJob
from bloomery_operator.api.custom_resource import CustomResource
from bloomery_operator.domain.labels import PREDICT_ROLE, SERVE_ROLE, TENSORBOARD_ROLE

MAX_NAME_LENGTH = 63
"""Characters of a Service's name and of a label's value (RFC 1123)."""
TRAINER_CONTAINER = "trainer"
"""Container of a Job's pods: preparation, training and registration."""
SERVER_CONTAINER = "server"
"""Container of a model server's pods, and of a batch prediction's."""
TENSORBOARD_CONTAINER = "tensorboard"
"""Container of a TensorBoard's pod."""
_CONTAINERS = {SERVE_ROLE: SERVER_CONTAINER, PREDICT_ROLE: SERVER_CONTAINER, TENSORBOARD_ROLE: TENSORBOARD_CONTAINER}


def container_name(role: str) -> str:
    """Return the name of our container in a pod of a role; all others were injected, as service meshes do."""
    return _CONTAINERS.get(role, TRAINER_CONTAINER)


def job_name(owner: CustomResource, command: str) -> str:
    """Return the name of an owner's Job for a command of the trainer, or for a batch prediction."""
    return f"{owner.metadata.name}-{command}"


def config_name(owner: CustomResource, command: str, spec_hash: str) -> str:
    """Return the name of the object with a Job's configuration; with the hash, it can exist beside a former one."""
    return f"{job_name(owner, command)}-{spec_hash}"


def keys_secret_name(service: InferenceService) -> str:
    """Return the name of the Secret with the API keys, which people read and edit."""
    return f"{service.metadata.name}-api-key"


def digests_secret_name(service: InferenceService) -> str:
    """Return the name of the Secret with the API keys' digests, which pods mount."""
    return f"{service.metadata.name}-api-key-digests"


def comparison_secret_name(service: InferenceService) -> str:
    """Return the name of the Secret with the token by which a service's pods ask each other."""
    return f"{service.metadata.name}-comparison"


def about_name(revision: str) -> str:
    """Return the name of the ConfigMap with a revision's texts, which its pods mount."""
    return f"{revision}-about"


def tensorboard_name(job: TrainingJob) -> str:
    """Return the name of a job's TensorBoard Deployment and Service."""
    return f"{job.metadata.name}-{TENSORBOARD_ROLE}"
