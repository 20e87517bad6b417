"""Backfills as steps, for any engine that runs coroutines durably.

A step is a plain coroutine: rows in, counts out. It can be run again at any time and on any
machine, because its state is in a database that the workers share (`SharedRowLog`,
`PageStore`), not in the engine. The engine decides when and where a step runs.

A step is a batch of rows or pages, never a single request: a durable step costs milliseconds,
and each step waits for its last response.

The row log of a push follows four rules:

* A row that is not idempotent is sent only after a record `sent` with the name of the run is
  in the log. There is one record per row: the first run that writes it owns the row, and any
  other run gets an error before it sends. So two runs of one step, after a slow worker was
  presumed dead, never send a row twice.
* A run that starts reads the log. Records `sent` of other runs become `unknown`, because those
  rows were on the wire when their worker was last seen. Settled rows are left alone; the run
  sends the others.
* A worker that was presumed dead but is not may still settle the rows that it owns: an unknown
  row of a slow worker becomes done.
* Outcomes are written as they arrive, many per transaction. A crash between a response and its
  record leaves the row `unknown`; it is never sent again.

These give the guarantees of a push on one machine: rows of idempotent operations are delivered
at least once; all others exactly once, or they are listed as unknown.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from asyncclients.arguments import check_quota_share
from asyncclients.backfill import arguments
from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.delivery import (
    Delivery,
    DeliveryOptions,
    gather_or_cancel,
    run_workers,
)
from asyncclients.backfill.files.source import Row
from asyncclients.backfill.prefetch import PagePrefetcher
from asyncclients.backfill.report import RequestCounter, RequestCounts
from asyncclients.backfill.rows import Map, RowConverter, row_type_of
from asyncclients.backfill.state.stored_rows import describe, digest, encode_row
from asyncclients.core import codec
from asyncclients.core.options import call_context
from asyncclients.errors import PaginationError, StateError, StateInUseError
from asyncclients.paging import Page, Paginator
from asyncclients.ratelimit.quota import Priority

# --- Push -----------------------------------------------------------------------------------


class PushTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how the rows of a push are sent; the attributes are arguments of `push`.

    Attributes:
        target: an operation of a client, or a coroutine function of one argument.
        row_type: struct that each row is converted to; by default the operation's.
        map: function from a row to the object to convert, or to None to skip the row; or
            a mapping from column to field.
        batch: rows per call.
        idempotent: whether a call may be sent twice.
        concurrency: maximum number of concurrent calls per step.
        share: most of every quota that the job takes, in all steps together.
        max_failed: share of failed rows, of at least 50 of the job, above which it stops.
        max_outage: seconds without a usable response after which a step raises.
    """

    target: Callable[[Any], Awaitable[Any]]
    row_type: type[Any] | None = None
    map: Map | Mapping[str, str] | None = None
    batch: int | None = None
    idempotent: bool | None = None
    concurrency: int = 64
    share: float | None = None
    max_failed: float = 0.1
    max_outage: float = 900.0

    def delivery_options(self, flow: str) -> DeliveryOptions:
        """Return how a step of *flow* delivers; `batch` is 0 for one row per call."""
        # A batch is too small to judge the share of failed rows; the job does that.
        return DeliveryOptions.of(
            self.target,
            batch=self.batch,
            idempotent=self.idempotent,
            flow=flow,
            max_failed=1.0,
        )


RowStatus = Literal["sent", "done", "failed", "unknown", "skipped"]


class RowRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one row in a shared log.

    Attributes:
        status: outcome of the row; `sent` while its response is awaited.
        line: where the row starts in the input.
        row: its content as JSON, if a person may need to see it.
        reason: why it failed or is unknown, else empty.
    """

    status: RowStatus
    line: int
    row: bytes | None = None
    reason: str = ""


class BatchStatus(NamedTuple):
    """The state of a batch when a run starts.

    Attributes:
        settled: numbers of the rows of the batch that need no further action.
        done: number of rows done in the whole job.
    """

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
    arguments.check_target(to.target)
    arguments.check_delivery(to.concurrency, to.batch, to.max_failed, to.max_outage, share=to.share)
    counter, breaker = RequestCounter(counter), breaker or CircuitBreaker(to.max_outage)
    options = to.delivery_options(flow)
    row_type = row_type_of(to.target) if to.row_type is None else to.row_type
    converter = RowConverter(row_type, to.map)
    numbers = [row.number for row in rows]
    while True:
        status = await log.begin(numbers)
        pending = deque(row for row in rows if row.number not in status.settled)
        if not pending:
            return counter.counts
        row_log = BatchRowLog(log, status.done)
        delivery = Delivery(options, converter, row_log, counter, breaker)
        size = max(1, options.batch)
        workers = min(to.concurrency, -(-len(pending) // size))
        try:
            work = [_deliver(pending, delivery, size, coerce) for _ in range(workers)]
            with call_context(Priority.BACKGROUND, flow, share=to.share):
                await run_workers(work, delivery, pending.clear)
            delivery.finish()
        except StateInUseError:
            continue  # another run of this batch is active: read the log again
        finally:
            await asyncio.shield(row_log.saved())


async def _deliver(pending: deque[Row], delivery: Delivery, size: int, coerce: bool) -> None:
    while pending:
        rows = [pending.popleft() for _ in range(min(size, len(pending)))]
        await delivery.deliver_rows(rows, coerce=coerce)


class BatchRowLog:
    """The `RowLog` of one run of one batch: writes records to *log*, one transaction at a time."""

    def __init__(self, log: SharedRowLog, done: int = 0) -> None:
        self._log = log
        self._unsaved: dict[int, RowRecord | None] = {}
        self._next: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when all of `_unsaved` is written."""
        self._current = self._next
        """Done when the transaction in progress is committed."""
        self._writing: asyncio.Task[None] | None = None
        self._owned_by_others: set[int] = set()
        self._done = done

    @property
    def done(self) -> int:
        """Number of rows done in the whole job, as far as this run knows."""
        return self._done

    async def record_intent(self, rows: Iterable[Row]) -> None:
        """Return when the log has the records `sent` for *rows*.

        Raises:
            StateInUseError: another run owns one of the rows.
        """
        rows = list(rows)
        for row in rows:
            self._put(row.number, _record(row, "sent", keep=True))
        await self.saved()
        if not self._owned_by_others.isdisjoint(row.number for row in rows):
            raise StateInUseError(
                f"line {rows[0].line} is being sent by another worker, which was presumed dead",
                advice="Nothing to do: only one of them sends each row",
            )

    def mark_pending(self, rows: Iterable[Row]) -> None:
        """Withdraw the intent: *rows* were certainly not executed."""
        for row in rows:
            self._put(row.number, None)

    def mark_done(self, rows: Sequence[Row]) -> None:
        """Record that the vendor executed *rows*."""
        self._done += len(rows)
        for row in rows:
            self._put(row.number, _record(row, "done"))

    def mark_skipped(self, rows: Sequence[Row]) -> None:
        """Record that there is nothing to send for *rows*."""
        for row in rows:
            self._put(row.number, _record(row, "skipped"))

    def mark_failed(self, row: Row, failure: BaseException) -> None:
        """Record that *row* was rejected with *failure*."""
        reason = msgspec.json.encode(describe(row, failure)).decode()
        self._put(row.number, _record(row, "failed", reason, keep=True))

    def mark_unknown(self, rows: Sequence[Row], reason: str) -> None:
        """Record that *rows* may or may not have been executed."""
        for row in rows:
            self._put(row.number, _record(row, "unknown", reason, keep=True))

    # --- Writing ------------------------------------------------------------------------

    async def saved(self) -> None:
        """Return when all records so far are in the log."""
        if self._unsaved:
            await asyncio.shield(self._next)
        elif self._writing is not None:
            await asyncio.shield(self._writing)

    def _put(self, number: int, record: RowRecord | None) -> None:
        self._unsaved[number] = record
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
            # A callback: a task that is cancelled before its first step runs no `finally`.
            self._writing.add_done_callback(self._on_end)

    async def _write(self) -> None:
        while self._unsaved:
            records, self._unsaved = self._unsaved, {}
            self._current, self._next = self._next, asyncio.get_running_loop().create_future()
            self._owned_by_others.update(await self._log.write(records))
            self._current.set_result(None)

    def _on_end(self, writing: asyncio.Task[None]) -> None:
        """Raise the error of *writing*, if any, in every task that waits for its records."""
        failure = asyncio.CancelledError() if writing.cancelled() else writing.exception()
        if failure is None:
            return
        if not isinstance(failure, Exception):
            failure = StateError(f"writing the outcomes ended with {type(failure).__name__}")
        for future in (self._current, self._next):
            if not future.done():
                future.set_exception(failure)
                future.exception()  # avoids asyncio's warning if no task waits
        self._next = writing.get_loop().create_future()


def _record(row: Row, status: RowStatus, reason: str = "", *, keep: bool = False) -> RowRecord:
    content = encode_row(row.data) if keep else None
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
    arguments.check_int("max_pages", max_pages, 1)
    arguments.check_seconds("max_outage", max_outage)
    if share is not None:
        check_quota_share(share)
    counter, breaker = RequestCounter(counter), breaker or CircuitBreaker(max_outage)
    reader = PagePrefetcher(source, 0, flow, counter, breaker)
    first = source.start if after is None else after.page + 1
    # The number of pages is known from the first page on; pages beyond it are read one by one.
    known = after.pages if after else 0
    count = max(1, min(max_pages, known - first + 1))
    stored: list[Page[Any]] = []
    digests = [after.items_digest if after else None]
    turns = [asyncio.Event() for _ in range(count + 1)]
    turns[0].set()

    async def fetch(index: int) -> None:
        page = await reader.page(first + index)
        await turns[index].wait()
        if not stored or not stored[-1].last:
            digests.append(_checked_digest(page, digests[-1]))
            await store.put(page)
            stored.append(page)
        turns[index + 1].set()

    with call_context(Priority.BACKGROUND, flow, share=share):
        await gather_or_cancel([fetch(index) for index in range(count)])
    page = stored[-1]
    if not known and page.total and page.items:
        known = -(-page.total // len(page.items))
    return PullCursor(
        page=page.number,
        last=page.last,
        pages=known,
        items_digest=digests[-1] or "",
        counts=counter.counts,
    )


def _checked_digest(page: Page[Any], before: str | None) -> str:
    """Return the digest of *page*, which must differ from the previous page's, *before*."""
    found = digest(encode_row(page.items))
    if page.items and found == before:
        raise PaginationError(
            f"page {page.number} has the same items as page {page.number - 1}",
            advice="The server repeats a page; the pages before it are stored",
        )
    return found


def plain_page(page: Page[Any]) -> Page[Any]:
    """Return *page* with its items as plain JSON objects."""
    items = [codec.to_plain(item) for item in page.items]
    return Page(items=items, number=page.number, total=page.total, last=page.last)
