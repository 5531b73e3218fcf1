"""Durations in Go's form, such as ``1h30m``: parsed from a spec, printed in a status.

``kubernetes.utils.duration`` parses five digits a unit (GEP-2257); objects that were stored before the CRDs had a limit
may hold more, and must not end a reconcile.
"""

from __future__ import annotations

import re

_UNIT_SECONDS = {"h": 3600, "m": 60, "s": 1}
MAX_SECONDS = 87600 * 3600
"""Ten years, the limit of the CRDs; objects stored before may have more, which no date can hold."""


def seconds_of(duration: str) -> int:
    """Return the seconds of a duration such as ``1h30m``, ``90s`` or ``5m``; the CRDs allow no other form."""
    seconds = sum(int(number) * _UNIT_SECONDS[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))
    return min(seconds, MAX_SECONDS)


def go_duration(seconds: float) -> str:
    """Return a duration as Go prints it, in whole seconds: ``1h2m3s``, ``11m0s``, ``4s``; NaN is 0."""
    total = int(min(max(0.0, seconds), MAX_SECONDS))
    hours, rest = divmod(total, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{secs}s"
    return f"{minutes}m{secs}s" if minutes else f"{secs}s"
