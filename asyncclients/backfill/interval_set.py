"""A set of whole numbers as spans, for row numbers that fill up from below.

A million rows done in order are one span; a row that is stuck splits one in two.
Numbers that are added one by one wait in a list until somebody asks: they come
nearly in order, and a run of neighbours is put in its place at once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

_MANY = 1024
"""Numbers that wait at the most."""


class IntervalSet:
    """A mutable set of whole numbers, stored as sorted spans that never touch."""

    __slots__ = ("_firsts", "_lasts", "_new")

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._new: list[int] = []
        for first, last in spans:
            self._insert(first, last)

    def __contains__(self, number: int) -> bool:
        self._settle()
        index = bisect_right(self._firsts, number) - 1
        return index >= 0 and number <= self._lasts[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        self._settle()
        return iter(list(zip(self._firsts, self._lasts, strict=True)))

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self)

    def add(self, first: int, last: int | None = None) -> None:
        """Add the numbers from *first* to *last*, or *first* alone."""
        if last is not None:
            self._insert(first, last)
            return
        self._new.append(first)
        if len(self._new) >= _MANY:
            self._settle()

    def _settle(self) -> None:
        """Put what waits in its place."""
        if not self._new:
            return
        new, self._new = sorted(self._new), []
        first = last = new[0]
        for number in new:
            if number > last + 1:
                self._insert(first, last)
                first = number
            last = number
        self._insert(first, last)

    def _insert(self, first: int, last: int) -> None:
        firsts, lasts = self._firsts, self._lasts
        start = bisect_right(firsts, first - 1)
        if start and lasts[start - 1] >= first - 1:
            start -= 1
        end = bisect_right(firsts, last + 1)
        if start < end:
            first, last = min(first, firsts[start]), max(last, lasts[end - 1])
        firsts[start:end] = [first]
        lasts[start:end] = [last]

    def discard(self, number: int) -> None:
        """Take *number* out, if it is in."""
        if number not in self:
            return
        index = bisect_right(self._firsts, number) - 1
        first, last = self._firsts[index], self._lasts[index]
        kept = [span for span in ((first, number - 1), (number + 1, last)) if span[0] <= span[1]]
        self._firsts[index : index + 1] = [span[0] for span in kept]
        self._lasts[index : index + 1] = [span[1] for span in kept]

    def __repr__(self) -> str:
        return f"<Spans {', '.join(f'{a}-{b}' if a < b else str(a) for a, b in self)}>"
