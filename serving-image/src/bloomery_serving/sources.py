"""Where model folders lie: an object store, a local folder, or MLflow's artifacts over HTTP."""

from __future__ import annotations

import base64
import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from bloomery_serving.errors import ModelError

if TYPE_CHECKING:
    from obstore.store import S3Config

CHUNK_BYTES = 8 * 1024 * 1024
TIMEOUT_SECONDS = 60
_ARTIFACTS = "api/2.0/mlflow-artifacts/artifacts"
_SCHEMES = "s3://BUCKET/FOLDER, mlflow-artifacts:/PATH or file:///FOLDER"


class Source(Protocol):
    """A folder to fetch files from; paths are relative to it."""

    @property
    def uri(self) -> str:
        """Where it is, for messages."""

    def read(self, path: str) -> bytes | None:
        """Return a small file's content; None where there is none.

        Raises:
            ModelError: the folder can not be read.
        """

    def files(self) -> tuple[str, ...]:
        """Return the paths of all files in it, those of its folders too.

        Raises:
            ModelError: the folder can not be read.
        """

    def fetch(self, path: str, target: Path) -> None:
        """Write a file's bytes to ``target``.

        Raises:
            ModelError: the file can not be read.
        """


def open_source(uri: str, environment: Mapping[str, str]) -> Source:
    """Return the folder at an address.

    Raises:
        ModelError: no folder can be at that address; says which addresses are right.
    """
    parts = urlsplit(uri)
    if parts.scheme == "mlflow-artifacts":
        return MlflowArtifacts(uri, parts.path.strip("/"), environment)
    if parts.scheme == "file":
        if not Path(parts.path).is_dir():
            raise ModelError("ModelNotFound", f"There is no folder {parts.path}.")
        return ObjectStore(uri, LocalStore(parts.path))
    if parts.scheme != "s3" or not parts.netloc:
        raise ModelError("BadModelURI", f"MODEL_URI is {uri!r}; it must be {_SCHEMES}.")
    return ObjectStore(uri, _open_s3(parts.netloc, parts.path.strip("/"), environment))


@dataclass(frozen=True)
class ObjectStore:
    """A folder in S3, or of this machine."""

    uri: str
    store: S3Store | LocalStore

    def read(self, path: str) -> bytes | None:
        """Return a small file's content; None where there is none."""
        try:
            return bytes(obstore.get(self.store, path).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error

    def files(self) -> tuple[str, ...]:
        """Return the paths of all files in it, those of its folders too."""
        try:
            return tuple(sorted(entry["path"] for page in obstore.list(self.store) for entry in page))
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error

    def fetch(self, path: str, target: Path) -> None:
        """Write a file's bytes to ``target``."""
        try:
            with target.open("wb") as file:
                for chunk in obstore.get(self.store, path).stream(min_chunk_size=CHUNK_BYTES):
                    file.write(chunk)
        except FileNotFoundError as error:
            raise ModelError("ModelNotFound", f"There is no {path} at {self.uri}.") from error
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> ModelError:
        # The store's own words hold times and request ids, which would make every try another message.
        cause = str(error).strip().split("\n", 1)[0].partition(" in ")[0]
        return ModelError("StoreUnavailable", f"The model at {self.uri} can not be read: {cause[:300]}")


@dataclass(frozen=True)
class MlflowArtifacts:
    """A folder that an MLflow server hands out (its REST API for artifacts, version 2.0)."""

    uri: str
    path: str
    environment: Mapping[str, str]

    def read(self, path: str) -> bytes | None:
        """Return a small file's content; None where there is none."""
        try:
            with self._open(self._address(path)) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            # MLflow calls a file that its store does not have an error of its own, with one store or another.
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

    def fetch(self, path: str, target: Path) -> None:
        """Write a file's bytes to ``target``."""
        try:
            with self._open(self._address(path)) as answer, target.open("wb") as file:
                shutil.copyfileobj(answer, file, CHUNK_BYTES)
        except OSError as error:
            raise self._unavailable(error) from error

    def _list(self, folder: str) -> list[str]:
        inner = "/".join(filter(None, (self.path, folder)))
        with self._open(f"{self._server()}/{_ARTIFACTS}?path={urllib.parse.quote(inner)}") as answer:
            entries: list[dict[str, Any]] = json.loads(answer.read()).get("files") or []
        found: list[str] = []
        for entry in entries:
            # Some stores name the whole path, others the last part alone.
            path = "/".join(filter(None, (folder, entry["path"].rsplit("/", 1)[-1])))
            found += self._list(path) if entry.get("is_dir") else [path]
        return found

    def _address(self, path: str) -> str:
        return f"{self._server()}/{_ARTIFACTS}/{urllib.parse.quote(f'{self.path}/{path}')}"

    def _server(self) -> str:
        server = self.environment.get("MLFLOW_TRACKING_URI", "").rstrip("/")
        if not server.startswith(("http://", "https://")):
            raise ModelError(
                "MlflowNotConfigured", f"The model at {self.uri} can not be read: MLFLOW_TRACKING_URI is not set."
            )
        return server

    def _open(self, address: str) -> Any:
        request = urllib.request.Request(address, headers=self._headers())
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)

    def _headers(self) -> dict[str, str]:
        if token := self.environment.get("MLFLOW_TRACKING_TOKEN"):
            return {"Authorization": f"Bearer {token}"}
        user, password = (self.environment.get(f"MLFLOW_TRACKING_{what}", "") for what in ("USERNAME", "PASSWORD"))
        if not user:
            return {}
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}

    def _unavailable(self, error: Exception) -> ModelError:
        return ModelError("StoreUnavailable", f"The model at {self.uri} can not be read from MLflow: {error}")


def _open_s3(bucket: str, prefix: str, environment: Mapping[str, str]) -> S3Store:
    endpoint = environment.get("AWS_ENDPOINT_URL") or None
    key = environment.get("AWS_ACCESS_KEY_ID") or None
    options: S3Config = {
        "region": environment.get("AWS_REGION") or "us-east-1",
        "virtual_hosted_style_request": False,
    }
    if endpoint:
        options["endpoint"] = endpoint
    if key:
        options["access_key_id"] = key
        options["secret_access_key"] = environment.get("AWS_SECRET_ACCESS_KEY", "")
    else:
        options["skip_signature"] = True
    plain = (endpoint or "").startswith("http://")
    return S3Store(bucket, prefix=prefix or None, config=options, client_options={"allow_http": plain})
