"""Plans: what a run would send, found out without sending anything.

The rows go through a run on a copy of the state, but the operation only builds its requests.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import msgspec

from asyncclients.backfill.delivery import Delivery, Failure, PreparedRow, PushTarget
from asyncclients.backfill.files.source import Row
from asyncclients.backfill.rows import RowConverter, unbound
from asyncclients.backfill.state.identity import JobIdentity
from asyncclients.backfill.state.journal import Journal, no_place
from asyncclients.backfill.state.push_state import JournalRowLog
from asyncclients.backfill.status import copy_state
from asyncclients.core.call import ClientConfig, config_of
from asyncclients.core.endpoint import Request, endpoint_of
from asyncclients.core.options import current_call_context
from asyncclients.core.prepare import prepare
from asyncclients.errors import BackfillError, row_reason
from asyncclients.own_files import in_thread, target_of
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Demand
from asyncclients.ratelimit.timer import wall_clock

MAX_FAILURES = 20
"""Invalid rows, and reasons, that a plan lists."""


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
    """Counts the invalid rows of a plan by reason."""

    def __init__(self) -> None:
        self.count = 0
        self._failures: list[InvalidRow] = []
        self._by_reason: dict[str, InvalidReason] = {}

    def add(self, row: Row, failure: BaseException) -> None:
        """Count *row* as invalid, because of *failure*."""
        reason = row_reason(failure)
        self.count += 1
        if self.count <= MAX_FAILURES:
            self._failures.append(InvalidRow(line=row.line, reason=reason))
        known = self._by_reason.get(reason)
        if known is not None:
            self._by_reason[reason] = msgspec.structs.replace(known, rows=known.rows + 1)
        elif len(self._by_reason) < MAX_FAILURES:
            self._by_reason[reason] = InvalidReason(reason=reason, rows=1, line=row.line)

    def facts(self) -> dict[str, Any]:
        """Return fields of a `Plan`."""
        reasons = sorted(self._by_reason.values(), key=lambda each: -each.rows)
        return {"failures": tuple(self._failures), "reasons": tuple(reasons)}


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
        warnings: notes for a person, such as a share that rounding changes much.
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
        operation = unbound(target) if endpoint_of(target) is not None else None
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
        if request.argument is not None:
            config.check(request.endpoint, request.argument)
        prepared = prepare(config.base_url, request, config.options.headers)
        self.requests += 1
        if self.preview is None:
            self.preview = RequestPreview(
                method=prepared.method,
                path=prepared.url.raw_path_qs,
                body=prepared.body.decode() if isinstance(prepared.body, bytes) else None,
            )
            self._demand = Demand(request.endpoint.cost, request.endpoint.operation)

    def facts(self, others: int = 0) -> dict[str, Any]:
        """Return fields of a `Plan`; *others* is the number of calls that were not built.

        The share of the options or of the surrounding `call_context` is counted, and the first
        request stands for all.
        """
        config, calls = self._config, self.requests + others
        if config is None:
            return {"requests": calls, "seconds": None if calls else 0.0}
        permit = config.permit_request(current_call_context())
        share, seconds = permit.demand.share, 0.0
        if calls:
            calls += config.login is not None and config.login.token_path is not None
            loop = asyncio.get_running_loop()
            now = loop.time()
            limiter = Limiter(config.quotas, now=now, wall_time=wall_clock(loop))
            demand = permit.of(self._demand.cost, self._demand.operation, limiter).demand
            seconds = limiter.nth_permit_at(calls, now, demand) - now
        return {
            "requests": calls,
            "seconds": seconds,
            "preview": self.preview,
            "warnings": () if share is None else share.roundings(config.quotas),
        }


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


# --- Runs on a copy of the state ------------------------------------------------------------


@asynccontextmanager
async def copied_journal(
    state: str | os.PathLike[str], job: JobIdentity, *, new_credential: bool, new_map: bool = False
) -> AsyncGenerator[Journal]:
    """Open a copy of the state of *job*, or a new one if there is none, in a temporary directory.

    Raises:
        StateMismatchError: the state belongs to another job, or no state can be kept there.
    """
    path = target_of(state)
    if not path.parent.is_dir():
        raise no_place(path, os.strerror(errno.ENOENT))
    renewed = {"new_credential": new_credential, "new_map": new_map}
    with TemporaryDirectory(prefix="asyncclients-") as directory:
        copied = Path(directory, path.name)
        try:
            if path.exists():
                await in_thread(partial(copy_state, path, copied, job, **renewed))
            journal = await Journal.open(copied, job, **renewed)
            try:
                yield journal
            finally:
                await journal.aclose()
        except BackfillError as error:  # name the file of the user
            for name in ("message", "file"):
                if text := getattr(error, name, None):
                    setattr(error, name, text.replace(directory, str(path.parent)))
            raise


class PlannedDelivery(Delivery):
    """Builds the requests of rows, without the send hook and the circuit breaker of a run."""

    def __init__(
        self, to: PushTarget, converter: RowConverter, log: JournalRowLog, *, flow: str
    ) -> None:
        self._builder, self._invalid = RequestBuilder.of(to.target), InvalidRows()
        to = msgspec.structs.replace(to, concurrency=1, max_failed=1.0)
        super().__init__(to, converter, log, flow=flow, call=self._builder)
        self._state = log.state
        self._done, self._skipped = log.state.done, log.state.skipped

    async def _call(self, prepared: Sequence[PreparedRow]) -> Failure | None:
        argument = [value for _, value in prepared] if self.batch else prepared[0][1]
        try:
            await self._builder(argument)
        except Exception as error:  # noqa: BLE001 - of any kind: the row cannot be sent
            return Failure(error, is_final=True, start=0)
        self.log.mark([row for row, _ in prepared], "done")
        return None

    def _fail(self, row: Row, failure: BaseException) -> None:
        self._invalid.add(row, failure)
        super()._fail(row, failure)

    def plan(self) -> Plan:
        """Return the plan of the rows that were delivered."""
        valid, skipped = self._state.done - self._done, self._state.skipped - self._skipped
        invalid = self._invalid.count
        return Plan(
            rows=valid + invalid + skipped,
            valid=valid,
            invalid=invalid,
            skipped=skipped,
            **self._builder.facts(),
            **self._invalid.facts(),
        )
