"""Name of a TrainingJob's model in MLflow's registry, which several namespaces may share."""

from __future__ import annotations

from collections.abc import Callable

from bloomery_operator.api import TrainingJob
from bloomery_operator.api.reasons import Reason
from bloomery_operator.domain.verdict import Verdict

MAX_LENGTH = 250


def registered_name(job: TrainingJob, *, namespaced: bool) -> str:
    """Return the name: NAMESPACE.NAME if names are namespaced, unless the user wrote it so."""
    name = job.spec.output.registered_model or job.metadata.name
    return name_in_registry(job.metadata.namespace, name, namespaced=namespaced)


def name_in_registry(namespace: str, name: str, *, namespaced: bool) -> str:
    """Return the name in the registry of a model of a namespace."""
    prefix = f"{namespace}."
    return name if not namespaced or name.startswith(prefix) else f"{prefix}{name}"


def rejected_name(job: TrainingJob, *, namespaced: bool, is_namespace: Callable[[str], bool]) -> Verdict | None:
    """Return why a job may not register its model under its name, or None.

    Args:
        job: the TrainingJob.
        namespaced: whether names have the namespace before them.
        is_namespace: whether a name is that of a namespace with objects of ours.
    """
    own, name = job.metadata.namespace, job.spec.output.registered_model or ""
    first, separator, _ = name.partition(".")
    if not namespaced or job.spec.evaluate_only:
        return None
    if separator and first != own and is_namespace(first):
        message = (
            f"output.registeredModel is {name!r}, a model of namespace {first!r}: jobs of namespace {own!r} register "
            f"models as '{own}.NAME'. Any namespace may read models:/{name}."
        )
        return Verdict(Reason.MODEL_NAME_NOT_ALLOWED, message)
    full_name = registered_name(job, namespaced=namespaced)
    if len(full_name) > MAX_LENGTH:
        message = (
            f"The model's name in MLflow would have {len(full_name)} characters, with the namespace before "
            f"output.registeredModel: at most {MAX_LENGTH} are allowed."
        )
        return Verdict(Reason.MODEL_NAME_NOT_ALLOWED, message)
    return None
