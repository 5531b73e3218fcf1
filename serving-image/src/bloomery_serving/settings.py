"""The server's settings, read from the environment once, at the start."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

from bloomery_serving.lineage import Lineage


class Settings(BaseSettings):
    """Each field is the environment variable of its name, in capitals."""

    model_config = SettingsConfigDict(frozen=True, protected_namespaces=())

    model_uri: str
    """Folder of the model: s3://BUCKET/PREFIX or file:///PATH."""

    model_digest: str = ""
    """Digest that the model must have; empty takes any."""

    model_dir: Path = Path("/models")
    """Where the model's files are kept on this machine."""

    service_name: str = "model"
    service_namespace: str = ""
    display_name: str = ""
    description: str = ""
    """Free text in any script, as the head of the upload page."""

    variant: str = ""
    model_name: str = ""
    model_version: str = ""
    run_id: str = ""
    training_job: str = ""
    dataset_name: str = ""
    dataset_version: str = ""

    api_keys_dir: Path | None = None
    """Folder with a file for each key: its name the key's, its content the key's SHA-256 in hex. None: no keys."""

    port: int = 8080
    metrics_port: int = 9090
    """0 serves no metrics."""

    queue_size: int = 64
    """Requests that are read, wait or are worked on; one more is told to come again later."""

    queue_bytes: int = 256 * 1024 * 1024
    """What the bodies of all of them may have together; a request that finds no room is told to come again later."""

    body_seconds: float = 60
    """How long a body may take to arrive; a gateway gives up on the request by then."""

    max_image_bytes: int = 10 * 1024 * 1024
    max_image_pixels: int = 25_000_000
    max_images: int = 10
    drain_seconds: int = 60
    """How long a stopping server waits for the requests that it has."""

    @property
    def title(self) -> str:
        """What people read as the service's name."""
        return self.display_name or self.service_name

    @property
    def max_body_bytes(self) -> int:
        """The largest body: all images at their largest, a third more for base64, and the rest of the form."""
        return self.max_images * self.max_image_bytes * 4 // 3 + 1024 * 1024

    @property
    def dataset(self) -> str:
        """The dataset as NAME@VERSION, as far as it is known."""
        return f"{self.dataset_name}@{self.dataset_version}" if self.dataset_version else self.dataset_name

    def completed_by(self, lineage: Lineage) -> Settings:
        """Return the same with what the model folder says of its past, where the environment says nothing."""
        told = lineage if not self.dataset_name else self
        return self.model_copy(
            update={
                "run_id": self.run_id or lineage.run_id,
                # A job of the service's own namespace goes by its name alone.
                "training_job": self.training_job or lineage.training_job.removeprefix(f"{self.service_namespace}/"),
                "dataset_name": told.dataset_name,
                "dataset_version": told.dataset_version,
            }
        )

    @property
    def lineage_headers(self) -> dict[str, str]:
        """Headers that trace an answer back to its variant, model, run and dataset; those that are known."""
        version = f"/{self.model_version}" if self.model_version else ""
        known = {
            "x-variant": self.variant,
            "x-model": f"{self.model_name}{version}",
            "x-run-id": self.run_id,
            "x-training-job": self.training_job,
            "x-dataset": self.dataset,
        }
        return {name: value for name, value in known.items() if value}
