"""Cron schedules in a time zone: the last time that was due, and the next one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from bloomery_operator.api.reasons import Reason
from bloomery_operator.domain.verdict import Verdict

DEFAULT_TIME_ZONE = "Etc/UTC"
_ANY_TIME = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class CronSchedule:
    """A schedule as cron reads it, with cron's behaviour when the clock changes."""

    expression: str
    zone: ZoneInfo

    def last(self, *, until: datetime) -> datetime | None:
        """Return the last time that was due at ``until`` or before."""
        backwards = CronSim(self.expression, (until + timedelta(seconds=1)).astimezone(self.zone), reverse=True)
        last = next(backwards, None)
        if last is None:
            return None
        last = last.astimezone(UTC)
        # In an hour that the clock repeats, the search backwards skips the times of its first half.
        while (later := self.next(after=last)) <= until:
            last = later
        return last

    def next(self, *, after: datetime) -> datetime:
        """Return the first time after ``after``."""
        forwards = CronSim(self.expression, after.astimezone(self.zone))
        return next(time for due in forwards if (time := due.astimezone(UTC)) > after)

    def seconds_to_next(self, now: datetime) -> float:
        """Return the seconds until the next time."""
        return (self.next(after=now) - now).total_seconds()

    def due(self, *, since: datetime, now: datetime) -> datetime | None:
        """Return the last time that was due after ``since``; of several that were missed, only that one counts."""
        last = self.last(until=now)
        return last if last is not None and last > since else None


def read_schedule(expression: str, time_zone: str | None, *, field: str) -> CronSchedule | Verdict:
    """Return the schedule that ``field`` holds, or why it is none."""
    try:
        zone = ZoneInfo(time_zone or DEFAULT_TIME_ZONE)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        message = f"timeZone beside {field} is {time_zone!r}; use a name of the IANA database, such as Europe/Berlin."
        return Verdict(Reason.INVALID_SCHEDULE, message, failed=True)
    try:
        next(CronSim(expression, _ANY_TIME))
    except (CronSimError, StopIteration) as error:
        problem = str(error) or "It is never due"
        message = f"{field} is {expression!r}, which is no cron schedule: {problem}. '30 2 * * 1' is Mondays at 2:30."
        return Verdict(Reason.INVALID_SCHEDULE, message, failed=True)
    return CronSchedule(expression, zone)
