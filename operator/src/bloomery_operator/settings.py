"""Settings of the operator, read from the environment at the start."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_ENV_PREFIX = "BLOOMERY_"


class Settings(BaseSettings):
    """Settings of the operator; the chart sets them.

    A field is read from the environment variable ``BLOOMERY_<FIELD>``, unless it names another one.
    """

    model_config = SettingsConfigDict(env_prefix=_ENV_PREFIX, frozen=True)

    trainer_image: str
    """Image of ``prepare`` and ``train`` pods."""

    serving_image: str
    """Image of the model server."""

    serving_gpu_image: str = ""
    """Image of the model server with CUDA, for variants that request nvidia.com/gpu; empty: ``serving_image``."""

    kit_image: str = ""
    """Image that packs the offline kit; ``kubectl bloomery kit`` reads its name from the Deployments."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"

    pull_secrets: Annotated[tuple[str, ...], NoDecode] = ()
    """Secrets with the registry's credentials, in each namespace that trains or serves."""

    platform_ids: bool = False
    """Whether pods leave the user, group and fsGroup ids to the platform, as OpenShift requires."""

    serving_updates: Annotated[int, Field(ge=0)] = 0
    """Number of Deployments that may get a changed pod template at a time; 0: each at its service's next change."""

    store_uri: str = "s3://bloomery"
    """Root folder of all datasets and models."""

    storage_secret: str = "bloomery-storage"
    """Secret with the addresses and credentials of the store and of MLflow, in each namespace that uses them."""

    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to watch; empty for the whole cluster."""

    source_networks: Annotated[tuple[str, ...], NoDecode] = ()
    """Private networks (CIDR) from which archives may be downloaded, in addition to public addresses."""

    download_weights: bool = True
    """Whether training pods may download published weights from torchvision's server if the store has none."""

    ca_config_map: str = ""
    """ConfigMap with certificates of private CAs, in each namespace whose pods are to trust them; empty: none."""

    ca_folder: Path | None = None
    """Folder with the same certificates, for the operator's own connections."""

    http_proxy: str = ""
    https_proxy: str = ""
    """Forward proxies for the pods' and the operator's http and https requests to servers outside of the cluster."""

    no_proxy: str = ""
    """Hosts that are reached without the proxies: names, ``.suffixes`` and networks, separated by commas."""

    gateway_name: str = ""
    gateway_namespace: str = ""
    """The Gateway to which routes attach; without a name, services have addresses in the cluster only."""

    path_prefixes: Annotated[Mapping[str, tuple[str, ...]], NoDecode] = {}
    """By namespace, path prefixes on the Gateway that its services may use, besides the one of its name; as JSON."""

    gateway_public_url: str = ""
    """Base URL of the services for users; empty: the address of the Gateway."""

    mlflow_addresses: Annotated[tuple[str, ...], NoDecode] = ()
    """The MLflow servers that the operator may contact; it contacts no other one that a storage Secret names."""

    own_mlflow_address: str = ""
    """The MLflow server in the storage Secret of the release's namespace, which it may contact, too."""

    model_names: Literal["Namespaced", "Plain"] = "Namespaced"
    """Names of new models in the registry: with the namespace and a dot before them, or as they are."""

    cluster_name: str = "bloomery"
    """Name of this installation in MLflow's tags; clusters that share an MLflow have different ones."""

    mlflow_public_url: str = ""
    """URL of MLflow for users; links in a status start with it."""

    metrics_port: int = 8080
    health_port: int = 8081

    lease_namespace: str = ""
    """Namespace of the Lease that elects one of several operators; empty if this is the only one."""

    lease_name: str = "bloomery-operator"

    pod_name: str = Field(default_factory=socket.gethostname)
    """Name of this process in the Lease; a random suffix is added, because a container may restart."""

    workers: int = 8
    """Number of concurrent reconciles."""

    resync_seconds: float = 180.0
    """Seconds between two resyncs, which list, compare and reconcile everything."""

    progress_poll_seconds: float = Field(5.0, validation_alias="BLOOMERY_PROGRESS_SECONDS")
    """Seconds between two reads of a running pod's progress."""

    retry_interval_seconds: float = Field(10.0, validation_alias="BLOOMERY_OBSTACLE_SECONDS")
    """Seconds until a check of what no watch reports: a missing Secret, a name in use, the Gateway's address."""

    api_keys_poll_seconds: float = Field(30.0, validation_alias="BLOOMERY_KEYS_SECONDS")
    """Seconds between two reads of the Secret with the users' API keys: Secrets are not watched."""

    mlflow_poll_seconds: float = Field(10.0, validation_alias="BLOOMERY_REGISTRY_SECONDS")
    """Seconds between two reads of an alias that a service follows; also the pause after MLflow did not answer."""

    rollout_poll_seconds: float = Field(5.0, validation_alias="BLOOMERY_TRAFFIC_SECONDS")
    """Seconds between two reads of the pods' metrics during a rollout, or while a revision drains."""

    request_seconds: float = 30.0
    """Seconds within which the API server must answer a request."""

    log_format: Literal["json", "text"] = "json"

    @field_validator("namespaces", "source_networks", "pull_secrets", "mlflow_addresses", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("path_prefixes", mode="before")
    @classmethod
    def _read_json(cls, value: object) -> object:
        return json.loads(value or "{}") if isinstance(value, str) else value

    @property
    def has_namespaced_models(self) -> bool:
        """Whether names of new models in the registry have the namespace before them."""
        return self.model_names == "Namespaced"

    @property
    def has_gateway(self) -> bool:
        """Whether services have routes on a Gateway."""
        return bool(self.gateway_name)


def describe_settings_error(error: ValidationError) -> str:
    """Return which environment variables are wrong, and why."""
    return "; ".join(f"{_variable_name(detail['loc'])}: {detail['msg']}" for detail in error.errors())


def _variable_name(location: tuple[int | str, ...]) -> str:
    name = ".".join(map(str, location)).upper()
    return name if name.startswith(_ENV_PREFIX) else f"{_ENV_PREFIX}{name}"
