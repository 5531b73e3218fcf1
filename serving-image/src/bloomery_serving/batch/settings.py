"""The settings of a batch prediction, read from the environment beside those of the model."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bloomery_model.sources.encoding_names import Encoding
from bloomery_model.task_errors import BadConfig
from bloomery_serving.settings import Settings

OutputFormat = Literal["JSONL", "CSV"]


class BatchSettings(BaseSettings):
    """Each field is the environment variable of its name, in capitals."""

    model_config = SettingsConfigDict(frozen=True)

    source_uri: str
    """Folder or archive of images: s3://BUCKET/FOLDER, https://HOST/FILE.zip or file:///PATH."""

    source_encoding: Encoding | None = None
    """Encoding of the names in an archive that do not declare one."""

    max_archive_bytes: Annotated[int, Field(gt=0)] = 5 * 1024**3
    """Size of an archive."""

    output_uri: str
    """Folder of this prediction alone: s3://BUCKET/FOLDER or file:///PATH."""

    output_format: OutputFormat = "JSONL"

    output_folders: bool = False
    """Whether each image is copied into a folder of its predicted class."""

    batch_uid: str = ""
    """Identity of the prediction: only one of the same identity goes on in its output."""

    batch_pods: Annotated[int, Field(gt=0)] = 1
    """Processes that share the images."""

    job_completion_index: Annotated[int, Field(ge=0)] = 0
    """Number of this process among them; Kubernetes sets it in the pods of an Indexed Job."""

    scratch_dir: Path = Path("/tmp")
    """Folder for an archive, and for the list of files."""

    progress_port: int = 8089
    """0 serves no progress."""

    @model_validator(mode="after")
    def _require_places(self) -> Self:
        if re.match(r"s3://[^/]|file:///", self.output_uri) is None:
            raise ValueError(f"OUTPUT_URI is {self.output_uri!r}; it must be s3://BUCKET/FOLDER or file:///FOLDER")
        if f"{self.output_uri.rstrip('/')}/".startswith(f"{self.source_uri.rstrip('/')}/"):
            raise ValueError("OUTPUT_URI is in SOURCE_URI; it must be another folder")
        if self.job_completion_index >= self.batch_pods:
            raise ValueError(f"JOB_COMPLETION_INDEX is {self.job_completion_index}; it must be below BATCH_PODS")
        return self

    def owner(self, settings: Settings) -> str:
        """Return the identity of the prediction; without one of its own, all settings that its results depend on."""
        answer = (settings.answer_min_confidence, settings.answer_precision)
        task = (self.source_uri, self.output_format, self.output_folders, self.batch_pods, answer)
        return self.batch_uid or hashlib.sha256(repr(task).encode()).hexdigest()


def read_batch_settings() -> BatchSettings:
    """Return the settings that the environment has.

    Raises:
        BadConfig: a value is missing, or cannot be right; names each.
    """
    try:
        return BatchSettings()  # type: ignore[call-arg]  # the environment has the required fields
    except ValidationError as error:
        fields = "; ".join(f"{str(e['loc'][0]).upper()}: {e['msg']}" if e["loc"] else e["msg"] for e in error.errors())
        raise BadConfig("BadSettings", f"the environment of the batch prediction is not right: {fields}") from error
