"""Folders in an S3 store or in the file system, with one sentence for each way in which they fail.

Every file that leaves or enters a process of the trainer, and every model that the server loads, goes through a
``Folder``. Listing is paged, reading is safe from many threads at once, writing is streamed in parts.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from bloomery_model.local_files import StoredFile as StoredFile
from bloomery_model.local_files import list_local_files

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential

PART_BYTES = 8 * 1024 * 1024
"""Size of one part of a streamed upload: S3 allows 10,000 of them, so a file may reach 78 GiB."""

_MAX_TEXT_CHARACTERS = 300

StoreErrorKind = Literal["Refused", "BadContent", "Unavailable"]

_ACCESS_DENIED_CODES = (
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "XAdminUserNotFound",  # versitygw, for an unknown key
)


class StoreError(Exception):
    """A store that cannot be used; the message is a sentence without its full stop.

    Attributes:
        kind: Refused: the address or the keys are wrong. BadContent: a name or file there is wrong. Unavailable: the
            store does not answer or fails, and trying again may help.
        reason: CamelCase, for conditions.
    """

    def __init__(self, kind: StoreErrorKind, reason: str, message: str) -> None:
        super().__init__(message)
        self.kind: StoreErrorKind = kind
        self.reason = reason


ConvertError = Callable[[StoreError], Exception]
"""Returns the exception that a program raises in place of a ``StoreError``."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often a failed request is repeated, and for how long."""

    max_retries: int
    seconds: float


DEFAULT_RETRY = Retry(max_retries=5, seconds=60)


@dataclass(frozen=True, kw_only=True)
class S3Access:
    """Address and keys of an S3 store; without a key, access is anonymous."""

    endpoint: str | None
    region: str
    key_id: str | None
    secret: str | None
    session_token: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], prefix: str = "") -> Self:
        """Read AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, …, each with ``prefix`` before it."""

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
        """Return the keys in the form of the client."""
        return {
            "access_key_id": self.key_id or "",
            "secret_access_key": self.secret or "",
            "token": self.session_token,
            "expires_at": None,
        }


def _unchanged(error: StoreError) -> Exception:
    return error


class Folder:
    """A folder in a store; all paths are relative to it, with ``/`` between their parts."""

    def __init__(self, uri: str, store: S3Store | LocalStore, convert_error: ConvertError = _unchanged) -> None:
        self.uri = uri
        self._store = store
        self._convert_error = convert_error

    @property
    def is_remote(self) -> bool:
        """Whether reading means waiting for a network."""
        return isinstance(self._store, S3Store)

    def list(self, below: str | None = None) -> Iterator[StoredFile]:
        """Yield all files of the folder, a page at a time; on a disk, what cannot be read is passed over."""
        return (file for file in self.list_all(below) if file.problem is None)

    def list_all(self, below: str | None = None) -> Iterator[StoredFile]:
        """Yield all files of the folder, and what cannot be read, with its problem."""
        with self.explained():
            if isinstance(self._store, LocalStore) and self._store.prefix is not None:
                yield from list_local_files(Path(self._store.prefix), below)
                return
            for page in obstore.list(self._store, below, chunk_size=1000):
                for entry in page:
                    stamp = entry["e_tag"] or entry["last_modified"].isoformat()
                    yield StoredFile(entry["path"], entry["size"], stamp)

    def require(self) -> None:
        """Raise at once the errors that would only show later: no bucket, no access, no answer."""
        next(self.list(), None)

    def read(self, path: str) -> bytes:
        """Return the bytes of one file.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.explained():
            if isinstance(self._store, LocalStore) and self._store.prefix is not None:
                # Half the time of the way through the client, which knows names that are written otherwise on disk.
                with suppress(FileNotFoundError, NotADirectoryError):
                    return Path(self._store.prefix, path).read_bytes()
            return bytes(obstore.get(self._store, path).bytes())

    def read_if_there(self, path: str) -> bytes | None:
        """Return the bytes of one file, or None if there is none."""
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def size_of(self, path: str) -> int:
        """Return the size of one file without reading it.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.explained():
            return int(obstore.head(self._store, path)["size"])

    def stream(self, path: str) -> Iterator[memoryview]:
        """Yield the content of one file in parts.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.explained():
            for chunk in obstore.get(self._store, path).stream(min_chunk_size=PART_BYTES):
                yield memoryview(chunk)

    def download(self, path: str, target: Path) -> str:
        """Stream one file to ``target``; return the hex SHA-256 of its bytes.

        Raises:
            FileNotFoundError: there is none.
        """
        digest = hashlib.sha256()
        # The local file is not the store's: its errors are not explained.
        with target.open("wb") as file, self.explained():
            for chunk in obstore.get(self._store, path).stream(min_chunk_size=PART_BYTES):
                digest.update(chunk)
                file.write(chunk)
        return digest.hexdigest()

    def write(self, path: str, data: bytes) -> None:
        """Write one small file; readers see all of it or nothing."""
        with self.explained():
            obstore.put(self._store, path, data)

    def upload(self, source: Path, path: str) -> None:
        """Write one local file, in parts if it is large."""
        with self.explained():
            obstore.put(self._store, path, source, chunk_size=PART_BYTES)

    def delete(self, path: str) -> None:
        """Remove one file, if it is there."""
        try:
            with self.explained():
                obstore.delete(self._store, path)
        except FileNotFoundError:
            return

    def clear(self, below: str) -> None:
        """Remove all files below a path of the folder."""
        paths = [file.path for file in self.list(below)]
        for first in range(0, len(paths), 1000):
            with suppress(FileNotFoundError), self.explained():
                obstore.delete(self._store, paths[first : first + 1000])
        if isinstance(self._store, LocalStore) and self._store.prefix is not None:
            # On a disk, a process that is killed in the middle of a write leaves half a file, which no listing shows.
            shutil.rmtree(Path(self._store.prefix, below), ignore_errors=True)

    @contextmanager
    def writer(self, path: str) -> Iterator[Writer]:
        """Stream one file; it appears only if the block ends well, and a failed part upload harms nobody."""
        target = obstore.open_writer(self._store, path, buffer_size=PART_BYTES, max_concurrency=4)
        yield Writer(target, self)
        with self.explained():
            target.close()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn a store's errors into sentences; FileNotFoundError stays as it is."""
        try:
            yield
        except (BaseError, FileNotFoundError, PermissionError, ValueError) as error:
            explained = _explain(error, self.uri)
            if explained is None:
                raise
            raise self._convert_error(explained) from error


class Writer:
    """A binary file that is being written, with the digest and the size of its bytes."""

    def __init__(self, target: obstore.WritableFile, folder: Folder) -> None:
        self._target = target
        self._folder = folder
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        """Write the next bytes."""
        self._digest.update(data)
        self.bytes += len(data)
        with self._folder.explained():
            return self._target.write(data)

    @property
    def sha256(self) -> str:
        """The hex digest of all bytes so far."""
        return self._digest.hexdigest()


def open_folder(
    uri: str,
    access: S3Access,
    *,
    create: bool = False,
    retry: Retry = DEFAULT_RETRY,
    convert_error: ConvertError = _unchanged,
) -> Folder:
    """Open ``s3://bucket/prefix`` or ``file:///path``.

    Args:
        uri: the folder's address.
        access: to the store; a local folder needs none.
        create: makes a local folder that is missing.
        retry: of requests that fail.
        convert_error: for the errors of this function and of the folder.

    Raises:
        StoreError: the local folder is missing, or the endpoint is not an address.
    """
    try:
        return Folder(uri, _open_store(uri, access, create=create, retry=retry), convert_error)
    except StoreError as error:
        raise convert_error(error) from error.__cause__


def _open_store(uri: str, access: S3Access, *, create: bool, retry: Retry) -> S3Store | LocalStore:
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme == "file":
        return _open_local(Path(unquote(parts.path)), uri=uri, create=create)
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return _open_s3(bucket, prefix.strip("/"), access, retry)


def _open_local(path: Path, *, uri: str, create: bool) -> LocalStore:
    if not create and not path.is_dir():
        raise StoreError("Refused", "SourceNotFound", f"there is no folder {uri}")
    try:
        return LocalStore(path, mkdir=create, automatic_cleanup=create)
    except BaseError as error:
        message = f"the folder {uri} cannot be made: {_first_line(error)}"
        raise StoreError("Refused", "StoreRefused", message) from error


def _open_s3(bucket: str, prefix: str, access: S3Access, retry: Retry) -> S3Store:
    # Every setting is explicit: those left out, the client would take from the AWS_* variables of the process,
    # which belong to the store, not to a source with keys of its own.
    endpoint = access.endpoint or f"https://s3.{access.region}.amazonaws.com"
    if not re.fullmatch(r"https?://[^/\s]+/?", endpoint):
        message = f"AWS_ENDPOINT_URL must be http(s)://host:port, not {endpoint!r}"
        raise StoreError("Refused", "InvalidEndpoint", message)
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
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options=client,
        retry_config={"max_retries": retry.max_retries, "retry_timeout": timedelta(seconds=retry.seconds)},
        credential_provider=access.credentials,
    )


def _explain(error: Exception, uri: str) -> StoreError | None:
    """Return a store's error as a sentence, or None if it means that a file is not there."""
    text = str(error)
    match = re.search(r"<Code>(\w+)</Code>", text)
    code = match.group(1) if match else ""
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if code in ("NoSuchBucket", "InvalidBucketName"):
        message = f"there is no bucket {bucket!r} at the store that {uri} points to"
        return StoreError("Refused", "BucketNotFound", message)
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        message = f"{error.filename or uri} cannot be read: {error.strerror}; check who may read it"
        return StoreError("Refused", "AccessDenied", message)
    if code in _ACCESS_DENIED_CODES or isinstance(error, PermissionError) or "status code: 403" in text:
        message = f"the store refuses access to {uri}{_in_brackets(code)}; check its keys"
        return StoreError("Refused", "AccessDenied", message)
    if isinstance(error, FileNotFoundError):
        return None
    if isinstance(error, ValueError) or "invalid path" in text:
        message = f"{uri} holds a name that cannot be read: {_first_line(error)}"
        return StoreError("BadContent", "InvalidPath", message)
    if "HTTP error" in text:
        return StoreError("Unavailable", "StoreUnreachable", f"the store of {uri} does not answer: {_address(text)}")
    message = f"the store of {uri} failed{_in_brackets(code)}: {_first_line(error)}"
    return StoreError("Unavailable", "StoreFailed", message)


def _in_brackets(code: str) -> str:
    return f" ({code})" if code else ""


def _address(text: str) -> str:
    match = re.search(r"https?://[^/?\s]+", text)
    return match.group(0) if match else text.splitlines()[0]


def _first_line(error: Exception) -> str:
    """Return the start of an error's text, without durations and request ids, which differ with every try."""
    line = re.sub(r" in [\d.]+(?:ns|µs|ms|s)\b", "", str(error).splitlines()[0])
    return re.sub(r"<(RequestId|HostId)>.*?</\1>", "", line)[:_MAX_TEXT_CHARACTERS]
