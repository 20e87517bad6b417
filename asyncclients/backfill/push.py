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
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Literal, Never, TypedDict, Unpack, overload

import msgspec

from asyncclients.arguments import (
    PositiveInt,
    check_fields,
    check_function,
    check_keywords,
    check_path,
)
from asyncclients.backfill.delivery import Delivery, PushTarget
from asyncclients.backfill.files.source import Row, Rows, Source, is_path, open_source
from asyncclients.backfill.plan import Plan, PlannedDelivery, copied_journal
from asyncclients.backfill.report import EtaEstimator, Progress, Report, reporting_progress
from asyncclients.backfill.rows import Map, check_mapped, check_rows
from asyncclients.backfill.state.identity import name_of, push_job
from asyncclients.backfill.state.journal import Journal
from asyncclients.backfill.state.push_state import JournalRowLog, PendingRows
from asyncclients.core.options import call_context
from asyncclients.errors import BackfillStoppedError, InputError
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
            target is not called. The state is copied, and no file beside it is changed.
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
    check_keywords(push, misspelt)
    check_rows(source)
    to = PushTarget(
        target=target,
        row_type=row_type,
        map=map,
        batch=batch,
        idempotent=idempotent,
        concurrency=concurrency,
        share=share,
        max_failed=max_failed,
        max_outage=max_outage,
    )
    options = RunOptions(
        state=state,
        flow=flow or f"push {name_of(target)} {state}",
        dry_run=dry_run,
        limit=limit,
        retry_failed=retry_failed,
        unknown=unknown,
        new_credential=new_credential,
        reconcile=reconcile,
        progress=progress,
    )
    return await _run(source, to, options)


async def _run(source: Rows, to: PushTarget, options: RunOptions) -> Report | Plan:
    converter, state, flow = to.converter(), options.state, options.flow
    check_apart(Path(state), [Path(source)] if is_path(source) else [], "the input")
    async with aclosing(await open_source(source)) as rows:
        converter.check(rows)
        await check_mapped(converter, source)
        job = await asyncio.to_thread(push_job, rows.name, to.target, converter.name, to.map)
        renewed = {"new_credential": options.new_credential, "new_map": options.retry_failed}
        with call_context(Priority.BACKGROUND, flow, share=to.share):
            opened = (
                copied_journal(state, job, **renewed)
                if options.dry_run
                else aclosing(await Journal.open(state, job, **renewed))
            )
            async with opened as journal:
                log = await JournalRowLog.load(journal)
                await _retry_failed(log, source, options)
                if options.dry_run:
                    planned = PlannedDelivery(to, converter, log, flow=flow)
                    await Push(rows, planned, log, options).deliver()
                    rows.check_encoding()
                    return planned.plan()
                delivery = Delivery(to, converter, log, flow=flow)
                return await Push(rows, delivery, log, options).run()


async def _retry_failed(log: JournalRowLog, source: Rows, options: RunOptions) -> None:
    """Make the failed rows of *log* pending, if *options* ask for it."""
    if options.retry_failed:
        if is_path(source):  # read twice, so that the rows to retry need not be kept
            async with aclosing(await open_source(source)) as rows:
                await PendingRows(rows, log).check_unchanged()
        await log.retry_failed()


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one run of a push or sync proceeds; the fields are arguments of `push`.

    Raises:
        ConfigurationError: a field is invalid.
    """

    state: str | os.PathLike[str]
    flow: str
    dry_run: bool
    limit: PositiveInt | None
    retry_failed: bool
    unknown: Literal["keep", "resend", "drop"]
    new_credential: bool
    reconcile: Reconcile | None = None
    progress: Callable[[Progress], None] | None = None

    def __post_init__(self) -> None:
        check_path("state", self.state)
        check_fields(self)
        check_function("reconcile", self.reconcile, may_be_async=True)
        check_function("progress", self.progress)


class Push:
    """One run of a push, or of its plan."""

    def __init__(
        self, source: Source, delivery: Delivery, log: JournalRowLog, options: RunOptions
    ) -> None:
        self._source, self._delivery, self._log, self._options = source, delivery, log, options
        self._pending = PendingRows(source, log)
        self._left = sys.maxsize if options.limit is None else options.limit
        self._is_complete = False
        self._estimator = EtaEstimator(
            delivery.counter, options.flow, log.settled_count, max(1, delivery.batch), options.limit
        )

    async def run(self) -> Report:
        """Deliver the rows, save the state, and return the report."""
        async with reporting_progress(self._progress, self._estimator, self._options.progress):
            self._log.state.total = await self._source.count()
            await self.deliver()
        await self._log.saved()
        return self._report()

    async def deliver(self) -> None:
        """Deliver all pending rows, or up to the limit; at their end, resolve the unknown ones."""
        try:
            await self._delivery.run(self._deliver_pending, self._pending.stop)
            self._delivery.settle_forbidden_rows()
            self._is_complete = await self._pending.is_exhausted()
            if self._is_complete:
                await self._resolve()
                self._delivery.settle_forbidden_rows()
        except (BackfillStoppedError, InputError) as error:
            self._is_complete = False
            if isinstance(error, InputError) and not self._delivery.may_have_sent:
                raise
            raise BackfillStoppedError(
                error.message, advice=error.advice, report=self._report()
            ) from None
        if self._is_complete:
            self._log.finish()

    async def _deliver_pending(self) -> None:
        batch, coerce = max(1, self._delivery.batch), self._source.coerce
        pending, deliver = self._pending, self._delivery.deliver_rows
        while size := min(batch, self._left):
            self._left -= size  # reserved: other workers run while this one waits for its rows
            rows = pending.take_nowait(size) or await pending.take(size)
            self._left += size - len(rows)
            if not rows:
                return
            await deliver(rows, coerce=coerce)

    # --- Unknown rows -----------------------------------------------------------------

    async def _resolve(self) -> None:
        log, options = self._log, self._options
        if options.reconcile is not None and log.unknown and not options.dry_run:
            await self._for_unknown_rows(partial(self._reconcile, options.reconcile))
        if options.unknown == "drop":
            log.mark(await self._unknown_rows(), "skipped")
        elif options.unknown == "resend" and log.unknown:
            await self._for_unknown_rows(self._send_again)

    async def _unknown_rows(self) -> list[Row]:
        log = self._log
        return [
            Row(each.number, each.line, each.row, is_edited=log.is_edited(each.number))
            for each in await log.unknown_rows()
        ]

    async def _for_unknown_rows(self, work: Callable[[Row], Awaitable[None]]) -> None:
        """Await *work* for as many unknown rows as this run may still handle."""
        found = await self._unknown_rows()
        self._is_complete = self._is_complete and len(found) <= self._left
        rows = iter(found[: self._left])
        self._left -= min(self._left, len(found))

        async def work_off() -> None:
            for row in rows:
                await work(row)

        await self._delivery.run(work_off, self._pending.stop)

    async def _reconcile(self, reconcile: Reconcile, row: Row) -> None:
        with call_context(Priority.BACKGROUND, self._options.flow, self._delivery.counter):
            executed = await reconcile(self._delivery.converter.convert(row.data, coerce=True))
        if executed:
            self._log.mark([row], "done")
        elif executed is not None:
            await self._send_again(row)

    async def _send_again(self, row: Row) -> None:
        self._log.mark([row], "pending")
        await self._delivery.deliver_rows([row], coerce=True)

    # --- Report -----------------------------------------------------------------------

    def _report(self) -> Report:
        log = self._log
        return Report(
            done=log.done,
            failed=log.state.failed,
            unknown=len(log.unknown),
            skipped=log.state.skipped,
            total=log.state.total,
            complete=self._is_complete,
            failures=log.failures,
            **self._delivery.counter.totals(),
        )

    def _progress(self) -> Progress:
        log, state = self._log, self._log.state
        return self._estimator.progress(
            done=state.done,
            failed=state.failed,
            unknown=len(log.unknown),
            skipped=state.skipped,
            settled=log.settled_count,
            total=state.total,
            waiting=self._delivery.breaker.outage_seconds,
            cause=self._delivery.breaker.cause,
        )
