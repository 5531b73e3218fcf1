"""Folders in an S3 store or in the file system, with one sentence for each way in which they fail.

Every file that leaves or enters a process of the trainer, and every model that the server loads, goes through a
``Folder``. Listing is paged, reading is safe from many threads at once, writing is streamed in parts.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError
from obstore.store import LocalStore, S3Store

from bloomery_model.local_files import StoredFile as StoredFile
from bloomery_model.local_files import list_local_files
from bloomery_model.s3 import Bucket
from bloomery_model.s3 import Retry as Retry
from bloomery_model.s3 import S3Access as S3Access
from bloomery_model.store_faults import StoreAnswer
from bloomery_model.store_faults import StoreError as StoreError
from bloomery_model.store_faults import StoreErrorKind as StoreErrorKind

PART_BYTES = 8 * 1024 * 1024
"""Size of one part of a streamed upload: S3 allows 10,000 of them, so a file may reach 78 GiB."""

_MAX_TEXT_CHARACTERS = 300

_ACCESS_DENIED_CODES = (
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "XAdminUserNotFound",  # versitygw, for an unknown key
)

_NOT_IMPLEMENTED = "<Code>NotImplemented</Code>"
"""Answer of an S3 store that does not know a header."""

Result = TypeVar("Result")

ConvertError = Callable[[StoreError], Exception]
"""Returns the exception that a program raises in place of a ``StoreError``."""


DEFAULT_RETRY = Retry(max_retries=5, seconds=60)


def _unchanged(error: StoreError) -> Exception:
    return error


class Folder:
    """A folder in a store; all paths are relative to it, with ``/`` between their parts."""

    def __init__(
        self,
        uri: str,
        store: S3Store | LocalStore,
        convert_error: ConvertError = _unchanged,
        *,
        bucket: Bucket | None = None,
    ) -> None:
        self.uri = uri
        self._store = store
        self._convert_error = convert_error
        self._bucket = bucket
        # Whether an answer is still to show how the store wants to be addressed.
        self._is_style_open = bucket is not None and bucket.is_style_open

    @property
    def is_remote(self) -> bool:
        """Whether reading means waiting for a network."""
        return isinstance(self._store, S3Store)

    @property
    def s3_store(self) -> S3Store | None:
        """The client of a folder in an S3 store."""
        return self._store if isinstance(self._store, S3Store) else None

    def list(self, below: str | None = None) -> Iterator[StoredFile]:
        """Yield all files of the folder, a page at a time; on a disk, what cannot be read is passed over."""
        return (file for file in self.list_all(below) if file.problem is None)

    def list_all(self, below: str | None = None) -> Iterator[StoredFile]:
        """Yield all files of the folder, and what cannot be read, with its problem."""
        with self.explained():
            if isinstance(self._store, LocalStore) and self._store.prefix is not None:
                yield from list_local_files(Path(self._store.prefix), below)
                return
            for page in self._send(lambda store: _start(obstore.list(store, below, chunk_size=1000))):
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
            return bytes(self._send(lambda store: obstore.get(store, path)).bytes())

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
            try:
                return int(self._send(lambda store: obstore.head(store, path))["size"])
            except FileNotFoundError:
                raise
            except BaseError:
                # The answer to HEAD has no body: that to a listing says what is wrong.
                self.require()
                return int(obstore.head(self._store, path)["size"])

    def stream(self, path: str) -> Iterator[memoryview]:
        """Yield the content of one file in parts.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.explained():
            for chunk in self._send(lambda store: obstore.get(store, path)).stream(min_chunk_size=PART_BYTES):
                yield memoryview(chunk)

    def download(self, path: str, target: Path, *, on_part: Callable[[int], None] | None = None) -> str:
        """Stream one file to ``target``; return the hex SHA-256 of its bytes.

        Args:
            path: the file's.
            target: the local file.
            on_part: called with the size of each part before it is written; may raise to end the download.

        Raises:
            FileNotFoundError: there is none.
        """
        digest = hashlib.sha256()
        # The local file is not the store's: its errors are not explained.
        with target.open("wb") as file, self.explained():
            for chunk in self._send(lambda store: obstore.get(store, path)).stream(min_chunk_size=PART_BYTES):
                if on_part is not None:
                    on_part(len(memoryview(chunk)))
                digest.update(chunk)
                file.write(chunk)
        return digest.hexdigest()

    def write(self, path: str, data: bytes) -> None:
        """Write one small file; readers see all of it or nothing."""
        with self.explained():
            self._send(lambda store: obstore.put(store, path, data))

    def write_new(self, path: str, data: bytes) -> None:
        """Write one small file unless it is there: of several writers at a time, the first one's content stays.

        Stores without conditional writes (S3: ``If-None-Match``) keep the last one's.
        """
        with self.explained(), suppress(AlreadyExistsError):
            try:
                self._send(lambda store: obstore.put(store, path, data, mode="create"))
            except BaseError as error:
                if not isinstance(error, NotSupportedError) and _NOT_IMPLEMENTED not in str(error):
                    raise
                self._send(lambda store: obstore.put(store, path, data))

    def upload(self, source: Path, path: str) -> None:
        """Write one local file, in parts if it is large."""
        with self.explained():
            self._send(lambda store: obstore.put(store, path, source, chunk_size=PART_BYTES))

    def delete(self, path: str) -> None:
        """Remove one file, if it is there."""
        try:
            with self.explained():
                self._send(lambda store: obstore.delete(store, path))
        except FileNotFoundError:
            return

    def clear(self, below: str) -> None:
        """Remove all files below a path of the folder."""
        paths = [file.path for file in self.list(below)]
        for first in range(0, len(paths), 1000):
            with suppress(FileNotFoundError), self.explained():
                self._delete_all(paths[first : first + 1000])
        if isinstance(self._store, LocalStore) and self._store.prefix is not None:
            # On a disk, a process that is killed in the middle of a write leaves half a file, which no listing shows.
            shutil.rmtree(Path(self._store.prefix, below), ignore_errors=True)

    @contextmanager
    def writer(self, path: str) -> Iterator[Writer]:
        """Stream one file; it appears only if the block ends well, and a failed part upload harms nobody."""
        if self._is_style_open:
            # A stream cannot be sent twice.
            self.require()
        target = obstore.open_writer(self._store, path, buffer_size=PART_BYTES, max_concurrency=4)
        yield Writer(target, self)
        with self.explained():
            target.close()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn a store's errors into sentences; FileNotFoundError stays as it is."""
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            if isinstance(error, OSError) and not _is_of_store(error):
                raise
            explained = self._find_fault(error) or _explain(error, self.uri)
            if explained is None:
                raise
            raise self._convert_error(explained) from error

    def _send(self, request: Callable[[S3Store | LocalStore], Result]) -> Result:
        """Send a request; send it again if the store requires the bucket in the host's name."""
        if not self._is_style_open or self._bucket is None:
            return request(self._store)
        try:
            result = request(self._store)
        except BaseError as error:
            if not StoreAnswer(text=str(error), uri=self.uri).requires_virtual_host:
                raise
            self._store = self._bucket.open(virtual=True)
            result = request(self._store)
        self._is_style_open = False
        return result

    def _delete_all(self, paths: Sequence[str]) -> None:
        self._send(lambda store: obstore.delete(store, paths))

    def _find_fault(self, error: Exception) -> StoreError | None:
        """Return what is wrong with the address, the region, the clock or the certificate of a remote store."""
        if self._bucket is None:
            return None
        answer = StoreAnswer(text=str(error), uri=self.uri)
        region = self._bucket.find_region() if answer.is_bare_redirect else None
        return answer.find_fault(region)


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
        StoreError: the local folder is missing, or a value of the access cannot be right.
    """
    try:
        parts = urlsplit(uri, allow_fragments=False)
        if parts.scheme == "file":
            return Folder(uri, _open_local(Path(unquote(parts.path)), uri=uri, create=create), convert_error)
        name, _, prefix = uri.removeprefix("s3://").partition("/")
        bucket = Bucket(name=name, prefix=prefix.strip("/"), access=access, retry=retry)
        return Folder(uri, bucket.open(), convert_error, bucket=bucket)
    except StoreError as error:
        raise convert_error(error) from error.__cause__


def _start(pages: Iterable[Result]) -> Iterator[Result]:
    """Fetch the first of many pages now; the others are fetched as they are read."""
    rest = iter(pages)
    return chain([page for page in [next(rest, None)] if page is not None], rest)


def _open_local(path: Path, *, uri: str, create: bool) -> LocalStore:
    if not create and not path.is_dir():
        raise StoreError("Refused", "SourceNotFound", f"there is no folder {uri}")
    try:
        return LocalStore(path, mkdir=create, automatic_cleanup=create)
    except BaseError as error:
        message = f"the folder {uri} cannot be made: {_first_line(error)}"
        raise StoreError("Refused", "StoreRefused", message) from error


def _explain(error: Exception, uri: str) -> StoreError | None:
    """Return a store's error as a sentence, or None if it means that a file is not there."""
    text = str(error)
    answer = StoreAnswer(text=text, uri=uri)
    code = answer.code
    if code in ("NoSuchBucket", "InvalidBucketName"):
        message = f"there is no bucket {answer.bucket!r} at the store that {uri} points to"
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
        message = f"the store of {uri} does not answer: {answer.address}{answer.tls_hint}"
        return StoreError("Unavailable", "StoreUnreachable", message)
    message = f"the store of {uri} failed{_in_brackets(code)}: {_first_line(error)}"
    return StoreError("Unavailable", "StoreFailed", message)


def _is_of_store(error: OSError) -> bool:
    """Return whether an error is the store's: a stream's has no number, that of a local file has one."""
    return error.errno is None or isinstance(error, FileNotFoundError | PermissionError)


def _in_brackets(code: str) -> str:
    return f" ({code})" if code else ""


def _first_line(error: Exception) -> str:
    """Return the start of an error's text, without durations and request ids, which differ with every try."""
    line = re.sub(r" in [\d.]+(?:ns|µs|ms|s)\b", "", str(error).splitlines()[0])
    return re.sub(r"<(RequestId|HostId)>.*?</\1>", "", line)[:_MAX_TEXT_CHARACTERS]
