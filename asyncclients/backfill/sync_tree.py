"""The order of the changes in a tree: parents are created before their children, and deleted after.

The parent of a row is the key of another row, the key of a known item, or the vendor's id of an
item. The parents of all rows are kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from asyncclients.backfill.state.sync_state import Item, SyncMemory
from asyncclients.backfill.sync_changes import Action
from asyncclients.backfill.sync_input import SyncInput
from asyncclients.backfill.sync_targets import Target, key_digest

_NEW = (Action.CREATE, Action.LOCATE)


class Tree:
    """The parents of the rows of a sync; of no row if the target is not a tree.

    Args:
        target: names the field with the parent.
        rows: the input.
        memory: the known items.
    """

    def __init__(self, target: Target, rows: SyncInput, memory: SyncMemory) -> None:
        self._field, self._rows, self._memory = target.parent_field, rows, memory
        self._levels: dict[int, int] = {}

    @property
    def height(self) -> int:
        """Number of levels of new rows, at least 1."""
        return 1 + max(self._levels.values(), default=0)

    def level(self, number: int) -> int:
        """Return the level at which row *number* is sent: after all rows of lower levels."""
        return self._levels.get(number, 0)

    def set_levels(self) -> list[int]:
        """Compute the levels; return the numbers of rows that are their own ancestors."""
        rows = self._rows
        waiting = {
            number: rows.place_of(key_digest(parent))
            for number, parent in rows.parents.items()
            if rows.actions[number - 1] in _NEW
        }
        level, ready = 0, {number for number, parent in waiting.items() if parent not in waiting}
        while ready:
            self._levels.update(dict.fromkeys(ready, level))
            waiting = {number: parent for number, parent in waiting.items() if number not in ready}
            ready = {number for number, parent in waiting.items() if parent not in waiting}
            level += 1
        return sorted(waiting)

    async def parents_of(self, numbers: Iterable[int]) -> dict[int, str | None]:
        """Return the id of the parent of each row; None if the parent's row has no item."""
        given = {
            number: self._rows.parents[number] for number in numbers if number in self._rows.parents
        }
        digests = {number: key_digest(parent) for number, parent in given.items()}
        known = await self._memory.items([*{*digests.values()}])
        found: dict[int, str | None] = {}
        for number, parent in given.items():
            digest = digests[number]
            item = known.get(digest)
            found[number] = parent if item is None else item.id
            if item is None and digest in self._rows:
                found[number] = None
        return found

    def with_parent(self, value: Any, parent: str) -> Any:
        """Return the row *value* with the id *parent*."""
        return msgspec.structs.replace(value, **{self._field or "": parent})


def deletion_order(items: Mapping[int, Item]) -> list[list[int]]:
    """Return the keys of *items* in groups, such that children are in groups before their parents."""
    waiting = dict(items)
    groups: list[list[int]] = []
    while waiting:
        parents = {item.parent for item in waiting.values()}
        group = [key for key, item in waiting.items() if item.id not in parents] or [*waiting]
        groups.append(group)
        for key in group:
            del waiting[key]
    return groups
