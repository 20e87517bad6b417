"""Which items were written already: a set of 64-bit digests, 14 to 27 bytes an item.

Open addressing in one array; a Python set of as many numbers takes five times
that. Two ids of a million share a digest with a chance of 3 in 100 million, and
then one of them is taken for a duplicate: the count against the vendor's total
would tell.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from hashlib import blake2b

_EMPTY = 0
_FULL = 0.6


def digest_of(key: object) -> int:
    """The digest that stands for *key*; never 0."""
    text = key if isinstance(key, str) else repr(key)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") or 1


class Seen:
    """A growing set of digests."""

    __slots__ = ("_count", "_limit", "_mask", "_slots")

    def __init__(self, digests: Iterable[int] = ()) -> None:
        self._count = 0
        self._resize(1024)
        for digest in digests:
            self.add(digest)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, digest: int) -> bool:
        return self._slots[self._find(digest)] == digest

    def add(self, digest: int) -> bool:
        """Add *digest*; False if it was in already."""
        slots, mask = self._slots, self._mask
        index = digest & mask
        while (found := slots[index]) != _EMPTY:
            if found == digest:
                return False
            index = (index + 1) & mask
        slots[index] = digest
        self._count += 1
        if self._count > self._limit:
            self._resize(2 * (self._mask + 1))
        return True

    def _find(self, digest: int) -> int:
        slots, mask = self._slots, self._mask
        index = digest & mask
        while (found := slots[index]) != _EMPTY and found != digest:
            index = (index + 1) & mask
        return index

    def _resize(self, size: int) -> None:
        before = getattr(self, "_slots", ())
        self._slots = array("Q", bytes(8 * size))
        self._mask, self._limit = size - 1, int(size * _FULL)
        for digest in before:
            if digest != _EMPTY:
                self._slots[self._find(digest)] = digest
