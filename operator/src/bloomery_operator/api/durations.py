"""Durations as people write them in a spec, and as they read them in a status: Go's form, such as ``1h30m``."""

from __future__ import annotations

import re

_UNITS = {"h": 3600, "m": 60, "s": 1}
LONGEST_SECONDS = 87600 * 3600
"""Ten years, the longest that the CRDs let in: more than a date can hold may have been stored before, or be a guess."""


def seconds_of(duration: str) -> int:
    """Return the seconds of a duration such as ``1h30m``, ``90s`` or ``5m``; the CRDs let nothing else in."""
    seconds = sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))
    return min(seconds, LONGEST_SECONDS)


def go_duration(seconds: float) -> str:
    """Return a duration as Go prints it, in whole seconds: ``1h2m3s``, ``11m0s``, ``4s``; what is no number is 0."""
    whole = int(min(max(0.0, seconds), LONGEST_SECONDS))
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{secs}s"
    return f"{minutes}m{secs}s" if minutes else f"{secs}s"
