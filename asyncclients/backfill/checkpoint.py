"""How far a pull has come, in memory and in the journal.

The order is the point: items to the sink, the sink made durable, and only then
the checkpoint that says so. After a crash the sink is cut back to the checkpoint.
"""

from __future__ import annotations

from array import array
from itertools import compress
from typing import Any

import msgspec

from asyncclients.backfill.journal import Changes, Journal, Statement
from asyncclients.backfill.seen import Seen

_NO_ID = "the items have no uuid or id: an item that came twice could not be told; give key="


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

    @property
    def is_missing_some(self) -> bool:
        """Items may be there that were not seen."""
        return self.shrank or (self.total is not None and self.done < self.total)

    def doubts(self) -> tuple[str, ...]:
        """In words, what could not be proved about a list that was read to its end."""
        doubts: list[str] = []
        if self.keyed is False:
            doubts.append(_NO_ID)
        if self.total is None:
            doubts.append("the vendor gives no count to compare with")
        elif self.done < self.total:
            doubts.append(f"the vendor counts {self.total} items, {self.done} were found")
        elif self.done > self.total:
            gone = self.done - self.total
            doubts.append(f"{gone} of the {self.done} items were deleted while the list was read")
        if self.shrank:
            doubts.append("the list shrank while it was read: an item may have been hidden")
        return tuple(doubts)


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
        checkpoint.state = await journal.state(PullState) or PullState()
        for (keys,) in await journal.read("SELECT keys FROM keys"):
            checkpoint.seen.add(array("Q", keys))
        journal.feed(checkpoint._changes)
        return checkpoint

    def note(self, digests: array[int]) -> list[bool]:
        """Note the items with *digests*; of each, whether it was not there yet."""
        new = self.seen.add(digests)
        self._news.extend(digests if all(new) else compress(digests, new))
        return new

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
