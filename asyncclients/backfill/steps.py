"""Backfills cut into steps, for any engine that runs coroutines durably.

A step is a plain coroutine: rows in, counts out, safe to run again at any time
and on any machine, because what it must remember lies in a `Book` or a `Shelf`
that the workers share, not in the engine. The engine decides when and where.

A step is a batch of rows or pages, never a single request: a durable step costs
milliseconds, and the end of a batch waits for its last answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from asyncclients.backfill import arguments
from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.delivery import Delivery, DeliveryOptions, gathered, run_workers
from asyncclients.backfill.encoding import digest, encode_row
from asyncclients.backfill.files.source import Row
from asyncclients.backfill.prefetch import PagePrefetcher
from asyncclients.backfill.report import RequestCounter, RequestCounts
from asyncclients.backfill.rows import Map, RowConverter, row_type_of
from asyncclients.backfill.state.dead_letters import describe
from asyncclients.core import codec
from asyncclients.errors import PaginationError, StateError, StateInUseError
from asyncclients.paging import Page, Paginator


class PushTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where the rows of a push go; each attribute is the argument of `push` by that name.

    Attributes:
        target: the operation, or a coroutine function of one argument.
        row_type: struct that each row is converted to; by default the operation's.
        map: makes of a row what is converted; None skips it. Or a mapping from column to field.
        batch: rows a call.
        idempotent: whether a call may be repeated.
        concurrency: calls under way at the same time, in each step.
        max_failed: share of failed rows, of at least 50 of the job, above which it stops.
        max_outage: seconds without any usable answer after which a step raises.
    """

    target: Callable[[Any], Awaitable[Any]]
    row_type: type[Any] | None = None
    map: Map | Mapping[str, str] | None = None
    batch: int | None = None
    idempotent: bool | None = None
    concurrency: int = 64
    max_failed: float = 0.1
    max_outage: float = 900.0


async def push_step(
    rows: Sequence[Row], to: PushTarget, book: SharedRowLog, *, flow: str, lax: bool = False
) -> RequestCounts:
    """Deliver those of *rows* that *book* does not hold as settled, each to its end.

    Args:
        rows: one batch of the job, numbered uniquely in it.
        to: where they go.
        book: opened for this run; a run that is repeated opens it anew.
        flow: the job: its calls share one turn in the queue with each other flow.
        lax: values are texts that may mean numbers, as in CSV.

    Raises:
        BackfillStoppedError: the vendor stayed away for longer than max_outage.
        AsyncClientsError: what no row can be blamed for, as a refused credential.

    When cancelled, it sends nothing more, waits up to 30 s for the answers to what
    is on the wire, and notes them.
    """
    arguments.check_target(to.target)
    arguments.check_delivery(to.concurrency, to.batch, to.max_failed, to.max_outage)
    meter, outage = RequestCounter(), CircuitBreaker(to.max_outage)
    # A batch is too small to judge by; the share of failed rows is the job's to watch.
    terms = DeliveryOptions.of(
        to.target, batch=to.batch, idempotent=to.idempotent, flow=flow, max_failed=1.0
    )
    row_type = row_type_of(to.target) if to.row_type is None else to.row_type
    shape = RowConverter(row_type, to.map)
    numbers = [row.number for row in rows]
    while True:
        standing = await book.begin(numbers)
        left = deque(row for row in rows if row.number not in standing.settled)
        if not left:
            return meter.counts
        records = BatchRowLog(book, standing.done)
        delivery = Delivery(terms, shape, records, meter, outage)
        most = max(1, terms.batch)
        workers = min(to.concurrency, -(-len(left) // most))
        try:
            work = [_deliver(left, delivery, most, lax) for _ in range(workers)]
            await run_workers(work, delivery, left.clear)
            delivery.end()
        except StateInUseError:
            continue  # another run of this batch is alive: look again at what is left
        finally:
            await asyncio.shield(records.saved())


async def _deliver(left: deque[Row], delivery: Delivery, most: int, lax: bool) -> None:
    while left:
        await delivery.rows([left.popleft() for _ in range(min(most, len(left)))], lax=lax)


class PageStore(Protocol):
    """Where the pages of one pull are kept until they become a file."""

    async def put(self, page: Page[Any]) -> None:
        """Keep *page*; one with the same number is replaced."""
        ...


class PullCursor(msgspec.Struct, frozen=True, kw_only=True):
    """How far a pull has come.

    Attributes:
        page: the last one on the shelf.
        last: there are no more.
        pages: how many there are, as far as the vendor tells; 0 where it does not.
        items: digest of that page's items, to tell one that comes again.
        tally: what the step put on the wire.
    """

    page: int
    last: bool
    pages: int
    items: str
    tally: RequestCounts


async def pull_step(
    source: Paginator[Any],
    shelf: PageStore,
    *,
    after: PullCursor | None,
    flow: str,
    most: int = 10,
    max_outage: float = 900.0,
) -> PullCursor:
    """Put the next pages of *source* on *shelf*, at most *most*, at the same time where it can.

    Args:
        source: the list, sorted by what does not change.
        shelf: where they go.
        after: what the step before returned; None for the first.
        flow: the job, as for a push.
        most: pages of one step.
        max_outage: seconds without any usable answer after which it raises.

    Raises:
        BackfillStoppedError: the vendor stayed away.
        AsyncClientsError: what the vendor answered to a page.
    """
    arguments.check_whole("most", most, 1)
    arguments.check_seconds("max_outage", max_outage)
    meter, outage = RequestCounter(), CircuitBreaker(max_outage)
    reader = PagePrefetcher(source, 0, flow, meter, outage)
    first = source.start if after is None else after.page + 1
    # How many there are is known from the first page on; beyond that, one by one.
    known = after.pages if after else 0
    count = max(1, min(most, known - first + 1))
    pages = await gathered([reader.page(first + index) for index in range(count)])
    page, before = pages[0], after.items if after else None
    for page in pages:
        before = _checked(page, before)
        await shelf.put(page)
        if page.last:
            break
    if not known and page.total and page.items:
        known = -(-page.total // len(page.items))
    return PullCursor(
        page=page.number, last=page.last, pages=known, items=before or "", tally=meter.counts
    )


def _checked(page: Page[Any], before: str | None) -> str:
    """The digest of *page*; it must not have the items of the page *before* it."""
    found = digest(encode_row(page.items))
    if page.items and found == before:
        raise PaginationError(
            f"page {page.number} has the same items as page {page.number - 1}",
            advice="The server repeats a page; what came before is saved",
        )
    return found


def plain(page: Page[Any]) -> Page[Any]:
    """*page* with its items as plain JSON objects, as a file holds them."""
    items = [codec.to_plain(item) for item in page.items]
    return Page(items=items, number=page.number, total=page.total, last=page.last)


# A batch of rows that any worker may deliver, and take over from one that died.
#
# The records of all workers lie in one *book*, a table in a database they share.
# Each run of a batch has a name of its own, and the rules are four:
#
# * A row that must not be repeated leaves only after an entry `sent` with the
#   run's name is in the book. There is one entry a row: who writes it first has
#   the row, and a second runner is refused, before anything has left. So two
#   runs of one batch, when a slow worker was taken for dead, never send a row twice.
# * A run that begins reads what is there. Entries `sent` of other runs become
#   `unknown`: those were on the wire when their worker was last heard of. Settled
#   rows are left alone; the others are this run's to send.
# * A worker that was taken for dead and was not may still settle the rows it has:
#   its own entries stay its own, so an unknown row of a slow worker becomes done.
# * Outcomes are written as they come, many in one transaction. A crash between an
#   answer and its entry leaves the row `unknown`, never sent again.
#
# Hence the promises of the single-machine journal: rows of operations that may be
# repeated arrive at least once and are the same after a second time; all others
# arrive once, or are listed as unknown.

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
