"""Which items were written already: a set of texts, in 13 to 53 bytes each.

What is kept is Python's own hash of a text, 64 bits, by open addressing in one array
that grows fourfold, from a megabyte; a Python set of as many numbers takes about four
times that. A free slot is 0, so the hash 0 is kept as -1, which is no text's hash. Two
ids of a million share a hash with a chance of 3 in 100 million, and then one of them is
taken for a duplicate: the count against the vendor's total would tell. The hash differs
from process to process, so a state file keeps the texts.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")
_FULL = 0.6
_FIRST = 2**17
"""Slots at the start."""


def text_of(key: object) -> str:
    """The text that stands for *key*: itself, or as Python writes it."""
    return key if isinstance(key, str) else repr(key)


def short(data: bytes) -> str:
    """A text of 32 characters that stands for *data*, the same in every process."""
    return blake2b(data, digest_size=16).hexdigest()


def without(items: Sequence[T], places: Sequence[int]) -> Sequence[T]:
    """*items* without those at *places*."""
    if not places:
        return items
    left_out = {*places}
    return [item for place, item in enumerate(items) if place not in left_out]


class Seen:
    """A growing set of texts."""

    __slots__ = ("_count", "_limit", "_mask", "_slots")

    def __init__(self) -> None:
        self._count = 0
        self._slots = array("q")
        self._resize(_FIRST)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, text: str) -> bool:
        slots, mask = self._slots, self._mask
        digest = hash(text) or -1
        index = digest & mask
        while (found := slots[index]) and found != digest:
            index = (index + 1) & mask
        return found == digest

    def add(self, texts: Sequence[str]) -> list[int]:
        """Add *texts*, one after another; the places of those that were in already."""
        while self._count + len(texts) > self._limit:
            self._resize(4 * (self._mask + 1))
        again = self._put(map(hash, texts))
        self._count += len(texts) - len(again)
        return again

    def _put(self, hashes: Iterable[int]) -> list[int]:
        slots, mask = self._slots, self._mask
        again: list[int] = []
        for place, each in enumerate(hashes):
            digest = each or -1
            index = digest & mask
            while found := slots[index]:
                if found == digest:
                    again.append(place)
                    break
                index = (index + 1) & mask
            else:
                slots[index] = digest
        return again

    def _resize(self, size: int) -> None:
        before = self._slots
        self._slots = array("q", bytes(8 * size))
        self._mask, self._limit = size - 1, int(size * _FULL)
        self._put(filter(None, before))
