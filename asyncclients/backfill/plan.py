"""Plans: what a run would send, found out without sending anything.

The rows go through the same conversion and delivery as in a run, but the operation only builds
its requests, and the outcomes are kept in memory.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import msgspec

from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.delivery import Delivery, DeliveryOptions
from asyncclients.backfill.files.source import Row, Source
from asyncclients.backfill.report import RequestCounter
from asyncclients.backfill.rows import RowConverter
from asyncclients.backfill.state.identity import JobIdentity
from asyncclients.backfill.state.journal import no_place
from asyncclients.backfill.state.push_state import InputLog, PendingRows, PushState
from asyncclients.backfill.state.stored_rows import DeadLetterFile
from asyncclients.backfill.status import read_push
from asyncclients.core.call import ClientConfig, config_of
from asyncclients.core.endpoint import Request, endpoint_of
from asyncclients.core.options import current_call_context
from asyncclients.core.prepare import PreparedRequest, prepare
from asyncclients.errors import row_reason
from asyncclients.own_files import target_of
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Demand
from asyncclients.ratelimit.timer import wall_clock

MAX_FAILURES = 20
"""Invalid rows, and reasons, that a plan lists."""
_ROWS_AT_ONCE = 256
"""Rows that a plan takes at once, if each of them is a call."""


class RequestPreview(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it would be sent, without headers and so without a credential.

    Attributes:
        method: HTTP method.
        path: path and query of the URL, percent-encoded.
        body: content, as text; None without one.
    """

    method: str
    path: str
    body: str | None = None


class InvalidRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that would fail without being sent.

    Attributes:
        line: where the row starts in the input, from 1; its number if the input has no lines.
        reason: why it would fail.
    """

    line: int
    reason: str


class InvalidReason(msgspec.Struct, frozen=True, kw_only=True):
    """Invalid rows with the same reason.

    Attributes:
        reason: why they would fail.
        rows: their number.
        line: where the first of them starts in the input, as in `InvalidRow`.
    """

    reason: str
    rows: int
    line: int


class InvalidRows:
    """Counts the invalid rows of a plan by reason.

    Attributes:
        count: of all of them.
        failures: the first ones.
    """

    def __init__(self) -> None:
        self.count = 0
        self.failures: list[InvalidRow] = []
        self._by_reason: dict[str, InvalidReason] = {}

    def add(self, row: Row, failure: BaseException) -> None:
        """Count *row* as invalid, because of *failure*."""
        reason = row_reason(failure)
        self.count += 1
        if self.count <= MAX_FAILURES:
            self.failures.append(InvalidRow(line=row.line, reason=reason))
        known = self._by_reason.get(reason)
        if known is not None:
            self._by_reason[reason] = msgspec.structs.replace(known, rows=known.rows + 1)
        elif len(self._by_reason) < MAX_FAILURES:
            self._by_reason[reason] = InvalidReason(reason=reason, rows=1, line=row.line)

    @property
    def reasons(self) -> tuple[InvalidReason, ...]:
        """The first reasons, the most frequent one first."""
        return tuple(sorted(self._by_reason.values(), key=lambda each: -each.rows))


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The work of a run; with an existing state, the work that is left.

    Attributes:
        rows: rows that the run would handle: the valid, the invalid and the skipped ones.
        valid: rows that would be sent.
        invalid: rows that would fail without being sent.
        skipped: rows with nothing to send.
        create: rows of a sync that would be created.
        update: rows of a sync that would be updated.
        delete: items that a sync would delete.
        unchanged: rows of a sync that need no request.
        missing: known items that the input of a sync lacks.
        requests: calls needed if none has to be repeated, a call for an access token included.
        seconds: from the first to the last of these calls at the quota, if no other call uses
            it; 0 without a quota. None if the quota is unknown, as that of a function of your own.
        preview: the first request; None if there is none, or if a function of your own sends it.
        failures: the first invalid rows, at most 20.
        reasons: the reasons of the invalid rows, the most frequent one first; at most 20.
        warnings: what a person should look at, in words: a share that rounding changes much.
    """

    rows: int = 0
    valid: int = 0
    invalid: int = 0
    skipped: int = 0
    create: int = 0
    update: int = 0
    delete: int = 0
    unchanged: int = 0
    missing: int = 0
    requests: int = 0
    seconds: float | None = None
    preview: RequestPreview | None = None
    failures: tuple[InvalidRow, ...] = ()
    reasons: tuple[InvalidReason, ...] = ()
    warnings: tuple[str, ...] = ()


# --- Requests -----------------------------------------------------------------------------


class _BuiltError(BaseException):
    """A request was built; raised in place of sending it."""

    def __init__(self, request: Request[Any]) -> None:
        self.request = request


async def _raise_built(request: Request[Any]) -> Any:
    raise _BuiltError(request)


class RequestBuilder:
    """Builds requests without sending them; a function of your own is not called.

    Attributes:
        requests: number of requests, without one for an access token.
        preview: the first one.

    Args:
        target: calls an operation of a silenced resource; None to count calls only.
        config: of its client; None if it is not known.
    """

    def __init__(
        self, target: Callable[[Any], Awaitable[Any]] | None, config: ClientConfig | None
    ) -> None:
        self._target, self._config = target, config
        self.requests = 0
        self.preview: RequestPreview | None = None
        self._demand = Demand()

    @classmethod
    def of(cls, target: Callable[[Any], Awaitable[Any]]) -> Self:
        """Return the builder for *target*, an operation or a function."""
        operation = target if endpoint_of(target) is not None else None
        while isinstance(operation, partial):
            operation = operation.func
        config = config_of(getattr(operation, "__self__", None))
        return cls(None if config is None else _without_sending(target), config)

    async def __call__(self, argument: Any) -> None:
        """Build the request that `target(argument)` would send.

        Raises:
            ValueError: *argument* cannot be sent.
        """
        if self._target is None or self._config is None:
            self.requests += 1
            return
        try:
            await self._target(argument)
        except _BuiltError as built:
            request = built.request
        else:
            return  # nothing would be sent
        config = self._config
        if request.given is not None:
            config.check(request.endpoint, request.given)
        prepared = prepare(config.base_url, request, config.options.headers)
        self.requests += 1
        if self.preview is None:
            self.preview = _preview(prepared)
            self._demand = Demand(request.endpoint.cost, request.endpoint.operation)

    def calls(self, others: int = 0) -> tuple[int, float | None]:
        """Return the number of calls, and the seconds that they take at the quota if it is known.

        *others* is the number of calls whose requests were not built. The share of the options or
        of the surrounding `call_context` is counted, and the first request stands for all.
        """
        config, calls = self._config, self.requests + others
        if config is None or not calls:
            return calls, None if calls else 0.0
        calls += config.login is not None and config.login.token_path is not None
        loop = asyncio.get_running_loop()
        now = loop.time()
        limiter = Limiter(config.quotas, now=now, wall_time=wall_clock(loop))
        asked = config.permit_request(current_call_context())
        demand = asked.of(self._demand.cost, self._demand.operation, limiter).demand
        return calls, limiter.nth_permit_at(calls, now, demand) - now

    def warnings(self) -> tuple[str, ...]:
        """Return the warnings of the plan."""
        if self._config is None:
            return ()
        share = self._config.permit_request(current_call_context()).demand.share
        return () if share is None else share.roundings(self._config.quotas)


def _without_sending(target: Any) -> Callable[[Any], Awaitable[Any]]:
    """Return the operation *target* of a resource that raises `_BuiltError` instead of sending."""
    if isinstance(target, partial):
        return partial(_without_sending(target.func), *target.args, **target.keywords)
    resource = silenced(target.__self__)
    method: Callable[[Any], Awaitable[Any]] = target.__func__.__get__(resource)
    return method


def silenced(resource: Any) -> Any:
    """Return a copy of *resource* that sends nothing, for the target of a `RequestBuilder`."""
    copied = copy.copy(resource)
    copied._send = _raise_built
    return copied


def _preview(request: PreparedRequest) -> RequestPreview:
    body = request.body.decode() if isinstance(request.body, bytes) else None
    return RequestPreview(method=request.method, path=request.url.raw_path_qs, body=body)


# --- Rows ---------------------------------------------------------------------------------


class PlannedRows(InputLog):
    """The row log of a plan: the expected outcome of each row, in memory.

    Attributes:
        valid: number of rows that would be sent.
        skipped: number of rows with nothing to send.
        invalid: the rows that would fail.
    """

    def __init__(self, state: PushState) -> None:
        super().__init__(state)
        self.valid = self.skipped = 0
        self.invalid = InvalidRows()

    def retry(self, file: DeadLetterFile) -> None:
        """Plan the failed rows in *file*, or those left of an interrupted retry.

        Raises:
            StateMismatchError: the file is missing or unusable.
        """
        if self.state.retrying:
            self.retried = file.read(file.retry_path.exists())
            return
        self.retried = file.read(False)
        file.check_retry(self.retried, self.state.failed, self.settled.__contains__)
        for number in self.retried.numbers:
            self.settled.discard(number)

    @property
    def done(self) -> int:
        """Number of valid rows."""
        return self.valid

    async def record_intent(self, rows: Iterable[Row]) -> None:
        """Do nothing: nothing is sent."""

    def mark_pending(self, rows: Iterable[Row]) -> None:
        """Do nothing: another mark follows."""

    def mark_done(self, rows: Sequence[Row]) -> None:
        """Count *rows* as valid."""
        self.valid += len(rows)

    def mark_skipped(self, rows: Sequence[Row]) -> None:
        """Count *rows* as skipped."""
        self.skipped += len(rows)

    def mark_failed(self, row: Row, failure: BaseException) -> None:
        """Count *row* as invalid, because of *failure*."""
        self.invalid.add(row, failure)

    def mark_unknown(self, rows: Sequence[Row], reason: str) -> None:
        """Do nothing: nothing is sent."""


class SavedJob(NamedTuple):
    """A push whose state file may exist; the fields are arguments of `push`."""

    state: Path
    job: JobIdentity
    new_credential: bool
    retry_failed: bool
    unknown: Literal["keep", "resend", "drop"]

    def rows(self) -> PlannedRows:
        """Return the row log of a plan, with what the state has settled.

        Raises:
            StateMismatchError: the state belongs to another job, or no state can be kept there.
        """
        path = target_of(self.state)
        if not path.parent.is_dir():
            raise no_place(path, os.strerror(errno.ENOENT))
        if not path.exists():
            return PlannedRows(PushState())
        saved, unknown = read_push(
            path, self.job, new_credential=self.new_credential, new_map=self.retry_failed
        )
        log = PlannedRows(saved)
        change = log.settled.discard if self.unknown == "resend" else log.settled.add
        for number in unknown:
            change(number)
        if saved.retrying or (self.retry_failed and saved.failed):
            log.retry(DeadLetterFile(path))
        return log


async def plan_push(
    source: Source,
    options: DeliveryOptions,
    converter: RowConverter,
    saved: SavedJob,
    limit: int | None,
) -> Plan:
    """Return what a push of at most *limit* rows of *source* not settled in *saved* would send."""
    log = await asyncio.to_thread(saved.rows)
    builder = RequestBuilder.of(options.target)
    options = msgspec.structs.replace(options, target=builder, is_operation=True, max_failed=1.0)
    delivery = Delivery(options, converter, log, RequestCounter(), CircuitBreaker(math.inf))
    pending, planned = PendingRows(source, log), 0
    size, batch = options.batch or _ROWS_AT_ONCE, options.batch or 1
    with delivery.tracked():
        while limit is None or planned < limit:
            rows = await pending.take(size if limit is None else min(size, limit - planned))
            if not rows:
                break
            planned += len(rows)
            prepared = delivery.prepare(rows, coerce=source.coerce)
            for start in range(0, len(prepared), batch):
                call = prepared[start : start + batch]
                values = [value for _, value in call]
                try:
                    await builder(values if options.batch else values[0])
                except Exception:  # noqa: BLE001 - delivery decides which rows cause it
                    await delivery.deliver(call)
                else:
                    log.mark_done([row for row, _ in call])
    source.check_encoding()
    requests, seconds = builder.calls()
    return Plan(
        rows=planned,
        valid=log.valid,
        invalid=log.invalid.count,
        skipped=log.skipped,
        requests=requests,
        seconds=seconds,
        preview=builder.preview,
        failures=tuple(log.invalid.failures),
        reasons=log.invalid.reasons,
        warnings=builder.warnings(),
    )
