"""Folders in an S3 store or in the file system, with one sentence for each way in which they fail.

Everything that leaves or enters this process as a file goes through a `Folder`. Listing is paged, reading is
safe from many threads at once, writing is streamed in parts.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from bloomery_trainer.errors import BadConfig, BadData, TrainerError, Unavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential

PART_BYTES = 8 * 1024 * 1024
"""Size of one part of a streamed upload: S3 allows 10,000 of them, so a file may reach 78 GiB."""

_REFUSALS = (
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "XAdminUserNotFound",  # versitygw, for an unknown key
)


@dataclass(frozen=True, kw_only=True)
class S3Access:
    """How to reach an S3 store; without a key, anonymously."""

    endpoint: str | None
    region: str
    key_id: str | None
    secret: str | None
    session_token: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], prefix: str = "") -> Self:
        """Reads AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, …, each behind `prefix`."""

        def value(name: str) -> str | None:
            return environment.get(f"{prefix}{name}") or None

        return cls(
            endpoint=value("AWS_ENDPOINT_URL"),
            region=value("AWS_REGION") or value("AWS_DEFAULT_REGION") or "us-east-1",
            key_id=value("AWS_ACCESS_KEY_ID"),
            secret=value("AWS_SECRET_ACCESS_KEY"),
            session_token=value("AWS_SESSION_TOKEN"),
        )

    def credentials(self) -> S3Credential:
        """The keys, in the form that the client asks for."""
        return {
            "access_key_id": self.key_id or "",
            "secret_access_key": self.secret or "",
            "token": self.session_token,
            "expires_at": None,
        }


def source_access(environment: Mapping[str, str]) -> S3Access:
    """Access to a dataset's source: its own Secret (prefix SOURCE_) if there is one, else the store's.

    Nothing is mixed: a source with a Secret of its own never sees the store's keys or endpoint.
    """
    own = any(name.startswith("SOURCE_AWS_") for name in environment)
    return S3Access.from_environment(environment, "SOURCE_" if own else "")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a folder: its path below the folder, its bytes, and a mark that changes with its content."""

    path: str
    size: int
    stamp: str = ""


class Folder:
    """A folder in a store; all paths are relative to it, with `/` between their parts."""

    def __init__(self, uri: str, store: S3Store | LocalStore) -> None:
        self.uri = uri
        self._store = store

    @property
    def is_remote(self) -> bool:
        """Whether reading means waiting for a network."""
        return isinstance(self._store, S3Store)

    def list(self, below: str | None = None) -> Iterator[StoredFile]:
        """Yields all files of the folder, a page at a time."""
        with self.explained():
            for page in obstore.list(self._store, below, chunk_size=1000):
                for entry in page:
                    stamp = entry["e_tag"] or entry["last_modified"].isoformat()
                    yield StoredFile(entry["path"], entry["size"], stamp)

    def require(self) -> None:
        """Raises now what would only show later: no bucket, no access, no answer."""
        next(self.list(), None)

    def read(self, path: str) -> bytes:
        """The bytes of one file; FileNotFoundError where there is none."""
        with self.explained():
            if isinstance(self._store, LocalStore) and self._store.prefix is not None:
                # Half the time of the way through the client; it knows names that are written otherwise on disk.
                with suppress(FileNotFoundError, NotADirectoryError):
                    return Path(self._store.prefix, path).read_bytes()
            return bytes(obstore.get(self._store, path).bytes())

    def read_if_there(self, path: str) -> bytes | None:
        """The bytes of one file, or None where there is none."""
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def size_of(self, path: str) -> int:
        """The bytes of one file, without reading it; FileNotFoundError where there is none."""
        with self.explained():
            return int(obstore.head(self._store, path)["size"])

    def stream(self, path: str) -> Iterator[memoryview]:
        """Yields the content of one file in parts; FileNotFoundError where there is none."""
        with self.explained():
            for chunk in obstore.get(self._store, path).stream(min_chunk_size=PART_BYTES):
                yield memoryview(chunk)

    def download(self, path: str, target: Path) -> str:
        """Streams one file to `target` and returns the hex sha256 of what was written."""
        digest = hashlib.sha256()
        with self.explained(), target.open("wb") as file:
            for chunk in obstore.get(self._store, path).stream(min_chunk_size=PART_BYTES):
                digest.update(chunk)
                file.write(chunk)
        return digest.hexdigest()

    def write(self, path: str, data: bytes) -> None:
        """Writes one small file; readers see all of it or nothing."""
        with self.explained():
            obstore.put(self._store, path, data)

    def upload(self, source: Path, path: str) -> None:
        """Writes one local file, in parts where it is large."""
        with self.explained():
            obstore.put(self._store, path, source, chunk_size=PART_BYTES)

    def delete(self, path: str) -> None:
        """Removes one file; one that is gone already is fine."""
        try:
            with self.explained():
                obstore.delete(self._store, path)
        except FileNotFoundError:
            return

    def clear(self, below: str) -> None:
        """Removes all files below a path of the folder; none there is fine."""
        paths = [file.path for file in self.list(below)]
        for first in range(0, len(paths), 1000):
            with suppress(FileNotFoundError), self.explained():
                obstore.delete(self._store, paths[first : first + 1000])
        if isinstance(self._store, LocalStore) and self._store.prefix is not None:
            # On a disk, who is killed in the middle of a write leaves half a file, which no listing shows.
            shutil.rmtree(Path(self._store.prefix, below), ignore_errors=True)

    @contextmanager
    def writer(self, path: str) -> Iterator[Writer]:
        """Streams one file; it appears only if the block ends well, and a failed part upload harms nobody."""
        target = obstore.open_writer(self._store, path, buffer_size=PART_BYTES, max_concurrency=4)
        yield Writer(target, self)
        with self.explained():
            target.close()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns a store's errors into sentences; FileNotFoundError stays what it is."""
        try:
            yield
        except (BaseError, FileNotFoundError, PermissionError, ValueError) as error:
            explained = _explain(error, self.uri)
            if explained is None:
                raise
            raise explained from error


class Writer:
    """A binary file that is being written, with the digest and the size of what went through it."""

    def __init__(self, target: obstore.WritableFile, folder: Folder) -> None:
        self._target = target
        self._folder = folder
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        """Takes the next bytes."""
        self._digest.update(data)
        self.bytes += len(data)
        with self._folder.explained():
            return self._target.write(data)

    @property
    def sha256(self) -> str:
        """The hex digest of all bytes so far."""
        return self._digest.hexdigest()


def open_folder(uri: str, access: S3Access, *, create: bool = False) -> Folder:
    """Opens `s3://bucket/prefix` or `file:///path`; raises BadConfig where a local folder is missing."""
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme == "file":
        return Folder(uri, _local(Path(unquote(parts.path)), uri=uri, create=create))
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return Folder(uri, _s3(bucket, prefix.strip("/"), access))


def _local(path: Path, *, uri: str, create: bool) -> LocalStore:
    if not create and not path.is_dir():
        raise BadConfig("SourceNotFound", f"there is no folder {uri}")
    try:
        return LocalStore(path, mkdir=create, automatic_cleanup=create)
    except BaseError as error:
        raise BadConfig("StoreRefused", f"the folder {uri} cannot be made: {_first_line(error)}") from error


def _s3(bucket: str, prefix: str, access: S3Access) -> S3Store:
    # Every setting is given: what is left out, the client would take from the AWS_* variables of the process,
    # which belong to the store, not to a source with keys of its own.
    endpoint = access.endpoint or f"https://s3.{access.region}.amazonaws.com"
    if not re.fullmatch(r"https?://[^/\s]+/?", endpoint):
        raise BadConfig("InvalidEndpoint", f"AWS_ENDPOINT_URL must be http(s)://host:port, not {endpoint!r}")
    config: S3Config = {
        "endpoint": endpoint.rstrip("/"),
        "region": access.region,
        "virtual_hosted_style_request": False,
        "skip_signature": access.key_id is None,
    }
    client: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": "5s",
        "read_timeout": "60s",
        "timeout": "1h",
    }
    retry: RetryConfig = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options=client,
        retry_config=retry,
        credential_provider=access.credentials,
    )


def _explain(error: Exception, uri: str) -> TrainerError | None:
    """The sentence for a store's error, or None where it means that a file is not there."""
    text = str(error)
    found = re.search(r"<Code>(\w+)</Code>", text)
    code = found.group(1) if found else ""
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return BadConfig("BucketNotFound", f"there is no bucket {bucket!r} at the store that {uri} points to")
    if code in _REFUSALS or isinstance(error, PermissionError) or "status code: 403" in text:
        return BadConfig("AccessDenied", f"the store refuses access to {uri}{_because(code)}; check its keys")
    if isinstance(error, FileNotFoundError):
        return None
    if isinstance(error, ValueError) or "invalid path" in text:
        return BadData("InvalidPath", f"{uri} holds a name that cannot be read: {_first_line(error)}")
    if "HTTP error" in text:
        return Unavailable("StoreUnreachable", f"the store of {uri} does not answer: {_address(text)}")
    return Unavailable("StoreFailed", f"the store of {uri} failed{_because(code)}: {_first_line(error)}")


def _because(code: str) -> str:
    return f" ({code})" if code else ""


def _address(text: str) -> str:
    found = re.search(r"https?://[^/?\s]+", text)
    return found.group(0) if found else text.splitlines()[0]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
