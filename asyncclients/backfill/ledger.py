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

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from asyncclients.backfill.failures import Failure, Failures, describe, encode_row
from asyncclients.backfill.journal import Changes, Journal, Statement
from asyncclients.backfill.sources import Row
from asyncclients.backfill.spans import Spans

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
        failures_size: bytes of the file of failed rows that are accounted for.
        complete: the input was read to its end and nothing is pending.
    """

    settled: list[tuple[int, int]] = msgspec.field(default_factory=list[tuple[int, int]])
    sent: list[tuple[int, int]] = msgspec.field(default_factory=list[tuple[int, int]])
    done: int = 0
    failed: int = 0
    skipped: int = 0
    read: int = 0
    digest: str = ""
    failures_size: int = 0
    complete: bool = False


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """A row that may or may not have been carried out; *row* is None until it is read again."""

    number: int
    line: int
    row: Any
    reason: str


class Ledger:
    """The rows of one push. Every method that settles rows is synchronous."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._state = State()
        self.settled = Spans()
        self._sent: dict[int, int] = {}
        self.unknown: set[int] = set()
        self._unread: set[int] = set()
        self._news: list[Statement] = []
        self._failures = Failures(journal.path)

    @classmethod
    async def load(cls, journal: Journal) -> Ledger:
        """The ledger that *journal* holds, an empty one for a new job."""
        ledger = cls(journal)
        state = ledger._state = await journal.state(State) or State()
        ledger.settled = Spans(state.settled)
        for number, row in await journal.read("SELECT number, row FROM unknown"):
            ledger.unknown.add(number)
            if row is None:
                ledger._unread.add(number)
        journal.feed(ledger._changes)
        for failure in await journal.run(ledger._failures.recover, state.failures_size):
            ledger._fail_again(failure)
        lost = {number: line for number, line in state.sent if number not in ledger.settled}
        for number, line in lost.items():
            ledger._add_unknown(number, line, None, _KILLED)
        await journal.saved()
        return ledger

    def _fail_again(self, failure: Failure) -> None:
        """Note a failure that was written down when the commit after it was not."""
        if failure.number not in self.settled:
            self.settled.add(failure.number)
            self._state.failed += 1

    # --- Counts ---------------------------------------------------------------------

    @property
    def done(self) -> int:
        """Rows carried out."""
        return self._state.done

    @property
    def failed(self) -> int:
        """Rows refused."""
        return self._state.failed

    @property
    def skipped(self) -> int:
        """Rows for which nothing was sent."""
        return self._state.skipped

    @property
    def read(self) -> int:
        """Rows read from the input so far, and the digest of them."""
        return self._state.read

    @property
    def digest(self) -> str:
        """Of the rows read so far."""
        return self._state.digest

    @property
    def failures(self) -> str | None:
        """The file of failed rows, None while there are none."""
        return str(self._failures.path) if self._state.failed else None

    # --- What becomes of rows ---------------------------------------------------------

    def reading(self, read: int, digest: str) -> None:
        """*read* rows have been read, with *digest*; saved with the next commit."""
        self._state.read, self._state.digest = read, digest

    async def sending(self, rows: Iterable[Row]) -> None:
        """Return when it is on the disk that *rows* go out now."""
        for row in rows:
            self._sent[row.number] = row.line
        await self._journal.saved()

    def unsent(self, rows: Iterable[Row]) -> None:
        """*rows* were certainly not carried out; they are pending again."""
        for row in rows:
            if self._sent.pop(row.number, None) is not None:
                self._journal.changed()

    def complete(self, rows: Sequence[Row]) -> None:
        """*rows* were carried out."""
        self._state.done += len(rows)
        self._settle(rows)

    def skip(self, rows: Sequence[Row]) -> None:
        """There is nothing to send for *rows*."""
        self._state.skipped += len(rows)
        self._settle(rows)

    def fail(self, row: Row, failure: BaseException) -> None:
        """*row* was refused."""
        self._state.failed += 1
        self._failures.add(describe(row, failure))
        self._settle([row])

    def doubt(self, rows: Sequence[Row], reason: str) -> None:
        """*rows* may or may not have been carried out."""
        for row in rows:
            self._sent.pop(row.number, None)
            self._add_unknown(row.number, row.line, row.data, reason)

    def _add_unknown(self, number: int, line: int, data: Any, reason: str) -> None:
        self.unknown.add(number)
        self.settled.add(number)
        if data is None:
            self._unread.add(number)
        self._note(
            "INSERT OR REPLACE INTO unknown VALUES (?, ?, ?, ?)",
            (number, line, None if data is None else encode_row(data), reason),
        )

    def resolve(self, row: Row, *, carried_out: bool) -> None:
        """It turned out whether the unknown *row* was carried out; if not, it is pending."""
        self._forget(row.number)
        if carried_out:
            self._state.done += 1
        else:
            self.settled.discard(row.number)

    def drop(self, numbers: Iterable[int]) -> None:
        """Ask no more about the unknown rows *numbers*."""
        for number in list(numbers):
            self._forget(number)
            self._state.skipped += 1

    def _forget(self, number: int) -> None:
        self.unknown.discard(number)
        self._unread.discard(number)
        self._note("DELETE FROM unknown WHERE number = ?", (number,))

    def seen(self, row: Row) -> None:
        """*row* was read again: an unknown one has its content now."""
        if row.number in self._unread:
            self._unread.discard(row.number)
            self._note(
                "UPDATE unknown SET line = ?, row = ? WHERE number = ?",
                (row.line, encode_row(row.data), row.number),
            )

    def finish(self) -> None:
        """Nothing is pending any more."""
        self._state.complete = True
        self._journal.changed()

    async def unknowns(self) -> list[Unknown]:
        """All unknown rows, by number."""
        await self._journal.saved()
        found = await self._journal.read("SELECT * FROM unknown ORDER BY number")
        return [read_unknown(record) for record in found]

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

    def _note(self, sql: str, parameters: Sequence[Any]) -> None:
        self._news.append(Statement(sql, [parameters]))
        self._journal.changed()

    def _changes(self) -> Changes:
        state, failures = self._state, self._failures
        state.settled = list(self.settled)
        state.sent = list(self._sent.items())
        state.failures_size += failures.waiting
        news, self._news = self._news, []
        value = msgspec.json.encode(state)
        news.append(Statement("INSERT OR REPLACE INTO job VALUES ('state', ?)", [(value,)]))
        return Changes(news, failures.take())


def read_unknown(record: tuple[int, int, bytes | None, str]) -> Unknown:
    """A row of the table of unknown rows."""
    number, line, row, reason = record
    data = None if row is None else msgspec.json.decode(row)
    return Unknown(number=number, line=line, row=data, reason=reason)
