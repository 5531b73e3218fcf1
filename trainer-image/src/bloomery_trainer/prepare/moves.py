"""Moves of single images to other classes: ``move`` of a Dataset, which corrects labels without touching files."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence

from bloomery_trainer.class_names import normalize_class_name
from bloomery_trainer.config import Move
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.prepare.file_table import ClassQueries

logger = logging.getLogger(__name__)

_NAMED_CLASSES = 20
_NAMED_PATHS = 5


class Moves:
    """The images to move, by their paths below their sources; remembers which of them exist."""

    def __init__(self, moves: Sequence[Move]) -> None:
        """Take the moves; of two moves of an image, the last one counts."""
        self._classes = {_normalize_path(move.image): normalize_class_name(move.class_name) for move in moves}
        self._paths = {_normalize_path(move.image): move.image for move in moves}
        self._unused: list[str] = []
        self._ambiguous: list[str] = []

    def apply(self, classes: ClassQueries) -> None:
        """Give the images their new classes, once all classes have their final names.

        Raises:
            BadConfig: a new class is none of the dataset's.
        """
        if not self._classes:
            return
        self._require_known_classes(classes.names())
        moved: set[str] = set()

        def new_class(path: str) -> str | None:
            normalized = _normalize_path(path)
            if normalized in self._classes:
                moved.add(normalized)
            return self._classes.get(normalized)

        logger.info("%d images are moved to another class", classes.move(new_class))
        self._unused = [path for normalized, path in self._paths.items() if normalized not in moved]
        shared = filter(moved.__contains__, map(_normalize_path, classes.paths_of_several_sources()))
        self._ambiguous = [self._paths[normalized] for normalized in dict.fromkeys(shared)]

    def warnings(self) -> list[str]:
        """Return sentences about moves of images that do not exist, or of several at once."""
        missing = "move: there is no image {}; give each by its path below the source, as reports show it"
        shared = "move: {} is in several sources, and moved in each of them; rename it in one source"
        paths = ((missing, self._unused), (shared, self._ambiguous))
        return [sentence.format(_list_paths(listed)) for sentence, listed in paths if listed]

    def _require_known_classes(self, names: list[str]) -> None:
        for path, name in self._classes.items():
            if name not in names:
                raise unknown_class("move", f"{name!r} for {self._paths[path]!r}", names)


def _list_paths(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED_PATHS} more" if len(paths) > _NAMED_PATHS else ""
    return ", ".join(map(repr, paths[:_NAMED_PATHS])) + more


def unknown_class(field: str, described: str, known_names: Sequence[str]) -> BadConfig:
    """Return the error that a field names a class that is none of the dataset's."""
    more = " and others" if len(known_names) > _NAMED_CLASSES else ""
    known = ", ".join(map(repr, known_names[:_NAMED_CLASSES]))
    return BadConfig("ClassNotFound", f"{field}: there is no class {described}; there are {known}{more}")


def _normalize_path(path: str) -> str:
    return unicodedata.normalize("NFC", path)
