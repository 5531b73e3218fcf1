"""Sentences about images with the same content, and about near copies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bloomery_trainer.prepare.quality_queries import LABEL_CONFLICT, LEAK, NEAR_LEAK, NearCopy, Picture

_NAMED_PAIRS = 3
_MAX_NAME_CHARS = 120


def describe_copies(groups: Iterable[Sequence[Picture]]) -> list[str]:
    """Return sentences about groups of images with the same content."""
    same, conflicts, kept_conflicts, leaks, crossing_splits = (_Pairs() for _ in range(5))
    total = 0
    for first, *others in groups:
        for other in others:
            total += 1
            if first.class_name != other.class_name:
                pair = f"{_name(first)} ({first.class_name}) and {_name(other)} ({other.class_name})"
                (conflicts if other.reason == LABEL_CONFLICT else kept_conflicts).add(pair)
            if first.split != other.split:
                pair = f"{_name(first)} ({first.split}) and {_name(other)} ({other.split})"
                is_left_out = LEAK in (first.reason, other.reason)
                is_kept = first.reason is None and other.reason is None
                if is_left_out or is_kept:
                    (leaks if is_left_out else crossing_splits).add(pair)
            if (first.class_name, first.split) == (other.class_name, other.split):
                same.add(f"{_name(first)} and {_name(other)}")
    if not total:
        return []
    warnings = [("1 image is an exact copy" if total == 1 else f"{total} images are exact copies") + " of another one"]
    if same.count:
        warnings[0] += f": {same}"
    described = {
        "the same image is in two classes, so that one label must be wrong; all of its copies are left out until you "
        "exclude the wrong ones": conflicts,
        "the same image is in two classes, so that one label must be wrong": kept_conflicts,
        "the same image is in train and held out; its training copies are left out (rules.leaks)": leaks,
        "the same image is in two splits, so that the evaluation is too good": crossing_splits,
    }
    return [*warnings, *(f"{sentence}: {pairs}" for sentence, pairs in described.items() if pairs.count)]


def describe_near_copies(pairs: Iterable[NearCopy]) -> list[str]:
    """Return a sentence about near copies of which one trains and one is held out."""
    used_pairs, left_out_pairs = _Pairs(), _Pairs()
    for trained, held_out in pairs:
        named = f"{_name(trained)} and {_name(held_out)} ({held_out.split})"
        (left_out_pairs if trained.reason == NEAR_LEAK else used_pairs).add(named)
    warnings = []
    if used_pairs.count:
        warnings.append(
            "training images look like held-out ones, so that the evaluation may be too good (the report shows them; "
            f"rules.leaks: DropNear leaves them out): {used_pairs}"
        )
    if left_out_pairs.count:
        warnings.append(f"training images that look like held-out ones are left out (rules.leaks): {left_out_pairs}")
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


def _name(picture: Picture) -> str:
    key = picture.key
    return repr(key if len(key) <= _MAX_NAME_CHARS else f"…{key[-_MAX_NAME_CHARS:]}")
