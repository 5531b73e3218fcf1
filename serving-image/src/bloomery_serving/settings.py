"""The server's settings, read from the environment once, at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic_settings import BaseSettings, SettingsConfigDict


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
    """Requests that wait or are worked on; one more is refused with status 429."""

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

    @property
    def title(self) -> str:
        """The service's name for people."""
        return self.display_name or self.service_name

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of ``cors_allow_origins``."""
        return tuple(origin.strip() for origin in self.cors_allow_origins.split(",") if origin.strip())

    @property
    def max_body_bytes(self) -> int:
        """The largest body: all images at their largest, a third more for base64, and the rest of the form."""
        return self.max_images * self.max_image_bytes * 4 // 3 + 1024 * 1024
