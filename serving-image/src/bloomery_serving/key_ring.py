"""API keys: their digests in a mounted folder, read again when they change."""

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
"""Time between two looks at the folder."""


class SingleKey:
    """The key of a port that has one alone."""

    def __init__(self, name: str, key: str) -> None:
        self._name = name
        self._key = key.encode()

    def name_of(self, key: str) -> str | None:
        """Return the name of the key if it is the right one, else None."""
        return self._name if hmac.compare_digest(key.encode("latin-1", errors="replace"), self._key) else None


class KeyRing:
    """The keys of a service. With an empty or missing folder there are none."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._checked = float("-inf")
        self._state: object = None
        self._digests: dict[str, str] = {}

    def name_of(self, key: str) -> str | None:
        """Return the name of a key, or None; takes as long for a wrong one as for a right one."""
        self._refresh()
        # HTTP's headers are bytes, which arrive as Latin-1, whatever script the key is of.
        digest = hashlib.sha256(key.encode("latin-1", errors="replace")).hexdigest()
        match = None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                match = name
        return match

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        state = self._fingerprint()
        if state != self._state:
            digests = {path.name: _read_digest(path) for path in self._files()}
            self._digests = {name: digest for name, digest in digests.items() if digest is not None}
            self._state = state

    def _fingerprint(self) -> object:
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


def key_of(authorization: str) -> str:
    """Return the key of an Authorization header: ``KEY`` or ``Bearer KEY``."""
    # HTTP's own blanks only: a key's last byte may be one that Latin-1 takes for another blank, as UTF-8's "à" does.
    stripped = authorization.strip(_BLANKS)
    scheme, _, rest = stripped.partition(" ")
    return rest.strip(_BLANKS) if scheme.lower() == "bearer" and rest else stripped


def _read_digest(path: Path) -> str | None:
    """Return the digest, or None: one entry that holds something else must not lock out the other keys."""
    try:
        digest = path.read_text(encoding="utf-8").strip().lower()
    except (OSError, UnicodeDecodeError):
        digest = ""
    if _SHA256.fullmatch(digest):
        return digest
    logger.warning("the key %s is left out: its file holds no SHA-256 in hex", path.name)
    return None
