"""Names of files as people see them, and the characters that no store and no listing takes."""

from __future__ import annotations

import re
import unicodedata

from bloomery_model.decode import EXTENSIONS

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_EXTENSION_IN_ADDRESS = re.compile(rf"\.({'|'.join(EXTENSIONS)})[?&;#!@:%]", re.IGNORECASE)


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


def file_extension(path: str) -> str:
    """Return the lower-case extension of a file name, without its dot.

    Downloads may have the rest of their address behind it: 1.jpg?w=300 and 1.jpg!small are of extension jpg.
    """
    name = path.rpartition("/")[2]
    # PurePosixPath takes ten times as long, for each of up to a million files.
    stem, _, ending = name.rpartition(".")
    extension = ending.lower() if stem else ""
    if extension in EXTENSIONS:
        return extension
    match = _EXTENSION_IN_ADDRESS.search(name)
    return match[1].lower() if match else extension
