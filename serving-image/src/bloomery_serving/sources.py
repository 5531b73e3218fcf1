"""The places that model folders are fetched from: an object store, a local folder, or MLflow's artifacts over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from bloomery_model.secret_variables import read_variable
from bloomery_model.store_faults import CERTIFICATE_ADVICE
from bloomery_model.stores import Folder, Retry, S3Access, StoreError, open_folder
from bloomery_serving.errors import ModelError

CHUNK_BYTES = 8 * 1024 * 1024
TIMEOUT_SECONDS = 60
_RETRY = Retry(max_retries=10, seconds=180)
"""A new pod bridges a restart of the store, which it would otherwise pass on as restarts of its own."""
_ARTIFACTS = "api/2.0/mlflow-artifacts/artifacts"
_SCHEMES = "s3://BUCKET/FOLDER, mlflow-artifacts:/PATH or file:///FOLDER"


class Source(Protocol):
    """A folder to fetch files from; paths are relative to it."""

    @property
    def uri(self) -> str:
        """Its address, for messages."""

    def read(self, path: str) -> bytes | None:
        """Return a small file's content; None if there is none.

        Raises:
            ModelError: the folder cannot be read.
        """

    def files(self) -> tuple[str, ...]:
        """Return the paths of all files in it, those of its folders too.

        Raises:
            ModelError: the folder cannot be read.
        """

    def fetch(self, path: str, target: Path) -> str:
        """Write a file's bytes to ``target``; return their digest, ``sha256:…``.

        Raises:
            ModelError: the file cannot be read.
        """


def open_source(uri: str, environment: Mapping[str, str]) -> Source:
    """Return the folder at an address.

    Raises:
        ModelError: no folder can be at that address; names the forms that are right.
    """
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme == "mlflow-artifacts":
        return MlflowArtifacts(uri, parts.path.strip("/"), environment)
    if parts.scheme == "file":
        if not Path(path := unquote(parts.path)).is_dir():
            raise ModelError("ModelNotFound", f"There is no folder {path}.")
    elif parts.scheme != "s3" or not parts.netloc:
        raise ModelError("BadModelURI", f"MODEL_URI is {uri!r}; it must be {_SCHEMES}.")
    folder = open_folder(
        uri, S3Access.from_environment(environment), retry=_RETRY, convert_error=lambda error: _unavailable(uri, error)
    )
    return StoreFolder(uri, folder)


@dataclass(frozen=True)
class StoreFolder:
    """A folder in S3, or of this machine."""

    uri: str
    folder: Folder

    def read(self, path: str) -> bytes | None:
        """Return a small file's content; None if there is none."""
        with _explained(self.uri):
            return self.folder.read_if_there(path)

    def files(self) -> tuple[str, ...]:
        """Return the paths of all files in it, those of its folders too."""
        with _explained(self.uri):
            return tuple(sorted(file.path for file in self.folder.list()))

    def fetch(self, path: str, target: Path) -> str:
        """Write a file's bytes to ``target``; return their digest."""
        try:
            with _explained(self.uri):
                return f"sha256:{self.folder.download(path, target)}"
        except FileNotFoundError as error:
            raise ModelError("ModelNotFound", f"There is no {path} at {self.uri}.") from error


@dataclass(frozen=True)
class MlflowArtifacts:
    """A folder behind an MLflow server (its REST API for artifacts, version 2.0)."""

    uri: str
    path: str
    environment: Mapping[str, str]

    def read(self, path: str) -> bytes | None:
        """Return a small file's content; None if there is none."""
        try:
            with self._open(self._address(path)) as response:
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            # With some stores, MLflow answers 500 for a file that is not there.
            if error.code in (404, 500):
                return None
            raise self._unavailable(error) from error
        except OSError as error:
            raise self._unavailable(error) from error

    def files(self) -> tuple[str, ...]:
        """Return the paths of all files in it, those of its folders too."""
        try:
            return tuple(sorted(self._list("")))
        except (OSError, ValueError, KeyError) as error:
            raise self._unavailable(error) from error

    def fetch(self, path: str, target: Path) -> str:
        """Write a file's bytes to ``target``; return their digest."""
        digest = hashlib.sha256()
        try:
            with self._open(self._address(path)) as response, target.open("wb") as file:
                while chunk := response.read(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
            return f"sha256:{digest.hexdigest()}"
        except OSError as error:
            raise self._unavailable(error) from error

    def _list(self, folder: str) -> list[str]:
        inner = "/".join(filter(None, (self.path, folder)))
        with self._open(f"{self._server()}/{_ARTIFACTS}?path={urllib.parse.quote(inner)}") as response:
            entries: list[dict[str, Any]] = json.loads(response.read()).get("files") or []
        paths: list[str] = []
        for entry in entries:
            # Some stores name the whole path, others the last part alone.
            path = "/".join(filter(None, (folder, entry["path"].rsplit("/", 1)[-1])))
            paths += self._list(path) if entry.get("is_dir") else [path]
        return paths

    def _address(self, path: str) -> str:
        return f"{self._server()}/{_ARTIFACTS}/{urllib.parse.quote(f'{self.path}/{path}')}"

    def _server(self) -> str:
        server = (read_variable(self.environment, "MLFLOW_TRACKING_URI") or "").rstrip("/")
        if not server.startswith(("http://", "https://")):
            raise ModelError(
                "MlflowNotConfigured", f"The model at {self.uri} cannot be read: MLFLOW_TRACKING_URI is not set."
            )
        return server

    def _open(self, address: str) -> Any:
        request = urllib.request.Request(address, headers=self._headers())
        insecure = (read_variable(self.environment, "MLFLOW_TRACKING_INSECURE_TLS") or "").lower() in ("true", "1")
        context = ssl._create_unverified_context() if insecure else None
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context)

    def _headers(self) -> dict[str, str]:
        if token := read_variable(self.environment, "MLFLOW_TRACKING_TOKEN"):
            return {"Authorization": f"Bearer {token}"}
        user, password = (
            read_variable(self.environment, f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD")
        )
        if not user or not password:
            return {}
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}

    def _unavailable(self, error: Exception) -> ModelError:
        advice = f"; {CERTIFICATE_ADVICE}" if "CERTIFICATE_VERIFY_FAILED" in str(error) else ""
        return ModelError("StoreUnavailable", f"The model at {self.uri} cannot be read from MLflow: {error}{advice}")


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn errors of the disk, such as a full one, into a reason; FileNotFoundError stays as it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelError("StoreUnavailable", f"The model at {uri} cannot be read: {error}.") from error


def _unavailable(uri: str, error: StoreError) -> ModelError:
    return ModelError("StoreUnavailable", f"The model at {uri} cannot be read: {error}.")
