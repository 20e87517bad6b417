"""What has become of each row of a push, in memory and in the journal.

| state   | what it means                                     | kept as               |
|---------|---------------------------------------------------|-----------------------|
| pending | not sent, or sent and certainly not carried out   | not at all            |
| sent    | must not be repeated, and its answer is not known | number and line       |
| done    | carried out                                       | a span of numbers     |
| failed  | refused, by its type or by the vendor             | a line of a text file |
| unknown | may or may not have been carried out              | a row of a table      |
| skipped | nothing to send for it                            | a span of numbers     |

All but the first two are *settled*. Numbers settle nearly in order, so a
million rows are a few spans, and the whole state is one small value that each
commit replaces.

Rows that are `sent` when a run begins were on the wire when the last one was
killed: they become unknown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import Literal

import msgspec

from asyncclients.backfill.failures import Failure, Failures, Mark, describe
from asyncclients.backfill.journal import Changes, Journal, Statement
from asyncclients.backfill.sources import Row
from asyncclients.backfill.spans import Spans
from asyncclients.backfill.unknowns import Unknowns

Fate = Literal["done", "pending", "skipped"]

_KILLED = "the run was killed before its answer came"


class State(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value that each commit replaces.

    Attributes:
        settled: spans of rows that nothing more is done for.
        sent: (number, line) of rows that are on the wire and must not be repeated.
        done: rows carried out.
        failed: rows refused.
        skipped: rows for which nothing was sent.
        read: rows read from the input so far.
        digest: of the rows read, to tell an input that has changed.
        failures: how much of the file of failed rows is accounted for.
        complete: the input was read to its end and nothing is pending.
    """

    settled: list[tuple[int, int]] = msgspec.field(default_factory=list[tuple[int, int]])
    sent: list[tuple[int, int]] = msgspec.field(default_factory=list[tuple[int, int]])
    done: int = 0
    failed: int = 0
    skipped: int = 0
    read: int = 0
    digest: str = ""
    failures: Mark = Mark()
    complete: bool = False


class Ledger:
    """The rows of one push. Every method that settles rows is synchronous."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.state = State()
        self.settled = Spans()
        self.unknown = Unknowns(journal)
        self._sent: dict[int, int] = {}
        self._failures = Failures(journal.path)

    @classmethod
    async def load(cls, journal: Journal) -> Ledger:
        """The ledger that *journal* holds, an empty one for a new job."""
        ledger = cls(journal)
        found = await journal.state(State)
        state = ledger.state = found or State()
        ledger.settled = Spans(state.settled)
        await ledger.unknown.load()
        journal.feed(ledger._changes)
        if found is None:
            await journal.run(ledger._failures.begin)
        for failure in await journal.run(ledger._failures.resume, state.failures):
            ledger._fail_again(failure)
        lost = {number: line for number, line in state.sent if number not in ledger.settled}
        for number, line in lost.items():
            ledger.settled.add(number)
            ledger.unknown.add(number, line, None, _KILLED)
        await journal.saved()
        return ledger

    def _fail_again(self, failure: Failure) -> None:
        """Note a failure that was written down when the commit after it was not."""
        if failure.number not in self.settled:
            self.settled.add(failure.number)
            self.state.failed += 1

    # --- Counts ---------------------------------------------------------------------

    @property
    def done(self) -> int:
        """Rows carried out."""
        return self.state.done

    @property
    def failures(self) -> str | None:
        """The file of failed rows, None while there are none."""
        return str(self._failures.path) if self.state.failed else None

    # --- What becomes of rows ---------------------------------------------------------

    def reading(self, read: int, digest: str) -> None:
        """*read* rows have been read, with *digest*; saved with the next commit."""
        self.state.read, self.state.digest = read, digest

    def sending(self, rows: Iterable[Row]) -> Awaitable[None]:
        """Done when it is on the disk that *rows* go out now."""
        for row in rows:
            self._sent[row.number] = row.line
        return self._journal.saved()

    def unsent(self, rows: Iterable[Row]) -> None:
        """*rows* were certainly not carried out; they are pending again."""
        for row in rows:
            if self._sent.pop(row.number, None) is not None:
                self._journal.changed()

    def complete(self, rows: Sequence[Row]) -> None:
        """*rows* were carried out."""
        self.state.done += len(rows)
        self._settle(rows)

    def skip(self, rows: Sequence[Row]) -> None:
        """There is nothing to send for *rows*."""
        self.state.skipped += len(rows)
        self._settle(rows)

    def fail(self, row: Row, failure: BaseException) -> None:
        """*row* was refused."""
        self.state.failed += 1
        self._failures.add(describe(row, failure))
        self._settle([row])

    def doubt(self, rows: Sequence[Row], reason: str) -> None:
        """*rows* may or may not have been carried out."""
        for row in rows:
            self._sent.pop(row.number, None)
            self.settled.add(row.number)
            self.unknown.add(row.number, row.line, row.data, reason)

    def resolve(self, number: int, fate: Fate) -> None:
        """It was found out, or decided, what became of the unknown row *number*."""
        self.unknown.remove(number)
        if fate == "done":
            self.state.done += 1
        elif fate == "skipped":
            self.state.skipped += 1
        else:
            self.settled.discard(number)

    def finish(self) -> None:
        """Nothing is pending any more."""
        self.state.complete = True
        self._journal.changed()

    # --- Saving -----------------------------------------------------------------------

    def _settle(self, rows: Iterable[Row]) -> None:
        marked = False
        for row in rows:
            self.settled.add(row.number)
            marked |= self._sent.pop(row.number, None) is not None
        if marked:
            self._journal.changed()
        else:
            # To repeat them after a crash costs a little and does no harm.
            self._journal.changes_later()

    def _changes(self) -> Changes:
        state, failures = self.state, self._failures
        state.settled = list(self.settled)
        state.sent = list(self._sent.items())
        write_failures = failures.take()
        state.failures = failures.mark
        value = msgspec.json.encode(state)
        replaced = Statement("INSERT OR REPLACE INTO job VALUES ('state', ?)", [(value,)])
        return Changes([*self.unknown.take(), replaced], write_failures)
