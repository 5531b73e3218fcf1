"""The batch Job and the ConfigMap with its configuration, as ``prepare`` and ``train`` share them.

Exit codes are the trainer's contract: 2 and 3 are the user's to mend and never retried; 143 (saved on SIGTERM)
and 75 (a peer was lost) are nobody's fault and do not count against ``backoffLimit``, nor does a disruption.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from bloomery_operator.api.common import CustomResource, Manifest, PodTemplate, Resources
from bloomery_operator.resources.metadata import SPEC_HASH, child_metadata, digest_of, labels_of
from bloomery_operator.resources.pods import (
    CONFIG_FOLDER,
    compute,
    credentials,
    empty_dir,
    overlaid,
    restricted_container,
    restricted_pod,
)
from bloomery_operator.settings import Settings

PROGRESS_PORT = 8089
RENDEZVOUS_PORT = 29500
USER_ERROR_EXIT_CODES = (2, 3)
UNCOUNTED_EXIT_CODES = (75, 143)
DEFAULT_RESOURCES = Resources(requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": "4Gi"})


_NODE_TOLERATIONS = [
    {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
    for state in ("not-ready", "unreachable")
]
"""A pod on a node that went away is given up after 30 s, not 5 minutes: it goes on elsewhere from a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class TrainerTask:
    """One run of the trainer image: which command, with which configuration.

    ``asked`` is what the user asked for. Hashes are of that, not of what the builders make of it: an operator
    whose builders changed must not take finished work for unfinished, nor a running Job for a wrong one.
    """

    command: str
    config: dict[str, Any]
    asked: dict[str, Any]
    resources: Resources | None = None
    default_resources: Resources = DEFAULT_RESOURCES
    """What the pods get where ``resources`` says nothing; no part of any hash."""
    secrets: tuple[Manifest, ...] = ()
    scratch: str | int = "5Gi"
    backoff_limit: int = 3
    active_deadline_seconds: int | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    """Of the Job itself, such as Kueue's."""
    nodes: int = 1
    """Pods that work together, each with its number in ``JOB_COMPLETION_INDEX``."""
    suspended: bool = False
    environment: tuple[Manifest, ...] = ()
    volumes: tuple[Manifest, ...] = ()
    mounts: tuple[Manifest, ...] = ()
    pod_template: PodTemplate | None = None
    shared_config_map: str | None = None
    """Another Job's ConfigMap, where this task works by the same document."""

    @property
    def hash(self) -> str:
        """Changes whenever the result would be another one."""
        return digest_of(self.asked)

    @property
    def job_hash(self) -> str:
        """Changes whenever another Job should do the work: more memory changes the Job, not the result."""
        return digest_of([self.asked, self.resources.to_json() if self.resources else None])


def job_name(owner: CustomResource, command: str) -> str:
    """Return the name of an owner's Job."""
    return f"{owner.metadata.name}-{command}"


def config_map_name(owner: CustomResource, command: str, spec_hash: str) -> str:
    """Return the name of a Job's ConfigMap; the hash lets a new one stand beside one that is going."""
    return f"{job_name(owner, command)}-{spec_hash}"


def build_config_map(owner: CustomResource, task: TrainerTask) -> Manifest:
    """Return the immutable ConfigMap with the resolved configuration."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(owner, name=config_map_name(owner, task.command, task.job_hash), role=task.command),
        "immutable": True,
        "data": {"config.json": json.dumps(task.config, indent=1, ensure_ascii=False)},
    }


def build_job(owner: CustomResource, task: TrainerTask, settings: Settings) -> Manifest:
    """Return the Job that runs the task."""
    spec: Manifest = {
        "backoffLimit": task.backoff_limit,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": _pod_template(owner, task, settings),
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


def build_peers_service(owner: CustomResource, command: str) -> Manifest:
    """Return the headless Service by which a Job's pods find each other: ``JOB-0.JOB`` and so on."""
    name = job_name(owner, command)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(owner, name=name, role=command),
        "spec": {
            "clusterIP": "None",
            # They meet before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": {"batch.kubernetes.io/job-name": name},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT, "protocol": "TCP"}],
        },
    }


def _pod_template(owner: CustomResource, task: TrainerTask, settings: Settings) -> Manifest:
    """Return the pods' template."""
    template = {"metadata": {"labels": labels_of(owner, role=task.command)}, "spec": _pod_spec(owner, task, settings)}
    return overlaid(template, task.pod_template)


def _failure_rules() -> list[Manifest]:
    def on_exit_codes(action: str, codes: tuple[int, ...]) -> Manifest:
        return {"action": action, "onExitCodes": {"operator": "In", "values": list(codes)}}

    return [
        on_exit_codes("FailJob", USER_ERROR_EXIT_CODES),
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        on_exit_codes("Ignore", UNCOUNTED_EXIT_CODES),
    ]


def _pod_spec(owner: CustomResource, task: TrainerTask, settings: Settings) -> Manifest:
    config_map = task.shared_config_map or config_map_name(owner, task.command, task.job_hash)
    config_volume = {"name": "config", "configMap": {"name": config_map}}
    scratch_volume, scratch_mount = empty_dir("scratch", "/tmp", size=task.scratch)
    memory_volume, memory_mount = empty_dir("shared-memory", "/dev/shm", memory=True)
    container = restricted_container() | {
        "name": "trainer",
        "image": settings.trainer_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "bloomery_trainer"],
        "args": [task.command, f"{CONFIG_FOLDER}/config.json"],
        "envFrom": [credentials(settings.storage_secret), *task.secrets],
        "env": [
            {"name": "BLOOMERY_PORT", "value": str(PROGRESS_PORT)},
            {"name": "HOME", "value": "/tmp"},
            *task.environment,
        ],
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT}],
        "resources": compute(task.resources, default=task.default_resources),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
            scratch_mount,
            memory_mount,
            *task.mounts,
        ],
    }
    # Pods of one training find each other by their names below this one.
    together = {"subdomain": job_name(owner, task.command)} if task.nodes > 1 else {}
    return (
        restricted_pod()
        | together
        | {
            "restartPolicy": "Never",
            "tolerations": _NODE_TOLERATIONS,
            # Long enough for a trainer to save and upload what it has.
            "terminationGracePeriodSeconds": 300,
            "containers": [container],
            "volumes": [config_volume, scratch_volume, memory_volume, *task.volumes],
        }
    )
