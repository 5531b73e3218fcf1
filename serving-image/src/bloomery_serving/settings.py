"""The server's settings, read from the environment once, at the start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bloomery_serving.errors import ModelError


class Settings(BaseSettings):
    """Each field is the environment variable of its name, in capitals."""

    model_config = SettingsConfigDict(frozen=True, protected_namespaces=())

    model_uri: str
    """Folder of the model: s3://BUCKET/PREFIX or file:///PATH."""

    model_digest: str = ""
    """Digest that the model must have; empty takes any."""

    model_dir: Path = Path("/models")
    """Local folder for the model's files."""

    model_max_bytes: int = 0
    """Room for them; a larger model is not fetched. 0 takes any."""

    service_name: str = "model"
    service_namespace: str = ""
    display_name: str = ""
    description: str = ""
    """Free text in any script, as the head of the upload page."""

    about_file: Path | None = None
    """File with texts and names that win over those here, and may change while the server runs; see ``about``."""

    variant: str = ""
    model_name: str = ""
    model_version: str = ""
    run_id: str = ""
    training_job: str = ""
    dataset_name: str = ""
    dataset_version: str = ""

    answer_min_confidence: float | None = None
    """Least score of an answer; an image whose best class has a lower one is answered as unknown."""

    answer_precision: float | None = None
    """Precision that answers are to have: the least score of each class is that of the model's own thresholds."""

    api_keys_dir: Path | None = None
    """Folder with a file for each key: its name the key's, its content the key's SHA-256 in hex. None: no keys."""

    capture_uri: str = ""
    """Folder that takes images of requests and the answers to them: s3://BUCKET/PREFIX or file:///PATH; empty: none."""

    capture_percent: Annotated[float, Field(ge=0, le=100)] = 0
    """Share of all images that is captured, by chance."""

    capture_low_confidence: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Score of the likeliest class below which an image is captured; 0: none for that."""

    capture_per_class: Annotated[int, Field(ge=0)] = 20
    """Images of each predicted class that are captured in an hour."""

    capture_max_per_hour: Annotated[int, Field(ge=0)] = 500
    """Images that are captured in an hour, for whatever reason."""

    capture_strip_metadata: bool = False
    """Whether places, cameras and comments are removed from the files that are captured."""

    capture_queue_size: int = 1000
    """Images that wait for the store; one more is not captured."""

    capture_queue_bytes: int = 32 * 1024 * 1024
    """Bytes of all images that wait for the store."""

    feedback_keys: str = ""
    """Names of the API keys with which feedback may be sent, with commas between them; empty: all."""

    compare_port: int = 0
    """Port at which pods of the same service ask for the class of an image; 0: none."""

    compare_token: str = ""
    """Token that they send; without one, nothing is compared."""

    port: int = 8080
    metrics_port: int = 9090
    """0 serves no metrics."""

    explain: bool = False
    """Whether POST /explain is answered, if the model's folder has explain.onnx."""

    engine: Literal["Auto", "OnnxRuntime", "OpenVINO"] = "Auto"
    """Engine of the network. Auto takes the fastest one whose answers agree with the model's references; OpenVINO, the
    fastest precision of OpenVINO that does."""

    cors_allow_origins: str = ""
    """Origins whose pages a browser lets call the server, with commas between them; * is any."""

    max_connections: int = 512
    """Open connections; one more takes the place of the oldest that is idle."""

    head_seconds: float = 20
    """Time for a request's head to arrive."""

    receiving_size: int = 256
    """Requests whose bodies are arriving; one more is refused with status 429."""

    queue_size: int = 64
    """Length of the queue: requests that wait or are active; one more is refused with 429. An eighth of it is for
    explanations.
    """

    queue_bytes: int = 256 * 1024 * 1024
    """Bytes of all bodies together; a request that finds no room is refused with status 429."""

    body_seconds: float = 60
    """Time for a body to arrive; a gateway gives up on the request by then."""

    memory_bytes: int = 0
    """Memory that the server may take; 0 is the container's limit."""

    hang_seconds: float = 180
    """Time for one image to be decoded, or one batch to be computed; a worker that takes longer hangs."""

    max_image_bytes: int = 10 * 1024 * 1024
    max_image_pixels: int = 25_000_000
    max_images: int = 10
    drain_seconds: int = 60
    """Time that a stopping server waits for the requests that it has."""

    @field_validator("capture_uri")
    @classmethod
    def _require_store(cls, uri: str) -> str:
        has_form = re.match(r"s3://[a-z0-9][-.a-z0-9]+[a-z0-9](/|$)|file:///", uri)
        if uri and (has_form is None or re.search(r"[^:/]//|/[.]{1,2}(/|$)|[\x00-\x1f\x7f]", uri)):
            raise ValueError(f"{uri!r} must be s3://BUCKET/FOLDER or file:///FOLDER, without '//', '.' and '..'")
        return uri

    @property
    def compares(self) -> bool:
        """Whether answers can be compared with those of other pods of the service."""
        return bool(self.compare_port and self.compare_token)

    @property
    def title(self) -> str:
        """The service's name for people."""
        return self.display_name or self.service_name

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of ``cors_allow_origins``."""
        return tuple(origin.strip() for origin in self.cors_allow_origins.split(",") if origin.strip())

    @property
    def allowed_feedback_keys(self) -> frozenset[str]:
        """The names of ``feedback_keys``."""
        return frozenset(filter(None, self.feedback_keys.split(",")))

    @property
    def max_body_bytes(self) -> int:
        """The largest body: all images at their largest, a third more for base64, and the rest of the form."""
        return self.max_images * self.max_image_bytes * 4 // 3 + 1024 * 1024


def read_settings() -> Settings:
    """Return the settings that the environment has.

    Raises:
        ModelError: a value is missing, or cannot be right; names each.
    """
    try:
        return Settings()  # type: ignore[call-arg]  # the environment has the required fields
    except ValidationError as error:
        fields = "; ".join(f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise ModelError("BadSettings", f"The server's environment is not right: {fields}") from error
