"""A folder of a store or a volume as a source of images; one file that cannot be read does not end the preparation."""

from __future__ import annotations

from collections.abc import Iterator

from bloomery_trainer.errors import BadConfig, Unavailable
from bloomery_trainer.prepare.sources.base import LeftOut, UnreadableFile
from bloomery_trainer.storage import Folder, StoredFile


class FolderSource:
    """The files of a folder by their paths below it."""

    def __init__(self, folder: Folder) -> None:
        self.uri = folder.uri
        self._folder = folder

    @property
    def is_remote(self) -> bool:
        """Whether a read waits for a network."""
        return self._folder.is_remote

    def list(self) -> Iterator[StoredFile | LeftOut]:
        """Yield all files, and what cannot be used on a volume."""
        for file in self._folder.list_all():
            yield file if file.problem is None else LeftOut(file.path, *file.problem)

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
