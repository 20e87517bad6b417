"""Deliver rows to the vendor: send a call, classify its error, record the outcome of each row.

A batch that the vendor rejects is halved until the row that causes it is alone; the other
rows are delivered.

An error is classified by two facts: whether the operation is *idempotent*, and whether a
request *may have been sent*.

| error                                                               | outcome of the rows             |
|---------------------------------------------------------------------|---------------------------------|
| not executed: rate-limited, 408, 425, no connection, no permit      | RETRY                           |
| an error in the body of a 2xx                                       | FAILED if idempotent, else UNKNOWN |
| outcome unknown, no response, 5xx, unreadable response              | RETRY if idempotent, else UNKNOWN |
| other 4xx, or a value that the call does not accept                 | FAILED (a batch is halved first) |
| credential, TLS, redirect, closed pool: not caused by a row         | STOP: pending, and the run ends |
| 403                                                                 | see `ForbiddenRows`             |

A 500 does not prove that nothing was executed, so a row of an operation that is not
idempotent is unknown after it.
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
from functools import partial
from typing import Any, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import msgspec

from asyncclients.backfill.circuit_breaker import CallStart, CircuitBreaker, ForbiddenRows
from asyncclients.backfill.files.source import Row, UnreadableRowError
from asyncclients.backfill.report import RequestCounter
from asyncclients.backfill.rows import RowConverter, check_row
from asyncclients.core.endpoint import endpoint_of
from asyncclients.core.events import logger
from asyncclients.core.options import OutgoingRequest, call_context
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
    row_reason,
)
from asyncclients.ratelimit.quota import Priority

T = TypeVar("T")

_TRIES = 3
"""Times that a call is made while other calls succeed; the client's own retries come on top."""
_MIN_ROWS = 50
"""Minimum number of rows for `max_failed` to apply."""
GRACE = 30.0
"""Seconds that an interrupted run waits for calls on the wire."""
_CANCEL_GRACE = 5.0
"""Seconds that a cancelled call has to end; a call that ignores the cancellation is abandoned."""

PreparedRow = tuple[Row, Any]
"""A row, and the value that is sent for it."""


class RowLog(Protocol):
    """Record of what became of each row.

    A push on one machine keeps it in its state file (`JournalRowLog`); steps that any worker
    may run keep it in a shared database (`BatchRowLog`). All methods but `record_intent` are
    synchronous.
    """

    @property
    def done(self) -> int:
        """Number of rows done in the whole job, as far as this run knows."""
        ...

    def record_intent(self, rows: Iterable[Row]) -> Awaitable[None]:
        """Record that *rows* are about to be sent; done when that is durable."""
        ...

    def mark_pending(self, rows: Iterable[Row]) -> None:
        """Withdraw the intent: *rows* were certainly not executed."""
        ...

    def mark_done(self, rows: Sequence[Row]) -> None:
        """Record that the vendor executed *rows*."""
        ...

    def mark_skipped(self, rows: Sequence[Row]) -> None:
        """Record that there is nothing to send for *rows*."""
        ...

    def mark_failed(self, row: Row, failure: BaseException) -> None:
        """Record that *row* was rejected with *failure*."""
        ...

    def mark_unknown(self, rows: Sequence[Row], reason: str) -> None:
        """Record that *rows* may or may not have been executed."""
        ...


class DeliveryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the rows of a push are sent.

    Attributes:
        target: the coroutine function to call.
        batch: rows per call, passed as one list; 0 to pass one row as itself.
        is_operation: the target is an operation of a client, which calls the send hook.
        idempotent: whether a call may be sent twice; None to take it from each request.
        flow: flow of the calls in the scheduler's queue.
        max_failed: share of failed rows above which the run stops.
        is_idempotent: returns `idempotent` for the argument of a call, if it is not an
            operation and not all calls are equal.
        check: checks a converted row as a call of the target would; None for no check.
    """

    target: Callable[[Any], Awaitable[Any]]
    batch: int
    is_operation: bool
    idempotent: bool | None
    flow: str
    max_failed: float
    is_idempotent: Callable[[Any], bool] | None = None
    check: Callable[[Any], None] | None = None

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
        """Return the options for *target*; None means the default of its operation, if any."""
        endpoint = endpoint_of(target)
        if endpoint is None:
            idempotent = bool(idempotent)
        return cls(
            target=target,
            batch=(endpoint.max_batch_size if endpoint else 0) if batch is None else batch,
            is_operation=endpoint is not None,
            idempotent=idempotent,
            flow=flow,
            max_failed=max_failed,
            check=partial(check_row, target) if endpoint else None,
        )


class SendGuard:
    """Send hook that records the intent before a request that is not idempotent is sent.

    The intent is recorded when the request has its permit, not when the call is made: after a
    crash only the rows on the wire are unknown, not those that waited in the queue. One guard
    serves consecutive calls of one task.

    Args:
        log: records the intent.
        counter: counts the requests.
        idempotent: whether calls may be sent twice; None to take it from each request.
        is_stopping: returns True once nothing more may be sent.
    """

    __slots__ = (
        "_counter",
        "_default",
        "_is_stopping",
        "_log",
        "_rows",
        "_unanswered",
        "idempotent",
    )

    def __init__(
        self,
        log: RowLog,
        counter: RequestCounter,
        idempotent: bool | None,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._log, self._counter, self._default = log, counter, idempotent
        self._is_stopping = is_stopping
        self.assign(())

    def assign(self, rows: Sequence[Row]) -> None:
        """Set the rows of the next call; empty between two calls."""
        self._rows = rows
        self.idempotent = self._default
        self._unanswered = 0

    @property
    def maybe_sent(self) -> bool:
        """True if a request was sent and not rate-limited: the vendor may have executed it."""
        return self._unanswered > 0

    async def before_send(self, request: OutgoingRequest) -> None:
        """Record the intent, if *request* needs one, and count it."""
        if self._is_stopping():
            raise CancelledError
        if self.idempotent is None:
            self.idempotent = request.idempotent
        if not (self._unanswered or self.idempotent):
            await self._log.record_intent(self._rows)
        self._unanswered += 1
        self._counter.before_send(request)

    async def mark_sent(self) -> None:
        """Record the intent for a function of the user, which may send without calling this hook."""
        if not self.idempotent:
            await self._log.record_intent(self._rows)
        self._unanswered += 1

    def on_rate_limited(self) -> None:
        """Withdraw the intent if no other request of this call may have been executed."""
        self._counter.on_rate_limited()
        self._unanswered -= 1
        if not self.maybe_sent:
            self._log.mark_pending(self._rows)


@runtime_checkable
class PartialResult(Protocol):
    """Result of a batch that names the values the vendor did not acknowledge."""

    def unacknowledged(self, sent: list[Any], /) -> list[Any]:
        """Return those objects of *sent* (the same objects) that are not in the response."""
        ...


class _Failure(NamedTuple):
    """A call whose rows are still pending; *is_final*: the same call would fail again."""

    error: BaseException
    is_final: bool
    start: CallStart


class Delivery:
    """Sends rows and records their outcomes.

    Attributes:
        guards: the send guard of each task that delivers.
        stopping: nothing more may be sent.
        called: the target was called at least once.
    """

    def __init__(
        self,
        options: DeliveryOptions,
        converter: RowConverter,
        log: RowLog,
        counter: RequestCounter,
        breaker: CircuitBreaker,
    ) -> None:
        self._options, self._converter = options, converter
        self._log, self._counter, self._breaker = log, counter, breaker
        self._tried = self._failed = self._in_flight = 0  # rows
        self._forbidden: ForbiddenRows[Row] = ForbiddenRows()
        self.guards: dict[Task[Any] | None, SendGuard] = {}
        self.stopping = False
        self._has_called_function = False

    # --- Rows -------------------------------------------------------------------------

    async def deliver_rows(self, rows: Sequence[Row], *, coerce: bool) -> None:
        """Convert and send *rows*; each ends as done, failed, unknown or skipped.

        Args:
            rows: at most one batch.
            coerce: values are texts that may stand for numbers and booleans.

        Raises:
            BackfillStoppedError: too many rows failed, or the outage exceeded max_outage.
            AsyncClientsError: an error that no row caused, such as an invalid credential.
        """
        if prepared := self.prepare(rows, coerce=coerce):
            await self.deliver(prepared)

    def prepare(self, rows: Iterable[Row], *, coerce: bool) -> list[PreparedRow]:
        """Convert *rows*; return those to send. The others are failed or skipped."""
        return [pair for row in rows if (pair := self._prepare(row, coerce=coerce))]

    async def deliver(self, prepared: Sequence[PreparedRow]) -> None:
        """Send *prepared*, at most one batch of rows that are converted; see `deliver_rows`."""
        self._in_flight += len(prepared)
        try:
            await self._deliver(prepared)
        finally:
            self._in_flight -= len(prepared)

    def _prepare(self, row: Row, *, coerce: bool) -> PreparedRow | None:
        failure: Exception
        if row.error:
            self._fail(row, UnreadableRowError(row.error))
            return None
        try:
            value = self._converter.convert(row.data, coerce=coerce)
            check = self._options.check if self._options.batch else None
            if check is not None:  # so that an invalid row does not cost its batch a call
                check(value)
        except Exception as error:  # noqa: BLE001 - the user's map may raise anything
            failure = error
        else:
            if value is not None:
                return row, value
            self._log.mark_skipped([row])
            return None
        self._fail(row, failure)  # outside `except`: the error that it raises has no context
        return None

    def _fail(self, row: Row, failure: BaseException) -> None:
        self._log.mark_failed(row, failure)
        self._tried += 1
        self._failed += 1
        # Rows in flight count as good: an invalid row fails sooner than a valid one is done.
        rows = self._tried + self._in_flight
        if self._tried < _MIN_ROWS or self._failed <= self._options.max_failed * rows:
            return
        raise BackfillStoppedError(
            f"{self._failed} of {rows} rows of this run failed; "
            f"the last one, line {row.line}: {row_reason(failure)}",
            advice="See the file of failed rows and correct the input or its mapping. To continue "
            "anyway, run again with a higher max_failed=",
        )

    @property
    def may_have_sent(self) -> bool:
        """True if a request was sent, or a function of the user was called."""
        return self._has_called_function or self._counter.requests > 0

    # --- Calls ------------------------------------------------------------------------

    @contextmanager
    def tracked(self) -> Generator[None]:
        """Deliver inside the block with this task's guard as the send hook."""
        guard = self._new_guard()
        with call_context(Priority.BACKGROUND, self._options.flow, guard):
            try:
                yield
            finally:
                self.guards.pop(current_task(), None)

    def _new_guard(self) -> SendGuard:
        guard = SendGuard(self._log, self._counter, self._options.idempotent, lambda: self.stopping)
        self.guards[current_task()] = guard
        return guard

    async def _deliver(self, prepared: Sequence[PreparedRow], since: int | None = None) -> None:
        """Send *prepared* in one call, or in halves if the vendor rejects them together.

        *since* is the number of successful calls when this call first failed.
        """
        breaker, tries = self._breaker, 0
        while True:
            if breaker.is_open:
                async with breaker.guard():
                    failure = await self._call(prepared)
            else:
                failure = await self._call(prepared)
            if failure is None:
                return
            since = breaker.successes if since is None else since
            # Tries count only while other calls succeed: otherwise it is an outage.
            tries += breaker.successes > since
            if failure.is_final or tries >= _TRIES:
                break
            await breaker.backoff(tries + 1)
        if len(prepared) == 1:
            self._give_up(prepared[0][0], failure)
            return
        middle = len(prepared) // 2
        await self._deliver(prepared[:middle], since)
        await self._deliver(prepared[middle:], since)

    def _give_up(self, row: Row, failure: _Failure) -> None:
        error = failure.error
        if isinstance(error, ForbiddenError):
            self._forbidden.add(failure.start, row, error, any_done=self._log.done > 0)
        else:
            self._fail(row, error)

    def finish(self) -> None:
        """Decide about the rows that got a 403, after the last row was sent.

        Raises:
            ForbiddenError: the credential was revoked; the rows are pending.
            BackfillStoppedError: too many rows failed.
        """
        for row, error in self._forbidden.finish(any_done=self._log.done > 0):
            self._fail(row, error)

    def _on_access_proved(self, start: CallStart) -> None:
        for row, error in self._forbidden.on_success(start):
            self._fail(row, error)

    async def _call(self, prepared: Sequence[PreparedRow]) -> _Failure | None:
        """Call the target once; return None if the outcome of its rows is recorded."""
        options = self._options
        rows = [row for row, _ in prepared]
        argument = [value for _, value in prepared] if options.batch else prepared[0][1]
        guard = self.guards[current_task()] if options.is_operation else self._new_guard()
        guard.assign(rows)
        if options.is_idempotent is not None and not options.is_operation:
            guard.idempotent = options.is_idempotent(argument)
        start = self._forbidden.begin()
        try:
            if options.is_operation:
                result = await options.target(argument)
            else:
                result = await self._call_function(argument, guard)
            missing = _missing(result, prepared) if options.batch else ()
        except BaseException as error:  # the target may raise anything
            if isinstance(error, Exception) or self._is_cancelled_by_target(error):
                is_final = self._on_error(error, guard, rows)
                if is_final and proves_access(error):
                    self._on_access_proved(start)
                return None if is_final is None else _Failure(error, is_final, start)
            self._on_interruption(guard, rows)
            raise
        finally:
            guard.assign(())
        self._breaker.on_success()
        self._on_success(prepared, missing)
        self._on_access_proved(start)
        return None

    def _is_cancelled_by_target(self, error: BaseException) -> bool:
        """True if the target raised `CancelledError` although this task was not cancelled."""
        task = current_task()
        cancelled = isinstance(error, CancelledError) and not self.stopping
        return cancelled and task is not None and not task.cancelling()

    async def _call_function(self, argument: Any, guard: SendGuard) -> Any:
        """Call a function of the user.

        Each call has a guard of its own, so a task that the function leaves running cannot
        record anything for later rows.
        """
        self._has_called_function = True
        await guard.mark_sent()
        with call_context(Priority.BACKGROUND, self._options.flow, guard):
            return await self._options.target(argument)

    def _on_success(self, prepared: Sequence[PreparedRow], missing: Collection[int]) -> None:
        """Record *prepared* as done, except the values with the ids *missing*."""
        done = [row for row, value in prepared if id(value) not in missing]
        self._tried += len(done)
        self._log.mark_done(done)
        for row, value in prepared:
            if id(value) in missing:
                self._fail(row, ValueError("the vendor's response to the batch omits this row"))

    def _on_error(self, error: BaseException, guard: SendGuard, rows: Sequence[Row]) -> bool | None:
        """Return whether *error* is final for *rows*; None if their outcome is recorded."""
        outcome = classify_error(error, sent=guard.maybe_sent, idempotent=bool(guard.idempotent))
        if outcome is RowOutcome.STOP:
            if isinstance(error, ClientClosedError):
                self._on_interruption(guard, rows)
            else:
                self._log.mark_pending(rows)
            raise error
        if outcome is RowOutcome.UNKNOWN:
            self._breaker.on_failure(error)
            self._tried += len(rows)
            self._log.mark_unknown(rows, error_text(error))
            return None
        self._log.mark_pending(rows)
        if outcome is RowOutcome.FAILED:
            self._breaker.on_success()
            return True
        self._breaker.on_failure(error)
        return False

    def _on_interruption(self, guard: SendGuard, rows: Sequence[Row]) -> None:
        if guard.maybe_sent and not guard.idempotent:
            self._log.mark_unknown(rows, "the run was interrupted before the response arrived")
        else:
            self._log.mark_pending(rows)


def _missing(result: Any, prepared: Sequence[PreparedRow]) -> Collection[int]:
    """Return the ids of the values that *result* does not acknowledge."""
    if not isinstance(result, PartialResult):
        return ()
    return {id(value) for value in result.unacknowledged([value for _, value in prepared])}


# --- Errors: see the table at the top ---------------------------------------------------

_STOPS = (
    BackfillError,
    ClientClosedError,
    ConfigurationError,
    TLSError,
    UnauthorizedError,
    UnexpectedRedirectError,
    WrongEventLoopError,
)
_NOT_EXECUTED = (ConnectError, DeadlineExceededError, RateLimitedError, TokenEndpointError)
_NOT_EXECUTED_STATUSES = (408, 425)
_MAYBE_EXECUTED = (
    DecodeError,
    NoResponseError,
    OutcomeUnknownError,
    ResponseTooLargeError,
    ServerError,
)
_BAD_VALUE = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError)


class RowOutcome(Enum):
    """The meaning of an error for the rows of its call."""

    RETRY = "not executed; try again"
    UNKNOWN = "may or may not have been executed"
    FAILED = "not executed, and would fail again unchanged"
    STOP = "not caused by the rows; end the run"


def classify_error(error: BaseException, *, sent: bool, idempotent: bool) -> RowOutcome:
    """Return what *error* means for the rows of the call that raised it.

    Args:
        error: raised by the target.
        sent: whether a request may have been sent.
        idempotent: whether the call may be sent twice.
    """
    if not isinstance(error, AsyncClientsError):
        if isinstance(error, _BAD_VALUE) or not sent:
            return RowOutcome.FAILED
        return RowOutcome.RETRY if idempotent else RowOutcome.UNKNOWN
    if isinstance(error, _STOPS):
        return RowOutcome.STOP
    if isinstance(error, DecodeError) and error.is_error_body and (idempotent or not sent):
        return RowOutcome.FAILED
    if isinstance(error, _NOT_EXECUTED) or error.status in _NOT_EXECUTED_STATUSES:
        return RowOutcome.RETRY
    if isinstance(error, TokenError):
        return RowOutcome.STOP
    if isinstance(error, _MAYBE_EXECUTED):
        return RowOutcome.RETRY if idempotent or not sent else RowOutcome.UNKNOWN
    return RowOutcome.FAILED


def proves_access(error: BaseException) -> bool:
    """True if *error* is a rejection that the vendor sends only for a valid credential."""
    return isinstance(error, StatusError) and not isinstance(error, ForbiddenError)


# --- Workers ------------------------------------------------------------------------------


async def run_workers(
    work: Sequence[Coroutine[Any, Any, None]], delivery: Delivery, stop: Callable[[], None]
) -> None:
    """Run the coroutines *work*, which use *delivery*, concurrently.

    On the first error, or when cancelled, nothing more is sent, and calls on the wire have
    `GRACE` seconds to finish.

    Args:
        work: one coroutine per worker.
        delivery: sends the rows.
        stop: called to end the supply of rows.
    """
    tasks = [asyncio.create_task(_tracked(each, delivery)) for each in work]
    group = _TaskGroupEnd(tasks)
    try:
        await group.over
    finally:
        await _drain([task for task in tasks if not task.done()], delivery, stop)
        for each, task in zip(work, tasks, strict=True):
            if task.done():
                each.close()  # a task that was cancelled before its first step never awaited it
    if group.error is not None:
        raise group.error


class _TaskGroupEnd:
    """`over` is done when all tasks have ended, or the first one has failed or was cancelled.

    `asyncio.wait(return_when=FIRST_EXCEPTION)` ignores cancelled tasks.
    """

    def __init__(self, tasks: Sequence[Task[Any]]) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.error: BaseException | None = None
        self._running = len(tasks)
        for task in tasks:
            task.add_done_callback(self._on_end)

    def _on_end(self, task: Task[Any]) -> None:
        self._running -= 1
        error = CancelledError() if task.cancelled() else task.exception()
        # `_drain` cancels tasks once `over` is done: those cancellations are not errors.
        if self.error is None and not (self.over.done() and task.cancelled()):
            self.error = error
        if (error is not None or not self._running) and not self.over.done():
            self.over.set_result(None)


async def _tracked(work: Coroutine[Any, Any, None], delivery: Delivery) -> None:
    with delivery.tracked():
        await work


async def _drain(running: list[Task[None]], delivery: Delivery, stop: Callable[[], None]) -> None:
    """End the *running* tasks; those with a call on the wire may finish it."""
    if not running:
        return
    stop()
    delivery.stopping = True
    guards = delivery.guards
    for task in running:
        if task not in guards or not guards[task].maybe_sent:
            task.cancel()
    try:
        await asyncio.wait(running, timeout=GRACE)
    finally:
        for task in running:
            task.cancel()
        _, left = await asyncio.wait(running, timeout=_CANCEL_GRACE)
        if left:
            logger.warning(
                "%d calls ignore their cancellation and are abandoned; their rows are unknown",
                len(left),
            )


async def gather_or_cancel(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of *work*, run concurrently; on the first error cancel the rest."""
    tasks = [asyncio.create_task(each) for each in work]
    group = _TaskGroupEnd(tasks)
    try:
        await group.over
        if group.error is not None:
            raise group.error
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
