"""Durations as people write them in a spec, and as they read them in a status: Go's form, such as ``1h30m``."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"h": 3600, "m": 60, "s": 1}


def seconds_of(duration: str) -> int:
    """Return the seconds of a duration such as ``1h30m``, ``90s`` or ``5m``; the CRDs let nothing else in."""
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


def go_duration(seconds: float) -> str:
    """Return a duration as Go prints it, in whole seconds: ``1h2m3s``, ``11m0s``, ``4s``."""
    whole = int(timedelta(seconds=max(0.0, seconds)).total_seconds())
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{secs}s"
    return f"{minutes}m{secs}s" if minutes else f"{secs}s"
