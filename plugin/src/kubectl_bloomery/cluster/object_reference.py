"""References to objects in arguments: KIND/NAME, or NAME alone."""

from __future__ import annotations

from collections.abc import Sequence

from kubectl_bloomery.cluster.kubectl import BATCH_PREDICTIONS, DATASETS, TRAINING_JOBS

SHORT_NAMES = {DATASETS: "dset", TRAINING_JOBS: "tj", BATCH_PREDICTIONS: "bp"}
Reference = tuple[str, str]
"""Kind and name of an object."""


def read_reference(text: str, kinds: Sequence[str]) -> Reference | None:
    """Return the object that an argument names, with its kind's short, singular or plural name, or without one.

    Args:
        text: the argument.
        kinds: that are possible; a name alone is of the first.

    Returns:
        None if its kind is none of them.
    """
    prefix, _, name = text.rpartition("/")
    if not prefix:
        return kinds[0], name
    kind = next((kind for kind in kinds if prefix in _names_of(kind)), None)
    return (kind, name) if kind is not None else None


def _names_of(kind: str) -> tuple[str, str, str]:
    plural = kind.partition(".")[0]
    return SHORT_NAMES[kind], plural.removesuffix("s"), plural
