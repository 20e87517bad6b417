"""Which items were written already: a set of texts, of which their hashes are kept.

Python's own hash of a text has 64 bits. Two ids of a million share one with a chance of
3 in 100 million, and then one of them is taken for a duplicate: the count against the
vendor's total would tell. It differs from process to process, so a state file keeps the
texts. While they are few a set of Python holds them, up to 90 bytes each, and asks no step of
Python for one; many take 13 to 53 bytes each, in one array that grows fourfold.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")
_FEW = 2**18
"""Texts that a set of Python may hold: 18 megabytes."""
_FULL = 0.6
_FIRST = 2**19
"""Slots at the start."""


def digest(data: bytes) -> str:
    """A text of 32 characters that stands for *data*, the same in every process."""
    return blake2b(data, digest_size=16).hexdigest()


def drop_at(items: Sequence[T], places: Sequence[int]) -> Sequence[T]:
    """*items* without those at *places*."""
    if not places:
        return items
    left_out = {*places}
    return [item for place, item in enumerate(items) if place not in left_out]


class SeenKeys:
    """A growing set of texts."""

    __slots__ = ("_few", "_many")

    def __init__(self) -> None:
        self._few: set[int] = set()
        self._many: _Hashes | None = None

    def __len__(self) -> int:
        return len(self._few if self._many is None else self._many)

    def __contains__(self, text: str) -> bool:
        return hash(text) in (self._few if self._many is None else self._many)

    def add(self, texts: Sequence[str]) -> list[int]:
        """Add *texts*, one after another; the places of those that were in already."""
        if self._many is not None:
            return self._many.add([*map(hash, texts)])
        few = self._few
        new: set[int] = {*map(hash, texts)}
        again: list[int] = []
        if len(new) < len(texts) or not few.isdisjoint(new):
            new = set()
            for place, each in enumerate(map(hash, texts)):
                if each in few or each in new:
                    again.append(place)
                else:
                    new.add(each)
        few |= new
        if len(few) > _FEW:
            self._many, self._few = _Hashes(few), set()
        return again


class _Hashes:
    """A growing set of hashes, by open addressing in one array."""

    __slots__ = ("_count", "_limit", "_mask", "_slots")

    def __init__(self, hashes: Collection[int]) -> None:
        self._count = 0
        self._slots = array("q")
        self._resize(_FIRST)
        self.add(hashes)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, each: int) -> bool:
        slots, mask = self._slots, self._mask
        kept = each or -1
        index = kept & mask
        while (found := slots[index]) and found != kept:
            index = (index + 1) & mask
        return bool(found)

    def add(self, hashes: Collection[int]) -> list[int]:
        """Add *hashes*, one after another; the places of those that were in already."""
        while self._count + len(hashes) > self._limit:
            self._resize(4 * (self._mask + 1))
        again = self._put(hashes)
        self._count += len(hashes) - len(again)
        return again

    def _put(self, hashes: Iterable[int]) -> list[int]:
        slots, mask = self._slots, self._mask
        again: list[int] = []
        for place, each in enumerate(hashes):
            kept = each or -1  # a free slot is 0, and no hash of Python's is -1
            index = kept & mask
            while found := slots[index]:
                if found == kept:
                    again.append(place)
                    break
                index = (index + 1) & mask
            else:
                slots[index] = kept
        return again

    def _resize(self, size: int) -> None:
        before = self._slots
        self._slots = array("q", bytes(8 * size))
        self._mask, self._limit = size - 1, int(size * _FULL)
        self._put(filter(None, before))
