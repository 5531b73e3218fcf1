"""The description of a kit in its ``kit.json``, and the values that packing and starting share."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

Platform = Literal["linux", "windows"]
Flavour = Literal["cpu", "nvidia"]

MANIFEST, MODEL = "kit.json", "model"
"""The kit's own file, and the folder of the model beside it."""


BASE = Path("/kit")
"""Folder of the kits' image with the parts of every kit."""

HOST, PORT = "127.0.0.1", 8987
START = "start.bat" if sys.platform == "win32" else "./start.sh"
"""The command that serves an unpacked kit."""


class KitError(Exception):
    """A kit cannot be packed or started; the message is a sentence for people."""


class Manifest(BaseModel):
    """The model of a kit: its settings, and the digest of each of its files."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    platform: Platform
    flavour: Flavour
    digest: str
    """The model's."""
    files: dict[str, str]
    settings: dict[str, Any]
    """The settings of the service and its model, by the names of the server's settings."""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of an unpacked kit.

        Raises:
            KitError: the folder is not an unpacked kit.
        """
        try:
            return cls.model_validate_json((folder / MANIFEST).read_bytes())
        except (OSError, ValidationError) as error:
            raise KitError(f"{folder} is no unpacked kit: it has no {MANIFEST} that can be read.") from error

    def require_intact(self, folder: Path) -> None:
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
