"""Who learns and who examines: the stratified, seeded split, and the order of the shards."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from bloomery_trainer.config import Split


@dataclass(frozen=True, slots=True)
class Sample:
    """A usable image of the source; `sha256` (32 bytes) of its content; `split` None until it is decided."""

    key: str
    class_name: str
    split: str | None
    sha256: bytes
    extension: str


def assign(samples: Iterable[Sample], split: Split) -> list[Sample]:
    """Gives every sample without a split one: of each class, each share rounded down, the rest trains.

    Which images are held out depends on their content and the seed alone, not on names or on other images.
    """
    classes: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        classes[sample.class_name].append(sample)
    decided: list[Sample] = []
    for name in sorted(classes):
        free = sorted((s for s in classes[name] if s.split is None), key=lambda s: _lot(s, f"split{split.seed}"))
        validation = share_of(len(free), split.validation)
        test = share_of(len(free), split.test)
        names = ["validation"] * validation + ["test"] * test
        names += ["train"] * (len(free) - len(names))
        decided += [replace(sample, split=name) for sample, name in zip(free, names, strict=True)]
        decided += [sample for sample in classes[name] if sample.split is not None]
    return decided


def share_of(count: int, share: float) -> int:
    """`count` × `share` rounded down, exact: 29 % of 100 is 29, whatever binary fractions say."""
    return int(count * Fraction(str(share)))


def shuffled(samples: Iterable[Sample], seed: int) -> list[Sample]:
    """A fixed shuffle, so that each shard holds a mixture of the classes."""
    return sorted(samples, key=lambda sample: _lot(sample, f"order{seed}"))


def _lot(sample: Sample, salt: str) -> tuple[bytes, str]:
    return hashlib.sha256(salt.encode() + sample.sha256).digest(), sample.key
