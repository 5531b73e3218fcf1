"""Log of something that is used again and again: a fault is logged once, and so is its end."""

from __future__ import annotations

import logging


class FaultLog:
    """Logs a fault when it begins or changes, and when it is over."""

    def __init__(self, logger: logging.Logger, *, end: str) -> None:
        """``end`` is logged once the fault is over."""
        self._logger = logger
        self._end = end
        self._fault = ""

    def report(self, fault: str) -> None:
        """Take the present fault; empty: there is none."""
        if fault != self._fault:
            self._fault = fault
            self._logger.warning("%s", fault or self._end)

    def clear(self) -> None:
        """Take that there is no fault."""
        self.report("")
