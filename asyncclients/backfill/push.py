"""Push: rows from a file or an iterable into one operation of a vendor.

The table of contents of one run: open the source and the state · read rows ·
deliver them, so many at a time · settle what is unknown, if asked · report.

A push may be killed at any instant and run again with the same state. Rows of
operations that may be repeated arrive at least once and are the same after a
second time; all others are sent at most once, and those of which nobody can say
are listed as unknown.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Never

from asyncclients.backfill import arguments
from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.delivery import Delivery, DeliveryOptions, run_workers
from asyncclients.backfill.encoding import encode_rows
from asyncclients.backfill.files.source import Row, Rows, Source, open_source
from asyncclients.backfill.report import Progress, Report, RequestCounter, reporting_progress
from asyncclients.backfill.rows import Map, RowConverter, check_mapped, row_type_of
from asyncclients.backfill.state.identity import push_job
from asyncclients.backfill.state.journal import Journal
from asyncclients.backfill.state.lock import check_apart
from asyncclients.backfill.state.push_state import JournalRowLog, Unknown
from asyncclients.core.endpoint import call_context
from asyncclients.errors import (
    BackfillError,
    BackfillStoppedError,
    InputError,
    StateMismatchError,
)
from asyncclients.ratelimit.quota import Priority

Reconcile = Callable[[Any], Awaitable[bool | None]]


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
    unknown: Literal["keep", "resend", "drop"] = "keep",
    reconcile: Reconcile | None = None,
    max_failed: float = 0.1,
    max_outage: float = 900.0,
    new_credential: bool = False,
    progress: Callable[[Progress], None] | None = None,
    **misspelt: Never,
) -> Report:
    """Send each row of *source* to *target*; run again with the same *state* to resume.

    Args:
        source: a .csv, .jsonl or .parquet file (.csv and .jsonl also gzipped), or
            any iterable or async iterable of rows.
        target: an operation of a client, as `totango.touchpoints.create`, or any
            coroutine function of one argument.
        state: the file that remembers what was sent; `<state>.failed.jsonl` takes
            the rows that are refused, and is itself good as a *source*.
        row_type: struct that each row is converted to and checked against; by default the
            one that the operation takes.
        map: function that makes of a row what is converted, and None to skip the row; or a
            mapping from column to field, as `{"Mail": "email"}`: other columns keep their
            names, and an empty field leaves its column out.
        batch: rows a call, given to *target* as a list; by default what the operation
            takes, else one row as itself.
        idempotent: whether a call may be repeated; by default the operation's own
            word, and False for a callable of your own.
        concurrency: calls under way at the same time.
        flow: calls share one turn in the queue with each other flow; by default the job's.
        unknown: what to do at the end about rows whose outcome nobody knows: list
            them, send them again, or count them as skipped.
        reconcile: asked at the end about each unknown row (as *row_type*): True, it
            was carried out; False, it was not and is sent; None, nobody can say.
        max_failed: share of failed rows, of at least 50, above which the run stops.
        max_outage: seconds without any usable answer after which the run stops.
        new_credential: the client's credential is a new one of the same account, so
            the state that was begun with the old one is resumed.
        progress: is given a `Progress` about once a second.
        misspelt: none; any other keyword is a `ConfigurationError`.

    Raises:
        ConfigurationError: an argument cannot be used; nothing was read.
        InputError: the input cannot be used; nothing was sent.
        StateInUseError: another run has the state file.
        StateMismatchError: the state is of another job, another version or another input.
        BackfillStoppedError: too many rows failed, or the vendor stayed away.
        AsyncClientsError: what no row can be blamed for, as a refused credential.

    When cancelled, it sends nothing more, waits up to 30 s for the answers to what
    is on the wire, saves, and raises `CancelledError`. Every call waits behind
    interactive ones.
    """
    arguments.check_names(push, misspelt)
    arguments.check_rows(source)
    arguments.check_target(target)
    arguments.check_coroutine_function("reconcile", reconcile)
    arguments.check_function("progress", progress)
    arguments.check_flags(idempotent=idempotent, new_credential=new_credential)
    arguments.check_choice("unknown", unknown, ("keep", "resend", "drop"))
    arguments.check_delivery(concurrency, batch, max_failed, max_outage)
    shape = RowConverter(row_type_of(target) if row_type is None else row_type, map)
    if isinstance(source, (str, os.PathLike)):
        check_apart(Path(state), [Path(source)], "the input")
    rows = await open_source(source)
    try:
        shape.check(rows)
        await check_mapped(shape, source)
        job = await asyncio.to_thread(push_job, rows.name, target, shape.name, map)
        journal = await Journal.open(state, job, new_credential=new_credential)
        try:
            flow = flow or f"push {job.target} {os.fspath(state)}"
            terms = DeliveryOptions.of(
                target, batch=batch, idempotent=idempotent, flow=flow, max_failed=max_failed
            )
            run = Push(rows, terms, shape, await JournalRowLog.load(journal), max_outage)
            async with reporting_progress(run.progress, progress):
                await run.work(concurrency, unknown, reconcile)
            await journal.saved()
            return run.report()
        finally:
            await journal.aclose()
    finally:
        await rows.aclose()


class Push:
    """One run."""

    def __init__(
        self,
        source: Source,
        terms: DeliveryOptions,
        shape: RowConverter,
        ledger: JournalRowLog,
        max_outage: float,
    ) -> None:
        self._source, self._terms, self._ledger = source, terms, ledger
        self._meter = RequestCounter()
        self._outage = CircuitBreaker(max_outage)
        self._feed = PendingRows(source, ledger)
        self._delivery = Delivery(terms, shape, ledger, self._meter, self._outage)
        self._shape = shape
        self._done_before = ledger.done
        self._fraction_before: float | None = None

    async def work(
        self, concurrency: int, unknown: Literal["keep", "resend", "drop"], ask: Reconcile | None
    ) -> None:
        """Deliver everything."""
        stop: BackfillError
        try:
            await self._together([self._deliver_all() for _ in range(concurrency)])
            self._delivery.end()
            await self._resolve(concurrency, unknown, ask)
            self._delivery.end()
        except (BackfillStoppedError, InputError) as error:
            if isinstance(error, InputError) and not self._delivery.called:
                raise
            stop = error
        else:
            self._ledger.finish()
            return
        raise BackfillStoppedError(stop.message, advice=stop.advice, report=self.report())

    async def _deliver_all(self) -> None:
        most, lax = max(1, self._terms.batch), self._source.coerce
        feed, deliver = self._feed, self._delivery.rows
        while rows := feed.ready(most) or await feed.take(most):
            await deliver(rows, lax=lax)

    async def _together(self, work: list[Coroutine[Any, Any, None]]) -> None:
        await run_workers(work, self._delivery, self._feed.stop)

    # --- Unknown rows -----------------------------------------------------------------

    async def _resolve(
        self, concurrency: int, unknown: Literal["keep", "resend", "drop"], ask: Reconcile | None
    ) -> None:
        ledger = self._ledger
        if ask is not None and ledger.unknowns:
            waiting = iter(await ledger.unknowns.all())
            await self._together([self._reconcile(waiting, ask) for _ in range(concurrency)])
        if unknown == "drop":
            for number in ledger.unknowns:
                ledger.resolve(number, "skipped")
        elif unknown == "resend" and ledger.unknowns:
            waiting = iter(await ledger.unknowns.all())
            await self._together([self._resend(waiting) for _ in range(concurrency)])

    async def _reconcile(self, waiting: Iterator[Unknown], ask: Reconcile) -> None:
        for unknown in waiting:
            row = Row(unknown.number, unknown.line, unknown.row)
            with call_context(Priority.BACKGROUND, self._terms.flow, self._meter):
                carried_out = await ask(self._shape.convert(row.data, lax=True))
            if carried_out is not None:
                self._ledger.resolve(row.number, "done" if carried_out else "pending")
            if carried_out is False:
                await self._delivery.rows([row], lax=True)

    async def _resend(self, waiting: Iterator[Unknown]) -> None:
        for unknown in waiting:
            row = Row(unknown.number, unknown.line, unknown.row)
            self._ledger.resolve(row.number, "pending")
            await self._delivery.rows([row], lax=True)

    # --- Telling ----------------------------------------------------------------------

    def report(self) -> Report:
        """What the job has come to."""
        ledger, meter = self._ledger, self._meter
        return Report(
            done=ledger.done,
            failed=ledger.state.failed,
            unknown=len(ledger.unknowns),
            skipped=ledger.state.skipped,
            requests=meter.requests,
            rejected=meter.rejected,
            seconds=meter.seconds,
            quota_use=meter.quota_use,
            failures=ledger.failures,
        )

    def progress(self) -> Progress:
        """Where the run stands."""
        ledger, meter = self._ledger, self._meter
        seconds = meter.seconds
        return Progress(
            done=ledger.done,
            failed=ledger.state.failed,
            unknown=len(ledger.unknowns),
            skipped=ledger.state.skipped,
            rate=(ledger.done - self._done_before) / seconds if seconds else 0.0,
            quota_use=meter.quota_use,
            eta=self._eta(seconds),
            waiting=self._outage.seconds,
        )

    def _eta(self, seconds: float) -> float | None:
        fraction = self._source.fraction()
        if fraction is None or not self._meter.requests:
            return None
        if self._fraction_before is None:
            self._fraction_before = fraction
        gained = fraction - self._fraction_before
        return seconds * (1 - fraction) / gained if gained > 0 else None


# The rows that are still to do, in order.
#
# On a resumed job the rows that were read before are read again and compared, as
# a whole, by a digest: if the input is not the same up to there, nothing is sent.
# Those that are not settled then come first.


class PendingRows:
    """Hands out rows of *source* that *ledger* has not settled."""

    def __init__(self, source: Source, ledger: JournalRowLog) -> None:
        self._source, self._ledger = source, ledger
        self._ready: deque[Row] = deque()
        self._held: list[Row] = []
        self._reading = asyncio.Lock()
        self._digest = hashlib.blake2b(digest_size=16)
        self._known = ledger.state.read
        self._read = 0
        self._ended = False
        self._failure: BaseException | None = None
        self.stopped = False

    def stop(self) -> None:
        """Hand out no more."""
        self.stopped = True

    def ready(self, most: int) -> list[Row]:
        """At most *most* rows, of those that are read; none while so many are not."""
        ready = self._ready
        if len(ready) < most or self.stopped:
            return []
        return [ready.popleft() for _ in range(most)]

    async def take(self, most: int) -> list[Row]:
        """At most *most* rows; none at the end.

        Raises:
            StateMismatchError: the input has changed since the job was begun.
            InputError: the input cannot be read on.
        """
        while len(self._ready) < most and not self._ended and not self.stopped:
            async with self._reading:
                if len(self._ready) < most and not self._ended:
                    await self._fill()
        return self.ready(min(most, len(self._ready)))

    async def _fill(self) -> None:
        if self._failure is not None:
            raise self._failure  # an iterator that has raised looks like one at its end
        try:
            rows = await self._source.chunk()
        except BaseException as failure:
            self._failure = failure
            raise
        if not rows:
            if self._read < self._known:
                raise self._changed(f"it has {self._read} rows now, and {self._known} were read")
            self._ended = True
            return
        again = rows[: max(0, self._known - self._read)]
        if again:
            self._again(again)
            rows = rows[len(again) :]
        if rows:
            self._note(rows)
            if recovered := self._ledger.recovered:
                rows = [row for row in rows if row.number not in recovered]
            self._ready.extend(rows)
            self._ledger.reading(self._read, self._digest.hexdigest())

    def _note(self, rows: list[Row]) -> None:
        self._read += len(rows)
        self._digest.update(encode_rows(rows))

    def _again(self, rows: list[Row]) -> None:
        """*rows* were read before."""
        self._note(rows)
        ledger = self._ledger
        for row in rows:
            ledger.unknowns.seen(row)
        self._held += [row for row in rows if row.number not in ledger.settled]
        if self._read == self._known:
            if self._digest.hexdigest() != ledger.state.digest:
                raise self._changed(f"its first {self._known} rows are not what they were")
            self._ready.extend(self._held)
            self._held.clear()

    def _changed(self, how: str) -> StateMismatchError:
        return StateMismatchError(
            f"{self._source.name} has changed since this job was begun: {how}",
            file=self._source.name,
            advice="Give back the old input (rows may be added at its end), "
            "or push the new one with a state file of its own",
        )
