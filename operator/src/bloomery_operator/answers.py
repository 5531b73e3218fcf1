"""What servers answer that the operator does not run itself: read within bounds, and remembered for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import aiohttp

Question = TypeVar("Question")
Answer = TypeVar("Answer")


async def read_bounded(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the body of an answer.

    Raises:
        ValueError: it has more than ``most`` bytes; the rest is not read.
    """
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > most:
            raise ValueError(f"the answer is longer than {most} bytes")
    return bytes(content)


@dataclass(frozen=True)
class _Entry(Generic[Answer]):
    answer: Answer
    came: float


class RecentAnswers(Generic[Question, Answer]):
    """Answers by question, each for so many seconds after it came: whoever asks soon again is told the same."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty; ``clock`` gives seconds."""
        self._seconds = seconds
        self._clock = clock
        self._entries: dict[Question, _Entry[Answer]] = {}

    def get(self, question: Question) -> Answer | None:
        """Return the answer; None where there is none, or none so new."""
        self._forget_old()
        entry = self._entries.get(question)
        return None if entry is None else entry.answer

    def put(self, question: Question, answer: Answer) -> Answer:
        """Remember an answer that has just come, and return it."""
        # The oldest answer is the first in the dict.
        self._entries.pop(question, None)
        self._entries[question] = _Entry(answer, self._clock())
        return answer

    def _forget_old(self) -> None:
        while self._entries:
            question, entry = next(iter(self._entries.items()))
            if self._clock() - entry.came < self._seconds:
                return
            del self._entries[question]
