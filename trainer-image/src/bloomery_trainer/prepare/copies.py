"""Images with the same content: their number, and the pairs that cross a class or a split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bloomery_trainer.prepare.file_table import Copy

_NAMED_PAIRS = 3
_MAX_NAME_CHARS = 120


def describe_copies(copies: Iterable[Copy]) -> list[str]:
    """Return sentences about images with the same content; ``copies`` has those of the same content together."""
    same, crossing_class, crossing_split = _Pairs(), _Pairs(), _Pairs()
    total = 0
    for first, other in _pair_with_first(copies):
        total += 1
        if first.class_name != other.class_name:
            crossing_class.add(f"{_name(first)} ({first.class_name}) and {_name(other)} ({other.class_name})")
        if first.split != other.split:
            crossing_split.add(f"{_name(first)} ({first.split}) and {_name(other)} ({other.split})")
        if (first.class_name, first.split) == (other.class_name, other.split):
            same.add(f"{_name(first)} and {_name(other)}")
    if not total:
        return []
    warnings = [("1 image is an exact copy" if total == 1 else f"{total} images are exact copies") + " of another one"]
    if same.count:
        warnings[0] += f": {same}"
    if crossing_class.count:
        warnings.append(f"the same image is in two classes, so that one label must be wrong: {crossing_class}")
    if crossing_split.count:
        warnings.append(f"the same image is in two splits, so that the evaluation is too good: {crossing_split}")
    return warnings


class _Pairs:
    """A number of pairs, and the names of the first."""

    def __init__(self) -> None:
        self.count = 0
        self._named: list[str] = []

    def add(self, pair: str) -> None:
        self.count += 1
        if len(self._named) < _NAMED_PAIRS:
            self._named.append(pair)

    def __str__(self) -> str:
        more = f"; and {self.count - len(self._named)} more" if self.count > len(self._named) else ""
        return "; ".join(self._named) + more


def _pair_with_first(copies: Iterable[Copy]) -> Iterator[tuple[Copy, Copy]]:
    """Yield each image but the first of its content, with the first."""
    first: Copy | None = None
    for copy in copies:
        if first is not None and copy.sha256 == first.sha256:
            yield first, copy
        else:
            first = copy


def _name(copy: Copy) -> str:
    key = copy.key
    return repr(key if len(key) <= _MAX_NAME_CHARS else f"…{key[-_MAX_NAME_CHARS:]}")
