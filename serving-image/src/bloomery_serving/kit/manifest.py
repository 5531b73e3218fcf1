"""What a kit says of itself, in its ``kit.json``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

Platform = Literal["linux", "windows"]
Flavour = Literal["cpu", "nvidia"]

MANIFEST, MODEL = "kit.json", "model"
"""The kit's own file, and the folder of the model beside it."""


class KitError(Exception):
    """A kit can not be packed or started; the message is a sentence for the one who tries."""


class Manifest(BaseModel):
    """The model of a kit: what it is, and the digest of each of its files."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    platform: Platform
    flavour: Flavour
    digest: str
    """The model's."""
    files: dict[str, str]
    settings: dict[str, Any]
    """What the server is told of its service and its model, by the names of its settings."""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of an unpacked kit.

        Raises:
            KitError: the folder is not that of a kit.
        """
        try:
            return cls.model_validate_json((folder / MANIFEST).read_bytes())
        except (OSError, ValidationError) as error:
            raise KitError(f"{folder} is no unpacked kit: it has no {MANIFEST} that can be read.") from error

    def require_whole(self, folder: Path) -> None:
        """Check every byte of the model.

        Raises:
            KitError: a file is missing or is not as it was packed; names it.
        """
        for name, digest in self.files.items():
            path = folder / MODEL / name
            if not path.is_file() or digest_of(path) != digest:
                raise KitError(f"{path} is missing or is not as it was packed. Unpack the zip again.")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
