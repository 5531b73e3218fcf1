"""The mapping of class names: ``rename`` and ``classes`` of a Dataset, and the names that are refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable

from bloomery_model.split_folders import begins_with_split
from bloomery_trainer.class_names import (
    ALLOWED_WORDS,
    fold_class_name,
    invalid_characters,
    normalize_class_name,
    suggest_class_name,
)
from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.errors import BadData
from bloomery_trainer.prepare.file_table import ClassQueries
from bloomery_trainer.prepare.moves import Moves, unknown_class

logger = logging.getLogger(__name__)

_NAMED_CLASSES = 20
_NAMED_SPLIT_CLASSES = 5


def apply_class_mapping(classes: ClassQueries, config: PrepareConfig, moves: Moves) -> None:
    """Rename classes, remove those that are not chosen, and move single images.

    Raises:
        BadConfig: a name of the configuration is not that of a class.
        BadData: names have characters that are not allowed or begin with a split, or a class has no image to train
            with.
    """
    names = classes.names()
    renamed = {normalize_class_name(old): normalize_class_name(new) for old, new in config.rename.items()}
    _require_known("rename", renamed, names)
    mapping = {name: renamed.get(name, name) for name in names}
    chosen = {normalize_class_name(name) for name in config.classes}
    _require_known("classes", chosen, sorted(set(mapping.values())))
    used = {old: new for old, new in mapping.items() if not chosen or new in chosen}
    _require_valid_names(used)
    if config.source.layout != "Folders":
        folder_names = {used[name] for name in classes.folder_names() if name in used}
        _refuse_split_names(folder_names - _names_in_config(config))
    classes.rename({old: used.get(old) for old in mapping})
    moves.apply(classes)
    _require_trained(classes)


def source_names_in_config(config: PrepareConfig) -> set[str]:
    """Return the class names of the configuration that sources use; ``rename`` makes others of some."""
    appended = filter(None, (addition.class_name for addition in config.append))
    chosen = set(config.classes) - set(config.rename.values())
    return set(map(normalize_class_name, (*config.rename, *chosen, *appended)))


def _names_in_config(config: PrepareConfig) -> set[str]:
    """Return the class names that the configuration spells out: they are no mistake."""
    new = map(normalize_class_name, (*config.rename.values(), *config.classes))
    return {*source_names_in_config(config), *new}


def _require_known(field: str, names: Iterable[str], known_names: list[str]) -> None:
    for name in names:
        if name not in known_names:
            raise unknown_class(field, repr(name), known_names)


def _require_valid_names(names: dict[str, str]) -> None:
    """Refuse all invalid names at once.

    Args:
        names: the classes, by the names that their folders or texts have.
    """
    problems = {old: problem for old, new in sorted(names.items()) if (problem := find_name_problem(new))}
    if not problems:
        return
    suggestions = _suggest_renames(problems, names)
    listed = list(problems)[:_NAMED_CLASSES]
    named = "; ".join(f"{names[old]!r} has {problems[old]}" for old in listed)
    more = ""
    if len(problems) > len(listed):
        more = f" (and {len(problems) - len(listed)} more: the log has all)"
        logger.error("rename: %s", json.dumps(suggestions, ensure_ascii=False))
    block = json.dumps({old: suggestions[old] for old in listed}, ensure_ascii=False)
    raise BadData(
        "BadClassName",
        f"{len(problems)} class name{'s'[: len(problems) != 1]} cannot be used: {named}; class names may have "
        f"{ALLOWED_WORDS}. Rename the folders, or add to spec, rename: {block}{more}",
    )


def find_name_problem(name: str) -> str | None:
    """Return what a class name has that none may have."""
    invalid = invalid_characters(name)
    if invalid:
        return " ".join(map(repr, invalid))
    return None if all(part.strip() for part in name.split("/")) else "nothing before or after a '/'"


def _suggest_renames(invalid: Collection[str], names: dict[str, str]) -> dict[str, str]:
    taken = set(names.values())
    suggestions: dict[str, str] = {}
    for name in {names[old]: None for old in invalid}:
        suggestions[name] = suggest_class_name(name, taken)
        taken.add(suggestions[name])
    return {old: suggestions[names[old]] for old in invalid}


def _refuse_split_names(names: Collection[str]) -> None:
    named = _list_split_names(names)
    if named:
        raise BadData(
            "BadClassName",
            f"class names begin with the name of a split: {named}. If these folders are splits, set source.layout to "
            "SplitFolders, which leaves out the images beside them; if they are classes, set it to Folders",
        )


def split_name_warnings(names: Collection[str], layout: str) -> list[str]:
    """Return a sentence about class names that look like splits, where the layout says that they are classes."""
    named = _list_split_names(names) if layout == "Folders" else ""
    return (
        [f"class names begin with the name of a split: {named}; for splits, set source.layout to Auto"] if named else []
    )


def _list_split_names(names: Collection[str]) -> str:
    split_names = sorted(filter(begins_with_split, names))
    more = len(split_names) - _NAMED_SPLIT_CLASSES
    return ", ".join(map(repr, split_names[:_NAMED_SPLIT_CLASSES])) + (f" and {more} more" if more > 0 else "")


def _require_trained(classes: ClassQueries) -> None:
    untrained = classes.find_untrained()
    if untrained is None:
        return
    name, split = untrained
    similar = [other for other in classes.names() if other != name and fold_class_name(other) == fold_class_name(name)]
    hint = f"; is it the class {similar[0]!r}? If so, give both one name with rename" if similar else ""
    raise BadData("MissingSplit", f"class {name!r} is under {split}/ but not under train/{hint}")
