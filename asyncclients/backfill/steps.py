"""Backfills as steps, for any engine that runs coroutines durably.

A step is a plain coroutine: rows in, counts out. It can be run again at any time and on any
machine, because its state is in a database that the workers share (`SharedRowLog`,
`PageStore`), not in the engine. The engine decides when and where a step runs.

A step is a batch of rows or pages, never a single request: a durable step costs milliseconds,
and each step waits for its last response.

The row log of a push follows four rules:

* A row that is not idempotent is sent only after a record `sent` with the name of the run is
  in the log. The first run that writes the record of a row owns the row; any other run gets an
  error before it sends. So two runs of one step never send a row twice.
* A run that starts reads the log. Records `sent` of other runs become `unknown`: their worker may
  have died. Settled rows are left alone; the run sends the others.
* A worker that was presumed dead but is not may still settle the rows that it owns: an unknown
  row of a slow worker becomes done.
* Outcomes are written as they arrive, many per transaction. A crash between a response and its
  record leaves the row `unknown`.

These give the guarantees of a push on one machine: rows of idempotent operations are delivered
at least once; all others exactly once, or they are listed as unknown.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from asyncclients.arguments import PositiveInt, QuotaShare, Seconds, check_value
from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.delivery import Delivery, PushTarget, RowStatus
from asyncclients.backfill.files.source import Row
from asyncclients.backfill.prefetch import PagePrefetcher
from asyncclients.backfill.report import RequestCounter, RequestCounts
from asyncclients.backfill.state.stored_rows import describe, digest, encode_row
from asyncclients.core import codec
from asyncclients.core.options import call_context
from asyncclients.errors import PaginationError, StateError, StateInUseError, error_text
from asyncclients.paging import Page, Paginator
from asyncclients.ratelimit.quota import Priority

__all__ = [
    "BatchStatus",
    "PageStore",
    "PullCursor",
    "PushTarget",
    "RowRecord",
    "RowStatus",
    "SharedRowLog",
    "plain_page",
    "pull_step",
    "push_step",
]

# --- Push -----------------------------------------------------------------------------------


class RowRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one row in a shared log; `sent` while its response is awaited.

    It has the content as JSON if a person may need to see it, and why the row failed or is unknown.
    """

    status: RowStatus
    line: int
    row: bytes | None = None
    reason: str = ""


class BatchStatus(NamedTuple):
    """Numbers of the rows of a batch that need no further action, and rows done in the whole job."""

    settled: Collection[int]
    done: int


class SharedRowLog(Protocol):
    """The records of one job in a shared database, opened for one run of one batch."""

    async def begin(self, numbers: Collection[int], /) -> BatchStatus:
        """Turn other runs' `sent` records of the rows *numbers* into `unknown`."""
        ...

    async def write(self, records: Mapping[int, RowRecord | None], /) -> Collection[int]:
        """Write *records* (None deletes) in one transaction.

        Returns when they are durable, and retries while the database is unavailable.

        Returns:
            the numbers of rows owned by another run, whose records are unchanged.
        """
        ...


async def push_step(
    rows: Sequence[Row],
    to: PushTarget,
    log: SharedRowLog,
    *,
    flow: str,
    coerce: bool = False,
    counter: RequestCounter | None = None,
    breaker: CircuitBreaker | None = None,
) -> RequestCounts:
    """Deliver those of *rows* that are not settled in *log*.

    Args:
        rows: one batch of the job; their numbers are unique in the job.
        to: where and how they are sent.
        log: opened for this run; a repeated run opens it again.
        flow: name of the job: the quota is divided fairly between flows.
        coerce: values are texts that may stand for numbers and booleans, as in CSV.
        counter: counts the requests as well, while the step runs.
        breaker: shows an outage of the vendor while the step runs, and replaces max_outage.

    Raises:
        BackfillStoppedError: the outage exceeded max_outage.
        AsyncClientsError: an error that no row caused, such as an invalid credential.

    When cancelled, it sends nothing more, waits up to 30 s for responses to requests that
    are on the wire, and records the outcomes.
    """
    counter, breaker = RequestCounter(counter), breaker or CircuitBreaker(to.max_outage)
    converter, size = to.converter(), max(1, to.batch_size)
    numbers = [row.number for row in rows]
    while True:
        status = await log.begin(numbers)
        pending = deque(row for row in rows if row.number not in status.settled)
        if not pending:
            return counter.counts
        row_log = BatchRowLog(log, status.done)
        # A batch is too small to judge the share of failed rows; the job does that.
        workers = min(to.concurrency, -(-len(pending) // size))
        step = msgspec.structs.replace(to, max_failed=1.0, concurrency=workers)
        delivery = Delivery(step, converter, row_log, flow=flow, counter=counter, breaker=breaker)

        async def deliver(pending: deque[Row] = pending, delivery: Delivery = delivery) -> None:
            while pending:
                some = [pending.popleft() for _ in range(min(size, len(pending)))]
                await delivery.deliver_rows(some, coerce=coerce)

        try:
            with call_context(Priority.BACKGROUND, flow, share=to.share):
                await delivery.run(deliver, pending.clear)
            delivery.settle_forbidden_rows()
        except StateInUseError:
            continue  # another run of this batch is active: read the log again
        finally:
            await asyncio.shield(row_log.saved())


class BatchRowLog:
    """The `RowLog` of one run of one batch: writes records to *log*, one transaction at a time."""

    def __init__(self, log: SharedRowLog, done: int = 0) -> None:
        self._log, self.done = log, done
        self._unsaved: dict[int, RowRecord | None] = {}
        self._current: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        """Writes all of `_unsaved` when `_current` has ended."""
        self._owned_by_others: set[int] = set()

    async def record_intent(self, rows: Sequence[Row]) -> None:
        """Return when the log has the records `sent` for *rows*.

        Raises:
            StateInUseError: another run owns one of the rows.
        """
        self.mark(rows, "sent")
        await self.saved()
        if not self._owned_by_others.isdisjoint(row.number for row in rows):
            raise StateInUseError(
                f"line {rows[0].line} is being sent by another worker, which was presumed dead",
                advice="Nothing to do: only one of them sends each row",
            )

    def mark(
        self, rows: Sequence[Row], status: RowStatus, error: BaseException | None = None
    ) -> None:
        """See `RowLog`."""
        self.done += len(rows) if status == "done" else 0
        for row in rows:
            self._unsaved[row.number] = _record(row, status, error)
        if rows and self._next is None:
            self._next = asyncio.create_task(self._write(self._current))

    # --- Writing ------------------------------------------------------------------------

    async def saved(self) -> None:
        """Return when all records so far are in the log."""
        last = self._next or self._current
        if last is not None:
            try:
                await asyncio.shield(last)
            except asyncio.CancelledError:
                if not last.cancelled():
                    raise
                raise StateError("writing the outcomes was cancelled") from None

    async def _write(self, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait([previous])
            previous.result()  # its error is that of all later records too
        records, self._unsaved = self._unsaved, {}
        self._current, self._next = self._next, None
        self._owned_by_others.update(await self._log.write(records))


def _record(row: Row, status: RowStatus, error: BaseException | None) -> RowRecord | None:
    """Return the record of *row*; None for a pending one, which has none."""
    if status == "pending":
        return None
    reason = "" if error is None else error_text(error)
    if status == "failed" and error is not None:
        reason = msgspec.json.encode(describe(row, error)).decode()
    content = None if status in ("done", "skipped") else encode_row(row.data)
    return RowRecord(status=status, line=row.line, row=content, reason=reason)


# --- Pull -----------------------------------------------------------------------------------


class PageStore(Protocol):
    """Stores the pages of one pull until they are written to a file."""

    async def put(self, page: Page[Any]) -> None:
        """Store *page*, replacing a page with the same number."""
        ...


class PullCursor(msgspec.Struct, frozen=True, kw_only=True):
    """The position of a pull after a step.

    Attributes:
        page: number of the last page stored.
        last: there are no more pages.
        pages: number of pages according to the vendor; 0 if unknown.
        items_digest: digest of the last page's items, to detect a repeated page.
        counts: requests of the step.
    """

    page: int
    last: bool
    pages: int
    items_digest: str
    counts: RequestCounts


async def pull_step(
    source: Paginator[Any],
    store: PageStore,
    *,
    after: PullCursor | None,
    flow: str,
    share: float | None = None,
    max_pages: int = 10,
    max_outage: float = 900.0,
    counter: RequestCounter | None = None,
    breaker: CircuitBreaker | None = None,
) -> PullCursor:
    """Store the next pages of *source*, fetched concurrently if their number is known.

    Args:
        source: the list, sorted by a field that does not change.
        store: where the pages are stored.
        after: result of the previous step; None for the first.
        flow: name of the job, as for `push_step`.
        share: most of every quota that the job takes, in all steps together; None for all.
        max_pages: maximum number of pages.
        max_outage: seconds without a usable response after which it raises.
        counter: as for `push_step`.
        breaker: as for `push_step`.

    Raises:
        BackfillStoppedError: the outage exceeded max_outage.
        AsyncClientsError: the vendor's error for a page.
    """
    check_value("max_pages", max_pages, PositiveInt)
    check_value("max_outage", max_outage, Seconds)
    check_value("share", share, QuotaShare | None)
    counter, breaker = RequestCounter(counter), breaker or CircuitBreaker(max_outage)
    reader = PagePrefetcher(source, max_pages - 1, flow, counter, breaker)
    first, found = source.start, after
    if after is not None:
        first, reader.last = after.page + 1, after.pages

    async def take(page: Page[Any]) -> None:
        nonlocal found
        items_digest = digest(encode_row(page.items))
        if page.items and found is not None and items_digest == found.items_digest:
            raise PaginationError(
                f"page {page.number} has the same items as page {found.page}",
                advice="The server repeats a page; the pages before it are stored",
            )
        await store.put(page)
        found = PullCursor(
            page=page.number,
            last=page.last,
            pages=reader.last,
            items_digest=items_digest,
            counts=counter.counts,
        )

    with call_context(Priority.BACKGROUND, flow, share=share):
        await reader.read(first, take, until=first + max_pages - 1)
    assert found is not None
    return msgspec.structs.replace(found, counts=counter.counts)


def plain_page(page: Page[Any]) -> Page[Any]:
    """Return *page* with its items as plain JSON objects."""
    items = [codec.to_plain(item) for item in page.items]
    return Page(items=items, number=page.number, total=page.total, last=page.last)
