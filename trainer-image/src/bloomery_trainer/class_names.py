"""Class names: their one spelling, the characters that they may have, and names that are easily confused."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable

ALLOWED_WORDS = "letters and digits of any script, '_', '-', '/' and spaces"

_JOINERS = "\u200c\u200d"
"""ZERO WIDTH NON-JOINER and JOINER: part of the spelling in Persian, Hindi, Sinhala and other scripts."""

_MEDIALS = "\u00b7\u058a\u05f3\u05f4\u0f0b\u2010\u2027\u30a0\u30fb\uff65"
"""Signs inside words, such as the Catalan and the Japanese middle dot: those of UAX #31, tables 3 and 3a, that are not
ASCII."""


def normalize_class_name(name: str) -> str:
    """Return the one spelling of a class name: accents composed, and each kind of space as a plain one.

    File systems compose accents differently, and people do not see the difference between kinds of spaces.
    """
    name = unicodedata.normalize("NFC", name)
    return "".join(" " if unicodedata.category(character) == "Zs" else character for character in name)


def invalid_characters(name: str) -> list[str]:
    """Return the characters of a name that class names must not have, sorted."""
    return sorted({character for position, character in enumerate(name) if not _is_allowed(name, position)})


def suggest_class_name(name: str, taken: Collection[str]) -> str:
    """Return a valid name for an invalid one, not among those that are taken."""
    spaced = "".join(
        character if _is_allowed(name, position) else "" if unicodedata.category(character) == "Cf" else " "
        for position, character in enumerate(name)
    )
    parts = [" ".join(part.split()) for part in spaced.split("/")]
    suggestion = "/".join(filter(None, parts)) or "class"
    number, candidate = 1, suggestion
    while candidate in taken:
        number += 1
        candidate = f"{suggestion} {number}"
    return candidate


def find_similar_names(names: Iterable[str]) -> list[list[str]]:
    """Return groups of names that differ only in case, width, spaces or invisible characters."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        groups[fold_class_name(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def fold_class_name(name: str) -> str:
    """Return what similar names have in common."""
    folded = unicodedata.normalize("NFKC", re.sub(f"[{_JOINERS}]", "", name)).casefold()
    return "/".join(" ".join(part.split()) for part in folded.split("/"))


def _is_allowed(name: str, position: int) -> bool:
    character = name[position]
    if character in _JOINERS:
        # Elsewhere they are invisible.
        return _is_letter(name[position - 1 : position]) and _is_letter(name[position + 1 : position + 2])
    # Letters (L…), marks (M…), which are the vowel signs of scripts such as Devanagari and Thai, and numbers (N…).
    return character in "_-/ " or character in _MEDIALS or unicodedata.category(character)[0] in "LMN"


def _is_letter(character: str) -> bool:
    return bool(character) and unicodedata.category(character)[0] in "LM"
