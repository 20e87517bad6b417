"""A batch of rows that any worker may deliver, and take over from one that died.

The records of all workers lie in one *book*, a table in a database they share.
Each run of a batch has a name of its own, and the rules are four:

* A row that must not be repeated leaves only after an entry `sent` with the
  run's name is in the book. There is one entry a row: who writes it first has
  the row, and a second runner is refused, before anything has left. So two
  runs of one batch, when a slow worker was taken for dead, never send a row twice.
* A run that begins reads what is there. Entries `sent` of other runs become
  `unknown`: those were on the wire when their worker was last heard of. Settled
  rows are left alone; the others are this run's to send.
* A worker that was taken for dead and was not may still settle the rows it has:
  its own entries stay its own, so an unknown row of a slow worker becomes done.
* Outcomes are written as they come, many in one transaction. A crash between an
  answer and its entry leaves the row `unknown`, never sent again.

Hence the promises of the single-machine journal: rows of operations that may be
repeated arrive at least once and are the same after a second time; all others
arrive once, or are listed as unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from asyncclients.backfill.dead_letters import describe
from asyncclients.backfill.encoding import encode_row
from asyncclients.backfill.sources import Row
from asyncclients.errors import StateError, StateInUseError

RowStatus = Literal["sent", "done", "failed", "unknown", "skipped"]


class RowRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the book says about one row.

    Attributes:
        status: what has become of it; `sent` while its answer is awaited.
        line: where it begins in the input.
        row: its content as JSON; kept for rows that may have to be looked at.
        reason: why it is failed or unknown, else empty.
    """

    status: RowStatus
    line: int
    row: bytes | None = None
    reason: str = ""


class BatchStatus(NamedTuple):
    """Where a batch stands when a run begins it.

    Attributes:
        settled: the rows of it that nothing more is done for.
        done: rows of the whole job that were carried out.
    """

    settled: Collection[int]
    done: int


class SharedRowLog(Protocol):
    """The entries of one job, open for one run of one batch."""

    async def begin(self, numbers: Collection[int]) -> BatchStatus:
        """Turn other runs' `sent` among the rows *numbers* into `unknown`; say what is left."""
        ...

    async def write(self, entries: Mapping[int, RowRecord | None]) -> Collection[int]:
        """Write *entries*, None to delete; return those that another run has, left as they are.

        All in one transaction; returns when it is kept for good, and outlasts a
        database that is away for a while.
        """
        ...


class BatchRowLog:
    """The `Records` of one run of one batch: entries are written one transaction at a time."""

    def __init__(self, book: SharedRowLog, done: int = 0) -> None:
        self._book = book
        self._news: dict[int, RowRecord | None] = {}
        self._next: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._written = self._next
        self._writing: asyncio.Task[None] | None = None
        self._taken: set[int] = set()
        self._done = done

    @property
    def done(self) -> int:
        """Rows of the job that were carried out, as far as this run knows."""
        return self._done

    async def record_intent(self, rows: Iterable[Row]) -> None:
        """Return when the book says that *rows* go out now, by this run.

        Raises:
            StateInUseError: another run has one of them.
        """
        rows = list(rows)
        for row in rows:
            self._note(row.number, _entry(row, "sent", keep=True))
        await self.saved()
        if not self._taken.isdisjoint(row.number for row in rows):
            raise StateInUseError(
                f"line {rows[0].line} is being sent by another worker, which was taken for dead",
                advice="Nothing to do: each row is sent by one of them",
            )

    def mark_pending(self, rows: Iterable[Row]) -> None:
        """*rows* were certainly not carried out; they are pending again."""
        for row in rows:
            self._note(row.number, None)

    def mark_done(self, rows: Sequence[Row]) -> None:
        """*rows* were carried out."""
        self._done += len(rows)
        for row in rows:
            self._note(row.number, _entry(row, "done"))

    def mark_skipped(self, rows: Sequence[Row]) -> None:
        """There is nothing to send for *rows*."""
        for row in rows:
            self._note(row.number, _entry(row, "skipped"))

    def mark_failed(self, row: Row, failure: BaseException) -> None:
        """*row* was refused."""
        reason = msgspec.json.encode(describe(row, failure)).decode()
        self._note(row.number, _entry(row, "failed", reason, keep=True))

    def mark_unknown(self, rows: Sequence[Row], reason: str) -> None:
        """*rows* may or may not have been carried out."""
        for row in rows:
            self._note(row.number, _entry(row, "unknown", reason, keep=True))

    # --- Writing ----------------------------------------------------------------------

    async def saved(self) -> None:
        """Return when all that was noted so far is in the book."""
        if self._news:
            await asyncio.shield(self._next)
        elif self._writing is not None:
            await asyncio.shield(self._writing)

    def _note(self, number: int, entry: RowRecord | None) -> None:
        self._news[number] = entry
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
            # Not in the task: one that is cancelled before its first step does nothing at all.
            self._writing.add_done_callback(self._wake)

    async def _write(self) -> None:
        while self._news:
            news, self._news = self._news, {}
            self._written, self._next = self._next, asyncio.get_running_loop().create_future()
            self._taken.update(await self._book.write(news))
            self._written.set_result(None)

    def _wake(self, writing: asyncio.Task[None]) -> None:
        """Where *writing* has failed nobody may go on: what was noted is not in the book."""
        failure = asyncio.CancelledError() if writing.cancelled() else writing.exception()
        if failure is None:
            return
        if not isinstance(failure, Exception):
            failure = StateError(f"the writing of outcomes was ended by {type(failure).__name__}")
        for future in (self._written, self._next):
            if not future.done():
                future.set_exception(failure)
                future.exception()  # seen, also where nobody waits
        self._next = writing.get_loop().create_future()


def _entry(row: Row, fate: RowStatus, reason: str = "", *, keep: bool = False) -> RowRecord:
    kept = encode_row(row.data) if keep else None
    return RowRecord(status=fate, line=row.line, row=kept, reason=reason)
