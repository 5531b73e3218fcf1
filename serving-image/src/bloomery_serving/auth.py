"""API keys: digests in a mounted folder, read again when they change."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

_BLANKS = " \t"
_SHA256 = re.compile(r"[0-9a-f]{64}")

CHECK_SECONDS = 1.0
"""How often the folder is looked at."""


class KeyRing:
    """The keys that open a service. A folder that is empty or gone opens for nobody."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._checked = float("-inf")
        self._state: object = None
        self._digests: dict[str, str] = {}

    def name_of(self, key: str) -> str | None:
        """Return the name of the key that was given, or None; takes as long for a wrong one as for a right one."""
        self._refresh()
        # HTTP's headers are bytes, which arrive as Latin-1, whatever script the key is of.
        digest = hashlib.sha256(key.encode("latin-1", errors="replace")).hexdigest()
        found = None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        state = self._look()
        if state != self._state:
            read = {path.name: _read(path) for path in self._files()}
            self._digests = {name: digest for name, digest in read.items() if digest is not None}
            self._state = state

    def _look(self) -> object:
        # A Secret's volume is swapped as a whole, by a link; a plain folder changes file by file.
        state = []
        for path in self._files():
            with contextlib.suppress(OSError):  # it went between the listing and the look
                state.append((path.name, path.stat().st_mtime_ns, path.resolve()))
        return state

    def _files(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if path.is_file() and not path.name.startswith("."))


def given_key(authorization: str) -> str:
    """Return the key of an Authorization header: ``KEY`` or ``Bearer KEY``."""
    # HTTP's own blanks only: a key's last byte may be one that Latin-1 takes for another blank, as UTF-8's "à" does.
    given = authorization.strip(_BLANKS)
    scheme, _, rest = given.partition(" ")
    return rest.strip(_BLANKS) if scheme.lower() == "bearer" and rest else given


def _read(path: Path) -> str | None:
    """Return the digest, or None: one entry that holds something else must not lock out the other keys."""
    try:
        digest = path.read_text(encoding="utf-8").strip().lower()
    except (OSError, UnicodeDecodeError):
        digest = ""
    if _SHA256.fullmatch(digest):
        return digest
    logger.warning("the key %s is left out: its file holds no SHA-256 in hex", path.name)
    return None
