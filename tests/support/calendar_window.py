"""A server that counts by the windows of a calendar, for quotas of hours, days and months."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo

from asyncclients.sandbox.limits import FixedWindow


class CalendarWindow(FixedWindow):
    """At most `limit` in each hour, day or month of *timezone*.

    *wall* returns the time of an instant. A window is what the clock shows, with the offset from
    UTC for an hour, so an hour that is shown twice is two windows.
    """

    def __init__(
        self,
        limit: float,
        unit: Literal["hour", "day", "month"],
        timezone: str,
        wall: Callable[[float], datetime],
    ) -> None:
        super().__init__(limit, {"hour": 3600.0, "day": 86_400.0, "month": 2_678_400.0}[unit])
        self._fields = {"hour": 4, "day": 3, "month": 2}[unit]
        self._zone = UTC if timezone == "UTC" else ZoneInfo(timezone)
        self._wall = wall

    def window_of(self, now: float) -> tuple[object, ...]:
        local = self._wall(now).astimezone(self._zone)
        offset = local.utcoffset() if self._fields == 4 else None
        return (*local.timetuple()[: self._fields], offset)

    def reset_after(self, now: float) -> float:
        if self.remaining(now):
            return 0.0
        seconds = 1.0
        while self.window_of(now + seconds) == self._window:
            seconds += min(60.0, 60.0 - (now + seconds) % 60.0)
        return seconds
