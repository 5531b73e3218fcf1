"""Short digests of JSON documents."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest_of(document: Any, *, length: int = 10) -> str:
    """Return the first hex characters of the SHA-256 of a JSON document; equal documents have equal digests."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]
