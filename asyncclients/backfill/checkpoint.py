"""How far a pull has come, in memory and in the journal.

The order is the point: items to the sink, the sink made durable, and only then
the checkpoint that says so. After a crash the sink is cut back to the checkpoint.
"""

from __future__ import annotations

from array import array
from typing import Any

import msgspec

from asyncclients.backfill.journal import Changes, Journal, Statement
from asyncclients.backfill.seen import Seen


class PullState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value that each checkpoint replaces.

    Attributes:
        walk: 1 for the first reading of the list, 2 for the second.
        page: the last page that is in the sink; 0 for none.
        position: where the sink was then.
        done: items in the sink.
        skipped: items that came again and were left out.
        total: items there are, as the vendor last said.
        shrank: the vendor's total went down during this walk.
        keyed: the items have ids; None before the first item.
        read: the list was read to its end.
        complete: the sink is finished as well.
        unproved: see `Report`.
    """

    walk: int = 1
    page: int = 0
    position: Any = None
    done: int = 0
    skipped: int = 0
    total: int | None = None
    shrank: bool = False
    keyed: bool | None = None
    read: bool = False
    complete: bool = False
    unproved: tuple[str, ...] = ()


class Checkpoint:
    """The state of one pull, and which items it has."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.state = PullState()
        self.seen = Seen()
        self._news = array("Q")

    @classmethod
    async def load(cls, journal: Journal) -> Checkpoint:
        """What *journal* holds."""
        checkpoint = cls(journal)
        rows = await journal.read("SELECT value FROM job WHERE name = 'state'")
        if rows:
            checkpoint.state = msgspec.json.decode(rows[0][0], type=PullState)
        for (keys,) in await journal.read("SELECT keys FROM keys"):
            for digest in array("Q", keys):
                checkpoint.seen.add(digest)
        journal.feed(checkpoint._changes)
        return checkpoint

    def is_new(self, digest: int) -> bool:
        """Note the item with *digest*; False if it is there already."""
        if not self.seen.add(digest):
            return False
        self._news.append(digest)
        return True

    async def save(self) -> None:
        """Return when the state is on the disk."""
        await self._journal.saved()

    def _changes(self) -> Changes:
        state = msgspec.json.encode(self.state)
        statements = [Statement("INSERT OR REPLACE INTO job VALUES ('state', ?)", [(state,)])]
        if self._news:
            keys = (self.state.walk, self.state.page, self._news.tobytes())
            statements.append(Statement("INSERT OR REPLACE INTO keys VALUES (?, ?, ?)", [keys]))
            self._news = array("Q")
        return Changes(statements)
