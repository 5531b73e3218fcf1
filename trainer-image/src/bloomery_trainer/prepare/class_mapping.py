"""The mapping of class names: ``rename`` and ``classes`` of a Dataset, and the characters that a name may have."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.errors import BadConfig, BadData
from bloomery_trainer.prepare.file_table import ClassQueries

_NAMED_CLASSES = 20


def apply_class_mapping(classes: ClassQueries, config: PrepareConfig) -> None:
    """Rename classes, and remove those that are not chosen.

    Raises:
        BadConfig: a name of the configuration is not that of a class.
        BadData: a name has a character that is not allowed, or a class has no image to train with.
    """
    names = classes.names()
    renamed = {_normalize(old): _normalize(new) for old, new in config.rename.items()}
    _require_known("rename", renamed, names)
    mapping = {name: renamed.get(name, name) for name in names}
    chosen = {_normalize(name) for name in config.classes}
    _require_known("classes", chosen, sorted(set(mapping.values())))
    _require_valid_names({name for name in mapping.values() if not chosen or name in chosen})
    classes.rename({old: new if not chosen or new in chosen else None for old, new in mapping.items()})
    untrained = classes.find_untrained()
    if untrained is not None:
        raise BadData("MissingSplit", f"class {untrained[0]!r} is under {untrained[1]}/ but not under train/")


def _require_known(field: str, names: Iterable[str], known_names: list[str]) -> None:
    for name in names:
        if name not in known_names:
            more = " and others" if len(known_names) > _NAMED_CLASSES else ""
            raise BadConfig(
                "ClassNotFound",
                f"{field}: there is no class {name!r}; "
                f"there are {', '.join(map(repr, known_names[:_NAMED_CLASSES]))}{more}",
            )


def _require_valid_names(names: Iterable[str]) -> None:
    for name in sorted(names):
        problem = find_name_problem(name)
        if problem is not None:
            raise BadData(
                "BadClassName",
                f"the class name {name!r} has {problem}; class names may have letters of any script, digits, '_', '-', "
                "'/' and spaces",
            )


def find_name_problem(name: str) -> str | None:
    """Return what a class name has that none may have."""
    invalid = sorted({character for character in name if not _is_allowed(character)})
    if invalid:
        return " ".join(map(repr, invalid))
    return None if all(part.strip() for part in name.split("/")) else "nothing before or after a '/'"


def _is_allowed(character: str) -> bool:
    # Marks (M…) are the vowel signs of scripts such as Devanagari and Thai: part of their letters.
    return character in "_-/ " or unicodedata.category(character)[0] in "LM" or character.isdecimal()


def _normalize(name: str) -> str:
    return unicodedata.normalize("NFC", name)
