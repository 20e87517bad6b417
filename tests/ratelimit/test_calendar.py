"""Calendar windows: boundaries in time zones, with daylight saving time."""

from __future__ import annotations

import sys
import zoneinfo
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.calendar import LONGEST
from asyncclients.ratelimit.quota import Quota
from tests.support.calendar_window import CalendarWindow

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",  # falls back over midnight
    "America/Santiago",  # midnight does not exist
    "Africa/Cairo",
    "Asia/Kathmandu",  # 5:45 ahead
    "Australia/Lord_Howe",  # half an hour of daylight saving time
    "Pacific/Apia",
)


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    tz = UTC if zone == "UTC" else ZoneInfo(zone)
    return datetime.fromisoformat(text).replace(tzinfo=tz, fold=fold).timestamp()


def key(unit: str, zone: str, instant: float) -> tuple[object, ...]:
    """The key of the counter of a server that counts by the calendar."""
    local = datetime.fromtimestamp(instant, ZoneInfo(zone))
    if unit == "hour":
        return (local.date(), local.hour, local.utcoffset())
    return (local.year, local.month) if unit == "month" else (local.date(),)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        # Of the past: later releases of the time zone database may change days to come.
        ("UTC", "2024-03-31", 24),
        ("Europe/Berlin", "2024-03-31", 23),
        ("Europe/Berlin", "2024-10-27", 25),
        ("America/Santiago", "2024-09-08", 23),
        ("America/Havana", "2024-11-03", 25),
        ("Australia/Lord_Howe", "2024-04-07", 24.5),
    ],
)
def test_calendar_day_has_the_hours_of_its_zone(zone: str, day: str, hours: float) -> None:
    """A day has 23 or 25 hours where daylight saving time starts or ends."""
    start, end = Quota.calendar(1, "day", zone).window(at(f"{day}T12:00", zone))
    assert (end - start) / 3600 == hours
    assert datetime.fromtimestamp(start, ZoneInfo(zone)).date().isoformat() == day


def test_calendar_day_begins_at_the_change_without_a_midnight() -> None:
    """Where the clock goes from 23:59 to 01:00, the day begins at 01:00."""
    start, _ = Quota.calendar(1, "day", "America/Santiago").window(at("2024-09-08T12:00"))
    assert datetime.fromtimestamp(start, ZoneInfo("America/Santiago")).hour == 1


def test_calendar_hour_shown_twice_is_two_windows() -> None:
    """The hour that is repeated when daylight saving time ends counts twice."""
    quota = Quota.calendar(1, "hour", "Europe/Berlin")
    first = quota.window(at("2026-10-25T02:30", "Europe/Berlin"))
    second = quota.window(at("2026-10-25T02:30", "Europe/Berlin", fold=1))
    assert first[1] == second[0]
    assert second[1] - first[0] == 7200


@given(
    st.sampled_from(sorted(LONGEST)),
    st.sampled_from(ZONES),
    st.integers(int(at("2026-01-01")), int(at("2036-01-01"))),
)
def test_calendar_window_is_what_a_server_counts_as_one(unit: str, zone: str, now: int) -> None:
    """All instants of a window have one key at the server, and those around it another."""
    start, end = Quota.calendar(1, unit, zone).window(now)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert start <= now < end <= start + LONGEST[unit]
    mine = key(unit, zone, now)
    assert key(unit, zone, start) == key(unit, zone, end - 1) == mine
    assert key(unit, zone, start - 1) != mine != key(unit, zone, end)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("unit", ["day", "month"])
def test_calendar_skips_whole_windows(unit: str, zone: str) -> None:
    """Skipping windows one by one gives windows that follow one another."""
    quota = Quota.calendar(1, unit, zone)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    windows = [quota.window(at("2026-01-31T12:00"), skip) for skip in range(400)]
    assert all(before[1] == after[0] for before, after in pairwise(windows))


def test_calendar_windows_cover_every_second_of_a_change() -> None:
    """Hour windows follow one another through a change of half an hour."""
    quota = Quota.calendar(1, "hour", "Australia/Lord_Howe")
    now, end = at("2026-04-04T00:00"), at("2026-04-06T00:00")
    while now < end:
        window = quota.window(now)
        assert window == quota.window(window[1] - 0.5)
        now = window[1]


def test_calendar_quota_states_unit_and_zone() -> None:
    """The text names unit and time zone, and the period is the longest day."""
    quota = Quota.calendar(10_000, "day", timezone="Europe/Berlin", operations=["events.*"])
    assert str(quota) == "events.* 10000 per day (Europe/Berlin)"
    assert quota.period == timedelta(hours=25).total_seconds()
    assert quota.operations == ("events.*",)


def test_calendar_rejects_an_unknown_unit_or_zone() -> None:
    """The error names the unit or the time zone, and suggests one that exists."""
    with pytest.raises(ConfigurationError, match="not 'week'"):
        Quota.calendar(1, "week")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for zone in ("Europe/Belrin", "", "../etc/passwd", "Europe"):
        with pytest.raises(ConfigurationError, match="no time zone"):
            Quota.calendar(1, "day", zone)
    with pytest.raises(ConfigurationError, match="did you mean 'Europe/Berlin'"):
        Quota.calendar(1, "day", "Europe/Belrin")


def test_calendar_accepts_a_zone_with_a_name() -> None:
    """A `ZoneInfo` and `datetime.UTC` give the quota that their names give, in both constructors."""
    named = Quota.calendar(1, "day", "Europe/Berlin")
    assert Quota.calendar(1, "day", ZoneInfo("Europe/Berlin")) == named
    assert replace(named, timezone=ZoneInfo("Europe/Berlin")) == named  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert Quota.calendar(1, "day", UTC) == Quota.calendar(1, "day")


@pytest.fixture
def _no_time_zones(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide the time zones of the system, which Windows lacks, and the package tzdata."""
    for name in {"tzdata", *(name for name in sys.modules if name.startswith("tzdata."))}:
        monkeypatch.setitem(sys.modules, name, None)
    zoneinfo.reset_tzpath(to=())
    yield
    zoneinfo.reset_tzpath()


@pytest.mark.usefixtures("_no_time_zones")
def test_calendar_without_time_zones_knows_utc_alone() -> None:
    """UTC needs no database, neither here nor in the sandbox; others name the package to install."""
    quota, now = Quota.calendar(1, "day"), at("2024-02-29T12:00")
    assert quota.window(now) == (now - 43_200, now + 43_200)
    window = CalendarWindow(1, "day", "UTC", lambda now: datetime.fromtimestamp(now, UTC))
    assert window.admit(now)
    assert window.reset_after(now) == 43_200
    with pytest.raises(ConfigurationError, match="this system has no time zones") as error:
        Quota.calendar(1, "day", "Europe/Vaduz")
    assert error.value.advice == "Install them as a package: pip install tzdata"


@pytest.mark.parametrize("zone", [None, 5, timezone(timedelta(hours=2))])
def test_calendar_rejects_a_zone_without_a_name(zone: object) -> None:
    """An offset and other types raise an error with the right form."""
    with pytest.raises(ConfigurationError, match="must be an IANA name") as error:
        Quota.calendar(1, "day", zone)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert "timezone='Europe/Berlin'" in str(error.value)
