"""The captures of one service in a store: images, records of answers, and true labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from functools import cached_property
from typing import TypeVar

from pydantic import ValidationError

from bloomery_model.capture import LABEL_SUFFIX, RECORD_SUFFIX, CaptureRecord, TrueLabel
from bloomery_model.stores import Folder, Retry, S3Access, StoreError, open_folder
from bloomery_serving.capture.ids import time_of
from bloomery_serving.settings import Settings

ACCESS_PREFIX = "CAPTURE_STORE_"
"""Prefix of the variables of the Secret of the captures' own store."""
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "BMP": "bmp", "WEBP": "webp"}
"""By Pillow's name of the format, the ending of an image's name."""

Document = TypeVar("Document", CaptureRecord, TrueLabel)

_RETRY = Retry(max_retries=1, seconds=5)
"""Short: the writers try again by themselves, and a client waits for the answer to its feedback."""


class CaptureStore:
    """The captures of a service: the objects ``NAMESPACE/SERVICE/DATE/ID…`` below an address."""

    def __init__(self, uri: str, access: S3Access, *, namespace: str, service: str) -> None:
        """Open nothing yet: a store with wrong keys must not keep a server from answering."""
        self.uri = f"{uri.rstrip('/')}/{namespace or 'default'}/{service}"
        self._access = access

    @classmethod
    def of(cls, settings: Settings, environment: Mapping[str, str]) -> CaptureStore:
        """Return the store of a server's captures."""
        access = S3Access.of_own_secret(environment, ACCESS_PREFIX)
        return cls(settings.capture_uri, access, namespace=settings.service_namespace, service=settings.service_name)

    def write(self, record: CaptureRecord, data: bytes) -> None:
        """Write an image, then its record: an image with a record is complete.

        Raises:
            StoreError: the store cannot be used.
        """
        day = _folder_of(record.id)
        self._folder.write(f"{day}/{record.image}", data)
        self._folder.write(f"{day}/{record.id}{RECORD_SUFFIX}", record.to_json())

    def read_image(self, record: CaptureRecord) -> bytes | None:
        """Return a captured image, or None if it was removed.

        Raises:
            StoreError: the store cannot be used.
        """
        return self._folder.read_if_there(f"{_folder_of(record.id)}/{record.image}")

    def read_record(self, prediction_id: str) -> CaptureRecord | None:
        """Return the record of a capture, or None if there is none that can be read.

        Raises:
            StoreError: the store cannot be used.
            BadIdError: the text is no id of a prediction.
        """
        return self._read(CaptureRecord, f"{_folder_of(prediction_id)}/{prediction_id}{RECORD_SUFFIX}")

    def read_label(self, prediction_id: str) -> TrueLabel | None:
        """Return the true label of a capture, or None if there is none that can be read.

        Raises:
            StoreError: the store cannot be used.
            BadIdError: the text is no id of a prediction.
        """
        return self._read(TrueLabel, f"{_folder_of(prediction_id)}/{prediction_id}{LABEL_SUFFIX}")

    def write_label(self, prediction_id: str, label: TrueLabel) -> None:
        """Write the true label of a capture, in place of the one before.

        Raises:
            StoreError: the store cannot be used.
            BadIdError: the text is no id of a prediction.
        """
        self._folder.write(f"{_folder_of(prediction_id)}/{prediction_id}{LABEL_SUFFIX}", label.to_json())

    def delete(self, prediction_id: str) -> bool:
        """Delete a capture with all that belongs to it, the image first; return whether it was there.

        Raises:
            StoreError: the store cannot be used.
            BadIdError: the text is no id of a prediction.
        """
        path = f"{_folder_of(prediction_id)}/{prediction_id}"
        record = self.read_record(prediction_id)
        endings = [f".{extension}" for extension in dict.fromkeys(EXTENSIONS.values())]
        for ending in (*endings, LABEL_SUFFIX, RECORD_SUFFIX):
            self._folder.delete(f"{path}{ending}")
        return record is not None

    def list_ids(self, day: date) -> Iterator[tuple[str, bool]]:
        """Yield the id of each capture of a day, and whether it has a true label.

        Raises:
            StoreError: the store cannot be used.
        """
        names = {file.path.rpartition("/")[2] for file in self._folder.list(day.isoformat())}
        for name in sorted(names):
            if name.endswith(RECORD_SUFFIX) and not name.endswith(LABEL_SUFFIX):
                prediction_id = name.removesuffix(RECORD_SUFFIX)
                yield prediction_id, f"{prediction_id}{LABEL_SUFFIX}" in names

    @cached_property
    def _folder(self) -> Folder:
        try:
            return open_folder(self.uri, self._access, create=True, retry=_RETRY)
        except (OSError, ValueError) as error:
            raise StoreError("Refused", "StoreRefused", f"{self.uri} cannot be a folder: {error}") from error

    def _read(self, kind: type[Document], path: str) -> Document | None:
        content = self._folder.read_if_there(path)
        try:
            return None if content is None else kind.model_validate_json(content)
        except ValidationError:
            return None


def _folder_of(prediction_id: str) -> str:
    return time_of(prediction_id).date().isoformat()
