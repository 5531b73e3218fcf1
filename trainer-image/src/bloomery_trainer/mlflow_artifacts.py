"""Artifacts of MLflow servers that do not pass files on: written into their S3 store directly, by our own client."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from mlflow.entities import FileInfo
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from bloomery_trainer.errors import BadConfig
from bloomery_trainer.storage import S3Access, open_folder

_PASSED_ON_SCHEMES = ("mlflow-artifacts", "http", "https", "s3")


class S3Artifacts(ArtifactRepository):
    """A folder in S3, opened with the address and the keys of the pod's store; MLflow's own client needs boto3."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self._folder = open_folder(artifact_uri, S3Access.from_environment(os.environ))

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Write one file."""
        self._folder.upload(Path(local_file), str(PurePosixPath(artifact_path or "", Path(local_file).name)))

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Write all files of a folder."""
        for path in sorted(Path(local_dir).rglob("*")):
            if path.is_file():
                relative = path.relative_to(local_dir).as_posix()
                self._folder.upload(path, str(PurePosixPath(artifact_path or "", relative)))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return the files and folders directly below a path."""
        below = PurePosixPath(path or "")
        entries: dict[str, FileInfo] = {}
        for file in self._folder.list(path or None):
            name, *deeper = PurePosixPath(file.path).relative_to(below).parts
            entry = str(below / name)
            entries.setdefault(entry, FileInfo(entry, bool(deeper), None if deeper else file.size))
        return sorted(entries.values(), key=lambda entry: str(entry.path))

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._folder.download(remote_file_path, Path(local_path))


def use_own_client() -> None:
    """Have MLflow's client use ours for S3."""
    registry = artifact_repository_registry._artifact_repository_registry
    registry.register("s3", S3Artifacts)  # type: ignore[no-untyped-call]


def require_reachable(artifact_uri: str, server: str) -> None:
    """Check that files of a run can be written from here.

    Raises:
        BadConfig: they are on the server's disk, or in a store for which we have no client.
    """
    scheme = urlsplit(artifact_uri).scheme
    if scheme in _PASSED_ON_SCHEMES or not server.startswith(("http://", "https://")):
        return
    if scheme in ("", "file") and _is_this_machine(urlsplit(server).hostname or ""):
        return
    raise BadConfig(
        "ArtifactsNotReachable",
        f"MLflow at {server} keeps the files of runs at {artifact_uri} and does not pass them on: start it with "
        "--serve-artifacts and --artifacts-destination, or use an s3:// root",
    )


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
