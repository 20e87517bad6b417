"""Delivering rows: one call, its verdict, and what follows from it.

A batch that is refused is halved until the row that poisons it stands alone;
the others are delivered.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError, Task, current_task
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterable,
    Sequence,
)
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import msgspec

from asyncclients.backfill.circuit_breaker import Attempt, CircuitBreaker, ForbiddenRows
from asyncclients.backfill.files.source import Row
from asyncclients.backfill.report import RequestCounter
from asyncclients.backfill.rows import RowConverter
from asyncclients.core.endpoint import OutgoingRequest, call_context, endpoint_of
from asyncclients.core.events import logger
from asyncclients.errors import (
    AsyncClientsError,
    BackfillError,
    BackfillStoppedError,
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    DeadlineExceededError,
    DecodeError,
    ForbiddenError,
    NoResponseError,
    OutcomeUnknownError,
    RateLimitedError,
    ResponseTooLargeError,
    ServerError,
    StatusError,
    TLSError,
    TokenEndpointError,
    TokenError,
    UnauthorizedError,
    UnexpectedRedirectError,
    WrongEventLoopError,
    error_text,
)
from asyncclients.ratelimit.quota import Priority

_TRIES = 3
"""Tries of one call, each as often as the client repeats it, while other calls succeed."""

_JUDGED_FROM = 50
"""Rows after which the share of failed ones is looked at."""

PreparedRow = tuple[Row, Any]
"""A row, and what is sent for it."""


class DeliveryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a push delivers.

    Attributes:
        target: the coroutine function that is called.
        batch: rows a call, as one list; 0 for one row a call, as itself.
        announces: its requests tell when they leave, as those of our clients do.
        idempotent: whether a call may be repeated; None to learn it from its request.
        flow: whose turn the calls take.
        max_failed: share of failed rows above which the run stops.
    """

    target: Callable[[Any], Awaitable[Any]]
    batch: int
    announces: bool
    idempotent: bool | None
    flow: str
    max_failed: float

    @classmethod
    def of(
        cls,
        target: Callable[[Any], Awaitable[Any]],
        *,
        batch: int | None,
        idempotent: bool | None,
        flow: str,
        max_failed: float,
    ) -> Self:
        """Terms for *target*; None for what its operation says, if it is one of a client."""
        endpoint = endpoint_of(target)
        own = False if idempotent is None else idempotent
        return cls(
            target=target,
            batch=(endpoint.max_batch_size if endpoint else 0) if batch is None else batch,
            announces=endpoint is not None,
            idempotent=idempotent if endpoint is not None else own,
            flow=flow,
            max_failed=max_failed,
        )


class SendGuard:
    """The `Watch` of one call after another.

    A request that must not be repeated leaves only after it is on the disk that
    it does. That is asked for when its turn has come, so that after a crash only
    what was really on the wire is unknown, and not all that stood in the queue.

    Args:
        told: whether calls may be repeated, None to learn it from each request.
        stopping: whether the run is to send nothing more.
    """

    __slots__ = ("_ledger", "_meter", "_out", "_rows", "_stopping", "_told", "idempotent")

    def __init__(
        self, ledger: RowLog, meter: RequestCounter, told: bool | None, stopping: Callable[[], bool]
    ) -> None:
        self._ledger, self._meter, self._told = ledger, meter, told
        self._stopping = stopping
        self.assign(())

    def assign(self, rows: Sequence[Row]) -> None:
        """The next call has *rows*; none between two calls."""
        self._rows = rows
        self.idempotent = self._told
        self._out = 0

    @property
    def sent(self) -> bool:
        """A request has left that was not refused by rate: it may have been carried out."""
        return self._out > 0

    async def before_send(self, request: OutgoingRequest) -> None:
        """Note that *request* goes out now; only then return."""
        if self._stopping():
            raise CancelledError
        if self.idempotent is None:
            self.idempotent = request.idempotent
        if not (self._out or self.idempotent):
            await self._ledger.record_intent(self._rows)
        self._out += 1
        self._meter.before_send(request)

    async def drop(self) -> None:
        """The rows go out now, nobody tells how."""
        if not self.idempotent:
            await self._ledger.record_intent(self._rows)
        self._out += 1

    def on_rate_limited(self) -> None:
        """The last request was refused by rate."""
        self._meter.on_rate_limited()
        self._out -= 1
        if not self.sent:
            self._ledger.mark_pending(self._rows)


@runtime_checkable
class PartialResult(Protocol):
    """The answer to a batch that can tell which rows it leaves out."""

    def unacknowledged(self, sent: list[Any], /) -> list[Any]:
        """Those of *sent*, the very objects, that were not answered for."""
        ...


class _Retry(NamedTuple):
    """A call whose rows are still to do; *refused*: not as they are."""

    error: BaseException
    refused: bool
    attempt: Attempt


class Delivery:
    """Brings rows to the vendor and notes in the ledger what became of them."""

    def __init__(
        self,
        terms: DeliveryOptions,
        shape: RowConverter,
        ledger: RowLog,
        meter: RequestCounter,
        outage: CircuitBreaker,
    ) -> None:
        self._terms, self._shape = terms, shape
        self._ledger, self._meter, self._outage = ledger, meter, outage
        self._tried = self._failed = 0
        self._forbidden: ForbiddenRows[Row] = ForbiddenRows()
        self.flights: dict[Task[Any] | None, SendGuard] = {}
        self.stopping = False
        self.called = False

    # --- Rows -------------------------------------------------------------------------

    async def rows(self, rows: Sequence[Row], *, lax: bool) -> None:
        """Deliver *rows*, each to its end: done, failed, unknown or skipped.

        Raises:
            BackfillStoppedError: too many rows fail, or the vendor stays away.
            AsyncClientsError: no row can be delivered, for a reason that is not in the rows.
        """
        parcels = [parcel for row in rows if (parcel := self._parcel(row, lax=lax))]
        if parcels:
            await self.parcels(parcels)

    def _parcel(self, row: Row, *, lax: bool) -> PreparedRow | None:
        failure: Exception
        if row.error:
            self._fail(row, ValueError(row.error))
            return None
        try:
            value = self._shape.convert(row.data, lax=lax)
        except Exception as bad:  # noqa: BLE001 - the user's map may raise anything
            failure = bad
        else:
            if value is not None:
                return row, value
            self._ledger.mark_skipped([row])
            return None
        self._fail(row, failure)
        return None

    def _fail(self, row: Row, failure: BaseException) -> None:
        self._ledger.mark_failed(row, failure)
        self._tried += 1
        self._failed += 1
        if self._tried < _JUDGED_FROM or self._failed <= self._terms.max_failed * self._tried:
            return
        raise BackfillStoppedError(
            f"{self._failed} of {self._tried} rows of this run failed; "
            f"the last one, line {row.line}: {error_text(failure)}",
            advice="See the file of failed rows; correct the input or its mapping. To go on all "
            "the same, run again with a higher max_failed=",
        )

    # --- Calls ------------------------------------------------------------------------

    @contextmanager
    def tracked(self) -> Generator[None]:
        """Deliver inside the block, one call after another."""
        flight = self._flight()
        with call_context(Priority.BACKGROUND, self._terms.flow, flight):
            try:
                yield
            finally:
                self.flights.pop(current_task(), None)

    def _flight(self) -> SendGuard:
        repeatable = self._terms.idempotent
        flight = SendGuard(self._ledger, self._meter, repeatable, self._is_stopping)
        self.flights[current_task()] = flight
        return flight

    async def parcels(self, parcels: Sequence[PreparedRow], since: int | None = None) -> None:
        """Deliver *parcels* in one call, or in parts where the vendor refuses them together.

        *since* is how many calls had succeeded when it was first refused.
        """
        outage, tries = self._outage, 0
        while True:
            if outage.is_open:
                async with outage.guard():
                    trouble = await self._call(parcels)
            else:
                trouble = await self._call(parcels)
            if trouble is None:
                return
            since = outage.successes if since is None else since
            # A call that fails again and again while others succeed is itself the reason.
            tries += outage.successes > since
            if trouble.refused or tries >= _TRIES:
                break
            await outage.backoff(tries + 1)
        if len(parcels) == 1:
            self._give_up(parcels[0][0], trouble)
            return
        middle = len(parcels) // 2
        await self.parcels(parcels[:middle], since)
        await self.parcels(parcels[middle:], since)

    def _give_up(self, row: Row, trouble: _Retry) -> None:
        error = trouble.error
        if isinstance(error, ForbiddenError):
            self._forbidden.add(trouble.attempt, row, error, done=self._ledger.done > 0)
        else:
            self._fail(row, error)

    def end(self) -> None:
        """Every row was sent: decide about those that were answered 403.

        Raises:
            ForbiddenError: the credential was revoked; they are pending.
            BackfillStoppedError: too many rows failed.
        """
        for row, error in self._forbidden.ended(done=self._ledger.done > 0):
            self._fail(row, error)

    def _succeeded(self, attempt: Attempt) -> None:
        for row, error in self._forbidden.succeeded(attempt):
            self._fail(row, error)

    async def _call(self, parcels: Sequence[PreparedRow]) -> _Retry | None:
        """Call the target once; None where its rows are settled now."""
        terms = self._terms
        rows = [row for row, _ in parcels]
        argument = [value for _, value in parcels] if terms.batch else parcels[0][1]
        flight = self.flights[current_task()] if terms.announces else self._flight()
        flight.assign(rows)
        self.called, attempt = True, self._forbidden.begin()
        try:
            if terms.announces:
                result = await terms.target(argument)
            else:
                result = await self._call_unannounced(argument, flight)
            missing = _missing(result, parcels) if terms.batch else ()
        except BaseException as error:  # the target may raise anything
            if isinstance(error, Exception) or self._is_foreign_cancellation(error):
                refused = self._judge(error, flight, rows)
                if refused and proves_access(error):
                    self._succeeded(attempt)
                return None if refused is None else _Retry(error, refused, attempt)
            self._settle_interrupted(flight, rows)
            raise
        finally:
            flight.assign(())
        self._outage.on_success()
        self._settle(parcels, missing)
        self._succeeded(attempt)
        return None

    def _is_foreign_cancellation(self, error: BaseException) -> bool:
        """True if the target was cancelled from inside, not with this task: its call has failed."""
        task = current_task()
        cancelled = isinstance(error, CancelledError) and not self.stopping
        return cancelled and task is not None and not task.cancelling()

    async def _call_unannounced(self, argument: Any, flight: SendGuard) -> Any:
        """Call the user's own function. What it leaves running does not speak for later rows."""
        await flight.drop()
        with call_context(Priority.BACKGROUND, self._terms.flow, flight):
            return await self._terms.target(argument)

    def _settle(self, parcels: Sequence[PreparedRow], missing: Collection[int]) -> None:
        """Note that *parcels* were carried out, except those whose values have the ids *missing*."""
        done = [row for row, value in parcels if id(value) not in missing]
        self._tried += len(done)
        self._ledger.mark_done(done)
        for row, value in parcels:
            if id(value) in missing:
                self._fail(row, ValueError("the vendor answered for its batch and not for it"))

    def _judge(self, error: BaseException, flight: SendGuard, rows: Sequence[Row]) -> bool | None:
        """Whether *rows* are refused as they are; None where they are settled now."""
        verdict = classify_error(error, sent=flight.sent, idempotent=bool(flight.idempotent))
        if verdict is RowOutcome.STOP:
            if isinstance(error, ClientClosedError):
                self._settle_interrupted(flight, rows)
            self._ledger.mark_pending(rows)
            raise error
        if verdict is RowOutcome.UNKNOWN:
            self._outage.on_failure(error)
            self._tried += len(rows)
            self._ledger.mark_unknown(rows, error_text(error))
            return None
        self._ledger.mark_pending(rows)
        if verdict is RowOutcome.REFUSED:
            self._outage.on_success()
        else:
            self._outage.on_failure(error)
        return verdict is RowOutcome.REFUSED

    def _settle_interrupted(self, flight: SendGuard, rows: Sequence[Row]) -> None:
        if flight.sent and not flight.idempotent:
            self._ledger.mark_unknown(rows, "the run was interrupted before its answer came")
        else:
            self._ledger.mark_pending(rows)

    def _is_stopping(self) -> bool:
        return self.stopping


def _missing(result: Any, parcels: Sequence[PreparedRow]) -> Collection[int]:
    """The ids of the values that *result* leaves out."""
    if not isinstance(result, PartialResult):
        return ()
    return {id(value) for value in result.unacknowledged([value for _, value in parcels])}


# What a call's error means for the rows in it. One table, two facts.
#
# *repeatable*: may the operation be repeated? *sent*: may a request have left?
#
# | error                                                       | rows are                        |
# |-------------------------------------------------------------|---------------------------------|
# | not carried out: rate limited, 408, 425, no connection, no turn | tried again                 |
# | an error in the body of a 2xx                               | failed if repeatable, else unknown |
# | outcome unknown, no answer, 5xx, an answer nobody can read  | tried again if repeatable, else unknown |
# | the vendor's no (4xx), or a value that the call refuses     | failed (a batch is halved first) |
# | no row's fault: credential, TLS, redirect, closed pool      | pending, and the run stops      |
# | 403                                                         | see `outage.ForbiddenRows`      |
#
# A 500 says that the vendor failed, not how far it got: a row that must not be
# repeated is unknown after it.

_STOPS = (
    BackfillError,
    ClientClosedError,
    ConfigurationError,
    TLSError,
    UnauthorizedError,
    UnexpectedRedirectError,
    WrongEventLoopError,
)
_NOT_CARRIED_OUT = (ConnectError, DeadlineExceededError, RateLimitedError, TokenEndpointError)
_NOT_CARRIED_OUT_STATUSES = (408, 425)
_DOUBTFUL = (
    DecodeError,
    NoResponseError,
    OutcomeUnknownError,
    ResponseTooLargeError,
    ServerError,
)
_BAD_VALUE = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError)


class RowOutcome(Enum):
    """What becomes of the rows of a call that raised."""

    AGAIN = "not done; try again"
    UNKNOWN = "may or may not be done"
    REFUSED = "not done, and never will be as they are"
    STOP = "not their fault; stop"


def classify_error(error: BaseException, *, sent: bool, idempotent: bool) -> RowOutcome:
    """What *error* means for the rows of the call that raised it."""
    if not isinstance(error, AsyncClientsError):
        if isinstance(error, _BAD_VALUE) or not sent:
            return RowOutcome.REFUSED
        return RowOutcome.AGAIN if idempotent else RowOutcome.UNKNOWN
    if isinstance(error, _STOPS):
        return RowOutcome.STOP
    if isinstance(error, DecodeError) and error.is_error_body and (idempotent or not sent):
        return RowOutcome.REFUSED
    if isinstance(error, _NOT_CARRIED_OUT) or error.status in _NOT_CARRIED_OUT_STATUSES:
        return RowOutcome.AGAIN
    if isinstance(error, TokenError):
        return RowOutcome.STOP
    if isinstance(error, _DOUBTFUL):
        return RowOutcome.AGAIN if idempotent or not sent else RowOutcome.UNKNOWN
    return RowOutcome.REFUSED


def proves_access(error: BaseException) -> bool:
    """True if the vendor's no to a row, *error*, shows that the credential is valid."""
    return isinstance(error, StatusError) and not isinstance(error, ForbiddenError)


# What has become of rows, as those who deliver them note it.
#
# One run on one machine notes in its state file (`ledger`); a batch that any
# worker may take over notes in a book that all of them share (`batch`).


class RowLog(Protocol):
    """Where delivery notes what happens. All but `sending` is done at once."""

    @property
    def done(self) -> int:
        """Rows carried out, as far as this run knows."""
        ...

    def record_intent(self, rows: Iterable[Row]) -> Awaitable[None]:
        """Done when it is kept for good that *rows* go out now."""
        ...

    def mark_pending(self, rows: Iterable[Row]) -> None:
        """*rows* were certainly not carried out; they are pending again."""
        ...

    def mark_done(self, rows: Sequence[Row]) -> None:
        """*rows* were carried out."""
        ...

    def mark_skipped(self, rows: Sequence[Row]) -> None:
        """There is nothing to send for *rows*."""
        ...

    def mark_failed(self, row: Row, failure: BaseException) -> None:
        """*row* was refused."""
        ...

    def mark_unknown(self, rows: Sequence[Row], reason: str) -> None:
        """*rows* may or may not have been carried out."""
        ...


# Many deliveries at the same time, and how they end together.
#
# On the first error, or when cancelled, nothing more is sent; calls that are on
# the wire may finish, within a grace.

T = TypeVar("T")

GRACE = 30.0
"""Seconds that an interrupted run gives calls on the wire to end."""
_CANCEL_GRACE = 5.0
"""Seconds that a cancelled call has to end: one that ignores its cancellation is left behind."""


async def run_workers(
    work: Sequence[Coroutine[Any, Any, None]], delivery: Delivery, stop: Callable[[], None]
) -> None:
    """Do all of *work*, which calls *delivery*; *stop* ends the rows that it is fed."""
    tasks = [asyncio.create_task(_tracked(each, delivery)) for each in work]
    ended = _Ended(tasks)
    try:
        await ended.over
    finally:
        await _drain([task for task in tasks if not task.done()], delivery, stop)
        for each, task in zip(work, tasks, strict=True):
            if task.done():
                each.close()  # one that was cancelled before it began
    if ended.error is not None:
        raise ended.error


class _Ended:
    """How *tasks* end: *over* is done when all have, or the first one raised or was cancelled.

    `asyncio.wait(return_when=FIRST_EXCEPTION)` does not count a task that is cancelled.
    """

    def __init__(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.error: BaseException | None = None
        self._left = len(tasks)
        for task in tasks:
            task.add_done_callback(self._note)

    def _note(self, task: asyncio.Task[Any]) -> None:
        self._left -= 1
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        # A cancellation that comes from landing is no reason to end.
        if self.error is None and not (self.over.done() and task.cancelled()):
            self.error = error
        if (error is not None or not self._left) and not self.over.done():
            self.over.set_result(None)


async def _tracked(work: Coroutine[Any, Any, None], delivery: Delivery) -> None:
    with delivery.tracked():
        await work


async def _drain(
    running: list[asyncio.Task[None]], delivery: Delivery, stop: Callable[[], None]
) -> None:
    """End the *running* tasks: those with a call on the wire may finish it."""
    if not running:
        return
    stop()
    delivery.stopping = True
    flights = delivery.flights
    for task in running:
        if task not in flights or not flights[task].sent:
            task.cancel()
    try:
        await asyncio.wait(running, timeout=GRACE)
    finally:
        for task in running:
            task.cancel()
        _, left = await asyncio.wait(running, timeout=_CANCEL_GRACE)
        if left:
            logger.warning(
                "%d calls ignore their cancellation and are left behind; their rows are unknown",
                len(left),
            )


async def gathered(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of *work*, done at the same time; on the first error the rest ends."""
    tasks = [asyncio.create_task(each) for each in work]
    ended = _Ended(tasks)
    try:
        await ended.over
        if ended.error is not None:
            raise ended.error
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
