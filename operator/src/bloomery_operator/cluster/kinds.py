"""The kinds of objects that the operator reads and writes, and their REST paths."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bloomery_operator.api.base import API_GROUP, API_VERSION


@dataclass(frozen=True)
class ResourceKind:
    """A namespaced resource of the API server: group, version, kind and plural name."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of a manifest: ``apps/v1``, or ``v1`` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the REST path of an object, or of a collection in a namespace or in the whole cluster."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        within = f"/namespaces/{namespace}" if namespace else ""
        parts = [part for part in (self.plural, name, subresource) if part]
        return "/".join([root + within, *parts])


_OBJECT_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, order=True)
class ObjectKey:
    """Namespace and name of an object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return the key as kubectl users write it."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_valid(self) -> bool:
        """Whether an object can have this name. In a request's path, an invalid name may address another object."""
        return _OBJECT_NAME.fullmatch(self.name) is not None


@dataclass(frozen=True)
class ObjectReference:
    """Kind and key of an object."""

    kind: ResourceKind
    key: ObjectKey

    def __str__(self) -> str:
        """Return the object as the log shows it: the kind first."""
        return f"{self.kind.kind} {self.key}"


DATASETS = ResourceKind(API_GROUP, API_VERSION, "Dataset", "datasets")
TRAINING_JOBS = ResourceKind(API_GROUP, API_VERSION, "TrainingJob", "trainingjobs")
RETRAININGS = ResourceKind(API_GROUP, API_VERSION, "Retraining", "retrainings")
INFERENCE_SERVICES = ResourceKind(API_GROUP, API_VERSION, "InferenceService", "inferenceservices")
BATCH_PREDICTIONS = ResourceKind(API_GROUP, API_VERSION, "BatchPrediction", "batchpredictions")
JOBS = ResourceKind("batch", "v1", "Job", "jobs")
PODS = ResourceKind("", "v1", "Pod", "pods")
CONFIG_MAPS = ResourceKind("", "v1", "ConfigMap", "configmaps")
SECRETS = ResourceKind("", "v1", "Secret", "secrets")
SERVICES = ResourceKind("", "v1", "Service", "services")
EVENTS = ResourceKind("", "v1", "Event", "events")
REPLICA_SETS = ResourceKind("apps", "v1", "ReplicaSet", "replicasets")
DEPLOYMENTS = ResourceKind("apps", "v1", "Deployment", "deployments")
AUTOSCALERS = ResourceKind("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
DISRUPTION_BUDGETS = ResourceKind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
GATEWAYS = ResourceKind("gateway.networking.k8s.io", "v1", "Gateway", "gateways")
LEASES = ResourceKind("coordination.k8s.io", "v1", "Lease", "leases")
HTTP_ROUTES = ResourceKind("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes")
TRAFFIC_POLICIES = ResourceKind("gateway.envoyproxy.io", "v1alpha1", "BackendTrafficPolicy", "backendtrafficpolicies")
"""A kind of Envoy Gateway, which a cluster with another gateway does not have."""

OWNERS = (DATASETS, TRAINING_JOBS, RETRAININGS, INFERENCE_SERVICES, BATCH_PREDICTIONS)
LATER_OWNERS = (RETRAININGS, BATCH_PREDICTIONS)
"""Owners that the kinds of chart 0.2.0 lack: a cluster's admin may install them after the operator."""
ALL_KINDS = (
    *OWNERS,
    JOBS,
    PODS,
    CONFIG_MAPS,
    SECRETS,
    SERVICES,
    EVENTS,
    DEPLOYMENTS,
    AUTOSCALERS,
    DISRUPTION_BUDGETS,
    HTTP_ROUTES,
    TRAFFIC_POLICIES,
    LEASES,
)


def kind_of(manifest: dict[str, object]) -> ResourceKind:
    """Return the kind of a manifest.

    Raises:
        LookupError: the operator does not handle the kind.
    """
    names = (manifest["apiVersion"], manifest["kind"])
    kind = next((k for k in ALL_KINDS if (k.api_version, k.kind) == names), None)
    if kind is None:
        raise LookupError(f"the operator does not handle {names}")
    return kind
