"""Parser of Prometheus' text format, for the few metrics that the operator reads.

Pods of a namespace can answer anything, so it is strict and takes time in proportion to the length of the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([^ ]+)(?: -?[0-9]+)?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED_CHARACTERS = {"n": "\n"}


@dataclass(frozen=True)
class Sample:
    """One line: a metric with its labels, and the value."""

    name: str
    labels: Mapping[str, str]
    value: float


def read_samples(text: str, names: Set[str]) -> Iterator[Sample]:
    """Yield the samples of these metrics; lines of all other metrics are not parsed.

    Raises:
        ValueError: a line of one of these metrics is not of the format.
    """
    for line in text.split("\n"):
        name = line.partition("{")[0].partition(" ")[0]
        if name not in names:
            continue
        parts = _LINE.fullmatch(line)
        if parts is None or not math.isfinite(value := float(parts[3])):
            raise ValueError(f"a line of {name} is not a number in Prometheus' text format")
        yield Sample(name, dict(_read_labels(parts[2] or "")), value)


def _read_labels(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(text):
        label = _LABEL.match(text, position)
        if label is None:
            raise ValueError("the labels are not of Prometheus' text format")
        yield label[1], _ESCAPE.sub(lambda escape: _ESCAPED_CHARACTERS.get(escape[1], escape[1]), label[2])
        position = label.end()
