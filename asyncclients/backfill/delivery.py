"""Deliver rows to the vendor: send a call, classify its error, record the outcome of each row.

A batch that the vendor rejects is halved until the row that causes it is alone; the other
rows are delivered.

An error is classified by two facts: whether the operation is *idempotent*, and whether a
request *may have been sent*.

| error                                                               | status of the rows                  |
|---------------------------------------------------------------------|-------------------------------------|
| not executed: rate-limited, 408, 425, no connection, no permit      | pending                             |
| an error in the body of a 2xx                                       | failed if idempotent, else unknown  |
| outcome unknown, no response, 5xx, unreadable response              | pending if idempotent, else unknown |
| other 4xx, or a value that the call does not accept                 | failed (a batch is halved first)    |
| credential, TLS, redirect, closed pool: not caused by a row         | pending, and the run ends           |
| 403                                                                 | see `ForbiddenRows`                 |

A 500 does not prove that nothing was executed, so a row of an operation that is not
idempotent is unknown after it.
"""

from __future__ import annotations

import asyncio
import inspect
from asyncio import CancelledError, Task, current_task
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from asyncclients.arguments import (
    NaturalInt,
    PositiveInt,
    QuotaShare,
    Ratio,
    Seconds,
    check_fields,
    close_coroutine,
    is_generator,
)
from asyncclients.backfill.circuit_breaker import CircuitBreaker, ForbiddenRows
from asyncclients.backfill.files.source import Row, UnreadableRowError
from asyncclients.backfill.report import RequestCounter
from asyncclients.backfill.rows import Map, RowConverter, check_row, row_type_of
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
    row_reason,
)
from asyncclients.ratelimit.quota import Priority

_MAX_FAILURES = 3
"""Failures after which a call is given up, counted once another call has succeeded since the
first of them. The client's own retries come on top."""
_MIN_ROWS = 50
"""Minimum number of rows for `max_failed` to apply."""
GRACE = 30.0
"""Seconds that an interrupted run waits for calls on the wire."""
_CANCEL_GRACE = 5.0
"""Seconds that a cancelled call has to end; a call that ignores the cancellation is abandoned."""
_INTERRUPTED = CancelledError("the run was interrupted before the response arrived")

PreparedRow = tuple[Row, Any]
"""A row, and the value that is sent for it."""


RowStatus = Literal["pending", "sent", "done", "skipped", "failed", "unknown"]
"""The status of a row.

pending: to be sent; it was not executed, or it is idempotent and may be executed twice; sent: on
the wire, and not idempotent; done: executed; skipped: nothing to send; failed: rejected; unknown:
it may or may not have been executed.
"""


class RowLog(Protocol):
    """Record of the status of each row: in a state file, or in a database of many workers."""

    @property
    def done(self) -> int:
        """Number of rows done in the whole job, as far as this run knows."""
        ...

    def record_intent(self, rows: Sequence[Row]) -> Awaitable[None]:
        """Record that *rows* are about to be sent; done when that is durable."""
        ...

    def mark(
        self, rows: Sequence[Row], status: RowStatus, error: BaseException | None = None
    ) -> None:
        """Record the *status* of *rows*; *error* is why they failed or are unknown."""
        ...


class PushTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how rows are sent; the attributes are arguments of `push`.

    For a step of several, `concurrency` and `max_outage` are those of each step, `share` and
    `max_failed` those of the job.

    Raises:
        ConfigurationError: an attribute is invalid.
    """

    target: Callable[[Any], Awaitable[Any]]
    row_type: type[Any] | None = None
    map: Map | Mapping[str, str] | None = None
    batch: NaturalInt | None = None
    idempotent: bool | None = None
    concurrency: PositiveInt = 64
    share: QuotaShare | None = None
    max_failed: Ratio = 0.1
    max_outage: Seconds = 900.0

    def __post_init__(self) -> None:
        _check_target(self.target)
        check_fields(self)

    @property
    def batch_size(self) -> int:
        """Rows per call, passed as one list; 0 to pass one row as itself."""
        endpoint = endpoint_of(self.target)
        default = endpoint.max_batch_size if endpoint else 0
        return default if self.batch is None else self.batch

    def converter(self) -> RowConverter:
        """Return the converter from a row to the argument of the target."""
        row_type = row_type_of(self.target) if self.row_type is None else self.row_type
        return RowConverter(row_type, self.map)


def _check_target(target: Any) -> None:
    """Raise `ConfigurationError` unless *target* can be called with a row and awaited."""
    problem, advice = "", "Give an operation that takes a row, as totango.touchpoints.create"
    if hasattr(target, "__await__"):
        close_coroutine(target)
        problem, advice = f"{target!r}, not a function", "Do not call it: create, not create(...)"
    elif isinstance(target, type) or not callable(target) or is_generator(target):
        problem = f"not a coroutine function of one argument: {target!r}"
    if problem:
        raise ConfigurationError(f"the target is {problem}", advice=advice)
    try:
        inspect.signature(target).bind("a row")
    except TypeError as bad:
        raise ConfigurationError(
            f"the target cannot be called with a row alone: {bad}",
            advice="Bind its other arguments: functools.partial(intouch.contacts.update, uuid)",
        ) from None
    except ValueError:
        return  # a function in C may have no signature


class RowSendHook:
    """The send hook of one call: records the intent before a request that is not idempotent is sent.

    The intent is recorded when the request has its permit, not when the call is made: after a
    crash only the rows on the wire are unknown, not those that waited in the queue.

    Attributes:
        rows: of the call; none after it, since a function of the user may leave a task that sends.
        idempotent: whether the call may be sent twice; None until its first request shows it.
    """

    __slots__ = ("_delivery", "_maybe_executed", "idempotent", "rows")

    def __init__(self, delivery: Delivery, rows: Sequence[Row], idempotent: bool | None) -> None:
        self._delivery, self.rows, self.idempotent = delivery, rows, idempotent
        self._maybe_executed = 0  # requests sent and not rate-limited, also those with a response

    @property
    def maybe_sent(self) -> bool:
        """True if a request was sent and not rate-limited: the vendor may have executed it."""
        return self._maybe_executed > 0

    async def before_send(self, request: OutgoingRequest) -> None:
        """Record the intent, if *request* needs one, and count it."""
        if self._delivery.stopping:
            raise CancelledError
        if self.idempotent is None:
            self.idempotent = request.idempotent
        if not (self._maybe_executed or self.idempotent):
            await self._delivery.log.record_intent(self.rows)
        self._maybe_executed += 1
        self._delivery.counter.before_send(request)

    async def before_call(self) -> None:
        """Record the intent for a function of the user, which may send without calling this hook."""
        if not self.idempotent:
            await self._delivery.log.record_intent(self.rows)
        self._maybe_executed += 1

    def on_rate_limited(self) -> None:
        """Withdraw the intent if no other request of this call may have been executed."""
        self._delivery.counter.on_rate_limited()
        self._maybe_executed -= 1
        if not self.maybe_sent:
            self._delivery.log.mark(self.rows, "pending")


@runtime_checkable
class PartialResult(Protocol):
    """Result of a batch that names the values the vendor did not acknowledge."""

    def unacknowledged(self, sent: list[Any], /) -> list[Any]:
        """Return those objects of *sent* (the same objects) that are not in the response."""
        ...


class Failure(NamedTuple):
    """A call whose rows are still pending.

    *is_final*: the same call would fail again; *start*: number of the call, for `ForbiddenRows`.
    """

    error: BaseException
    is_final: bool
    start: int


class Delivery:
    """Sends rows and records their outcomes.

    Args:
        to: where and how the rows are sent.
        converter: converts them.
        log: records their outcomes.
        flow: of the calls in the scheduler's queue.
        call: called in place of the target; calls the send hook, as an operation of a client does.
        is_idempotent: returns whether a call with the given argument may be sent twice, for a
            target that is no operation; by default *to* decides.
        counter: counts the requests.
        breaker: shared by the calls.
    """

    def __init__(
        self,
        to: PushTarget,
        converter: RowConverter,
        log: RowLog,
        *,
        flow: str,
        call: Callable[[Any], Awaitable[Any]] | None = None,
        is_idempotent: Callable[[Any], bool] | None = None,
        counter: RequestCounter | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._to, self.converter, self.log, self._flow = to, converter, log, flow
        self.counter = counter or RequestCounter()
        self.breaker = breaker or CircuitBreaker(to.max_outage)
        self._call_target = call or to.target
        is_operation = endpoint_of(to.target) is not None
        self._is_users_function = call is None and not is_operation
        self.idempotent = bool(to.idempotent) if self._is_users_function else to.idempotent
        self._is_idempotent = is_idempotent
        self.batch = to.batch_size
        self._should_check_rows = is_operation and self.batch > 0
        self._tried = self._failed = self._in_flight = 0  # rows
        self._forbidden = ForbiddenRows()
        self._hooks: dict[Task[Any] | None, RowSendHook] = {}
        self.stopping = False
        self._has_called_function = False

    # --- Rows -------------------------------------------------------------------------

    async def deliver_rows(self, rows: Sequence[Row], *, coerce: bool) -> None:
        """Convert and send *rows*, at most one batch; each ends as done, failed, unknown or skipped.

        With *coerce*, values are texts that may stand for numbers and booleans.

        Raises:
            BackfillStoppedError: too many rows failed, or the outage exceeded max_outage.
            AsyncClientsError: an error that no row caused, such as an invalid credential.
        """
        prepared = [pair for row in rows if (pair := self._prepare(row, coerce=coerce))]
        if prepared:
            await self.deliver(prepared)

    async def deliver(self, prepared: Sequence[PreparedRow]) -> None:
        """Send rows that are converted; see `deliver_rows`."""
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
            value = self.converter.convert(row.data, coerce=coerce)
            if self._should_check_rows:  # so that an invalid row does not cost its batch a call
                check_row(self._to.target, value)
        except Exception as error:  # noqa: BLE001 - the user's map may raise anything
            failure = error
        else:
            if value is not None:
                return row, value
            self.log.mark([row], "skipped")
            return None
        self._fail(row, failure)  # outside `except`: the error that it raises has no context
        return None

    def _fail(self, row: Row, failure: BaseException) -> None:
        self.log.mark([row], "failed", failure)
        self._tried += 1
        self._failed += 1
        # Rows in flight count as good: an invalid row fails sooner than a valid one is done.
        rows = self._tried + self._in_flight
        if self._tried < _MIN_ROWS or self._failed <= self._to.max_failed * rows:
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
        return self._has_called_function or self.counter.requests > 0

    # --- Calls ------------------------------------------------------------------------

    async def _deliver(
        self, prepared: Sequence[PreparedRow], successes_before: int | None = None
    ) -> None:
        """Send *prepared* in one call, or in halves if the vendor rejects them together.

        *successes_before* is the number of successful calls when this call first failed.
        """
        breaker, failures = self.breaker, 0
        while True:
            async with breaker.guard():
                failure = await self._call(prepared)
            if failure is None:
                return
            if successes_before is None:
                successes_before = breaker.successes
            # Failures before another call succeeds may be those of an outage: they do not count.
            failures += breaker.successes > successes_before
            if failure.is_final or failures >= _MAX_FAILURES:
                break
            await breaker.backoff(failures + 1)
        if len(prepared) == 1:
            self._give_up(prepared[0][0], failure)
            return
        middle = len(prepared) // 2
        await self._deliver(prepared[:middle], successes_before)
        await self._deliver(prepared[middle:], successes_before)

    def _give_up(self, row: Row, failure: Failure) -> None:
        error = failure.error
        if isinstance(error, ForbiddenError):
            self._forbidden.add(failure.start, row, error, any_done=self.log.done > 0)
        else:
            self._fail(row, error)

    def settle_forbidden_rows(self) -> None:
        """Decide about the rows that got a 403, after the last row was sent.

        Raises:
            ForbiddenError: the credential was revoked; the rows are pending.
            BackfillStoppedError: too many rows failed.
        """
        for row, error in self._forbidden.on_end(any_done=self.log.done > 0):
            self._fail(row, error)

    def _on_access_proved(self, start: int) -> None:
        for row, error in self._forbidden.on_success(start):
            self._fail(row, error)

    async def _call(self, prepared: Sequence[PreparedRow]) -> Failure | None:
        """Call the target once; return None if the outcome of its rows is recorded."""
        argument = [value for _, value in prepared] if self.batch else prepared[0][1]
        idempotent = self.idempotent
        if self._is_idempotent is not None and self._is_users_function:
            idempotent = self._is_idempotent(argument)
        task, hook = current_task(), RowSendHook(self, [row for row, _ in prepared], idempotent)
        self._hooks[task] = hook
        start = self._forbidden.begin()
        try:
            if self._is_users_function:
                self._has_called_function = True
                await hook.before_call()
            with call_context(Priority.BACKGROUND, self._flow, hook):
                result = await self._call_target(argument)
            missing = _missing(result, prepared) if self.batch else ()
        except BaseException as error:  # the target may raise anything
            if isinstance(error, Exception) or self._is_cancelled_by_target(error):
                return self._on_error(error, hook, start)
            self._on_interruption(hook)
            raise
        finally:
            hook.rows = ()
            del self._hooks[task]
        self.breaker.on_success()
        self._on_success(prepared, missing)
        self._on_access_proved(start)
        return None

    def _is_cancelled_by_target(self, error: BaseException) -> bool:
        """True if the target raised `CancelledError` although this task was not cancelled."""
        task = current_task()
        cancelled = isinstance(error, CancelledError) and not self.stopping
        return cancelled and task is not None and not task.cancelling()

    def _on_success(self, prepared: Sequence[PreparedRow], missing: Collection[int]) -> None:
        """Record *prepared* as done, except those whose value has its `id()` in *missing*."""
        done = [row for row, value in prepared if id(value) not in missing]
        self._tried += len(done)
        self.log.mark(done, "done")
        for row, value in prepared:
            if id(value) in missing:
                self._fail(row, ValueError("the vendor's response to the batch omits this row"))

    def _on_error(self, error: BaseException, hook: RowSendHook, start: int) -> Failure | None:
        """Return the failure of the call that raised *error*; None if its rows are unknown.

        Raises:
            AsyncClientsError: *error*, if no row caused it.
        """
        rows, idempotent = hook.rows, bool(hook.idempotent)
        status = classify_error(error, maybe_sent=hook.maybe_sent, idempotent=idempotent)
        if status is None:
            if isinstance(error, ClientClosedError):
                self._on_interruption(hook)
            else:
                self.log.mark(rows, "pending")
            raise error
        if status == "unknown":
            self.breaker.on_failure(error)
            self._tried += len(rows)
            self.log.mark(rows, "unknown", error)
            return None
        self.log.mark(rows, "pending")
        is_final = status == "failed"
        if is_final:
            self.breaker.on_success()
        else:
            self.breaker.on_failure(error)
        if is_final and isinstance(error, StatusError) and not isinstance(error, ForbiddenError):
            # A rejection of the row shows that the credential was accepted.
            self._on_access_proved(start)
        return Failure(error, is_final, start)

    def _on_interruption(self, hook: RowSendHook) -> None:
        if hook.maybe_sent and not hook.idempotent:
            self.log.mark(hook.rows, "unknown", _INTERRUPTED)
        else:
            self.log.mark(hook.rows, "pending")

    # --- Workers ----------------------------------------------------------------------

    async def run(
        self, work: Callable[[], Coroutine[Any, Any, None]], stop: Callable[[], None]
    ) -> None:
        """Run `concurrency` workers, each the coroutine of *work*, which ends when no row is left.

        On the first error, or when cancelled, *stop* ends the supply of rows, nothing more is sent,
        and calls on the wire have `GRACE` seconds to finish.
        """
        ended: asyncio.Queue[BaseException | None] = asyncio.Queue()
        with call_context(Priority.BACKGROUND, self._flow, self.counter):  # a source may send too
            tasks = [asyncio.create_task(work()) for _ in range(self._to.concurrency)]
        for task in tasks:
            task.add_done_callback(lambda task: ended.put_nowait(_error_of(task)))
        error: BaseException | None = None
        try:
            for _ in tasks:
                if (error := await ended.get()) is not None:
                    break
        finally:
            await self._drain([task for task in tasks if not task.done()], stop)
        if error is not None:
            raise error

    async def _drain(self, running: list[Task[None]], stop: Callable[[], None]) -> None:
        """End the *running* tasks; those with a call on the wire may finish it."""
        if not running:
            return
        stop()
        self.stopping = True
        for task in running:
            if task not in self._hooks or not self._hooks[task].maybe_sent:
                task.cancel()
        try:
            await asyncio.wait(running, timeout=GRACE)
        finally:
            for task in running:
                task.cancel()
            _, left = await asyncio.wait(running, timeout=_CANCEL_GRACE)
            if left:
                logger.warning(
                    "%s: %d calls ignore their cancellation and are abandoned; the next run sends "
                    "their rows again if they are idempotent, and lists the others as unknown",
                    self._flow,
                    len(left),
                )


def _error_of(task: Task[Any]) -> BaseException | None:
    """Return the error with which *task* has ended, a cancellation included."""
    return CancelledError() if task.cancelled() else task.exception()


def _missing(result: Any, prepared: Sequence[PreparedRow]) -> Collection[int]:
    """Return the `id()` of each value that *result* does not acknowledge."""
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


def classify_error(error: BaseException, *, maybe_sent: bool, idempotent: bool) -> RowStatus | None:
    """Return what *error* means for the rows of the call that raised it: pending, failed or unknown.

    None if no row caused it: the run ends. *maybe_sent*: a request may have been sent; *idempotent*:
    the call may be sent twice.
    """
    if not isinstance(error, AsyncClientsError):
        if isinstance(error, _BAD_VALUE) or not maybe_sent:
            return "failed"
        return "pending" if idempotent else "unknown"
    if isinstance(error, _STOPS):
        return None
    if isinstance(error, DecodeError) and error.is_error_body and (idempotent or not maybe_sent):
        return "failed"
    if isinstance(error, _NOT_EXECUTED) or error.status in _NOT_EXECUTED_STATUSES:
        return "pending"
    if isinstance(error, TokenError):
        return None
    if isinstance(error, _MAYBE_EXECUTED):
        return "pending" if idempotent or not maybe_sent else "unknown"
    return "failed"
