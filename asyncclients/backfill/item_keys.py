"""What tells an item of a list from all others, as a line of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Any, cast

from asyncclients.backfill.encoding import encode_row
from asyncclients.backfill.seen_keys import digest

Key = str | Callable[[Any], Any]


class ItemKeys:
    """Names items.

    Args:
        key: the name of a field, or a function of an item; None for its `uuid`, else its `id`.
    """

    def __init__(self, key: Key | None) -> None:
        reads = [partial(_fields, name) for name in ((key,) if key else ("uuid", "id"))]
        self._first, *self._others = reads

    def keys_of(self, items: Sequence[Any]) -> list[str]:
        """A line of text for each of *items* that no other item has."""
        keys = self._first(items)
        if are_lines(keys):
            return keys
        return [
            digest(encode_row(item)) if key is None else text_of(key)
            for item, key in zip(items, self.raw_keys(items), strict=True)
        ]

    def raw_keys(self, items: Sequence[Any]) -> list[Any]:
        """What tells each of *items* from the others; None for one that has nothing such."""
        keys = self._first(items)
        for read in self._others:
            # Item by item: a name must not depend on which others an item came with.
            pairs = zip(keys, read(items), strict=True)
            keys = [other if key is None else key for key, other in pairs]
        return keys


def _fields(key: Key, items: Sequence[Any]) -> list[Any]:
    """What *key* says of each of *items*, None where a field is not there."""
    if not isinstance(key, str):
        return [*map(key, items)]
    if not any(map(isinstance, items, repeat(dict))):
        return [*map(getattr, items, repeat(key), repeat(None))]
    return [
        cast("dict[str, Any]", item).get(key)
        if isinstance(item, dict)
        else getattr(item, key, None)
        for item in items
    ]


def text_of(key: object) -> str:
    """The line of text that stands for *key*: itself, or as Python writes it."""
    return key if isinstance(key, str) and "\n" not in key else repr(key)


def are_lines(keys: Sequence[Any]) -> bool:
    """Each of *keys* stands for itself: it is a text of one line."""
    try:
        return "\n" not in "".join(keys)
    except TypeError:
        return False
