"""A folder of a store or a volume as a source of images; one file that cannot be read does not end the preparation."""

from __future__ import annotations

from collections.abc import Iterator

from bloomery_trainer.errors import BadConfig, Unavailable
from bloomery_trainer.prepare.sources.base import UnreadableFile
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

    def list(self) -> Iterator[StoredFile]:
        """Yield all files, and what cannot be read, with its problem."""
        return self._folder.list_all()

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
