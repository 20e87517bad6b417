"""The status of each row of a push, in memory and in the journal, and the rows to deliver.

| status  | meaning                                           | stored as                            |
|---------|---------------------------------------------------|--------------------------------------|
| pending | to be sent: not executed, or idempotent           | a number, once read, or in `retried` |
| sent    | on the wire, and not idempotent                   | a number, with the row               |
| unknown | may or may not have been executed                 | table `unknown`                      |
| failed  | rejected by the row type or by the vendor         | a line of the file of failed rows    |
| done    | executed                                          | a count                              |
| skipped | nothing to send                                   | a count                              |

All but the first two are *settled*. Rows settle nearly in order, so of a million rows that were
read only a few are pending, and each commit replaces the whole state, which is one small value.
Most commits are that value alone, because a statement over many rows waits for the GIL at each.

`sent` is a write-ahead intent: it is durable before the request is sent. Rows that are `sent`
when a run starts were on the wire when the previous run was killed; they become unknown.

A retry makes all failed rows pending in one commit, and removes their file. Until they are done,
skipped or failed again they are in table `retried`, with the content that a person has edited.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Any, NamedTuple, Self, cast

import msgspec

from asyncclients.backfill.delivery import RowStatus
from asyncclients.backfill.files.csv import Cells
from asyncclients.backfill.files.source import FileSource, Row, Source
from asyncclients.backfill.state.journal import Changes, Journal, Statement, put_value
from asyncclients.backfill.state.stored_rows import (
    DeadLetterFile,
    Mark,
    describe,
    encode_row,
    encode_rows,
)
from asyncclients.errors import StateMismatchError, error_text

_KILLED = "the run was killed before the response arrived"


class Sent(NamedTuple):
    """A row that is on the wire; *row* is its content as JSON."""

    number: int
    line: int
    row: msgspec.Raw


class PushState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value that each commit replaces.

    Attributes:
        pending: numbers of the rows read that are not settled, without the last *pending_tail* ones
            and those in table `retried`.
        pending_tail: number of rows, the last of those read, that are all pending.
        sent: rows that are on the wire and not idempotent.
        failed_unread: numbers of failed rows beyond those read, known from the file of failed rows.
        read: number of rows read, in all runs.
        total: number of rows of the input; None while it is unknown.
        digest: of the rows read, to detect a changed input.
        failures: how much of the file of failed rows is counted in `failed`.
        is_retried: the rows of the file of failed rows are pending again, and the file is to be
            removed.
    """

    pending: list[int] = msgspec.field(default_factory=list[int])
    pending_tail: int = 0
    sent: list[Sent] = msgspec.field(default_factory=list[Sent])
    failed_unread: list[int] = msgspec.field(default_factory=list[int])
    done: int = 0
    failed: int = 0
    skipped: int = 0
    read: int = 0
    total: int | None = None
    digest: str = ""
    failures: Mark = Mark()
    is_retried: bool = False
    complete: bool = False


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """A row that may or may not have been executed.

    Attributes:
        number: of the row in the input, from 1.
        line: where the row starts in the input.
        row: its content.
        reason: why its outcome is unknown.
    """

    number: int
    line: int
    row: Any
    reason: str


def read_unknown(record: tuple[int, int, bytes, str]) -> Unknown:
    """Return the unknown row of one record of the table `unknown`."""
    number, line, row, reason = record
    return Unknown(number=number, line=line, row=msgspec.json.decode(row), reason=reason)


class JournalRowLog:
    """The `RowLog` of a push, kept in the journal.

    Attributes:
        state: saved with the next commit; its pending rows are filled in when the commit starts.
        pending: numbers of the rows to deliver, as far as they were read, without retried ones.
        unknown: numbers of the unknown rows.
        is_verified: the rows that were read are known to be unchanged.
    """

    def __init__(self, journal: Journal, state: PushState) -> None:
        self._journal, self.state = journal, state
        tail = range(state.read - state.pending_tail + 1, state.read + 1)
        self.pending = {*state.pending, *tail}
        self.unknown: set[int] = set()
        self.is_verified = False
        self._retried: dict[int, Any] = {}
        """Content of the rows in table `retried` by number, UNSET if it was not edited."""
        self._retried_changes: set[int] = set()
        self._sent = {each.number: each for each in state.sent}
        self._unknown_changes: dict[int, tuple[int, int, bytes, str] | None] = {}
        """Records of table `unknown` for the next commit, None for one to delete."""
        self._failures = DeadLetterFile(journal.path)

    @classmethod
    async def load(cls, journal: Journal) -> Self:
        """Return the row log stored in *journal*; an empty one for a new job."""
        found = await journal.state(PushState)
        log = cls(journal, found or PushState())
        journal.set_source(log._next_commit)
        for number, row in await journal.read("SELECT number, row FROM retried"):
            log._retried[number] = msgspec.UNSET if row is None else msgspec.json.decode(row)
        if log.state.is_retried:  # the last run was killed before it removed the file
            log._retry(await journal.run(log._failures.read, log._retried.__contains__))
            await journal.saved()
        if found is None or log.state.is_retried:
            await log._remove_failures()
        log.unknown.update(
            [number for (number,) in await journal.read("SELECT number FROM unknown")]
        )
        for failure in await journal.run(log._failures.resume, log.state.failures):
            log._count_failure(failure.number)
        sent, log._sent = log._sent, {}
        for number, line, row in sent.values():
            if log.is_pending(number):
                log.pending.discard(number)
                log._set_unknown(number, line, bytes(row), _KILLED)
        await journal.saved()
        return log

    def _count_failure(self, number: int) -> None:
        """Count a row that failed in the last run, which was killed before the commit that does."""
        state = self.state
        if self.is_pending(number):
            self._settle(number)
        elif number > state.read and number not in state.failed_unread:
            state.failed_unread.append(number)
        else:
            return
        state.failed += 1

    async def _remove_failures(self) -> None:
        """Remove the file of failed rows: none of them has failed, as far as this state knows."""
        await self._journal.run(self._failures.begin)
        if self.state.is_retried:
            self.state.is_retried = False
            await self._journal.saved()

    async def retry_failed(self) -> None:
        """Make the failed rows pending, as they are in their file.

        Raises:
            StateMismatchError: the file cannot be used.
        """
        state = self.state
        if not state.failed:
            return
        await self._journal.saved()
        found = await self._journal.run(self._failures.read, self._is_settled)
        self._failures.check_count(found, state.failed)
        self._retry(found)
        state.failed_unread = [each for each in state.failed_unread if each not in found]
        state.failed -= len(found)
        state.is_retried, state.complete = True, False
        self._failures.mark = Mark()
        await self._journal.saved()
        await self._remove_failures()

    def _retry(self, found: dict[int, Any]) -> None:
        self._retried |= found
        self._retried_changes.update(found)

    def is_pending(self, number: int) -> bool:
        """Return whether row *number* is to be delivered; False if it was never read."""
        is_retried = number in self._retried and number not in self.unknown
        return is_retried or number in self.pending

    def _is_settled(self, number: int) -> bool:
        was_read = number <= self.state.read or number in self.state.failed_unread
        return was_read and not self.is_pending(number)

    @property
    def done(self) -> int:
        """Number of rows executed."""
        return self.state.done

    @property
    def settled_count(self) -> int:
        """Number of rows with an outcome."""
        state = self.state
        return state.done + state.failed + len(self.unknown) + state.skipped

    @property
    def failures(self) -> str | None:
        """Path of the file of failed rows, None without any."""
        return str(self._failures.path) if self.state.failed else None

    async def unknown_rows(self) -> list[Unknown]:
        """Return the unknown rows, ordered by number."""
        await self._journal.saved()
        records = await self._journal.read("SELECT * FROM unknown ORDER BY number")
        return [read_unknown(record) for record in records]

    def current(self, row: Row) -> Row:
        """Return *row*, with the content that a person has edited if there is one."""
        data = self._retried.get(row.number, msgspec.UNSET)
        if data is msgspec.UNSET:
            return row
        if isinstance(row.data, Cells) and isinstance(data, dict):
            data = row.data.replaced(cast("dict[str, Any]", data))
        return Row(row.number, row.line, data, is_edited=True)

    def is_edited(self, number: int) -> bool:
        """Return whether a person has edited row *number*, which is pending or unknown."""
        return self._retried.get(number, msgspec.UNSET) is not msgspec.UNSET

    # --- Changes ------------------------------------------------------------------------

    def set_read(self, read: int, digest: str) -> None:
        """Note that *read* rows with *digest* were read, some of them for the first time."""
        state = self.state
        self.pending.update(range(state.read + 1, read + 1))
        self.pending.difference_update(state.failed_unread)
        state.read, state.digest, state.complete = read, digest, False
        if state.total is not None:  # rows may have been added since they were counted
            state.total = max(state.total, read)

    def record_intent(self, rows: Sequence[Row]) -> Awaitable[None]:
        """Record that *rows* are about to be sent; done when that is on disk."""
        for row in rows:
            self._sent[row.number] = Sent(row.number, row.line, msgspec.Raw(encode_row(row.data)))
        return self._journal.saved()

    def mark(
        self, rows: Sequence[Row], status: RowStatus, error: BaseException | None = None
    ) -> None:
        """See `RowLog`. The records of rows that were sent or unknown are removed."""
        state, must_commit_now = self.state, status == "unknown"
        for row in rows:
            number = row.number
            if self._sent.pop(number, None) is not None:
                must_commit_now = True
            if number in self.unknown:
                must_commit_now = True
                self._unknown_changes[number] = None
                self.unknown.discard(number)
            if status == "unknown":
                self.pending.discard(number)
            elif status != "pending":
                self._settle(number)
            elif number not in self._retried:
                self.pending.add(number)
            if status == "unknown" and error is not None:
                self._set_unknown(number, row.line, encode_row(row.data), error_text(error))
            elif status == "failed" and error is not None:
                self._failures.add(describe(row, error))
        if status in ("done", "failed", "skipped"):
            setattr(state, status, getattr(state, status) + len(rows))
        if must_commit_now:
            self._journal.commit_now()
        elif status != "pending":
            # An idempotent row that is sent again after a crash does no harm.
            self._journal.commit_later()

    def _settle(self, number: int) -> None:
        self.pending.discard(number)
        if number in self._retried:
            del self._retried[number]
            self._retried_changes.add(number)

    def _set_unknown(self, number: int, line: int, row: bytes, reason: str) -> None:
        self.unknown.add(number)
        self._unknown_changes[number] = (number, line, row, reason)

    def finish(self) -> None:
        """Mark the job as complete: nothing is pending."""
        self.state.complete = True
        self._journal.commit_now()

    async def saved(self) -> None:
        """Save all outcomes at the end of a run, and what has changed in the job's identity."""
        await self._journal.finish()

    def _next_commit(self) -> Changes:
        state, failures = self.state, self._failures
        pending = sorted(self.pending)
        # The tail is consecutive numbers up to `read`: there, number - index is the same for all.
        difference = state.read - len(pending) + 1
        first = bisect_left(range(len(pending)), difference, key=lambda i: pending[i] - i)
        state.pending, state.pending_tail = pending[:first], len(pending) - first
        state.sent = [*self._sent.values()]
        write_failures = failures.take()
        state.failures = failures.mark
        statements = [put_value("state", state)]
        changed, self._unknown_changes = self._unknown_changes, {}
        if gone := [(number,) for number, record in changed.items() if record is None]:
            statements.append(Statement("DELETE FROM unknown WHERE number = ?", gone))
        if kept := [record for record in changed.values() if record is not None]:
            statements.append(Statement("INSERT OR REPLACE INTO unknown VALUES (?, ?, ?, ?)", kept))
        retries, self._retried_changes = self._retried_changes, set()
        if done := [(number,) for number in retries if number not in self._retried]:
            statements.append(Statement("DELETE FROM retried WHERE number = ?", done))
        if again := [(number, self._edited(number)) for number in retries & self._retried.keys()]:
            statements.append(Statement("INSERT OR REPLACE INTO retried VALUES (?, ?)", again))
        return Changes(statements, write_failures)

    def _edited(self, number: int) -> bytes | None:
        row = self._retried[number]
        return None if row is msgspec.UNSET else encode_row(row)


# --- Rows to deliver ------------------------------------------------------------------------------


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
                raise _input_changed(self._source, how)
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
        digest = self._digest.hexdigest()
        if self._read > before:
            log.set_read(self._read, digest)
        self._unsettled += [log.current(row) for row in rows if log.is_pending(row.number)]
        if self._read <= before and not log.is_verified:
            if self._read < before:
                return  # until the digest can be compared
            if digest != log.state.digest:
                raise _input_changed(self._source, f"its first {before} rows differ")
        self._ready.extend(self._unsettled)
        self._unsettled.clear()


def _input_changed(source: Source, how: str) -> StateMismatchError:
    return StateMismatchError(
        f"{source.name} has changed since this job was created: {how}",
        file=source.name,
        advice="Restore the old input (rows may be added at its end), "
        "or push the new one with another state file. If only failed rows were corrected, restore "
        "it, correct them in the file of failed rows, and give --retry-failed (retry_failed=True)",
    )
