"""Views of Jobs, pods and Deployments: the fields that decisions need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from bloomery_operator.api.base import Manifest
from bloomery_operator.api.reasons import Reason, ReportedReason
from bloomery_operator.domain.labels import AUTOSCALED, NAME, RETIRED_AT, SERVED_TAG, SPEC_HASH, VARIANT
from bloomery_operator.domain.names import SERVER_CONTAINER, container_name
from bloomery_operator.domain.ports import COMPARE_PORT_NAME
from bloomery_operator.domain.timestamps import read_time
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.status.trainer_results import read_document

_INDEX = "batch.kubernetes.io/job-completion-index"
_SECONDARY_REASONS = frozenset({"PeerLost", "Terminated"})
_WAITING_FOR_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_WAITING_FOR_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_CRASHED = "CrashLoopBackOff"
_EXIT_CODES_OF_NODES = (143, 255)
"""Exit codes of a container that got SIGTERM, and of one that was lost with its node."""


@dataclass(frozen=True)
class InjectedContainer:
    """A container that others added to a pod of ours, such as the proxy of a service mesh."""

    name: str
    is_running: bool = False
    is_init: bool = False
    """Whether it is an init container; those that always restart are native sidecars, which end with the pod."""
    waiting_reason: str = ""
    waiting_message: str = ""

    @classmethod
    def of(cls, status: Mapping[str, Any], *, is_init: bool) -> Self:
        """Read the status of a container."""
        state = status.get("state", {})
        waiting = state.get("waiting") or {}
        return cls(
            name=str(status.get("name", "")),
            is_running="running" in state,
            is_init=is_init,
            waiting_reason=waiting.get("reason", ""),
            waiting_message=waiting.get("message", ""),
        )


@dataclass(frozen=True)
class PodView:
    """A pod: its phase, its address and the state of our container in it."""

    name: str
    phase: str
    uid: str = ""
    ip: str | None = None
    created: str = ""
    ready: bool = False
    deleting: bool = False
    exit_code: int | None = None
    termination_message: str = ""
    waiting_reason: str = ""
    waiting_message: str = ""
    unschedulable: str = ""
    restarts: int = 0
    has_ended: bool = False
    """Whether our container has ended and does not restart."""
    injected: tuple[InjectedContainer, ...] = ()
    """The containers that are not ours."""
    index: int = 0
    """Its index in an Indexed Job; the pod with index 0 reports for all."""
    node_lost: str | None = None
    """The pod's node, if it does not answer while the pod is being deleted."""

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Read a pod."""
        metadata, status = manifest["metadata"], manifest.get("status", {})
        labels = metadata.get("labels", {})
        ours = container_name(labels.get(NAME, ""))
        container: Manifest = next((c for c in status.get("containerStatuses", []) if c.get("name") == ours), {})
        state = container.get("state", {})
        # A server that crashed waits for its restart; lastState says why it crashed.
        terminated = state.get("terminated") or container.get("lastState", {}).get("terminated") or {}
        waiting = state.get("waiting") or {}
        conditions = {c["type"]: c for c in status.get("conditions", [])}
        scheduled = conditions.get("PodScheduled", {})
        return cls(
            name=metadata["name"],
            phase=status.get("phase", "Pending"),
            uid=metadata.get("uid", ""),
            ip=status.get("podIP"),
            created=metadata.get("creationTimestamp") or "",
            ready=conditions.get("Ready", {}).get("status") == "True",
            deleting="deletionTimestamp" in metadata,
            exit_code=terminated.get("exitCode"),
            termination_message=terminated.get("message", ""),
            waiting_reason=waiting.get("reason", ""),
            waiting_message=waiting.get("message", ""),
            unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
            restarts=container.get("restartCount", 0),
            has_ended=bool(state.get("terminated")),
            injected=_injected_containers(status, ours),
            index=_completion_index(labels),
            node_lost=_lost_node(manifest, conditions),
        )

    @property
    def host(self) -> str:
        """The address in a URL."""
        return f"[{self.ip}]" if self.ip and ":" in self.ip else str(self.ip)

    @property
    def result(self) -> Mapping[str, Any]:
        """The termination message as a JSON object; empty if it is none."""
        return read_document(self.termination_message)

    @property
    def is_reachable(self) -> bool:
        """Whether the pod runs at an address."""
        return self.phase == "Running" and self.ip is not None

    @property
    def is_working(self) -> bool:
        """Whether our container runs, and can be reached."""
        return self.is_reachable and not self.has_ended and not self.deleting

    @property
    def has_failed(self) -> bool:
        """Whether our container ended by an error of its own, rather than with its node or by a termination."""
        return self.exit_code not in (None, 0, *_EXIT_CODES_OF_NODES)

    @property
    def running_sidecars(self) -> tuple[str, ...]:
        """Names of the injected containers that keep the pod running although ours has ended."""
        if self.phase != "Running" or not self.has_ended:
            return ()
        return tuple(c.name for c in self.injected if c.is_running and not c.is_init)

    @property
    def error(self) -> Verdict | None:
        """The error that the container reported in its termination message."""
        error = self.result.get("error")
        if not isinstance(error, dict):
            return None
        return Verdict(ReportedReason(str(error.get("reason", "Error"))), str(error.get("message", "")), failed=True)


@dataclass(frozen=True)
class JobView:
    """A Job with its pods, oldest first."""

    name: str
    uid: str
    spec_hash: str
    annotations: Mapping[str, str]
    deleting: bool
    succeeded: bool
    failure: Verdict | None
    failed_pods: int
    suspended: bool
    start_time: datetime | None
    end_time: datetime | None
    pods: tuple[PodView, ...]
    created: datetime | None = None
    parallelism: int = 1
    rejection: str = ""
    """Why the Job controller cannot create the Job's next pod, in its own words."""

    @classmethod
    def of(cls, manifest: Manifest, pods: Iterable[Manifest]) -> Self:
        """Read a Job; conditions as batch/v1 defines them."""
        metadata, spec, status = manifest["metadata"], manifest.get("spec", {}), manifest.get("status", {})
        conditions = {c["type"]: c for c in status.get("conditions", []) if c.get("status") == "True"}
        failed = conditions.get("Failed")
        end = status.get("completionTime") or (failed or {}).get("lastTransitionTime")
        annotations = metadata.get("annotations", {})
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            spec_hash=annotations.get(SPEC_HASH, ""),
            annotations=annotations,
            deleting="deletionTimestamp" in metadata,
            succeeded="Complete" in conditions,
            failure=_job_controller_verdict(failed) if failed else None,
            failed_pods=status.get("failed", 0),
            suspended=bool(spec.get("suspend")),
            start_time=read_time(status.get("startTime")),
            end_time=read_time(end),
            pods=tuple(sorted(map(PodView.of, pods), key=lambda pod: (pod.created, pod.name))),
            created=read_time(metadata.get("creationTimestamp")),
            parallelism=spec.get("parallelism", 1),
        )

    @property
    def is_finished(self) -> bool:
        """Whether the Job controller has declared its end."""
        return self.succeeded or self.failure is not None

    @property
    def lacks_pods(self) -> bool:
        """Whether the Job controller has yet to create a pod."""
        if self.is_finished or self.suspended or self.deleting:
            return False
        return sum(pod.phase != "Failed" for pod in self.pods) < self.parallelism

    @property
    def has_begun(self) -> bool:
        """Whether a pod of it has run; a pod that is not scheduled has not."""
        return self.is_finished or self.failed_pods > 0 or any(pod.phase != "Pending" for pod in self.pods)

    @property
    def has_running_pods(self) -> bool:
        """Whether a pod still runs, if only to save its state."""
        return any(pod.phase == "Running" for pod in self.pods)

    @property
    def current_pod(self) -> PodView | None:
        """The newest pod, which runs or ran last; in a training on several nodes, that with index 0."""
        return next((pod for pod in reversed(self.pods) if pod.index == 0), None)

    @property
    def termination_result(self) -> Mapping[str, Any]:
        """The termination message of the pod that ended the Job: its result or its error."""
        if self.succeeded:
            return self.result
        return next((pod.result for pod in reversed(self.pods) if pod.result), {})

    @property
    def result(self) -> Mapping[str, Any]:
        """The termination message of the pod that succeeded."""
        return self._succeeded_pod.result if self._succeeded_pod is not None else {}

    @property
    def results(self) -> tuple[Mapping[str, Any], ...]:
        """The termination messages of all pods that succeeded."""
        return tuple(pod.result for pod in self.pods if pod.phase == "Succeeded")

    @property
    def result_pod_is_gone(self) -> bool:
        """Whether the Job succeeded, and the pod with its result was removed."""
        return self.succeeded and self._succeeded_pod is None

    @property
    def _succeeded_pod(self) -> PodView | None:
        return next((pod for pod in reversed(self.pods) if pod.phase == "Succeeded" and pod.index == 0), None)


@dataclass(frozen=True)
class DeploymentView:
    """A Deployment of a variant's revision."""

    name: str
    variant: str
    replicas: int
    ready: int
    settled: bool
    """Whether the status is that of the newest generation, with all its pods and no others."""
    retired_at: datetime | None
    autoscaled: bool = False
    """Whether it has a HorizontalPodAutoscaler of ours."""
    scaled_by_others: bool = False
    """Whether something else has set ``replicas`` since our last apply."""
    served_tag: str = ""
    """The tag that was last written to its model version in MLflow."""
    version: str = ""
    """The resourceVersion."""
    image: str = ""
    """The image of its pods."""
    is_comparable: bool = False
    """Whether its pods can be asked for the classes of images; those of releases before 0.3.0 cannot."""
    unavailable_since: datetime | None = None
    """When it began to have too few ready pods; None while it has enough."""
    rejection: str = ""
    """Why a pod of it cannot be created, in the words of its controller."""

    @property
    def is_complete(self) -> bool:
        """Whether all its pods are of the newest template, and ready."""
        return self.settled and self.ready >= self.replicas

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Read a Deployment of a variant's revision."""
        metadata, status = manifest["metadata"], manifest.get("status", {})
        annotations = metadata.get("annotations", {})
        replicas = manifest["spec"].get("replicas", 1)
        settled = (
            status.get("observedGeneration", 0) >= metadata.get("generation", 1)
            and status.get("updatedReplicas", 0) == replicas
            and status.get("replicas", 0) == replicas
        )
        return cls(
            name=metadata["name"],
            variant=metadata.get("labels", {}).get(VARIANT, ""),
            replicas=replicas,
            ready=status.get("readyReplicas", 0),
            settled=settled,
            retired_at=read_time(annotations.get(RETIRED_AT)),
            autoscaled=AUTOSCALED in annotations,
            scaled_by_others=any(
                "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
                for entry in metadata.get("managedFields", [])
                if entry.get("subresource") == "scale"
            ),
            served_tag=annotations.get(SERVED_TAG, ""),
            version=metadata.get("resourceVersion", ""),
            image=str(_server_container(manifest).get("image", "")),
            is_comparable=any(p.get("name") == COMPARE_PORT_NAME for p in _server_container(manifest).get("ports", [])),
            unavailable_since=_unavailable_since(status),
            # With all new pods created, the condition is that of an older template's pods.
            rejection=_replica_failure(status) if status.get("updatedReplicas", 0) < replicas else "",
        )


def _server_container(manifest: Manifest) -> Manifest:
    containers = manifest["spec"].get("template", {}).get("spec", {}).get("containers", [])
    return next((c for c in containers if c.get("name") == SERVER_CONTAINER), {})


def _unavailable_since(status: Mapping[str, Any]) -> datetime | None:
    conditions = (c for c in status.get("conditions", []) if c["type"] == "Available" and c["status"] == "False")
    return next((read_time(c.get("lastTransitionTime")) for c in conditions), None)


def _replica_failure(status: Mapping[str, Any]) -> str:
    """Return the message of a Deployment's condition ReplicaFailure; empty without one."""
    conditions = (c for c in status.get("conditions", []) if c["type"] == "ReplicaFailure" and c["status"] == "True")
    return next((str(c.get("message") or c.get("reason", "")) for c in conditions), "")


def _injected_containers(status: Mapping[str, Any], ours: str) -> tuple[InjectedContainer, ...]:
    init = [InjectedContainer.of(container, is_init=True) for container in status.get("initContainerStatuses", [])]
    others = [container for container in status.get("containerStatuses", []) if container.get("name") != ours]
    return (*init, *(InjectedContainer.of(container, is_init=False) for container in others))


def _completion_index(labels: Mapping[str, str]) -> int:
    """Return a pod's index in its Job; 0 for a label that somebody changed to something else."""
    text = labels.get(_INDEX, "")
    return int(text) if text.isascii() and text.isdecimal() else 0


def _job_controller_verdict(failed: Mapping[str, Any]) -> Verdict:
    return Verdict(ReportedReason(failed.get("reason", "Failed")), failed.get("message", ""))


def _lost_node(manifest: Manifest, conditions: Mapping[str, Any]) -> str | None:
    """Return the node of a pod that is being deleted while its kubelet no longer reports its state."""
    ready = conditions.get("Ready", {})
    unknown = ready.get("reason") == "NodeNotReady" or manifest.get("status", {}).get("reason") == "NodeLost"
    if "deletionTimestamp" not in manifest["metadata"] or not unknown:
        return None
    return str(manifest.get("spec", {}).get("nodeName") or "of the pod")


def pod_not_ready_reason(pod: PodView) -> Verdict | None:
    """Return why a pod does not start or end, with what to fix."""
    if pod.node_lost:
        return Verdict(
            Reason.NODE_LOST,
            f"Node {pod.node_lost} does not answer, so pod {pod.name} cannot end. If the node is gone for good: "
            f"kubectl taint node {pod.node_lost} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
        )
    if pod.unschedulable:
        return Verdict(Reason.UNSCHEDULABLE, f"No node takes pod {pod.name}: {pod.unschedulable}")
    if pod.waiting_reason in _WAITING_FOR_IMAGE:
        return Verdict(Reason.IMAGE_NOT_AVAILABLE, f"Pod {pod.name} cannot pull its image: {pod.waiting_message}")
    if pod.waiting_reason in _WAITING_FOR_CONFIG:
        return Verdict(Reason.POD_NOT_CONFIGURED, f"Pod {pod.name} cannot start: {pod.waiting_message}")
    return next((verdict for container in pod.injected if (verdict := _injected_problem(pod, container))), None)


def _injected_problem(pod: PodView, container: InjectedContainer) -> Verdict | None:
    """Return why a container that others added to a pod does not start."""
    where = f"Container {container.name!r} of pod {pod.name}, which is not Bloomery's,"
    detail = f": {container.waiting_message}" if container.waiting_message else "."
    if container.waiting_reason in _WAITING_FOR_IMAGE:
        return Verdict(Reason.IMAGE_NOT_AVAILABLE, f"{where} cannot pull its image{detail}")
    if container.waiting_reason in _WAITING_FOR_CONFIG:
        return Verdict(Reason.POD_NOT_CONFIGURED, f"{where} cannot start{detail}")
    if container.waiting_reason == _CRASHED:
        return Verdict(Reason.SIDECAR_FAILED, f"{where} fails again and again{detail}")
    return None


def pods_refused(rejection: str) -> Verdict | None:
    """Return the verdict of a controller that cannot create a pod: a quota, a limit range, an admission policy."""
    return Verdict(Reason.REFUSED, f"A pod cannot be created: {rejection}") if rejection else None


def sidecars_running(pod: PodView | None, work: str) -> Verdict | None:
    """Return which containers keep a pod running whose work has ended; ``work`` names it."""
    if pod is None or not pod.running_sidecars:
        return None
    names = ", ".join(pod.running_sidecars)
    return Verdict(
        Reason.SIDECAR_RUNNING,
        f"The {work} has ended, but its pod {pod.name} has not: the container {names} still runs. End it, or let its "
        "injector add it as a native sidecar or leave these pods out.",
    )


def job_failure(job: JobView) -> Verdict | None:
    """Return why a Job failed: its pod's error, else the Job controller's condition."""
    if job.failure is None:
        return None
    if job.failure.reason == Reason.DEADLINE_EXCEEDED:
        return Verdict(Reason.DEADLINE_EXCEEDED, "It ran longer than activeDeadlineSeconds allows.", failed=True)
    errors = [pod.error for pod in reversed(job.pods) if pod.error is not None]
    # A pod that lost another one, or was terminated, does not know the cause.
    cause = next((error for error in errors if error.reason not in _SECONDARY_REASONS), errors[0] if errors else None)
    return cause or Verdict(job.failure.reason, _failure_message(job), failed=True)


def _failure_message(job: JobView) -> str:
    pod = job.current_pod
    if pod is None or pod.exit_code is None:
        return job.failure.message if job.failure else ""
    last_line = pod.termination_message.strip().rsplit("\n", 1)[-1]
    end = f": {last_line}" if last_line else ""
    return f"{job.failed_pods} of its pods failed; the last, {pod.name}, ended with exit code {pod.exit_code}{end}"
