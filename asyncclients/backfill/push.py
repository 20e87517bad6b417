"""Push: send the rows of a file or an iterable to one operation of a vendor.

A run opens the source and the state, delivers the rows with several workers, optionally
resolves unknown rows, and returns a report.

A push may be killed at any moment and run again with the same state. Rows of idempotent
operations are delivered at least once. Rows of other operations are sent at most once; a row
whose outcome is not known is listed as unknown.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Never, TypedDict, Unpack, overload

from asyncclients.backfill import arguments
from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.delivery import Delivery, DeliveryOptions, run_workers
from asyncclients.backfill.files.source import Row, Rows, Source, is_path, open_source
from asyncclients.backfill.plan import Plan, SavedJob, plan_push
from asyncclients.backfill.report import (
    EtaEstimator,
    Progress,
    Report,
    RequestCounter,
    reporting_progress,
)
from asyncclients.backfill.rows import Map, RowConverter, check_mapped, row_type_of
from asyncclients.backfill.state.identity import push_job
from asyncclients.backfill.state.journal import Journal
from asyncclients.backfill.state.push_state import (
    JournalRowLog,
    PendingRows,
    Unknown,
)
from asyncclients.core.options import call_context
from asyncclients.errors import (
    BackfillError,
    BackfillStoppedError,
    InputError,
)
from asyncclients.own_files import check_apart
from asyncclients.ratelimit.quota import Priority

Reconcile = Callable[[Any], Awaitable[bool | None]]


class DeliveryKeywords(TypedDict, total=False):
    """The keywords that `push` and `sync` have in common, for type checkers."""

    row_type: type[Any] | None
    map: Map | Mapping[str, str] | None
    concurrency: int
    flow: str | None
    share: float | None
    limit: int | None
    retry_failed: bool
    unknown: Literal["keep", "resend", "drop"]
    max_failed: float
    max_outage: float
    new_credential: bool
    progress: Callable[[Progress], None] | None


class PushOptions(DeliveryKeywords, total=False):
    """The keywords of `push` besides `state` and `dry_run`, for type checkers."""

    batch: int | None
    idempotent: bool | None
    reconcile: Reconcile | None


@overload
async def push(
    source: Rows,
    target: Callable[[Any], Awaitable[Any]],
    *,
    state: str | os.PathLike[str],
    dry_run: Literal[False] = False,
    **options: Unpack[PushOptions],
) -> Report: ...
@overload
async def push(
    source: Rows,
    target: Callable[[Any], Awaitable[Any]],
    *,
    state: str | os.PathLike[str],
    dry_run: Literal[True],
    **options: Unpack[PushOptions],
) -> Plan: ...
@overload
async def push(
    source: Rows,
    target: Callable[[Any], Awaitable[Any]],
    *,
    state: str | os.PathLike[str],
    dry_run: bool,
    **options: Unpack[PushOptions],
) -> Report | Plan: ...
async def push(
    source: Rows,
    target: Callable[[Any], Awaitable[Any]],
    *,
    state: str | os.PathLike[str],
    row_type: type[Any] | None = None,
    map: Map | Mapping[str, str] | None = None,  # noqa: A002 - the word for it
    batch: int | None = None,
    idempotent: bool | None = None,
    concurrency: int = 64,
    flow: str | None = None,
    share: float | None = None,
    dry_run: bool = False,
    limit: int | None = None,
    retry_failed: bool = False,
    unknown: Literal["keep", "resend", "drop"] = "keep",
    reconcile: Reconcile | None = None,
    max_failed: float = 0.1,
    max_outage: float = 900.0,
    new_credential: bool = False,
    progress: Callable[[Progress], None] | None = None,
    **misspelt: Never,
) -> Report | Plan:
    """Send each row of *source* to *target*; run again with the same *state* to resume.

    Args:
        source: a .csv, .jsonl or .parquet file (.csv and .jsonl also gzipped), or
            any iterable or async iterable of rows.
        target: an operation of a client, such as `totango.touchpoints.create`, or any
            coroutine function of one argument.
        state: path of the state file. Failed rows are written to
            `<state>.failed.jsonl`, which can be used as a *source*.
        row_type: struct that each row is converted to and validated against; by default
            the type that the operation takes.
        map: function from a row to the object to convert, or to None to skip the row; or
            a mapping from column to field, as `{"Mail": "email"}`: other columns keep
            their names, and a column mapped to "" is left out.
        batch: rows per call, passed to *target* as a list; by default the operation's
            batch size, or one row per call.
        idempotent: whether a call may be sent twice; by default as documented for the
            operation, and False for a function of your own.
        concurrency: maximum number of concurrent calls.
        flow: the scheduler divides the quota fairly between flows; by default, the job is
            a flow of its own.
        share: most of every quota that the job takes, above 0 and at most 1, even if the rest is
            unused; None for all.
        dry_run: send nothing and return a `Plan`. Each row is read, mapped and checked as in a
            run; rows that an existing state has settled are left out. A function of your own as the
            target is not called. No file is written.
        limit: number of rows after which this run ends; the next run continues with the others.
        retry_failed: send the failed rows of the state again, before all others, as they are in
            the input or, if edited there, in `<state>.failed.jsonl`. The state may have been
            created with another mapping as *map*.
        unknown: what to do at the end with rows whose outcome is unknown: list them, send
            them again, or count them as skipped.
        reconcile: called at the end with each unknown row (as *row_type*). True: the row
            was executed; False: it was not and is sent; None: still unknown.
        max_failed: share of failed rows, of at least 50, above which the run stops.
        max_outage: seconds without a usable response after which the run stops.
        new_credential: the client has a new credential of the same account; resume
            the state that was created with the old one.
        progress: called with a `Progress` about once a second.
        misspelt: none; any other keyword is a `ConfigurationError`.

    Raises:
        ConfigurationError: an argument is invalid; nothing was read.
        InputError: the input cannot be read; nothing was sent.
        StateInUseError: another run uses the state file.
        StateMismatchError: the state belongs to another job, version or input.
        BackfillStoppedError: too many rows failed, or the outage exceeded *max_outage*.
        AsyncClientsError: an error that no row caused, such as an invalid credential.

    When cancelled, it sends nothing more, waits up to 30 s for responses to requests that
    are on the wire, saves the state, and raises `CancelledError`. Interactive calls take
    precedence over all calls of a push.
    """
    arguments.check_keywords(push, misspelt)
    arguments.check_push(source, target, state)
    arguments.check_callbacks(reconcile, progress)
    flags = {"dry_run": dry_run, "retry_failed": retry_failed, "new_credential": new_credential}
    arguments.check_flags(idempotent=idempotent, **flags)
    arguments.check_choice("unknown", unknown, ("keep", "resend", "drop"))
    arguments.check_delivery(concurrency, batch, max_failed, max_outage, limit, share=share)
    converter = RowConverter(row_type_of(target) if row_type is None else row_type, map)
    check_apart(Path(state), [Path(source)] if is_path(source) else [], "the input")
    async with aclosing(await open_source(source)) as rows:
        converter.check(rows)
        await check_mapped(converter, source)
        job = await asyncio.to_thread(push_job, rows.name, target, converter.name, map)
        flow = flow or f"push {job.target} {os.fspath(state)}"
        options = DeliveryOptions.of(
            target, batch=batch, idempotent=idempotent, flow=flow, max_failed=max_failed
        )
        with call_context(Priority.BACKGROUND, flow, share=share):
            if dry_run:
                saved = SavedJob(Path(state), job, new_credential, retry_failed, unknown)
                return await plan_push(rows, options, converter, saved, limit)
            run_options = RunOptions(concurrency, limit, unknown, reconcile, max_outage)
            async with aclosing(
                await Journal.open(state, job, new_credential=new_credential, new_map=retry_failed)
            ) as journal:
                log = await _load(journal, source, retry_failed)
                return await Push(rows, options, converter, log, run_options).run(progress)


async def _load(journal: Journal, source: Rows, retry_failed: bool) -> JournalRowLog:
    """Return the row log of *journal*; with *retry_failed* its failed rows are pending."""
    log = await JournalRowLog.load(journal)
    if retry_failed:
        if is_path(source):  # read twice, so that the rows to retry need not be kept
            async with aclosing(await open_source(source)) as rows:
                await PendingRows(rows, log).check_unchanged()
        await log.retry_failed()
    return log


class RunOptions(NamedTuple):
    """How one run of a push proceeds; the fields are arguments of `push`."""

    concurrency: int
    limit: int | None
    unknown: Literal["keep", "resend", "drop"]
    reconcile: Reconcile | None
    max_outage: float


class Push:
    """One run of a push.

    Attributes:
        estimator: of the end of the run.
    """

    def __init__(
        self,
        source: Source,
        options: DeliveryOptions,
        converter: RowConverter,
        log: JournalRowLog,
        run: RunOptions,
    ) -> None:
        self._source, self._options, self._log = source, options, log
        self._counter = RequestCounter()
        self._breaker = CircuitBreaker(run.max_outage)
        self._pending = PendingRows(source, log)
        self._delivery = Delivery(options, converter, log, self._counter, self._breaker)
        self._converter = converter
        self._run_options = run
        self._left = sys.maxsize if run.limit is None else run.limit
        self._is_complete = False
        self.estimator = EtaEstimator(
            self._counter, options.flow, log.settled_count, max(1, options.batch), run.limit
        )

    async def run(self, progress: Callable[[Progress], None] | None) -> Report:
        """Deliver the rows, save the state, and return the report."""
        async with reporting_progress(self.progress, self.estimator, progress):
            await self._work()
        await self._log.saved()
        return self.report()

    async def _work(self) -> None:
        """Deliver all pending rows, or up to the limit; at their end, resolve the unknown ones."""
        self._log.state.total = await self._source.count()
        stop: BackfillError
        try:
            await self._run_workers(self._deliver_all)
            self._delivery.finish()
            self._is_complete = await self._pending.is_exhausted()
            if self._is_complete:
                await self._resolve()
                self._delivery.finish()
        except (BackfillStoppedError, InputError) as error:
            self._is_complete = False
            if isinstance(error, InputError) and not self._delivery.may_have_sent:
                raise
            stop = error
        else:
            if self._is_complete:
                self._log.finish()
            return
        raise BackfillStoppedError(stop.message, advice=stop.advice, report=self.report())

    async def _deliver_all(self) -> None:
        batch, coerce = max(1, self._options.batch), self._source.coerce
        pending, deliver = self._pending, self._delivery.deliver_rows
        while size := min(batch, self._left):
            self._left -= size  # reserved: other workers run while this one waits for its rows
            rows = pending.take_nowait(size) or await pending.take(size)
            self._left += size - len(rows)
            if not rows:
                return
            await deliver(rows, coerce=coerce)

    async def _run_workers(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        workers = [work() for _ in range(self._run_options.concurrency)]
        await run_workers(workers, self._delivery, self._pending.stop)

    # --- Unknown rows -----------------------------------------------------------------

    async def _resolve(self) -> None:
        log, run = self._log, self._run_options
        if run.reconcile is not None and log.unknowns:
            rows = await self._unknown_rows()
            await self._run_workers(partial(self._reconcile, rows, run.reconcile))
        if run.unknown == "drop":
            for number in log.unknowns:
                log.resolve(number, "skipped")
        elif run.unknown == "resend" and log.unknowns:
            await self._run_workers(partial(self._resend, await self._unknown_rows()))

    async def _unknown_rows(self) -> Iterator[Unknown]:
        """Return the unknown rows, as many as this run may still handle."""
        rows = await self._log.unknowns.all()
        self._is_complete = self._is_complete and len(rows) <= self._left
        handled = rows[: self._left]
        self._left -= len(handled)
        return iter(handled)

    async def _reconcile(self, unknowns: Iterator[Unknown], reconcile: Reconcile) -> None:
        for unknown in unknowns:
            with call_context(Priority.BACKGROUND, self._options.flow, self._counter):
                executed = await reconcile(self._converter.convert(unknown.row, coerce=True))
            if executed:
                self._log.resolve(unknown.number, "done")
            elif executed is not None:
                await self._send_again(unknown)

    async def _resend(self, unknowns: Iterator[Unknown]) -> None:
        for unknown in unknowns:
            await self._send_again(unknown)

    async def _send_again(self, unknown: Unknown) -> None:
        self._log.resolve(unknown.number, "pending")
        row = Row(unknown.number, unknown.line, unknown.row)
        await self._delivery.deliver_rows([row], coerce=True)

    # --- Report -----------------------------------------------------------------------

    def report(self) -> Report:
        """Return the result of the run so far."""
        log, counter = self._log, self._counter
        return Report(
            done=log.done,
            failed=log.state.failed,
            unknown=len(log.unknowns),
            skipped=log.state.skipped,
            requests=counter.requests,
            rejected=counter.rejected,
            seconds=counter.seconds,
            quota_use=counter.quota_use,
            total=log.state.total,
            complete=self._is_complete,
            failures=log.failures,
        )

    def progress(self) -> Progress:
        """Return the progress of the run."""
        log, state = self._log, self._log.state
        return self.estimator.progress(
            done=state.done,
            failed=state.failed,
            unknown=len(log.unknowns),
            skipped=state.skipped,
            settled=log.settled_count,
            total=state.total,
            waiting=self._breaker.outage_seconds,
            cause=self._breaker.cause,
        )
