"""Pull: all pages of a list into a file or any other sink.

The table of contents of one run: open the sink at the last checkpoint · read
pages, some ahead · write what is new · make it durable, then note it · compare
with the vendor's count · finish the sink.

Pages by number shift while the list changes: an item that is added before the
place that is read comes twice, one that is deleted there hides another. Items
that come twice are told by their id and left out. A resumed run goes back until
it meets items that it has. If the list shrank, or the count does not fit, it is
read once more for what was hidden; what cannot be proved even then stands in
the report.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Never

from asyncclients.backfill import arguments
from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.files.sink import (
    FileSink,
    OverlappingSink,
    Sink,
    UnwritableItemsError,
    open_sink,
)
from asyncclients.backfill.prefetch import PagePrefetcher, Pages, SequentialReader, reader_of
from asyncclients.backfill.report import Progress, Report, RequestCounter, reporting_progress
from asyncclients.backfill.state.identity import pull_job
from asyncclients.backfill.state.journal import Changes, Journal
from asyncclients.backfill.state.lock import check_apart
from asyncclients.backfill.state.pull_state import Checkpoint, ItemKeys, Key, drop_at
from asyncclients.errors import BackfillStoppedError, ConfigurationError
from asyncclients.paging import Page, Paginator

_CHECKPOINT_EVERY = 0.2
"""Seconds between checkpoints at the least: what a crash costs in pages to read again."""


async def pull(
    source: Pages,
    to: str | os.PathLike[str] | Sink,
    *,
    state: str | os.PathLike[str],
    key: Key | None = None,
    prefetch: int = 8,
    flow: str | None = None,
    max_failed: float = 0.1,
    max_outage: float = 900.0,
    new_credential: bool = False,
    progress: Callable[[Progress], None] | None = None,
    **misspelt: Never,
) -> Report:
    """Write every item of *source* to *to*; run again with the same *state* to resume.

    Args:
        source: a paginator, as `intouch.contacts.list(sort_by="created_at")`; any
            iterator or async iterable of `Page`; or an awaitable of a list. Sort by what does
            not change, ascending: then pages shift least.
        to: a .jsonl, .csv or .parquet file, which appears when it is whole, or a `Sink`.
        state: the file that remembers how far it came. When the pull is complete,
            another run with it does nothing; delete it to pull anew.
        key: what tells an item from all others: the name of a field, or a function
            of an item; by default its `uuid`, else its `id`.
        prefetch: pages under way at the same time beyond the next one; as many more may
            wait for their turn in memory.
        flow: calls share one turn in the queue with each other flow; by default the job's.
        max_failed: share of items that cannot be read, of at least 500, above which the
            run stops. Such items go to `<state>.failed.jsonl`, as they came.
        max_outage: seconds without any usable answer after which the run stops.
        new_credential: the client's credential is a new one of the same account, so
            the state that was begun with the old one is resumed.
        progress: is given a `Progress` about once a second.
        misspelt: none; any other keyword is a `ConfigurationError`.

    Raises:
        ConfigurationError: an argument cannot be used; nothing was sent.
        InputError: *to* cannot be written; nothing was sent.
        StateInUseError: another run has the state file.
        StateMismatchError: the state is of another job or another version.
        BackfillStoppedError: the vendor stayed away, or too many items cannot be read.
        AsyncClientsError: what the vendor answered to a page.

    When cancelled it saves and raises `CancelledError`. Every call waits behind
    interactive ones.
    """
    try:
        arguments.check_names(pull, misspelt)
        _check(source, key, prefetch, max_failed, max_outage)
        arguments.check_flags(new_credential=new_credential)
        arguments.check_function("progress", progress)
        sink, name = open_sink(to)
        if isinstance(sink, FileSink):
            check_apart(Path(state), sink.files, "the result")
        job = await asyncio.to_thread(pull_job, source, name, key)
        journal = await Journal.open(state, job, new_credential=new_credential)
    except BaseException:
        arguments.close(source)
        raise
    try:
        checkpoint = await Checkpoint.load(journal)
        meter, outage = RequestCounter(), CircuitBreaker(max_outage)
        flow = flow or f"pull {name} {os.fspath(state)}"
        reader = reader_of(source, prefetch, flow, meter, outage)
        run = Pull(sink, checkpoint, key, meter, outage, max_failed=max_failed)
        async with reporting_progress(run.progress, progress):
            await run.work(reader)
        return run.report()
    finally:
        arguments.close(source)
        await journal.aclose()


def _check(source: Any, key: Any, prefetch: int, max_failed: float, max_outage: float) -> None:
    if not isinstance(source, (Paginator, AsyncIterable, Iterator, Awaitable)):
        raise ConfigurationError(
            f"the source of a pull must be a list of a client or an (async) iterator of pages, "
            f"not {source!r}",
            advice="Call the operation, as in intouch.contacts.list(sort_by='created_at')",
        )
    if not isinstance(key, str):
        arguments.check_function("key", key)
    arguments.check_whole("prefetch", prefetch, 0)
    arguments.check_share("max_failed", max_failed)
    arguments.check_seconds("max_outage", max_outage)


class Pull:
    """One run."""

    def __init__(
        self,
        sink: Sink,
        checkpoint: Checkpoint,
        key: Key | None,
        meter: RequestCounter,
        outage: CircuitBreaker,
        *,
        max_failed: float,
    ) -> None:
        self._sink, self._checkpoint = sink, checkpoint
        self._item_keys = ItemKeys(key)
        self._meter, self._outage, self._max_failed = meter, outage, max_failed
        self._loop = asyncio.get_running_loop()
        self._saved_at = self._loop.time()
        self._broken = False
        self._saving: asyncio.Future[BaseException | None] = self._loop.create_future()
        self._saving.set_result(None)
        self._before = checkpoint.state.done

    async def work(self, reader: PagePrefetcher | SequentialReader) -> None:
        """Read, write and finish; save what was reached on the way out."""
        state = self._checkpoint.state
        if state.complete:
            if isinstance(self._sink, FileSink):
                self._sink.check_complete()
            return
        stop: BackfillStoppedError
        await self._sink.open(state.position)
        try:
            try:
                if not state.read:
                    await self._read(reader)
            finally:
                await self._save()
                await self._saved()
            await self._sink.finish()
            state.complete = True
            await self._checkpoint.save(self._checkpoint.snapshot())
        except BackfillStoppedError as error:
            stop = error
        else:
            return
        finally:
            self._saving.cancel()  # it is over, unless this run was cancelled twice
            try:
                await self._sink.close()
            finally:
                await asyncio.wait([self._saving])
        raise BackfillStoppedError(stop.message, advice=stop.advice, report=self.report())

    async def _read(self, reader: PagePrefetcher | SequentialReader) -> None:
        state = self._checkpoint.state
        if isinstance(reader, SequentialReader):
            await reader.read(state.page + (not state.has_keys), self._take)
        else:
            await reader.read(await self._resume_at(reader), self._take)
            if state.pass_number == 1 and state.has_keys and state.is_missing_some:
                # What was hidden by a shift is found by reading once more.
                state.pass_number, state.page, state.total_shrank = 2, 0, False
                await reader.read(reader.start, self._take)
        state.unverified = state.doubts()
        state.read = True

    async def _resume_at(self, reader: PagePrefetcher) -> int:
        """The page to go on with: the first one back that has something we have."""
        state = self._checkpoint.state
        if not state.page:
            return reader.start
        if not state.has_keys:
            return state.page + 1
        number = state.page
        while number > reader.start:
            page = await reader.page(number)
            if any(name in self._checkpoint.seen for name in self._item_keys.keys_of(page.items)):
                break
            number -= 1
        return number

    async def _take(self, page: Page[Any]) -> None:
        state = self._checkpoint.state
        if page.total is not None:
            state.total_shrank |= state.total is not None and page.total < state.total
            state.total = page.total
        if page.spoiled:
            self._checkpoint.set_aside(page, self._max_failed)
        new = self._new(page.items, again=page.number <= state.page)
        if new:
            new = await self._write(new, page)
        state.done += len(new)
        state.page = max(state.page, page.number)
        if self._loop.time() - self._saved_at >= _CHECKPOINT_EVERY:
            await self._save()

    async def _write(self, items: Sequence[Any], page: Page[Any]) -> Sequence[Any]:
        """Write *items*, which are new on *page*; return those that have a form in the sink."""
        try:
            await self._sure(self._sink.write(items))
        except UnwritableItemsError as error:
            self._broken = False
            good, spoiled = error.good, error.spoiled
        else:
            return items
        found = Page[Any](items=good, number=page.number, spoiled=spoiled)
        self._checkpoint.set_aside(found, self._max_failed)
        if good:
            await self._sure(self._sink.write(good))
        return good

    def _new(self, items: Sequence[Any], *, again: bool) -> Sequence[Any]:
        """Those of *items* that are not in the sink."""
        state = self._checkpoint.state
        if state.has_keys is None and items:
            state.has_keys = self._item_keys.raw_keys(items)[0] is not None
        if not state.has_keys:
            return items
        known = self._checkpoint.add_keys(self._item_keys.keys_of(items))
        if not again and state.pass_number == 1:
            state.skipped += len(known)
        return drop_at(items, known)

    async def _save(self) -> None:
        """Begin to make durable what is in the sink, and to note after that how far it is."""
        await self._saved()
        if not self._broken:
            position, durable = await self._sure(self._begin_flush())
            self._checkpoint.state.position = position
            note = self._note(durable, self._checkpoint.snapshot())
            self._saving = asyncio.create_task(note)
            self._saved_at = self._loop.time()

    async def _begin_flush(self) -> tuple[Any, asyncio.Future[object] | None]:
        """The sink's position, and what to await until that is durable; None where it is."""
        if not isinstance(self._sink, OverlappingSink):
            return await self._sink.flush(), None
        position, durable = await self._sink.begin_flush()
        return position, asyncio.ensure_future(durable)

    async def _note(
        self, durable: asyncio.Future[object] | None, changes: Changes
    ) -> BaseException | None:
        try:
            if durable is not None:
                await durable
            await self._checkpoint.save(changes)
        except BaseException as error:  # noqa: BLE001 - raised by `_saved`
            return error
        return None

    async def _saved(self) -> None:
        """Return when the checkpoint under way is saved, or raise what it failed with."""
        error = await asyncio.shield(self._saving)
        if error is not None:
            raise error

    async def _sure(self, step: Coroutine[Any, Any, Any]) -> Any:
        """Await *step* of the sink. After one that failed nobody knows what the sink holds."""
        self._broken = True
        result = await step
        self._broken = False
        return result

    # --- Telling ----------------------------------------------------------------------

    def report(self) -> Report:
        """What the job has come to."""
        state, meter = self._checkpoint.state, self._meter
        return Report(
            done=state.done,
            failed=state.failed,
            skipped=state.skipped,
            requests=meter.requests,
            rejected=meter.rejected,
            seconds=meter.seconds,
            quota_use=meter.quota_use,
            total=state.total,
            unverified=state.unverified,
            failures=self._checkpoint.failures,
        )

    def progress(self) -> Progress:
        """Where the run stands."""
        state, meter = self._checkpoint.state, self._meter
        seconds = meter.seconds
        rate = (state.done - self._before) / seconds if seconds else 0.0
        left = None if state.total is None else max(0, state.total - state.done - state.failed)
        return Progress(
            done=state.done,
            failed=state.failed,
            unknown=0,
            skipped=state.skipped,
            rate=rate,
            quota_use=meter.quota_use,
            eta=left / rate if left is not None and rate else None,
            waiting=self._outage.outage_seconds,
        )
