"""Folders of stores with the errors of a task, and the access to a source."""

from __future__ import annotations

from collections.abc import Mapping

from bloomery_model import stores
from bloomery_model.stores import Folder, S3Access, StoreError, StoreErrorKind
from bloomery_model.task_errors import BadConfig, BadData, TaskError, Unavailable

_ERRORS: Mapping[StoreErrorKind, type[TaskError]] = {
    "Refused": BadConfig,
    "BadContent": BadData,
    "Unavailable": Unavailable,
}


def open_folder(uri: str, access: S3Access, *, create: bool = False) -> Folder:
    """Open ``s3://bucket/prefix`` or ``file:///path``; raise BadConfig if a local folder is missing."""
    return stores.open_folder(uri, access, create=create, convert_error=_to_task_error)


def source_access(environment: Mapping[str, str], number: int = 0) -> S3Access:
    """Return the access to a source: by its own Secret if there is one, else the store's.

    Nothing is mixed: a source with a Secret of its own never sees the store's keys or endpoint.

    Args:
        environment: with the variables of a Secret of the source (prefix SOURCE_), and of those of ``append``
            (APPEND_0_, APPEND_1_, …), which are read with that of the source if they have none.
        number: of the source; the first of ``append`` has 1.
    """
    prefixes = (f"APPEND_{number - 1}_", "SOURCE_") if number else ("SOURCE_",)
    own = (prefix for prefix in prefixes if any(name.startswith(f"{prefix}AWS_") for name in environment))
    return S3Access.from_environment(environment, next(own, ""))


def _to_task_error(error: StoreError) -> TaskError:
    return _ERRORS[error.kind](error.reason, str(error))
