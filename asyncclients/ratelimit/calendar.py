"""Hours, days and months of a time zone's calendar, as intervals of seconds since 1970.

A window ends at the first instant of the next one. With daylight saving time a day has 23 or
25 hours; where midnight does not exist, the day begins at the instant of the change. An hour
that the clock shows twice, with two offsets from UTC, is two hours.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from asyncclients.arguments import did_you_mean, shown
from asyncclients.errors import ConfigurationError

_HOUR, _QUARTER = 3600.0, 900.0
LONGEST = {"hour": _HOUR, "day": 25 * _HOUR, "month": 745 * _HOUR}
"""Seconds of the longest hour, day and month, in any time zone."""
_EXAMPLE = "Write it as in Quota.calendar(10_000, 'day', timezone='Europe/Berlin')"


def check_calendar(unit: object, timezone: object) -> str:
    """Check that *unit* is one of `LONGEST`; return the name of *timezone*.

    Raises:
        ConfigurationError: it is not, or there is no such time zone.
    """
    if not isinstance(unit, str) or unit not in LONGEST:
        problem = f"a calendar quota's unit must be 'hour', 'day' or 'month', not {shown(unit)}"
        raise ConfigurationError(problem, advice=_EXAMPLE)
    name = getattr(timezone, "key", None) or ("UTC" if timezone is UTC else timezone)
    if not isinstance(name, str):
        problem = (
            "a calendar quota's time zone must be an IANA name or a ZoneInfo with a key, "
            f"not {shown(timezone)}"
        )
        raise ConfigurationError(problem, advice=_EXAMPLE)
    try:
        _zone(name)
    except (KeyError, ValueError, OSError):
        known = available_timezones()
        if not known:
            raise ConfigurationError(
                f"time zone {name!r} cannot be looked up: this system has no time zones",
                advice="Install them as a package: pip install tzdata",
            ) from None
        raise ConfigurationError(
            f"there is no time zone {name!r}{did_you_mean(name, known)}",
            advice="Give an IANA name, as in timezone='Europe/Berlin'",
        ) from None
    return name


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    """Return the time zone *name*; UTC needs no database, which Windows lacks."""
    return UTC if name == "UTC" else ZoneInfo(name)


def calendar_window(unit: str, timezone: str, at: float, skip: int = 0) -> tuple[float, float]:
    """Return start and end of the window that contains *at*, or of one *skip* windows later."""
    zone = _zone(timezone)
    if unit == "hour":
        return _hour(zone, at + skip * _HOUR)
    local = datetime.fromtimestamp(at, zone)
    if unit == "day":
        first = datetime(local.year, local.month, local.day) + timedelta(days=skip)  # noqa: DTZ001
        following = first + timedelta(days=1)
    else:
        first, following = _month(local, skip), _month(local, skip + 1)
    return first.replace(tzinfo=zone).timestamp(), following.replace(tzinfo=zone).timestamp()


def _month(local: datetime, skip: int) -> datetime:
    years, month = divmod(local.month - 1 + skip, 12)
    return datetime(local.year + years, month + 1, 1)  # noqa: DTZ001


def _hour(zone: tzinfo, at: float) -> tuple[float, float]:
    def key(at: float) -> tuple[int, timedelta | None]:
        local = datetime.fromtimestamp(at, zone)
        return local.hour, local.utcoffset()

    # Hours begin at a quarter of an hour in UTC, whatever the offset, and so do its changes.
    start = end = at // _QUARTER * _QUARTER
    while key(start - 1) == key(at):
        start -= _QUARTER
    while key(end) == key(at):
        end += _QUARTER
    return start, end
