"""Delivering rows: one call, its verdict, and what follows from it.

A batch that is refused is halved until the row that poisons it stands alone;
the others are delivered.
"""

from __future__ import annotations

from asyncio import CancelledError, Task, current_task
from collections.abc import Awaitable, Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import msgspec

from asyncclients.backfill.circuit_breaker import Attempt, CircuitBreaker, ForbiddenRows
from asyncclients.backfill.request_counter import RequestCounter
from asyncclients.backfill.row_log import RowLog
from asyncclients.backfill.rows import RowConverter
from asyncclients.backfill.sources import Row
from asyncclients.backfill.verdict import RowOutcome, classify_error, proves_access
from asyncclients.core.endpoint import OutgoingRequest, call_context, endpoint_of
from asyncclients.errors import BackfillStoppedError, ClientClosedError, ForbiddenError, error_text
from asyncclients.ratelimit.priority import Priority

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
