"""The models of server limits, as plain values; instants are exact in binary."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients.sandbox.limits import (
    FixedWindow,
    Rules,
    ServerLimit,
    SlidingLog,
    TokenBucket,
    TwoCounter,
)
from tests.support.calendar_window import CalendarWindow

# Gaps in eighths of a second: sums and differences of them are exact.
GAPS = st.lists(st.integers(0, 12).map(lambda eighths: eighths / 8), max_size=60)


def instants(gaps: list[float]) -> list[float]:
    """The instants that lie *gaps* apart."""
    now, found = 0.0, list[float]()
    for gap in gaps:
        now += gap
        found.append(now)
    return found


def admitted(limit: ServerLimit, arrivals: list[float]) -> list[float]:
    """Return the accepted *arrivals*."""
    return [now for now in arrivals if limit.admit(now)]


@given(GAPS)
def test_sliding_log_accepts_exactly_the_limit(gaps: list[float]) -> None:
    """A call is accepted exactly if fewer than 3 were in the 2 seconds before it."""
    let_in = list[float]()
    limit = SlidingLog(3, 2.0)
    for now in instants(gaps):
        fits = sum(now - 2 < then for then in let_in) < 3
        assert limit.admit(now) == fits
        let_in += [now] if fits else []


@given(GAPS)
def test_sliding_log_can_count_rejections(gaps: list[float]) -> None:
    """With *count_rejected*, all calls of the last 2 seconds fill the window."""
    limit, seen = SlidingLog(3, 2.0, count_rejected=True), list[float]()
    for now in instants(gaps):
        assert limit.admit(now) == (sum(now - 2 < then for then in seen) < 3)
        seen.append(now)


@given(GAPS, st.integers(0, 15).map(lambda eighths: eighths / 8))
def test_fixed_window_accepts_its_first_three(gaps: list[float], phase: float) -> None:
    """In each aligned window the first 3 calls are accepted, at whatever time."""
    arrivals = instants(gaps)
    expected = list[float]()
    for now in arrivals:
        same = [then for then in expected if (then - phase) // 2 == (now - phase) // 2]
        expected += [now] if len(same) < 3 else []
    assert admitted(FixedWindow(3, 2.0, phase=phase), arrivals) == expected


def test_fixed_window_accepts_twice_its_limit_across_its_edge() -> None:
    """Twice the limit fits around the edge of two windows; a log accepts half of it."""
    arrivals = [1.875] * 3 + [2.0] * 3
    assert len(admitted(FixedWindow(3, 2.0), arrivals)) == 6
    assert len(admitted(SlidingLog(3, 2.0), arrivals)) == 3


def test_token_bucket_holds_its_capacity_and_refills() -> None:
    """A full bucket of 2, refilled at 4 a second, accepts 2 at once and one each quarter."""
    bucket = TokenBucket(4, 1.0, capacity=2)
    assert [bucket.admit(now) for now in (0, 0, 0, 0.25, 0.25, 0.5)] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    assert len(admitted(bucket, [10.0] * 5)) == 2


def test_two_counters_weigh_the_previous_window() -> None:
    """4 at the end of a window leave room for 1 after a quarter of the next, not before."""
    limit = TwoCounter(4, 8.0)
    assert len(admitted(limit, [7.0] * 5)) == 4
    assert not limit.admit(9.0)
    assert limit.admit(10.0)
    assert not limit.admit(10.0)


def all_models() -> list[ServerLimit]:
    """One of each."""
    return [SlidingLog(3, 2.0), FixedWindow(3, 2.0), TokenBucket(4, 2.0), TwoCounter(4, 8.0)]


@pytest.mark.parametrize("number", range(4))
@given(gaps=GAPS)
def test_remaining_and_reset_are_exact(number: int, gaps: list[float]) -> None:
    """The remaining calls are accepted and no more; one is accepted at the reset, none shortly before."""
    first, second = all_models()[number], all_models()[number]
    arrivals = instants(gaps) or [0.0]
    for model in (first, second):
        admitted(model, arrivals)
    now = arrivals[-1]
    promised = first.remaining(now)
    assert len(admitted(first, [now] * (promised + 1))) == promised
    wait = second.reset_after(now)
    assert (wait == 0) == (promised > 0)
    if wait > 0.01:
        assert not second.admit(now + wait - 0.01)
    assert second.admit(now + wait + 1e-9)


def test_calendar_window_counts_what_the_clock_shows() -> None:
    """A day in Berlin ends at its midnight; the hour that is shown twice has two counters."""
    start = datetime(2026, 10, 24, 21, 59, 50, tzinfo=UTC)  # 23:59:50 in Berlin
    day = CalendarWindow(2, "day", "Europe/Berlin", lambda now: start + timedelta(seconds=now))
    assert admitted(day, [0.0, 1.0, 2.0, 9.9, 10.0, 11.0, 12.0]) == [0.0, 1.0, 10.0, 11.0]
    hour = CalendarWindow(1, "hour", "Europe/Berlin", lambda now: start + timedelta(seconds=now))
    assert admitted(hour, [8000.0, 9000.0, 11_000.0, 12_000.0]) == [8000.0, 11_000.0]
    assert hour.remaining(12_000.0) == 0
    assert hour.admit(12_000.0 + hour.reset_after(12_000.0))


def test_rules_count_a_request_against_all_of_its_limits_or_none() -> None:
    """A request counts its cost at each limit whose text it has; a rejected one counts nowhere."""
    total, tags = SlidingLog(10, 60.0), SlidingLog(3, 60.0)
    rules = Rules(("", total), ("/tags", tags), costs={"GET /tags/export": 2})
    assert rules.of("GET /tags/export").admit(0.0)
    assert not rules.of("GET /tags/export").admit(0.0)
    assert (total.remaining(0.0), tags.remaining(0.0)) == (8, 1)
    assert rules.of("GET /tags").admit(0.0)
    assert rules.of("GET /tags").reset_after(1.0) == 59.0
    assert rules.of("GET /contacts").remaining(0.0) == 7
