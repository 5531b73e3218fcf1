"""Reasons of the conditions that the operator sets, with the severity of their Events.

A condition may also have a reason that a trainer, a model server, the Job controller or the gateway reported.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import NewType, Self

ReportedReason = NewType("ReportedReason", str)
"""A reason that a container, the Job controller or the gateway reported."""


class Severity(Enum):
    """Severity of a reason: the ``type`` of its Event."""

    NORMAL = "Normal"
    WARNING = "Warning"


class Reason(StrEnum):
    """A reason of a condition, with the conditions that have it. Users rely on these words: never rename one."""

    severity: Severity

    def __new__(cls, word: str, severity: Severity = Severity.NORMAL) -> Self:
        """Create the member of a word."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.severity = severity
        return member

    # Dataset
    PREPARING = "Preparing"
    """Dataset, Ready=False: the preparation lists, checks or packs images."""
    PREPARED = "Prepared"
    """Dataset, Ready=True: the version can be trained on."""
    # TrainingJob
    DATASET_NOT_FOUND = "DatasetNotFound", Severity.WARNING
    """Running=False: a Dataset of the spec does not exist."""
    DATASET_NOT_READY = "DatasetNotReady"
    """Running=False: a Dataset is still being prepared."""
    DATASET_FAILED = "DatasetFailed", Severity.WARNING
    """Running=False: a Dataset failed."""
    DATASET_VERSION_NOT_FOUND = "DatasetVersionNotFound", Severity.WARNING
    """Running=False: a Dataset has no such version."""
    INITIAL_MODEL_NOT_FOUND = "InitialModelNotFound", Severity.WARNING
    """Running=False: the TrainingJob to start from does not exist."""
    INITIAL_MODEL_NOT_READY = "InitialModelNotReady"
    """Running=False: the TrainingJob to start from is not complete."""
    INITIAL_MODEL_FAILED = "InitialModelFailed", Severity.WARNING
    """Running=False: the TrainingJob to start from failed."""
    MODEL_NOT_OURS = "ModelNotOurs", Severity.WARNING
    """Running=False: the initial model was not trained by a TrainingJob, so it has no weights to start from."""
    MODEL_NAME_NOT_ALLOWED = "ModelNameNotAllowed", Severity.WARNING
    """Running=False: ``output.registeredModel`` has the prefix of another namespace, or is too long with its own."""
    QUEUED = "Queued"
    """Running=False: Kueue has not admitted the Job."""
    SUSPENDED = "Suspended"
    """Running=False and Suspended=True, or of a Retraining Ready=True: ``spec.suspend`` is true."""
    RESUMED = "Resumed"
    """Suspended=False: ``spec.suspend`` is false again."""
    TRAINING = "Training"
    """Running=True: the trainer trains or evaluates. Retraining, Ready=True: one of its TrainingJobs has not ended."""
    TRAINER_UNREACHABLE = "TrainerUnreachable", Severity.WARNING
    """Running=True: ``spec.stop`` is true, but the request does not reach the trainer."""
    NOT_REGISTERED = "NotRegistered", Severity.WARNING
    """Complete=True: the model is in the store, but not yet in MLflow's registry."""
    STOPPED_BEFORE_START = "StoppedBeforeStart"
    """Failed=True: ``spec.stop`` was set before a pod ran."""
    # Retraining
    WAITING = "Waiting"
    """Retraining, Ready=True: no trigger is due."""
    INVALID_SCHEDULE = "InvalidSchedule", Severity.WARNING
    """Retraining, Ready=False, and Dataset, RefreshScheduled=False: the schedule or its time zone is none."""
    # BatchPrediction
    PREDICTING = "Predicting"
    """Running=True: pods predict the images."""
    PREDICTED = "Predicted"
    """Complete=True: every file has an answer, or a reason why it has none."""
    # Dataset, TrainingJob and BatchPrediction
    PENDING = "Pending"
    """Ready=False or Running=False: the Job's pod is about to start."""
    RESULT_LOST = "ResultLost"
    """Ready=False or Complete=True: the Job succeeded, but its result cannot be read."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """Ready=False or Failed=True: the Job ran longer than ``activeDeadlineSeconds``."""
    # InferenceService
    TRAINING_JOB_NOT_FOUND = "TrainingJobNotFound", Severity.WARNING
    """VariantsReady=False or Running=False: the TrainingJob of a model does not exist."""
    WAITING_FOR_TRAINING = "WaitingForTraining"
    """VariantsReady=False or Running=False: the TrainingJob of a model is not complete."""
    TRAINING_JOB_FAILED = "TrainingJobFailed", Severity.WARNING
    """VariantsReady=False or Running=False: the TrainingJob of a model failed.

    TrainingSucceeded=False: a Retraining's last one.
    """
    DEPLOYING = "Deploying"
    """VariantsReady=False: pods are starting."""
    ALL_READY = "AllReady"
    """VariantsReady=True: every variant has all its pods ready."""
    STOPPED = "Stopped"
    """VariantsReady=False: ``stopped``, 0 replicas or ``autoStop``."""
    METRICS_UNREADABLE = "MetricsUnreadable", Severity.WARNING
    """VariantsReady=True: the metrics of ready pods cannot be read, so that their requests and digests are unknown."""
    NO_GATEWAY = "NoGateway"
    """RouteReady=True: there is no gateway, and the only variant has a Service of the same name."""
    GATEWAY_REQUIRED = "GatewayRequired"
    """RouteReady=False: several variants need a gateway."""
    PATH_TAKEN = "PathTaken", Severity.WARNING
    """RouteReady=False: the path overlaps with that of an older service."""
    PATH_NOT_ALLOWED = "PathNotAllowed", Severity.WARNING
    """RouteReady=False: the path belongs to another namespace. RouteReady=True: so it does, and its route stays."""
    NOTHING_TO_ROUTE_TO = "NothingToRouteTo"
    """RouteReady=False: no variant with a weight can serve."""
    ROUTE_PENDING = "RoutePending"
    """RouteReady=False: the gateway has not seen the route yet."""
    ACCEPTED = "Accepted"
    """RouteReady=True: the gateway accepted the route."""
    ACCELERATOR_UNUSED = "AcceleratorUnused", Severity.WARNING
    """VariantsReady=True: a variant's pods hold an accelerator on which the model server cannot compute."""
    DRAINING = "Draining", Severity.WARNING
    """Draining=True: replaced pods cannot be removed yet."""
    ROLLING_OUT = "RollingOut"
    """Progressing=True: a rollout moves traffic step by step."""
    ROLLOUT_ABORTED = "RolloutAborted", Severity.WARNING
    """Progressing=False: a rollout was aborted, and the former split is back."""
    SERVING = "Serving"
    """Ready=True: the service answers."""
    # MLflow's registry, for TrainingJob, InferenceService and BatchPrediction
    MODEL_NOT_FOUND = "ModelNotFound", Severity.WARNING
    """The registry has no such model version."""
    MODEL_NOT_READY = "ModelNotReady"
    """The registry has the model version, but it is not ready."""
    REGISTRY_NOT_CONFIGURED = "RegistryNotConfigured", Severity.WARNING
    """The storage Secret has no MLFLOW_TRACKING_URI."""
    MLFLOW_NOT_ALLOWED = "MLflowNotAllowed", Severity.WARNING
    """The storage Secret names an MLflow that the installation does not list, so the operator does not contact it."""
    REGISTRY_UNREACHABLE = "RegistryUnreachable", Severity.WARNING
    """MLflow does not answer, or not as expected."""
    # Pods of all kinds
    UNSCHEDULABLE = "Unschedulable", Severity.WARNING
    """No node takes the pod."""
    IMAGE_NOT_AVAILABLE = "ImageNotAvailable", Severity.WARNING
    """The pod's image cannot be pulled."""
    POD_NOT_CONFIGURED = "PodNotConfigured", Severity.WARNING
    """The pod's container cannot be created, usually because a Secret or ConfigMap is missing."""
    SIDECAR_FAILED = "SidecarFailed", Severity.WARNING
    """A container that others injected into the pod fails again and again."""
    SIDECAR_RUNNING = "SidecarRunning"
    """Dataset and TrainingJob: the work has ended, but a container that others injected keeps the pod running."""
    NODE_LOST = "NodeLost", Severity.WARNING
    """The pod's node does not answer, so the pod cannot end."""
    # Child objects of all kinds
    SECRET_NOT_FOUND = "SecretNotFound", Severity.WARNING
    """A Secret that pods need does not exist."""
    NAME_TAKEN = "NameTaken", Severity.WARNING
    """An object of something else has a child's name."""
    REPLACING = "Replacing"
    """A former child of the same name is still being deleted."""
    REFUSED = "Refused", Severity.WARNING
    """The API server rejected a child."""
    STATUS_REFUSED = "StatusRefused", Severity.WARNING
    """Ready=False or Running=False: the API server rejects the status, so the former one is shown."""
    INVALID_SPEC = "InvalidSpec"
    """Ready=False: the stored object cannot be read."""


def severity_of(reason: str) -> Severity:
    """Return the severity of a condition's reason; a reported reason has none of its own."""
    try:
        return Reason(reason).severity
    except ValueError:
        return Severity.NORMAL
