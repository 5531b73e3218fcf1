"""The places that model folders are fetched from: an object store, a local folder, or MLflow's artifacts over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from bloomery_model.folder import EXTRA_FILES, format_digest, is_candidate
from bloomery_model.secret_variables import read_variable
from bloomery_model.store_faults import CERTIFICATE_ADVICE
from bloomery_model.stores import Folder, Retry, S3Access, StoreError, open_folder
from bloomery_serving.errors import ModelError
from bloomery_serving.transfer import Transfer

CHUNK_BYTES = 8 * 1024 * 1024
TIMEOUT_SECONDS = 60
_RETRY = Retry(max_retries=10, seconds=180)
"""A new pod bridges a restart of the store, which it would otherwise pass on as restarts of its own."""
_MAX_FILES = 10_000
"""Files of a folder, without those of its sub-folders, beyond which it is no model's."""
_ARTIFACTS = "api/2.0/mlflow-artifacts/artifacts"
_FAILURES = (OSError, HTTPException)
"""Errors of a connection: an answer that is no HTTP, or ends too early, is no OSError."""
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

    def sizes(self) -> Mapping[str, int]:
        """Return the size of each file that may belong to a model, by its path; 0 where the folder lists none.

        Raises:
            ModelError: the folder cannot be read, or has too many files for a model.
        """

    def sizes_of(self, paths: Iterable[str]) -> list[int]:
        """Return the sizes of files that should be there, without listing the folder if possible; 0 if unknown.

        Raises:
            ModelError: the store does not answer.
        """

    def fetch(self, path: str, target: Path, transfer: Transfer) -> str:
        """Write a file's bytes to ``target``, and count them; return their digest, ``sha256:…``.

        Raises:
            ModelError: the file cannot be read, or is too large.
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

    def sizes(self) -> Mapping[str, int]:
        """Return the size of each file that may belong to a model, by its path."""
        with _explained(self.uri):
            return _few(self.uri, ((file.path, file.size) for file in self.folder.list()))

    def sizes_of(self, paths: Iterable[str]) -> list[int]:
        """Return the sizes of files that should be there; keys that may not list a folder are enough."""
        return [self._size_of(path) for path in paths]

    def _size_of(self, path: str) -> int:
        try:
            with _explained(self.uri):
                return self.folder.size_of(path)
        except FileNotFoundError:
            # Its fetch reports it.
            return 0

    def fetch(self, path: str, target: Path, transfer: Transfer) -> str:
        """Write a file's bytes to ``target``, and count them; return their digest."""
        try:
            with _explained(self.uri):
                digest = self.folder.download(path, target, on_part=lambda size: transfer.count(self.uri, size))
                return format_digest(digest)
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
        except _FAILURES as error:
            raise self._unavailable(error) from error

    def sizes(self) -> Mapping[str, int]:
        """Return the size of each file that may belong to a model, by its path; 0 where MLflow lists none."""
        try:
            return _few(self.uri, self._list(""))
        except (*_FAILURES, ValueError, KeyError, TypeError) as error:
            raise self._unavailable(error) from error

    def sizes_of(self, paths: Iterable[str]) -> list[int]:
        """Return the sizes of files that should be there; 0 where MLflow lists none."""
        try:
            sizes = self.sizes()
        except ModelError:
            # The files may be readable all the same; what arrives is counted.
            sizes = {}
        return [sizes.get(path, 0) for path in paths]

    def fetch(self, path: str, target: Path, transfer: Transfer) -> str:
        """Write a file's bytes to ``target``, and count them; return their digest."""
        digest = hashlib.sha256()
        try:
            with self._open(self._address(path)) as response, target.open("wb") as file:
                while chunk := response.read(CHUNK_BYTES):
                    transfer.count(self.uri, len(chunk))
                    digest.update(chunk)
                    file.write(chunk)
                # Reading in parts, Python takes a connection that breaks for the end of the file.
                if response.length:
                    raise OSError(f"the connection broke {response.length} bytes before the end of {path}")
            return format_digest(digest.hexdigest())
        except _FAILURES as error:
            raise self._unavailable(error) from error

    def _list(self, folder: str) -> Iterator[tuple[str, int]]:
        inner = "/".join(filter(None, (self.path, folder)))
        with self._open(f"{self._server()}/{_ARTIFACTS}?path={urllib.parse.quote(inner)}") as response:
            entries: list[dict[str, Any]] = json.loads(response.read()).get("files") or []
        for entry in entries:
            # Some stores name the whole path, others the last part alone.
            path = "/".join(filter(None, (folder, entry["path"].rsplit("/", 1)[-1])))
            if not entry.get("is_dir"):
                yield path, int(entry.get("file_size") or 0)
            elif path == EXTRA_FILES:
                yield from self._list(path)

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


def _few(uri: str, files: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return path and size of the files that may belong to a model, sorted by path.

    Raises:
        ModelError: there are far too many.
    """
    sizes: dict[str, int] = {}
    for path, size in files:
        if is_candidate(path):
            sizes[path] = size
        if len(sizes) > _MAX_FILES:
            raise ModelError(
                "NotAModel",
                f"There is no model at {uri}: a model folder has one file that ends in "
                f".onnx and some beside it, and this one has more than {_MAX_FILES:,} files.",
            )
    return dict(sorted(sizes.items()))


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
