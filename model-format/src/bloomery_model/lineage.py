"""The origin of a model, as its folder's metadata.json and the tags of its version in MLflow describe it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

TRAINING_JOB_TAG = "bloomery.dev/trainingjob"
"""NAMESPACE/NAME."""
DATASET_TAG = "bloomery.dev/dataset"
DATASET_VERSION_TAG = "bloomery.dev/dataset-version"
DIGEST_TAG = "bloomery.dev/digest"
URI_TAG = "bloomery.dev/uri"
VERSION_LABEL_TAG = "bloomery.dev/version-label"
IMPORTED_FROM_TAG = "bloomery.dev/imported-from"
IMPORTED_RUN_TAG = "bloomery.dev/imported-run"
"""The run that trained an imported model."""

_HeaderValue = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
"""Text that an HTTP header can hold."""


class Lineage(BaseModel):
    """The origin of a model; empty is unknown."""

    model_config = ConfigDict(frozen=True)

    run_id: str = ""
    training_job: str = ""
    """NAMESPACE/NAME."""
    dataset_name: str = ""
    dataset_version: str = ""
    """Several datasets' names and versions are joined with commas."""

    @property
    def tags(self) -> dict[str, str]:
        """The tags of an imported version, as far as they are known."""
        tags = {
            TRAINING_JOB_TAG: self.training_job,
            DATASET_TAG: self.dataset_name,
            DATASET_VERSION_TAG: self.dataset_version,
            IMPORTED_RUN_TAG: self.run_id,
        }
        return {name: value for name, value in tags.items() if value}


class _Run(BaseModel):
    id: _HeaderValue | None = Field(default=None, alias="runId")


class _TrainingJob(BaseModel):
    namespace: _HeaderValue
    name: _HeaderValue


class _Dataset(BaseModel):
    name: _HeaderValue
    version: _HeaderValue


class _Metadata(BaseModel):
    """The part of a training's metadata.json that describes the origin."""

    run: _Run = _Run()
    job: _TrainingJob | None = Field(default=None, alias="trainingJob")
    datasets: tuple[_Dataset, ...] = ()


def read_lineage(metadata: Any) -> Lineage:
    """Return the origin in the document of metadata.json; one of another form has none, and is no error."""
    try:
        parsed = _Metadata.model_validate(metadata)
    except ValidationError:
        return Lineage()
    return Lineage(
        run_id=parsed.run.id or "",
        training_job=f"{parsed.job.namespace}/{parsed.job.name}" if parsed.job else "",
        dataset_name=",".join(dataset.name for dataset in parsed.datasets),
        dataset_version=",".join(dataset.version for dataset in parsed.datasets),
    )
