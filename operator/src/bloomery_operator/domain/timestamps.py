"""Times in the annotations and statuses of objects, which people may have edited."""

from __future__ import annotations

from datetime import UTC, datetime


def read_time(text: str | None) -> datetime | None:
    """Return an RFC 3339 time, in UTC if it has no offset; None for another text."""
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def format_time(time: datetime) -> str:
    """Return a time in UTC as Kubernetes writes it, such as 2026-05-01T12:00:00Z."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
