"""Job that runs a task of the trainer image: preparation, training or registration.

The exit codes are the trainer's contract: 2 and 3 are errors that only the user can fix, and are never retried. 143
(saved on SIGTERM), 75 (lost a peer) and disruptions do not count against ``backoffLimit``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bloomery_operator.api.base import Manifest, PodTemplate, Resources
from bloomery_operator.api.custom_resource import CustomResource
from bloomery_operator.domain.digest import digest_of
from bloomery_operator.domain.labels import SPEC_HASH, child_labels
from bloomery_operator.domain.names import TRAINER_CONTAINER, config_name, job_name
from bloomery_operator.domain.ports import PROGRESS_PORT
from bloomery_operator.manifests.metadata import child_metadata
from bloomery_operator.manifests.network import with_network
from bloomery_operator.manifests.pod import (
    CONFIG_FOLDER,
    container_resources,
    credentials,
    empty_dir,
    restricted_container,
    restricted_pod,
    set_fields,
    with_pod_template,
)
from bloomery_operator.settings import Settings

CONFIG_FILE_NAME = "config.json"
USER_ERROR_EXIT_CODES = (2, 3)
UNCOUNTED_EXIT_CODES = (75, 143)
DEFAULT_RESOURCES = Resources(requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": "4Gi"})
NODE_TOLERATIONS = [
    {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
    for state in ("not-ready", "unreachable")
]
"""A pod on an unreachable node is replaced after 30 s, not 5 minutes; the new one resumes from a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class TrainerTask:
    """One run of the trainer image: its command and configuration.

    Hashes cover ``hash_input``, which is the user's spec, and not the manifests made of it: a new version of the
    builders must not repeat finished work, nor replace a running Job.
    """

    command: str
    config: dict[str, Any]
    hash_input: dict[str, Any]
    resources: Resources | None = None
    default_resources: Resources = DEFAULT_RESOURCES
    """Used if ``resources`` is None; not part of any hash."""
    secrets: tuple[Manifest, ...] = ()
    scratch: str | int = "5Gi"
    backoff_limit: int = 3
    active_deadline_seconds: int | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    """Labels of the Job itself, such as Kueue's."""
    nodes: int = 1
    """Number of pods that work together, each with its index in ``JOB_COMPLETION_INDEX``."""
    suspended: bool = False
    environment: tuple[Manifest, ...] = ()
    volumes: tuple[Manifest, ...] = ()
    mounts: tuple[Manifest, ...] = ()
    pod_template: PodTemplate | None = None
    hashes_pod_template: bool = False
    """Whether another ``pod_template`` needs another Job; that of a training cannot change."""
    secret_environment: Mapping[str, str] = field(default_factory=dict)
    """Variables whose values are in the Secret with the configuration; they are part of no hash."""
    shared_config: Manifest | None = None
    """Volume source of another Job's configuration, if this task uses the same."""

    @property
    def hash(self) -> str:
        """Hash of the result: another result has another hash."""
        return digest_of(self.hash_input)

    @property
    def job_hash(self) -> str:
        """Hash of the Job: other resources or nodes need another Job, but give the same result."""
        pod_template = set_fields(self.pod_template) if self.hashes_pod_template else {}
        resources = self.resources.to_json() if self.resources else None
        # Without a template nothing is added: the hashes of stored objects stay.
        return digest_of([self.hash_input, resources, *([pod_template] if pod_template else [])])


def build_config(owner: CustomResource, task: TrainerTask) -> Manifest:
    """Return the immutable ConfigMap with a task's resolved configuration; with secret variables, a Secret of both."""
    metadata = child_metadata(owner, name=config_name(owner, task.command, task.job_hash), role=task.command)
    data = {CONFIG_FILE_NAME: json.dumps(task.config, indent=1, ensure_ascii=False), **task.secret_environment}
    if not task.secret_environment:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": True, "data": data}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"}
    return secret | {"immutable": True, "stringData": data}


def config_source(name: str, *, is_secret: bool) -> Manifest:
    """Return the volume source with the configuration of a ConfigMap, or of a Secret without its other entries."""
    if not is_secret:
        return {"configMap": {"name": name}}
    return {"secret": {"secretName": name, "items": [{"key": CONFIG_FILE_NAME, "path": CONFIG_FILE_NAME}]}}


def build_job(owner: CustomResource, task: TrainerTask, settings: Settings) -> Manifest:
    """Return the Job that runs the task."""
    template = {
        "metadata": {"labels": child_labels(owner, role=task.command)},
        "spec": _pod_spec(owner, task, settings),
    }
    spec: Manifest = {
        "backoffLimit": task.backoff_limit,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": failure_rules(TRAINER_CONTAINER)},
        "template": with_pod_template(template, task.pod_template),
    }
    if task.active_deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = task.active_deadline_seconds
    if task.suspended:
        spec["suspend"] = True
    if task.nodes > 1:
        spec |= {"completionMode": "Indexed", "completions": task.nodes, "parallelism": task.nodes}
    metadata = child_metadata(
        owner,
        name=job_name(owner, task.command),
        role=task.command,
        annotations={SPEC_HASH: task.job_hash} | task.annotations,
    )
    metadata["labels"] |= task.labels
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def failure_rules(container: str) -> list[Manifest]:
    """Return the rules by which the exit codes of a container decide about retries."""

    def on_exit_codes(action: str, codes: tuple[int, ...]) -> Manifest:
        # Without the name, the rules would also match the exit codes of containers that others inject.
        on_exit = {"containerName": container, "operator": "In", "values": list(codes)}
        return {"action": action, "onExitCodes": on_exit}

    return [
        on_exit_codes("FailJob", USER_ERROR_EXIT_CODES),
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        on_exit_codes("Ignore", UNCOUNTED_EXIT_CODES),
    ]


def _pod_spec(owner: CustomResource, task: TrainerTask, settings: Settings) -> Manifest:
    scratch_volume, scratch_mount = empty_dir("scratch", "/tmp", size=task.scratch)
    memory_volume, memory_mount = empty_dir("shared-memory", "/dev/shm", memory=True)
    # The pods of one training find each other by DNS names below this one.
    subdomain = {"subdomain": job_name(owner, task.command)} if task.nodes > 1 else {}
    pod = (
        restricted_pod(settings)
        | subdomain
        | {
            "restartPolicy": "Never",
            "tolerations": NODE_TOLERATIONS,
            # Enough for a trainer to save and upload its state.
            "terminationGracePeriodSeconds": 300,
            "containers": [_trainer_container(owner, task, settings, [scratch_mount, memory_mount])],
            "volumes": [_config_volume(owner, task), scratch_volume, memory_volume, *task.volumes],
        }
    )
    return with_network(pod, settings)


def _config_volume(owner: CustomResource, task: TrainerTask) -> Manifest:
    own = config_name(owner, task.command, task.job_hash)
    return {"name": "config"} | (task.shared_config or config_source(own, is_secret=bool(task.secret_environment)))


def _secret_variables(owner: CustomResource, task: TrainerTask) -> list[Manifest]:
    secret = config_name(owner, task.command, task.job_hash)
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}} for name in task.secret_environment
    ]


def _trainer_container(
    owner: CustomResource, task: TrainerTask, settings: Settings, mounts: list[Manifest]
) -> Manifest:
    return restricted_container() | {
        "name": TRAINER_CONTAINER,
        "image": settings.trainer_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "bloomery_trainer"],
        "args": [task.command, f"{CONFIG_FOLDER}/{CONFIG_FILE_NAME}"],
        "envFrom": [credentials(settings.storage_secret), *task.secrets],
        "env": [
            {"name": "BLOOMERY_PORT", "value": str(PROGRESS_PORT)},
            {"name": "HOME", "value": "/tmp"},
            *task.environment,
            *_secret_variables(owner, task),
        ],
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT}],
        "resources": container_resources(task.resources, default=task.default_resources),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
            *mounts,
            *task.mounts,
        ],
    }
