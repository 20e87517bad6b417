"""The outcome of each row of a push, in memory and in the journal, and the rows without one.

| outcome | meaning                                               | stored as              |
|---------|-------------------------------------------------------|------------------------|
| pending | not sent, or sent and certainly not executed          | nothing                |
| sent    | on the wire, and not idempotent                       | number and line        |
| done    | executed                                              | an interval of numbers |
| failed  | rejected by the row type or by the vendor             | a line of a text file  |
| unknown | may or may not have been executed                     | a row of a table       |
| skipped | nothing to send                                       | an interval of numbers |

All but the first two are *settled*. Rows settle nearly in order, so a million settled rows are
a few intervals, and the whole state is one small value that each commit replaces.

`sent` is a write-ahead intent: it is durable before the request is sent. Rows that are `sent`
when a run starts were on the wire when the previous run was killed; they become unknown.

A retry makes all failed rows pending in one commit and renames their file. The renamed file
remains until each of them has an outcome again, because it may hold rows edited by a person.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from math import inf
from typing import Any, Literal, Self

import msgspec

from asyncclients.backfill.delivery import RowStatus
from asyncclients.backfill.files.source import FileSource, Row, Source
from asyncclients.backfill.state.journal import Changes, Journal, Statement, put_value
from asyncclients.backfill.state.stored_rows import (
    DeadLetterFile,
    FailedRows,
    Mark,
    describe,
    encode_row,
    encode_rows,
)
from asyncclients.errors import StateMismatchError, error_text

_KILLED = "the run was killed before the response arrived"


class PushState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value that each commit replaces.

    Attributes:
        settled: intervals of row numbers.
        sent: (number, line) of rows that are on the wire and not idempotent.
        total: number of rows of the input; None while it is unknown.
        digest: of the rows read, to detect a changed input.
        failures: how much of the file of failed rows is counted in `failed`.
        retrying: rows of the renamed file of failed rows are pending.
    """

    settled: list[tuple[int, int]] = msgspec.field(default_factory=list[tuple[int, int]])
    sent: list[tuple[int, int]] = msgspec.field(default_factory=list[tuple[int, int]])
    done: int = 0
    failed: int = 0
    skipped: int = 0
    read: int = 0
    total: int | None = None
    digest: str = ""
    failures: Mark = Mark()
    retrying: bool = False
    complete: bool = False


class JournalRowLog:
    """The `RowLog` of a push, kept in the journal.

    Attributes:
        state: saved with the next commit; its lists are filled in when the commit starts.
        settled: numbers of the rows that are not delivered again.
        is_verified: the rows that were read are known to be unchanged.
        retried: failed rows that are delivered again, some of them edited.
    """

    def __init__(self, journal: Journal, state: PushState) -> None:
        self._journal, self.state = journal, state
        self.settled = IntervalSet(state.settled)
        self.is_verified = False
        self.retried = FailedRows()
        self.unknowns = Unknowns(journal)
        self._sent: dict[int, int] = {}
        self._failures = DeadLetterFile(journal.path)

    @classmethod
    async def load(cls, journal: Journal) -> Self:
        """Return the row log stored in *journal*; an empty one for a new job."""
        found = await journal.state(PushState)
        state = found or PushState()
        log = cls(journal, state)
        await log.unknowns.load()
        journal.set_source(log._changes)
        if found is None:
            await journal.run(log._failures.begin)
        await log._load_retry()
        for failure in await journal.run(log._failures.resume, state.failures):
            # Written by the last run, which was killed before the commit that counts it.
            if failure.number not in log.settled:
                log.settled.add(failure.number)
                state.failed += 1
        for number, line in state.sent:
            if number not in log.settled:
                log.settled.add(number)
                log.unknowns.add(number, line, None, _KILLED)
        await journal.saved()
        return log

    async def _load_retry(self) -> None:
        """Load the rows of a retry that was interrupted; remove the file of one that has ended."""
        run, failures = self._journal.run, self._failures
        if not self.state.retrying:
            await run(failures.end_retry)
            return
        if not self.state.failures.size:  # the last run may have been killed before it renamed it
            await run(failures.begin_retry)
        self.retried = await run(failures.read, True)

    async def retry_failed(self) -> None:
        """Make the failed rows pending; do nothing if that was done and not all have an outcome."""
        state, failures, settled = self.state, self._failures, self.settled
        if state.retrying or not state.failed:
            return
        await self._journal.saved()
        failed = await self._journal.run(failures.read, False)
        failures.check_retry(failed, state.failed, settled.__contains__)
        for number in failed.numbers:
            settled.discard(number)
        state.failed -= len(failed.numbers)
        state.retrying, state.complete = True, False
        failures.forget()
        self.retried = failed
        await self._journal.saved()
        await self._journal.run(failures.begin_retry)

    @property
    def done(self) -> int:
        """Number of rows executed."""
        return self.state.done

    @property
    def settled_count(self) -> int:
        """Number of rows with an outcome."""
        state = self.state
        return state.done + state.failed + len(self.unknowns) + state.skipped

    @property
    def failures(self) -> str | None:
        """Path of the file of failed rows, None without any."""
        return str(self._failures.path) if self.state.failed else None

    # --- Outcomes -----------------------------------------------------------------------

    def current(self, row: Row) -> Row:
        """Return *row*, or a row with its edited content; store it if it is unknown."""
        row = self.retried.current(row)
        self.unknowns.add_content(row)
        return row

    def set_read(self, read: int, digest: str) -> None:
        """Note that *read* rows with *digest* were read, some of them for the first time."""
        state = self.state
        state.read, state.digest, state.complete = read, digest, False
        if state.total is not None:  # rows may have been added since they were counted
            state.total = max(state.total, read)

    def record_intent(self, rows: Sequence[Row]) -> Awaitable[None]:
        """Record that *rows* are about to be sent; done when that is on disk."""
        for row in rows:
            self._sent[row.number] = row.line
        return self._journal.saved()

    def mark(
        self, rows: Sequence[Row], status: RowStatus, error: BaseException | None = None
    ) -> None:
        """See `RowLog`."""
        state, had_intent = self.state, False
        for row in rows:
            had_intent |= self._sent.pop(row.number, None) is not None
            if status != "pending":
                self.settled.add(row.number)
            if status == "failed" and error is not None:
                self._failures.add(describe(row, error))
            elif status == "unknown" and error is not None:
                self.unknowns.add(row.number, row.line, row.data, error_text(error))
        if status == "done":
            state.done += len(rows)
        elif status == "skipped":
            state.skipped += len(rows)
        elif status == "failed":
            state.failed += len(rows)
        if had_intent:
            self._journal.commit_now()
        elif status != "pending":
            # An idempotent row that is sent again after a crash does no harm.
            self._journal.commit_later()

    def resolve(self, number: int, outcome: Literal["done", "pending", "skipped"]) -> None:
        """Replace the outcome of the unknown row *number*."""
        self.unknowns.remove(number)
        if outcome == "done":
            self.state.done += 1
        elif outcome == "skipped":
            self.state.skipped += 1
        else:
            self.settled.discard(number)

    def finish(self) -> None:
        """Mark the job as complete: nothing is pending."""
        self.state.complete = True
        self._journal.commit_now()

    async def saved(self) -> None:
        """Save all outcomes at the end of a run, and what has changed in the job's identity."""
        has_retried = self.state.retrying and all(
            number in self.settled for number in self.retried.numbers
        )
        if has_retried:
            self.state.retrying = False
        await self._journal.finish()
        if has_retried:
            await self._journal.run(self._failures.end_retry)

    # --- Saving -------------------------------------------------------------------------

    def _changes(self) -> Changes:
        state, failures = self.state, self._failures
        state.settled = list(self.settled)
        state.sent = list(self._sent.items())
        write_failures = failures.take()
        state.failures = failures.mark
        return Changes([*self.unknowns.take(), put_value("state", state)], write_failures)


# --- Unknown rows: in a table, so that a person can read them ------------------------------


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """A row that may or may not have been executed.

    Attributes:
        number: of the row in the input, from 1.
        line: where the row starts in the input.
        row: its content; None until a resumed run has read the row again.
        reason: why its outcome is unknown.
    """

    number: int
    line: int
    row: Any
    reason: str


class Unknowns:
    """The unknown rows of a push; iterates over their numbers.

    Changes are saved with the journal's next commit.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._has_content: dict[int, bool] = {}
        self._unsaved: list[Statement] = []

    def __len__(self) -> int:
        return len(self._has_content)

    def __iter__(self) -> Iterator[int]:
        return iter([*self._has_content])

    async def load(self) -> None:
        """Load the numbers from the journal."""
        self._has_content |= await self._journal.read("SELECT number, row NOT NULL FROM unknown")

    async def all(self) -> list[Unknown]:
        """Return all unknown rows, ordered by number."""
        await self._journal.saved()
        found = await self._journal.read("SELECT * FROM unknown ORDER BY number")
        return [read_unknown(record) for record in found]

    def add(self, number: int, line: int, data: Any, reason: str) -> None:
        """Add row *number*; *data* is None if its content was not read yet."""
        self._has_content[number] = data is not None
        row = None if data is None else encode_row(data)
        self._save("INSERT OR REPLACE INTO unknown VALUES (?, ?, ?, ?)", number, line, row, reason)

    def add_content(self, row: Row) -> None:
        """Add the content of *row*, which was read again, if it is missing."""
        if not self._has_content.get(row.number, True):
            self._has_content[row.number] = True
            sql = "UPDATE unknown SET line = ?, row = ? WHERE number = ?"
            self._save(sql, row.line, encode_row(row.data), row.number)

    def remove(self, number: int) -> None:
        """Remove row *number*: its outcome is known."""
        del self._has_content[number]
        self._save("DELETE FROM unknown WHERE number = ?", number)

    def take(self) -> list[Statement]:
        """Return the statements for all changes since the last call."""
        statements, self._unsaved = self._unsaved, []
        return statements

    def _save(self, sql: str, *parameters: Any) -> None:
        self._unsaved.append(Statement(sql, [parameters]))
        self._journal.commit_now()


def read_unknown(record: tuple[int, int, bytes | None, str]) -> Unknown:
    """Return the unknown row of one record of the table `unknown`."""
    number, line, row, reason = record
    data = None if row is None else msgspec.json.decode(row)
    return Unknown(number=number, line=line, row=data, reason=reason)


# --- Pending rows ---------------------------------------------------------------------------------


class PendingRows:
    """The rows of *source* that are still to be delivered, in order.

    A resumed run reads the rows of earlier runs again and compares a digest of all of them:
    if the input has changed up to that point, nothing is sent. Of those rows, the ones that
    are not settled come first.
    """

    def __init__(self, source: Source, log: JournalRowLog) -> None:
        self._source, self._log = source, log
        self._ready: deque[Row] = deque()
        self._unsettled: list[Row] = []  # rows of earlier runs, until the digest is compared
        self._reading = asyncio.Lock()
        self._digest = hashlib.blake2b(digest_size=16)
        self._read_before = log.state.read
        self._read = 0
        self._is_at_end = self._is_stopped = False
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """Return no more rows."""
        self._is_stopped = True

    async def is_exhausted(self) -> bool:
        """Return True if no row is left; False also if the next row of an iterable is not known."""
        while not self._ready and not self._is_at_end and isinstance(self._source, FileSource):
            await self._fill()
        return self._is_at_end and not self._ready

    def take_nowait(self, count: int) -> list[Row]:
        """Return *count* rows if that many are read already, else none."""
        ready = self._ready
        if len(ready) < count or self._is_stopped:
            return []
        return [ready.popleft() for _ in range(count)]

    async def take(self, count: int) -> list[Row]:
        """Return at most *count* rows; none at the end. Raise if the input has changed."""
        while len(self._ready) < count and not self._is_at_end and not self._is_stopped:
            async with self._reading:
                if len(self._ready) < count and not self._is_at_end:
                    await self._fill()
        return self.take_nowait(min(count, len(self._ready)))

    async def check_unchanged(self) -> None:
        """Raise `StateMismatchError` if the rows that earlier runs have read differ; keep none."""
        while self._read < self._read_before:
            await self._fill()
            self._unsettled.clear()
        self._log.is_verified = True

    async def _fill(self) -> None:
        if self._failure is not None:
            raise self._failure  # after an exception, an iterator looks exhausted
        try:
            rows = await self._source.chunk()
        except BaseException as failure:
            self._failure = failure
            raise
        if not rows:
            if self._read < self._read_before:
                how = f"it has {self._read} rows now, and {self._read_before} were read before"
                raise _changed(self._source, how)
            self._log.state.total = self._read
            self._is_at_end = True
            return
        old = max(0, self._read_before - self._read)
        for part in (rows[:old], rows[old:]):
            if part:
                self._add(part)

    def _add(self, rows: list[Row]) -> None:
        log, before = self._log, self._read_before
        self._read += len(rows)
        self._digest.update(encode_rows(rows))
        current = [log.current(row) for row in rows]
        self._unsettled += [row for row in current if row.number not in log.settled]
        digest = self._digest.hexdigest()
        if self._read > before:
            log.set_read(self._read, digest)
        elif not log.is_verified:
            if self._read < before:
                return  # until the digest can be compared
            if digest != log.state.digest:
                raise _changed(self._source, f"its first {before} rows differ")
        self._ready.extend(self._unsettled)
        self._unsettled.clear()


def _changed(source: Source, how: str) -> StateMismatchError:
    return StateMismatchError(
        f"{source.name} has changed since this job was created: {how}",
        file=source.name,
        advice="Restore the old input (rows may be added at its end), "
        "or push the new one with another state file. If only failed rows were corrected, restore "
        "it, correct them in the file of failed rows, and give --retry-failed (retry_failed=True)",
    )


# --- Row numbers ----------------------------------------------------------------------------


class IntervalSet:
    """A mutable set of integers, stored as sorted intervals that are neither adjacent nor overlap.

    A million rows done in order are one interval. Iterates over the intervals, each as a pair of its
    first and last number.
    """

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        self._intervals: list[tuple[int, int]] = []
        for first, last in intervals:
            self.add(first, last)

    def _place(self, number: int) -> int:
        """Return the index of the last interval that begins at or before *number*, -1 if none does."""
        return bisect_right(self._intervals, (number, inf)) - 1

    def __contains__(self, number: int) -> bool:
        place = self._place(number)
        return place >= 0 and number <= self._intervals[place][1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._intervals)

    def add(self, first: int, last: int | None = None) -> None:
        """Add *first*, or all numbers from *first* to *last*."""
        last = first if last is None else last
        intervals, start, end = self._intervals, self._place(first - 1), self._place(last + 1) + 1
        if start < 0 or intervals[start][1] < first - 1:
            start += 1
        if start < end:
            first, last = min(first, intervals[start][0]), max(last, intervals[end - 1][1])
        intervals[start:end] = [(first, last)]

    def discard(self, number: int) -> None:
        """Remove *number* if it is present."""
        if number in self:
            place = self._place(number)
            first, last = self._intervals[place]
            parts = [(first, number - 1), (number + 1, last)]
            self._intervals[place : place + 1] = [part for part in parts if part[0] <= part[1]]
