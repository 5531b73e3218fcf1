"""What a model folder says of the model's past: the run, the TrainingJob and the datasets that it comes from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_Word = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
"""What may stand in a header."""


class Lineage(BaseModel):
    """Where a model comes from; empty is what nobody knows."""

    model_config = ConfigDict(frozen=True)

    run_id: str = ""
    training_job: str = ""
    """NAMESPACE/NAME."""
    dataset_name: str = ""
    dataset_version: str = ""
    """Several datasets' names and versions stand in one, with commas."""


class _Run(BaseModel):
    id: _Word | None = Field(default=None, alias="runId")


class _TrainingJob(BaseModel):
    namespace: _Word
    name: _Word


class _Dataset(BaseModel):
    name: _Word
    version: _Word


class _Metadata(BaseModel):
    """The part of a training's metadata.json that tells of the past."""

    run: _Run = _Run()
    job: _TrainingJob | None = Field(default=None, alias="trainingJob")
    datasets: tuple[_Dataset, ...] = ()


def read_lineage(metadata: Any) -> Lineage:
    """Return what the document metadata.json says; one that says it in another form is served all the same."""
    try:
        said = _Metadata.model_validate(metadata)
    except ValidationError:
        return Lineage()
    return Lineage(
        run_id=said.run.id or "",
        training_job=f"{said.job.namespace}/{said.job.name}" if said.job else "",
        dataset_name=",".join(dataset.name for dataset in said.datasets),
        dataset_version=",".join(dataset.version for dataset in said.datasets),
    )
