"""Files of a source that cannot be used, by their names."""

from __future__ import annotations

from typing import NamedTuple


class LeftOut(NamedTuple):
    """A file of a source that cannot be used: a path for people, a CamelCase reason and a sentence."""

    path: str
    reason: str
    detail: str
