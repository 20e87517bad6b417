"""Which items were written already: a set of 64-bit digests, 13 to 53 bytes an item.

Open addressing in one array that grows fourfold, from a megabyte; a Python set of as
many numbers takes about four times that. Two ids of a million share a digest with a chance of 3 in 100 million, and
then one of them is taken for a duplicate: the count against the vendor's total
would tell.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b

_FULL = 0.6
_FIRST = 2**17
"""Slots at the start."""


def digests_of(keys: Sequence[object]) -> array[int]:
    """The digest that stands for each of *keys*; never 0."""
    texts = [key if isinstance(key, str) else repr(key) for key in keys]
    digests = array(
        "Q", b"".join([blake2b(text.encode(), digest_size=8).digest() for text in texts])
    )
    if sys.byteorder == "big":
        digests.byteswap()
    return array("Q", [digest or 1 for digest in digests]) if 0 in digests else digests


def digest_of(key: object) -> int:
    """The digest that stands for *key*; never 0."""
    return digests_of([key])[0]


class Seen:
    """A growing set of digests."""

    __slots__ = ("_count", "_limit", "_mask", "_slots")

    def __init__(self, digests: Sequence[int] = ()) -> None:
        self._count = 0
        self._slots = array("Q")
        self._resize(_FIRST)
        self.add(digests)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, digest: int) -> bool:
        slots, mask = self._slots, self._mask
        index = digest & mask
        while (found := slots[index]) and found != digest:
            index = (index + 1) & mask
        return found == digest

    def add(self, digests: Sequence[int]) -> list[bool]:
        """Add *digests*, one after another; of each, whether it was not in yet."""
        while self._count + len(digests) > self._limit:
            self._resize(4 * (self._mask + 1))
        new = self._put(digests)
        self._count += sum(new)
        return new

    def _put(self, digests: Iterable[int]) -> list[bool]:
        slots, mask = self._slots, self._mask
        new: list[bool] = []
        for digest in digests:
            index = digest & mask
            while (found := slots[index]) and found != digest:
                index = (index + 1) & mask
            if not found:
                slots[index] = digest
            new.append(not found)
        return new

    def _resize(self, size: int) -> None:
        before = self._slots
        self._slots = array("Q", bytes(8 * size))
        self._mask, self._limit = size - 1, int(size * _FULL)
        self._put(filter(None, before))
