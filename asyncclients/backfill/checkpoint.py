"""How far a pull has come, in memory and in the journal.

The order is the point: items to the sink, the sink made durable, and only then
the checkpoint that says so. After a crash the sink is cut back to the checkpoint.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial
from itertools import compress
from typing import Any

import msgspec

from asyncclients.backfill.seen_keys import SeenKeys, digest, drop_at
from asyncclients.backfill.state.dead_letters import DeadLetter, DeadLetterFile, Mark
from asyncclients.backfill.state.journal import Changes, Journal, Statement
from asyncclients.errors import BackfillStoppedError, DecodeError
from asyncclients.paging import Page

_JUDGED_FROM = 500
"""Items from which the share of unreadable ones counts: one bad page is no reason to stop."""
_NO_ID = "the items have no uuid or id: an item that came twice could not be told; give key="


class PullState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value that each checkpoint replaces.

    Attributes:
        pass_number: 1 for the first reading of the list, 2 for the second.
        page: the last page that is in the sink; 0 for none.
        position: where the sink was then.
        done: items in the sink.
        skipped: items that came again and were left out.
        failed: items that nobody can read, in the file of failures.
        failures: how much of that file is accounted for.
        total: items there are, as the vendor last said.
        total_shrank: the vendor's total went down during this walk.
        has_keys: the items have ids; None before the first item.
        read: the list was read to its end.
        complete: the sink is finished as well.
        unverified: see `Report`.
    """

    pass_number: int = 1
    page: int = 0
    position: Any = None
    done: int = 0
    skipped: int = 0
    failed: int = 0
    failures: Mark = Mark()
    total: int | None = None
    total_shrank: bool = False
    has_keys: bool | None = None
    read: bool = False
    complete: bool = False
    unverified: tuple[str, ...] = ()

    @property
    def is_missing_some(self) -> bool:
        """Items may be there that were not seen."""
        found = self.done + self.failed
        return self.total_shrank or (self.total is not None and found < self.total)

    def doubts(self) -> tuple[str, ...]:
        """In words, what could not be proved about a list that was read to its end."""
        doubts: list[str] = []
        if self.has_keys is False:
            doubts.append(_NO_ID)
        found = self.done + self.failed
        if self.failed:
            doubts.append(f"{self.failed} items are not what the vendor's document says")
        if self.total is None:
            doubts.append("the vendor gives no count to compare with")
        elif found < self.total:
            doubts.append(f"the vendor counts {self.total} items, {found} were found")
        elif found > self.total:
            gone = found - self.total
            doubts.append(f"{gone} of the {found} items were deleted while the list was read")
        if self.total_shrank:
            doubts.append("the list shrank while it was read: an item may have been hidden")
        return tuple(doubts)


class Checkpoint:
    """The state of one pull, and which items it has."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.state = PullState()
        self.seen = SeenKeys()
        self._news: list[bytes] = []
        self._next = Changes(())
        self._failures = DeadLetterFile(journal.path)

    @classmethod
    async def load(cls, journal: Journal) -> Checkpoint:
        """What *journal* holds."""
        checkpoint = cls(journal)
        found = await journal.state(PullState)
        checkpoint.state = found or PullState()
        for (keys,) in await journal.read("SELECT keys FROM keys"):
            checkpoint.seen.add(keys.decode(errors="surrogatepass").split("\n"))
        if found is None:
            await journal.run(checkpoint._failures.begin)
        mark = checkpoint.state.failures
        await journal.run(partial(checkpoint._failures.resume, mark, drop=True))
        journal.set_source(checkpoint._hand_over)
        return checkpoint

    def note(self, names: Sequence[str]) -> list[int]:
        """Note the items with *names*, a line each; the places of those that were there already."""
        again = self.seen.add(names)
        if news := drop_at(names, again):
            # As bytes at once: texts that outlive their page are dear to the memory.
            self._news.append("\n".join(news).encode(errors="surrogatepass"))
        return again

    @property
    def failures(self) -> str | None:
        """The file of items that nobody can read, None while there are none."""
        return str(self._failures.path) if self.state.failed else None

    def set_aside(self, page: Page[Any], max_failed: float) -> None:
        """Write down what nobody can read of *page*, once.

        Raises:
            BackfillStoppedError: its share is above *max_failed*; nothing of it is noted.
        """
        state = self.state
        # A page that is lost whole is told by its number: a gateway says the same for each.
        where = b"" if page.items else b" %d" % page.number
        # Items without an id are noted by their text: these have names of their own.
        names = [digest(b"failed " + spoiled.raw + where) for spoiled in page.spoiled]
        new = [name not in self.seen for name in names]
        failed = state.failed + sum(each.items for each in compress(page.spoiled, new))
        found = state.done + failed
        if failed > max_failed * max(found, _JUDGED_FROM):
            raise BackfillStoppedError(
                f"{failed} of {found} items are not what the vendor's document says; the last, "
                f"on page {page.number}: {page.spoiled[-1].reason}",
                advice="The vendor may have changed its replies; what was read is saved. To go on "
                "all the same, run again with a higher max_failed=",
            )
        self.note(names)
        for place, spoiled in compress(enumerate(page.spoiled, 1), new):
            self._failures.add(
                DeadLetter(
                    line=page.number,
                    number=place,
                    row=spoiled.raw.decode("utf-8", "backslashreplace"),
                    reason=spoiled.reason,
                    error=DecodeError.__name__,
                )
            )
        state.failed = failed

    def save(self, changes: Changes) -> Awaitable[None]:
        """Save *changes*. One saving must be waited for before the next begins."""
        self._next = changes
        return self._journal.saved()

    def _hand_over(self) -> Changes:
        changes, self._next = self._next, Changes(())
        return changes

    def snapshot(self) -> Changes:
        """The state as it is now, to be saved once; what is noted from now on is for the next."""
        write_failures = self._failures.take()
        self.state.failures = self._failures.mark
        state = msgspec.json.encode(self.state)
        statements = [Statement("INSERT OR REPLACE INTO job VALUES ('state', ?)", [(state,)])]
        if self._news:
            keys = b"\n".join(self._news)
            statements.append(Statement("INSERT INTO keys (keys) VALUES (?)", [(keys,)]))
            self._news = []
        return Changes(statements, write_failures)
