"""Takes the numbers of tensors out of JSON before it is parsed, straight into arrays.

A JSON parser makes an object of each number, each list and each pair: sixty times the room that nested lists take in a
body. Here a number takes four bytes, and whatever else stands in the JSON must be short.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_DEPTH = 5
"""Lists within lists of a tensor's data: four for a batch of images, and one more."""

_DATA = re.compile(rb'"data"\s*:\s*(\[[-+0-9.eE,\sNaInfity\[\]]*)')
"""A member ``data`` up to the first character that is of no number; JSON has a quote within a string only as \\"."""
_BRACKETS = re.compile(rb"[\[\]]")
_WITHOUT_BRACKETS = bytes.maketrans(b"[]", b"  ")
_PIECE_BYTES = 64 * 1024
"""Text that is converted at a time, as other threads wait meanwhile: about a millisecond."""


class NumbersError(ValueError):
    """The data of a tensor are not numbers, or too deeply nested; the message is the end of a sentence."""


@dataclass(frozen=True)
class ShortenedJson:
    """JSON whose lists of numbers are replaced by one name each."""

    text: bytes
    arrays: dict[str, NDArray[np.float32]]
    """The numbers of each name, flat."""


def take_out_numbers(text: bytes | bytearray) -> ShortenedJson:
    """Replace each member ``data`` that has only numbers, in lists that may be nested.

    Raises:
        NumbersError: such a list is nested too deeply, or has something else between its commas.
    """
    arrays: dict[str, NDArray[np.float32]] = {}
    parts: list[bytes] = []
    position = 0
    for match in _DATA.finditer(text):
        end = _end_of_list(match[1])
        numbers = match[1][:end].translate(_WITHOUT_BRACKETS)
        if end is None or not numbers.strip():  # it holds something else, too, or nothing: the parser says what
            continue
        name = f"<numbers {len(arrays)}>"
        arrays[name] = _parse_numbers(numbers)
        parts += [bytes(memoryview(text)[position : match.start(1)]), f'["{name}"]'.encode()]
        position = match.start(1) + end
    return ShortenedJson(b"".join([*parts, bytes(memoryview(text)[position:])]), arrays)


def _end_of_list(text: bytes) -> int | None:
    """Return the length of the list with which a text begins; None if the text ends before it does."""
    depth = 0
    for bracket in _BRACKETS.finditer(text):
        depth += 1 if bracket[0] == b"[" else -1
        if depth > MAX_DEPTH:
            raise NumbersError(f"are lists in more than {MAX_DEPTH} lists")
        if depth == 0:
            return bracket.end()
    return None


def _parse_numbers(text: bytes) -> NDArray[np.float32]:
    try:
        return np.concatenate([_parse_piece(piece) for piece in _pieces(text)])
    except ValueError as error:
        raise NumbersError("are not numbers with a comma between each two") from error


def _pieces(text: bytes) -> Iterator[bytes]:
    """Yield parts of a text that end before a comma."""
    start = 0
    while (end := text.find(b",", start + _PIECE_BYTES)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _parse_piece(piece: bytes) -> NDArray[np.float32]:
    stripped = piece.strip()
    # NumPy takes nothing before or after a comma for a number.
    if not stripped or stripped.startswith(b",") or stripped.endswith(b","):
        raise ValueError("there is no number beside a comma")
    return np.fromstring(stripped, np.float32, sep=",")
