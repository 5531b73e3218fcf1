"""Names of files as people see them, and the characters that no store and no listing takes."""

from __future__ import annotations

import re
import unicodedata

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


def has_control_character(name: str) -> bool:
    """Whether the client of stores refuses a name: that of ASCII, not of Latin-1, which garbled names have."""
    return _CONTROL_CHARACTER.search(name) is not None


def to_printable(name: str | bytes) -> str:
    """Return a name for people and for a listing, with escapes for what is no character of a name."""
    if isinstance(name, str):
        # Python keeps bytes of a file name that are not UTF-8 as surrogates.
        name = name.encode("utf-8", "surrogateescape")
    text = name.decode("utf-8", "backslashreplace")
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) == "Cc" else character
        for character in text
    )
