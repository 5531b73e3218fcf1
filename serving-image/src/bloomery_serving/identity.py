"""The identity of the served model: its name, version and lineage, in headers, answers and metric labels."""

from __future__ import annotations

from dataclasses import dataclass, fields

from bloomery_model.lineage import Lineage
from bloomery_serving.settings import Settings

HEADERS = ("x-variant", "x-model", "x-run-id", "x-training-job", "x-dataset", "x-model-digest")
"""Names of all headers that an answer may have; a name of the model may become known while the server runs."""


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which model is served, and where it comes from; empty is unknown.

    Attributes:
        variant: the variant of the service that this server belongs to.
        dataset_name: names of the datasets, with commas between them; ``dataset_version`` likewise.
    """

    digest: str
    variant: str = ""
    model_name: str = ""
    model_version: str = ""
    run_id: str = ""
    training_job: str = ""
    dataset_name: str = ""
    dataset_version: str = ""

    @classmethod
    def resolve(cls, settings: Settings, lineage: Lineage, *, digest: str) -> ModelIdentity:
        """Take the identity from the environment; complete it by the lineage in the model folder."""
        dataset = settings if settings.dataset_name else lineage
        return cls(
            digest=digest,
            variant=settings.variant,
            model_name=settings.model_name,
            model_version=settings.model_version,
            run_id=settings.run_id or lineage.run_id,
            # A job of the service's own namespace goes by its name alone.
            training_job=settings.training_job or lineage.training_job.removeprefix(f"{settings.service_namespace}/"),
            dataset_name=dataset.dataset_name,
            dataset_version=dataset.dataset_version,
        )

    @property
    def dataset(self) -> str:
        """The dataset as NAME@VERSION, as far as it is known."""
        return f"{self.dataset_name}@{self.dataset_version}" if self.dataset_version else self.dataset_name

    @property
    def headers(self) -> dict[str, str]:
        """The headers that trace an answer back to its variant, model, run and dataset, as far as they are known."""
        version = f"/{self.model_version}" if self.model_version else ""
        model = f"{self.model_name}{version}"
        values = (self.variant, model, self.run_id, self.training_job, self.dataset, self.digest)
        return {name: value for name, value in zip(HEADERS, values, strict=True) if value}

    @property
    def document(self) -> dict[str, str]:
        """The model as answers to predictions name it, as far as it is known."""
        known = {
            "name": self.model_name,
            "version": self.model_version,
            "digest": self.digest,
            "variant": self.variant,
        }
        return {name: value for name, value in known.items() if value}

    @property
    def metric_labels(self) -> dict[str, str]:
        """The labels of ``bloomery_model_info``; empty where nothing is known."""
        return {
            "variant": self.variant,
            "model": self.model_name,
            "version": self.model_version,
            "digest": self.digest,
            "run_id": self.run_id,
            "training_job": self.training_job,
            "dataset": self.dataset,
        }

    @property
    def settings(self) -> dict[str, str]:
        """The settings from which the same identity is resolved again, whatever the model folder holds."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "digest"}
