"""InferenceService: model versions behind one address, with a weight for each."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bloomery_operator.api.common import ApiModel, CustomResource, CustomResourceStatus, Resources


class ModelSource(ApiModel):
    """The model that a variant serves: a TrainingJob's, or a model folder in the store."""

    training_job: str | None = None
    uri: str | None = None


class Variant(ApiModel):
    """One model with its share of the traffic, in percent."""

    name: str
    model: ModelSource
    weight: int
    replicas: int | None = None
    resources: Resources | None = None


class InferenceServiceSpec(ApiModel):
    """What a user asks for; may change at any time."""

    variants: tuple[Variant, ...]
    display_name: str | None = None
    description: str | None = None
    replicas: int = 1
    path: str | None = None
    auth: Literal["ApiKey", "None"] = "ApiKey"


class VariantStatus(ApiModel):
    """What one variant serves, and with how many pods."""

    name: str
    model: str | None = None
    run_id: str | None = None
    training_job: str | None = None
    dataset: str | None = None
    digest: str | None = None
    weight: int
    replicas: int = 0
    ready: int = 0
    message: str | None = None


class InferenceServiceStatus(CustomResourceStatus):
    """Where it answers, and who answers."""

    url: str | None = None
    api_key_secret: str | None = None
    replicas: int | None = None
    ready_replicas: int | None = None
    ready: str | None = None
    selector: str | None = None
    traffic: str | None = None
    variants: tuple[VariantStatus, ...] = ()


class InferenceService(CustomResource):
    """A served classifier."""

    KIND: ClassVar[str] = "InferenceService"
    OWNER_LABEL: ClassVar[str] = "bloomery.dev/inferenceservice"

    spec: InferenceServiceSpec
    status: InferenceServiceStatus = Field(default_factory=InferenceServiceStatus)

    @property
    def path(self) -> str:
        """The path prefix on the gateway."""
        return self.spec.path or f"/{self.metadata.namespace}/{self.metadata.name}"

    def replicas_of(self, variant: Variant) -> int:
        """How many pods a variant should have."""
        return self.spec.replicas if variant.replicas is None else variant.replicas
