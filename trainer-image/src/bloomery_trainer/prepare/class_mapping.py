"""Class names as people want them: renamed, and a part of them chosen."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.errors import BadConfig, BadData
from bloomery_trainer.prepare.file_table import Index
from bloomery_trainer.prepare.layouts import refuse_bad_names


def settle_classes(index: Index, config: PrepareConfig) -> None:
    """Renames classes and takes out those that are not wanted.

    Raises BadConfig for a name that no class has, BadData where a name or a split is not as it must be.
    """
    known = index.classes()
    renamed = {_normal(old): _normal(new) for old, new in config.rename.items()}
    _refuse_unknown("rename", renamed, known)
    final = {name: renamed.get(name, name) for name in known}
    chosen = {_normal(name) for name in config.classes}
    _refuse_unknown("classes", chosen, sorted(set(final.values())))
    refuse_bad_names({name for name in final.values() if not chosen or name in chosen})
    index.name_classes({old: new if not chosen or new in chosen else None for old, new in final.items()})
    untrained = index.untrained_class()
    if untrained is not None:
        raise BadData("MissingSplit", f"class {untrained[0]!r} is under {untrained[1]}/ but not under train/")


def _refuse_unknown(field: str, wanted: Iterable[str], known: list[str]) -> None:
    for name in wanted:
        if name not in known:
            more = " and others" if len(known) > 20 else ""
            raise BadConfig(
                "ClassNotFound",
                f"{field}: there is no class {name!r}; there are {', '.join(map(repr, known[:20]))}{more}",
            )


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)
