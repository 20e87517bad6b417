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

from bisect import bisect_right
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from asyncclients.backfill.encoding import encode_row
from asyncclients.backfill.files.source import Row
from asyncclients.backfill.state.dead_letters import DeadLetter, DeadLetterFile, Mark, describe
from asyncclients.backfill.state.journal import Changes, Journal, Statement

RowFate = Literal["done", "pending", "skipped"]

_KILLED = "the run was killed before its answer came"


class PushState(msgspec.Struct, kw_only=True, omit_defaults=True):
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


class JournalRowLog:
    """The rows of one push. Every method that settles rows is synchronous."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.state = PushState()
        self.settled = IntervalSet()
        self.unknowns = Unknowns(journal)
        self.recovered: set[int] = set()  # failed rows that the last commit did not count
        self._sent: dict[int, int] = {}
        self._failures = DeadLetterFile(journal.path)

    @classmethod
    async def load(cls, journal: Journal) -> JournalRowLog:
        """The ledger that *journal* holds, an empty one for a new job."""
        ledger = cls(journal)
        found = await journal.state(PushState)
        state = ledger.state = found or PushState()
        ledger.settled = IntervalSet(state.settled)
        await ledger.unknowns.load()
        journal.set_source(ledger._changes)
        if found is None:
            await journal.run(ledger._failures.begin)
        for failure in await journal.run(ledger._failures.resume, state.failures):
            ledger._fail_again(failure)
        lost = {number: line for number, line in state.sent if number not in ledger.settled}
        for number, line in lost.items():
            ledger.settled.add(number)
            ledger.unknowns.add(number, line, None, _KILLED)
        await journal.saved()
        return ledger

    def _fail_again(self, failure: DeadLetter) -> None:
        """Note a failure that was written down when the commit after it was not."""
        if failure.number not in self.settled:
            self.recovered.add(failure.number)
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

    def record_intent(self, rows: Iterable[Row]) -> Awaitable[None]:
        """Done when it is on the disk that *rows* go out now."""
        for row in rows:
            self._sent[row.number] = row.line
        return self._journal.saved()

    def mark_pending(self, rows: Iterable[Row]) -> None:
        """*rows* were certainly not carried out; they are pending again."""
        for row in rows:
            if self._sent.pop(row.number, None) is not None:
                self._journal.changed()

    def mark_done(self, rows: Sequence[Row]) -> None:
        """*rows* were carried out."""
        self.state.done += len(rows)
        self._settle(rows)

    def mark_skipped(self, rows: Sequence[Row]) -> None:
        """There is nothing to send for *rows*."""
        self.state.skipped += len(rows)
        self._settle(rows)

    def mark_failed(self, row: Row, failure: BaseException) -> None:
        """*row* was refused."""
        self.state.failed += 1
        self._failures.add(describe(row, failure))
        self._settle([row])

    def mark_unknown(self, rows: Sequence[Row], reason: str) -> None:
        """*rows* may or may not have been carried out."""
        for row in rows:
            self._sent.pop(row.number, None)
            self.settled.add(row.number)
            self.unknowns.add(row.number, row.line, row.data, reason)

    def resolve(self, number: int, fate: RowFate) -> None:
        """It was found out, or decided, what became of the unknown row *number*."""
        self.unknowns.remove(number)
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
        return Changes([*self.unknowns.take(), replaced], write_failures)


# --- Unknown rows: a table, which a person will read ------------------------------------


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """A row that may or may not have been carried out; *row* is None until it is read again."""

    number: int
    line: int
    row: Any
    reason: str


class Unknowns:
    """The unknown rows of a push. Changes are saved with the journal's next commit."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._numbers: set[int] = set()
        self._unread: set[int] = set()
        self._news: list[Statement] = []

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._numbers))

    async def load(self) -> None:
        """Take what the journal holds."""
        for number, row in await self._journal.read("SELECT number, row FROM unknown"):
            self._numbers.add(number)
            if row is None:
                self._unread.add(number)

    async def all(self) -> list[Unknown]:
        """All of them, by number."""
        await self._journal.saved()
        found = await self._journal.read("SELECT * FROM unknown ORDER BY number")
        return [read_unknown(record) for record in found]

    def add(self, number: int, line: int, data: Any, reason: str) -> None:
        """Nobody can say what became of the row *number*; *data* is None if it was not read."""
        self._numbers.add(number)
        if data is None:
            self._unread.add(number)
        row = None if data is None else encode_row(data)
        self._note("INSERT OR REPLACE INTO unknown VALUES (?, ?, ?, ?)", number, line, row, reason)

    def seen(self, row: Row) -> None:
        """*row* was read again: an unknown one has its content now."""
        if row.number in self._unread:
            self._unread.discard(row.number)
            sql = "UPDATE unknown SET line = ?, row = ? WHERE number = ?"
            self._note(sql, row.line, encode_row(row.data), row.number)

    def remove(self, number: int) -> None:
        """The row *number* is not unknown any more."""
        self._numbers.discard(number)
        self._unread.discard(number)
        self._note("DELETE FROM unknown WHERE number = ?", number)

    def take(self) -> list[Statement]:
        """What has changed since the last time."""
        news, self._news = self._news, []
        return news

    def _note(self, sql: str, *parameters: Any) -> None:
        self._news.append(Statement(sql, [parameters]))
        self._journal.changed()


def read_unknown(record: tuple[int, int, bytes | None, str]) -> Unknown:
    """A row of the table of unknown rows."""
    number, line, row, reason = record
    data = None if row is None else msgspec.json.decode(row)
    return Unknown(number=number, line=line, row=data, reason=reason)


# A set of whole numbers as spans, for row numbers that fill up from below.
#
# A million rows done in order are one span; a row that is stuck splits one in two.
# Numbers that are added one by one wait in a list until somebody asks: they come
# nearly in order, and a run of neighbours is put in its place at once.

_MANY = 1024
"""Numbers that wait at the most."""


class IntervalSet:
    """A mutable set of whole numbers, stored as sorted spans that never touch."""

    __slots__ = ("_firsts", "_lasts", "_new")

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._new: list[int] = []
        for first, last in spans:
            self._insert(first, last)

    def __contains__(self, number: int) -> bool:
        self._settle()
        index = bisect_right(self._firsts, number) - 1
        return index >= 0 and number <= self._lasts[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        self._settle()
        return iter(list(zip(self._firsts, self._lasts, strict=True)))

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self)

    def add(self, first: int, last: int | None = None) -> None:
        """Add the numbers from *first* to *last*, or *first* alone."""
        if last is not None:
            self._insert(first, last)
            return
        self._new.append(first)
        if len(self._new) >= _MANY:
            self._settle()

    def _settle(self) -> None:
        """Put what waits in its place."""
        if not self._new:
            return
        new, self._new = sorted(self._new), []
        first = last = new[0]
        for number in new:
            if number > last + 1:
                self._insert(first, last)
                first = number
            last = number
        self._insert(first, last)

    def _insert(self, first: int, last: int) -> None:
        firsts, lasts = self._firsts, self._lasts
        start = bisect_right(firsts, first - 1)
        if start and lasts[start - 1] >= first - 1:
            start -= 1
        end = bisect_right(firsts, last + 1)
        if start < end:
            first, last = min(first, firsts[start]), max(last, lasts[end - 1])
        firsts[start:end] = [first]
        lasts[start:end] = [last]

    def discard(self, number: int) -> None:
        """Take *number* out, if it is in."""
        if number not in self:
            return
        index = bisect_right(self._firsts, number) - 1
        first, last = self._firsts[index], self._lasts[index]
        kept = [span for span in ((first, number - 1), (number + 1, last)) if span[0] <= span[1]]
        self._firsts[index : index + 1] = [span[0] for span in kept]
        self._lasts[index : index + 1] = [span[1] for span in kept]

    def __repr__(self) -> str:
        return f"<Spans {', '.join(f'{a}-{b}' if a < b else str(a) for a, b in self)}>"
