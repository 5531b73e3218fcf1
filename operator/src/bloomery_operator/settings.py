"""The operator's settings, read from the environment once, at the start."""

from __future__ import annotations

import socket
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """Each field is the environment variable ``BLOOMERY_<FIELD>``; the chart sets them."""

    model_config = SettingsConfigDict(env_prefix="BLOOMERY_", frozen=True)

    trainer_image: str
    """Image of ``prepare`` and ``train`` pods."""

    serving_image: str
    """Image of the model server."""

    serving_gpu_image: str = ""
    """Image of the model server with CUDA, for variants that ask for nvidia.com/gpu; without it, the other one."""

    kit_image: str = ""
    """Image that packs the offline kit; ``kubectl bloomery kit`` finds its name on the Deployments."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"

    store_uri: str = "s3://bloomery"
    """Root folder of all datasets and models."""

    storage_secret: str = "bloomery-storage"
    """Secret with the store's and MLflow's address and keys, in each namespace that uses them."""

    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to work in; none means the whole cluster."""

    source_networks: Annotated[tuple[str, ...], NoDecode] = ()
    """Private networks (CIDR) that archives may be fetched from by https; otherwise only public addresses are."""

    download_weights: bool = True
    """Whether training pods may fetch published weights that the store does not have from torchvision's server."""

    gateway_name: str = ""
    gateway_namespace: str = ""
    """The Gateway that routes attach to; without a name, services have cluster addresses only."""

    gateway_public_url: str = ""
    """What users put before a service's path."""

    mlflow_public_url: str = ""
    """Where people open MLflow; links in status start with it."""

    metrics_port: int = 8080
    health_port: int = 8081

    lease_namespace: str = ""
    """Where the Lease is by which one of several operators works; empty: this is the only one."""

    lease_name: str = "bloomery-operator"

    pod_name: str = Field(default_factory=socket.gethostname)
    """Who the Lease's holder is, for people; a part by chance is added, as a container may start again."""

    workers: int = 8
    """Reconciles at a time."""

    resync_seconds: float = 180.0
    """How often everything is listed, compared and reconciled again."""

    progress_seconds: float = 5.0
    """How often a running pod is asked for its progress."""

    obstacle_seconds: float = 10.0
    """How often what no watch tells is looked at again: a missing Secret, a taken name, the Gateway's address."""

    keys_seconds: float = 30.0
    """How often the people's Secret of API keys is compared with the pods' digests: Secrets are not watched."""

    registry_seconds: float = 10.0
    """How often MLflow is asked for an alias that is followed; one that does not answer is left alone for as long."""

    traffic_seconds: float = 5.0
    """How often the pods' counters are read while a rollout is under way or a revision drains."""

    request_seconds: float = 30.0
    """How long the API server has for an answer."""

    log_format: Literal["json", "text"] = "json"

    @field_validator("namespaces", "source_networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(n.strip() for n in value.split(",") if n.strip()) if isinstance(value, str) else value

    @property
    def has_gateway(self) -> bool:
        """Whether services are published on a gateway."""
        return bool(self.gateway_name)
