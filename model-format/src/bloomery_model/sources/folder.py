"""A folder of a store or a volume as a source of images; one file that cannot be used does not end the preparation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bloomery_model.file_names import to_printable
from bloomery_model.sources.base import UnreadableFile
from bloomery_model.sources.left_out import LeftOut
from bloomery_model.sources.names import BadName, check_key, is_junk_name
from bloomery_model.sources.s3_listing import list_keys
from bloomery_model.stores import Folder, S3Access, StoredFile
from bloomery_model.task_errors import BadConfig, BadData, Unavailable


class FolderSource:
    """The files of a folder by their paths below it."""

    def __init__(self, folder: Folder, access: S3Access) -> None:
        self.uri = folder.uri
        self.warnings: Sequence[str] = ()
        self._folder = folder
        self._access = access

    @property
    def is_remote(self) -> bool:
        """Whether a read waits for a network."""
        return self._folder.is_remote

    def list(self) -> Iterator[StoredFile | LeftOut]:
        """Yield all files, the keys of a store that cannot be paths, and what cannot be used on a volume.

        Files before a key that cannot be a path come twice: a place in a listing by another client cannot be found
        again for certain, as files may be added or removed meanwhile.
        """
        try:
            for file in self._folder.list_all():
                yield file if file.problem is None else LeftOut(file.path, *file.problem)
        except BadData as error:
            if error.reason != "InvalidPath" or self._folder.s3_store is None:
                raise
            yield from self._list_keys()

    def read(self, path: str) -> bytes:
        """Return the content of one file.

        Raises:
            FileNotFoundError: there is no such file.
            UnreadableFile: this process may not read the file; on a volume, each file has permissions of its own.
        """
        try:
            return self._folder.read(path)
        except BadConfig as error:
            if isinstance(error.__cause__, PermissionError):
                raise UnreadableFile(f"it cannot be read: {error.__cause__.strerror}") from error
            raise
        except FileNotFoundError:
            raise
        except OSError as error:  # a volume that fails
            raise Unavailable("StoreFailed", f"{path} cannot be read: {error.strerror}") from error

    def _list_keys(self) -> Iterator[StoredFile | LeftOut]:
        """Yield what ``list`` does, without the store's client, which refuses a page with a key that is no path."""
        assert self._folder.s3_store is not None
        for file in list_keys(self._folder.s3_store, self._access, uri=self.uri):
            # Web consoles mark a folder by a key that ends in a slash.
            path = file.path.removesuffix("/")
            if is_junk_name(path):
                continue
            try:
                check_key(path)
                yield StoredFile(path, file.size, file.stamp)
            except BadName as error:
                yield LeftOut(to_printable(path), reason="BadName", detail=str(error))
