"""A set of integers stored as intervals."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from asyncclients.backfill.state.push_state import IntervalSet

numbers = st.integers(0, 40)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), numbers, st.integers(0, 8)),
        st.tuples(st.just("discard"), numbers, st.just(0)),
    ),
    max_size=60,
)


@given(steps)
def test_interval_set_equals_a_set(done: list[tuple[str, int, int]]) -> None:
    """After any additions and removals it equals a set, in intervals that are never adjacent."""
    intervals, expected = IntervalSet(), set[int]()
    for step, number, more in done:
        if step == "add":
            intervals.add(number, number + more)
            expected |= set(range(number, number + more + 1))
        else:
            intervals.discard(number)
            expected.discard(number)
    assert {number for number in range(60) if number in intervals} == expected
    pairs = list(intervals)
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(pairs))
    assert list(IntervalSet(pairs)) == pairs


def test_interval_set_stores_rows_in_order_as_one_interval() -> None:
    """A million rows done in order take the space of one."""
    intervals = IntervalSet()
    for number in range(1, 100_001):
        intervals.add(number)
    assert list(intervals) == [(1, 100_000)]
