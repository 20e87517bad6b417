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
from typing import Any, Literal

import msgspec

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
from asyncclients.errors import StateMismatchError

_KILLED = "the run was killed before the response arrived"


class PushState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value that each commit replaces.

    Attributes:
        settled: intervals of settled row numbers.
        sent: (number, line) of rows that are on the wire and not idempotent.
        done: number of rows executed.
        failed: number of rows rejected.
        skipped: number of rows for which nothing was sent.
        read: number of rows read from the input.
        total: number of rows of the input; None while it is unknown.
        digest: of the rows read, to detect a changed input.
        failures: how much of the file of failed rows is counted in `failed`.
        retrying: rows of the renamed file of failed rows are pending.
        complete: the input was read to its end and nothing is pending.
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


class InputLog:
    """The rows of a push that earlier runs have read and settled.

    Attributes:
        state: has the number of rows that were read, and their digest.
        settled: numbers of the rows that are not delivered again.
        recovered: failed rows that the last commit did not count; they may come after those read.
        is_verified: the rows that were read are known to be unchanged.
        retried: failed rows that are delivered again, some of them edited.
    """

    def __init__(self, state: PushState) -> None:
        self.state = state
        self.settled = IntervalSet(state.settled)
        self.recovered: set[int] = set()
        self.is_verified = False
        self.retried = FailedRows()

    def on_reread(self, row: Row) -> Row:
        """Return *row*, which an earlier run has read, or the edited one."""
        return self.retried.current(row)

    def set_read(self, read: int, digest: str) -> None:
        """Note that *read* rows with *digest* were read, some of them for the first time."""

    def set_total(self, total: int | None) -> None:
        """Note that the input has *total* rows."""


class JournalRowLog(InputLog):
    """The `RowLog` of a push, kept in the journal.

    Attributes:
        state: saved with the next commit; its lists are filled in when the commit starts.
        unknowns: the unknown rows.
    """

    def __init__(self, journal: Journal, state: PushState) -> None:
        super().__init__(state)
        self._journal = journal
        self.unknowns = Unknowns(journal)
        self._sent: dict[int, int] = {}
        self._failures = DeadLetterFile(journal.path)

    @classmethod
    async def load(cls, journal: Journal) -> JournalRowLog:
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
                log.recovered.add(failure.number)
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
        """Make the failed rows pending; do nothing if that was done and not all have an outcome.

        Raises:
            StateMismatchError: the file of failed rows is missing or unusable.
        """
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
        self.recovered.clear()
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

    def on_reread(self, row: Row) -> Row:
        """Return *row* as above, and store it if it is unknown."""
        row = super().on_reread(row)
        self.unknowns.add_content(row)
        return row

    def set_read(self, read: int, digest: str) -> None:
        """Note that *read* rows with *digest* were read, some of them for the first time.

        Saved with the next commit.
        """
        state = self.state
        state.read, state.digest, state.complete = read, digest, False
        if state.total is not None:  # rows may have been added since they were counted
            state.total = max(state.total, read)

    def set_total(self, total: int | None) -> None:
        """Note that the input has *total* rows; saved with the next commit."""
        self.state.total = total

    def record_intent(self, rows: Iterable[Row]) -> Awaitable[None]:
        """Record that *rows* are about to be sent; done when that is on disk."""
        for row in rows:
            self._sent[row.number] = row.line
        return self._journal.saved()

    def mark_pending(self, rows: Iterable[Row]) -> None:
        """Withdraw the intent: *rows* were certainly not executed."""
        for row in rows:
            if self._sent.pop(row.number, None) is not None:
                self._journal.commit_now()

    def mark_done(self, rows: Sequence[Row]) -> None:
        """Record that the vendor executed *rows*."""
        self.state.done += len(rows)
        self._settle(rows)

    def mark_skipped(self, rows: Sequence[Row]) -> None:
        """Record that there is nothing to send for *rows*."""
        self.state.skipped += len(rows)
        self._settle(rows)

    def mark_failed(self, row: Row, failure: BaseException) -> None:
        """Record that *row* was rejected with *failure*."""
        self.state.failed += 1
        self._failures.add(describe(row, failure))
        self._settle([row])

    def mark_unknown(self, rows: Sequence[Row], reason: str) -> None:
        """Record that *rows* may or may not have been executed."""
        for row in rows:
            self._sent.pop(row.number, None)
            self.settled.add(row.number)
            self.unknowns.add(row.number, row.line, row.data, reason)

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

    def _settle(self, rows: Iterable[Row]) -> None:
        had_intent = False
        for row in rows:
            self.settled.add(row.number)
            had_intent |= self._sent.pop(row.number, None) is not None
        if had_intent:
            self._journal.commit_now()
        else:
            # An idempotent row that is sent again after a crash does no harm.
            self._journal.commit_later()

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
        self._numbers: set[int] = set()
        self._without_content: set[int] = set()
        self._unsaved: list[Statement] = []

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._numbers))

    async def load(self) -> None:
        """Load the numbers from the journal."""
        for number, row in await self._journal.read("SELECT number, row FROM unknown"):
            self._numbers.add(number)
            if row is None:
                self._without_content.add(number)

    async def all(self) -> list[Unknown]:
        """Return all unknown rows, ordered by number."""
        await self._journal.saved()
        found = await self._journal.read("SELECT * FROM unknown ORDER BY number")
        return [read_unknown(record) for record in found]

    def add(self, number: int, line: int, data: Any, reason: str) -> None:
        """Add row *number*; *data* is None if its content was not read yet."""
        self._numbers.add(number)
        if data is None:
            self._without_content.add(number)
        row = None if data is None else encode_row(data)
        self._save("INSERT OR REPLACE INTO unknown VALUES (?, ?, ?, ?)", number, line, row, reason)

    def add_content(self, row: Row) -> None:
        """Add the content of *row*, which was read again, if it is missing."""
        if row.number in self._without_content:
            self._without_content.discard(row.number)
            sql = "UPDATE unknown SET line = ?, row = ? WHERE number = ?"
            self._save(sql, row.line, encode_row(row.data), row.number)

    def remove(self, number: int) -> None:
        """Remove row *number*: its outcome is known."""
        self._numbers.discard(number)
        self._without_content.discard(number)
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

    def __init__(self, source: Source, log: InputLog) -> None:
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
        """Return at most *count* rows; none at the end.

        Raises:
            StateMismatchError: the input has changed since the job was created.
            InputError: the input cannot be read.
        """
        while len(self._ready) < count and not self._is_at_end and not self._is_stopped:
            async with self._reading:
                if len(self._ready) < count and not self._is_at_end:
                    await self._fill()
        return self.take_nowait(min(count, len(self._ready)))

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
                raise _shorter(self._source, self._read, self._read_before)
            self._log.set_total(self._read)
            self._is_at_end = True
            return
        old = rows[: max(0, self._read_before - self._read)]
        if old:
            self._skip_settled(old)
            rows = rows[len(old) :]
        if rows:
            self._add_to_digest(rows)
            if recovered := self._log.recovered:
                rows = [row for row in rows if row.number not in recovered]
            self._ready.extend(rows)
            self._log.set_read(self._read, self._digest.hexdigest())

    def _add_to_digest(self, rows: list[Row]) -> None:
        self._read += len(rows)
        self._digest.update(encode_rows(rows))

    def _skip_settled(self, rows: list[Row]) -> None:
        """Keep the unsettled ones of *rows*, which an earlier run has read."""
        self._add_to_digest(rows)
        log = self._log
        current = [log.on_reread(row) for row in rows]
        unsettled = [row for row in current if row.number not in log.settled]
        if log.is_verified:
            self._ready.extend(unsettled)
            return
        self._unsettled += unsettled
        if self._read == self._read_before:
            if self._digest.hexdigest() != log.state.digest:
                raise _changed(self._source, f"its first {self._read_before} rows differ")
            self._ready.extend(self._unsettled)
            self._unsettled.clear()


async def check_unchanged(source: Source, log: InputLog) -> None:
    """Compare the rows of *source* with those that earlier runs have read; keep none of them.

    Raises:
        StateMismatchError: they differ.
    """
    digest, read, count = hashlib.blake2b(digest_size=16), 0, log.state.read
    while read < count:
        rows = (await source.chunk())[: count - read]
        if not rows:
            raise _shorter(source, read, count)
        read += len(rows)
        digest.update(encode_rows(rows))
    if count and digest.hexdigest() != log.state.digest:
        raise _changed(source, f"its first {count} rows differ")
    log.is_verified = True


def _shorter(source: Source, now: int, before: int) -> StateMismatchError:
    return _changed(source, f"it has {now} rows now, and {before} were read before")


def _changed(source: Source, how: str) -> StateMismatchError:
    return StateMismatchError(
        f"{source.name} has changed since this job was created: {how}",
        file=source.name,
        advice="Restore the old input (rows may be added at its end), "
        "or push the new one with another state file. If only failed rows were corrected, restore "
        "it, correct them in the file of failed rows, and give --retry-failed (retry_failed=True)",
    )


# --- Row numbers ----------------------------------------------------------------------------

_BUFFER_SIZE = 1024


class IntervalSet:
    """A mutable set of integers, stored as sorted intervals that are neither adjacent nor overlap.

    A million rows done in order are one interval. Single numbers are buffered until the set
    is read: they come nearly in order, so a run of consecutive numbers is inserted at once.
    """

    __slots__ = ("_buffer", "_firsts", "_lasts")

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._buffer: list[int] = []
        for first, last in intervals:
            self._insert(first, last)

    def __contains__(self, number: int) -> bool:
        self._flush()
        index = bisect_right(self._firsts, number) - 1
        return index >= 0 and number <= self._lasts[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        self._flush()
        return iter(list(zip(self._firsts, self._lasts, strict=True)))

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self)

    def add(self, first: int, last: int | None = None) -> None:
        """Add *first*, or all numbers from *first* to *last*."""
        if last is not None:
            self._insert(first, last)
            return
        self._buffer.append(first)
        if len(self._buffer) >= _BUFFER_SIZE:
            self._flush()

    def _flush(self) -> None:
        if not self._buffer:
            return
        numbers, self._buffer = sorted(self._buffer), []
        first = last = numbers[0]
        for number in numbers:
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
        """Remove *number* if it is present."""
        if number not in self:
            return
        index = bisect_right(self._firsts, number) - 1
        first, last = self._firsts[index], self._lasts[index]
        parts = [part for part in ((first, number - 1), (number + 1, last)) if part[0] <= part[1]]
        self._firsts[index : index + 1] = [part[0] for part in parts]
        self._lasts[index : index + 1] = [part[1] for part in parts]

    def __repr__(self) -> str:
        return f"<IntervalSet {', '.join(f'{a}-{b}' if a < b else str(a) for a, b in self)}>"
