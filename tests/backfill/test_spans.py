"""Spans is a set of numbers, and small where numbers are neighbours."""

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
def test_it_is_a_set(done: list[tuple[str, int, int]]) -> None:
    """After any additions and removals it holds what a set holds, in spans that never touch."""
    spans, expected = IntervalSet(), set[int]()
    for step, number, more in done:
        if step == "add":
            spans.add(number, number + more)
            expected |= set(range(number, number + more + 1))
        else:
            spans.discard(number)
            expected.discard(number)
    assert {number for number in range(60) if number in spans} == expected
    assert len(spans) == len(expected)
    pairs = list(spans)
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(pairs))
    assert list(IntervalSet(pairs)) == pairs


def test_rows_done_in_order_are_one_span() -> None:
    """A million rows done in order take the room of one."""
    spans = IntervalSet()
    for number in range(1, 100_001):
        spans.add(number)
    assert list(spans) == [(1, 100_000)]
    assert repr(spans) == "<IntervalSet 1-100000>"
