"""Pull: write all pages of a list to a file or another sink.

A run opens the sink at the last checkpoint, reads pages, some ahead, writes the new items,
flushes the sink before each checkpoint, compares the count with the vendor's total, and finishes
the sink.

Numbered pages shift while the list changes: an item added before the current position makes
another one appear twice, a deleted one makes another one move to a page already read. Duplicates
are recognised by their key and dropped. A resumed run goes back until it finds a known item. If
the total shrank or the count does not match, the list is read a second time. The report names
everything that is still not verified.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from itertools import product
from pathlib import Path
from typing import Any, Never

from asyncclients.arguments import (
    check_function,
    check_keywords,
    check_path,
    check_seconds,
    close_coroutine,
)
from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.files.sink import (
    FileSink,
    Sink,
    UnwritableItemsError,
    UpsertSink,
    open_sink,
)
from asyncclients.backfill.prefetch import Pages, PullSetup, check_since, read_list
from asyncclients.backfill.refresh import Refresh, RefreshOptions
from asyncclients.backfill.report import Progress, Report, reporting_progress
from asyncclients.backfill.state.identity import pull_job
from asyncclients.backfill.state.journal import Journal
from asyncclients.backfill.state.pull_state import (
    Checkpoint,
    ItemKeys,
    Key,
    PullState,
    drop_at,
)
from asyncclients.core.options import call_context
from asyncclients.errors import BackfillStoppedError, ConfigurationError, InputError
from asyncclients.own_files import are_same, check_apart, target_of, temporary_of
from asyncclients.paging import Page, Paginator
from asyncclients.ratelimit.quota import Priority

_CHECKPOINT_INTERVAL = 0.2
"""Minimum seconds between checkpoints; a crash costs the pages read in this time."""


async def pull(
    source: Pages,
    to: str | os.PathLike[str] | Sink,
    *,
    state: str | os.PathLike[str],
    key: Key | None = None,
    refresh: bool = False,
    since: str | None = None,
    lag: float = 300.0,
    changes: str | os.PathLike[str] | None = None,
    prefetch: int = 8,
    flow: str | None = None,
    share: float | None = None,
    max_failed: float = 0.1,
    max_outage: float = 900.0,
    new_credential: bool = False,
    progress: Callable[[Progress], None] | None = None,
    **misspelt: Never,
) -> Report:
    """Write every item of *source* to *to*; run again with the same *state* to resume.

    Args:
        source: a paginator, such as `intouch.contacts.list(sort_by="created_at")`; an
            iterator or async iterable of `Page`; or an awaitable of a list. Sort by a field
            that never changes, ascending: then pages shift least.
        to: a .jsonl, .csv or .parquet file, which appears when it is complete, or a `Sink`.
        state: the file with the state of the job. After a complete pull another run with
            it does nothing unless it is a *refresh*; delete it to start over.
        key: identity of an item: the name of a field, or a function of an item; by
            default its `uuid`, else its `id`.
        refresh: bring the result of an earlier pull up to date: afterwards it has exactly
            the vendor's items, in the order first seen. *to* is a file, which is replaced
            when all is read, or an `UpsertSink`. Without an earlier pull it is the first.
        since: of a refresh: the field with the time of an item's last change, such as
            `updated_at`. The list is read newest first, to the first page whose items are
            all older than those known. Items that the vendor has deleted are kept then.
        lag: seconds before the newest known time that are read again, because times may be
            out of order by so much.
        changes: of a refresh: a file of JSON lines for the differences, replaced by each
            refresh: `{"op": "added" | "changed" | "removed", "key": ..., "item": ...}`.
        prefetch: maximum number of concurrent requests beyond the next page; as many more
            pages may wait in memory.
        flow: name for fair queueing between jobs; by default that of this job.
        share: most of every quota that the job takes, above 0 and at most 1, even if the rest is
            unused; None for all.
        max_failed: share of unreadable items, of at least 500, above which the run stops.
            Such items are written unchanged to `<state>.failed.jsonl`.
        max_outage: seconds without a usable response after which the run stops.
        new_credential: the client has a new credential of the same account: resume the
            state of the old one.
        progress: is called with a `Progress` about once a second.
        misspelt: none; any other keyword is a `ConfigurationError`.

    Raises:
        ConfigurationError: an argument is invalid, or *source* cannot be sorted by *since*;
            nothing was sent.
        InputError: *to* cannot be written; nothing was sent.
        StateInUseError: another run uses the state file.
        StateMismatchError: the state is of another job or another version; or the file to
            refresh was changed or removed.
        BackfillStoppedError: the vendor was unavailable, or too many items are unreadable.
        AsyncClientsError: a page failed with an error that a retry does not solve.

    When cancelled, it saves and raises `CancelledError`. Its calls have background priority.
    """
    try:
        check_keywords(pull, misspelt)
        _check(source, to, state, progress)
        sink, name = open_sink(to)
        setup = PullSetup(
            sink=sink,
            key=key,
            max_failed=max_failed,
            prefetch=prefetch,
            flow=flow or f"pull {name} {state}",
            share=share,
            max_outage=max_outage,
            new_credential=new_credential,
            refresh=refresh,
            breaker=CircuitBreaker(max_outage),
        )
        options = _refresh_options(source, sink, refresh, since, lag=lag, changes=changes)
        _check_files(Path(state), sink, options)
        job = await asyncio.to_thread(pull_job, source, name, key)
        async with aclosing(
            await Journal.open(state, job, new_credential=new_credential)
        ) as journal:
            run = await _open_run(journal, setup, options)
            with call_context(Priority.BACKGROUND, setup.flow, share=share):
                async with reporting_progress(run.progress, run.estimator, progress):
                    await run.work(source)
                await journal.finish()
                return run.report()
    finally:
        close_coroutine(source)


async def _open_run(
    journal: Journal, setup: PullSetup, options: RefreshOptions | None
) -> Pull | Refresh:
    found = await journal.state(PullState)
    if options is None and found is not None and found.refresh and not found.complete:
        options = RefreshOptions()  # the first reading was begun by a refresh
    if options is None:
        return Pull(setup, await Checkpoint.load(journal))
    return await Refresh.open(journal, setup, options)


def _refresh_options(
    source: Any, sink: Any, refresh: bool, since: Any, *, lag: Any, changes: Any
) -> RefreshOptions | None:
    """Return the options of a refresh, None if the pull is none."""
    if not refresh:
        for name, value in (("since", since), ("changes", changes)):
            if value is not None:
                raise ConfigurationError(
                    f"{name} is only for a refresh", advice="Pass refresh=True as well"
                )
        return None
    if not isinstance(sink, (FileSink, UpsertSink)):
        raise ConfigurationError(
            f"a {type(sink).__name__} cannot be refreshed: it has no methods upsert and remove",
            advice="Add them, see asyncclients.backfill.UpsertSink, or pull into a file",
        )
    check_seconds("lag", lag, zero=True)
    if since is not None:
        check_since(source, since)
    if changes is not None:
        check_path("changes", changes)
        changes = target_of(changes)
        if changes.is_dir() or not changes.parent.is_dir():
            raise InputError(
                f"{changes} is a directory, or in one that does not exist",
                file=str(changes),
                advice="Give changes= a file in an existing directory",
            )
    return RefreshOptions(since=since or "", lag=lag, changes=changes)


def _check_files(state: Path, sink: Any, options: RefreshOptions | None) -> None:
    """Raise `InputError` if a file of the job is also another one of it."""
    files = sink.files if isinstance(sink, FileSink) else []
    check_apart(state, files, "the result")
    changes = None if options is None else options.changes
    if changes is not None:
        mine = [changes, temporary_of(changes)]
        check_apart(state, mine, "the file of changes")
        if any(are_same(one, other) for one, other in product(mine, files)):
            raise InputError(
                f"{changes} is the file of changes of this job and cannot be its result",
                file=str(changes),
                advice="Give changes= another name",
            )


def _check(source: Any, to: Any, state: Any, progress: Any) -> None:
    check_path("state", state)
    if not hasattr(to, "write"):
        check_path("to", to)
    check_function("progress", progress)
    if not isinstance(source, (Paginator, AsyncIterable, Iterator, Awaitable)):
        raise ConfigurationError(
            f"the source of a pull must be a list of a client or an (async) iterator of pages, "
            f"not {source!r}",
            advice="Call the operation, as in intouch.contacts.list(sort_by='created_at')",
        )


class Pull:
    """One run of a pull."""

    def __init__(self, setup: PullSetup, checkpoint: Checkpoint) -> None:
        self._setup, self._checkpoint = setup, checkpoint
        self._sink: Sink = setup.sink
        self._item_keys = ItemKeys(setup.key)
        self.estimator = setup.estimator(checkpoint.state.found)
        self._loop = asyncio.get_running_loop()
        self._saved_at = self._loop.time()
        self._is_sink_uncertain = False

    async def work(self, source: Pages) -> None:
        """Read, write and finish; save a checkpoint at the end in any case."""
        state = self._checkpoint.state
        if state.complete:
            if isinstance(self._sink, FileSink):
                self._sink.check_complete()
            return
        await self._sink.open(state.position)
        try:
            try:
                if not state.read:
                    reader = self._setup.reader(source)
                    await read_list(reader, state, self._take, self._is_known, self._may_miss_some)
            finally:
                if not self._is_sink_uncertain:
                    await self._save()
            await self._sink.finish()
            if isinstance(self._sink, FileSink):
                state.file = self._sink.mark
            state.complete = True
            await self._checkpoint.save()
        except BackfillStoppedError as error:
            error.report = self.report()
            raise
        finally:
            await self._sink.close()

    async def _is_known(self, page: Page[Any]) -> bool:
        seen = self._checkpoint.seen
        return any(key in seen for key in self._item_keys.keys_of(page.items))

    async def _may_miss_some(self) -> bool:
        return self._checkpoint.state.is_missing_some

    async def _take(self, page: Page[Any]) -> None:
        state = self._checkpoint.state
        state.note_total(page.total)
        if page.invalid_items:
            self._checkpoint.set_aside(page, self._setup.max_failed)
        new = self._new_items(page.items, is_reread=page.number <= state.page)
        if new:
            new = await self._write(new, page)
        state.done += len(new)
        state.page = max(state.page, page.number)
        if self._loop.time() - self._saved_at >= _CHECKPOINT_INTERVAL:
            await self._save()

    async def _write(self, items: Sequence[Any], page: Page[Any]) -> Sequence[Any]:
        """Write *items*, which are new on *page*; return those that the sink can store."""
        place = self._checkpoint.unsaved_keys - len(items)
        try:
            await self._use_sink(self._sink.write(items))
        except UnwritableItemsError as error:
            self._is_sink_uncertain = False
            good, invalid = error.good, error.invalid
        else:
            self._checkpoint.add_contents(place, items)
            return items
        found = Page[Any](items=good, number=page.number, invalid_items=invalid)
        self._checkpoint.set_aside(found, self._setup.max_failed)
        if good:
            await self._use_sink(self._sink.write(good))
            written = {id(item) for item in good}
            kept = [item if id(item) in written else None for item in items]
            self._checkpoint.add_contents(place, kept)
        return good

    def _new_items(self, items: Sequence[Any], *, is_reread: bool) -> Sequence[Any]:
        """Return those of *items* that are not in the sink."""
        state = self._checkpoint.state
        if state.has_keys is None and items:
            state.has_keys = self._item_keys.raw_keys(items)[0] is not None
        if not state.has_keys:
            return items
        duplicates = self._checkpoint.add_keys(self._item_keys.keys_of(items))
        if not is_reread and state.pass_number == 1:
            state.skipped += len(duplicates)
        return drop_at(items, duplicates)

    async def _save(self) -> None:
        """Make the sink durable, then save a checkpoint."""
        self._checkpoint.state.position = await self._use_sink(self._sink.flush())
        await self._checkpoint.save()
        self._saved_at = self._loop.time()

    async def _use_sink(self, step: Coroutine[Any, Any, Any]) -> Any:
        """Await *step* of the sink. If it fails, the content of the sink is uncertain."""
        self._is_sink_uncertain = True
        result = await step
        self._is_sink_uncertain = False
        return result

    # --- Reporting ----------------------------------------------------------------------

    def report(self) -> Report:
        """Return the counts of the job."""
        state = self._checkpoint.state
        return Report(
            done=state.done,
            failed=state.failed,
            skipped=state.skipped,
            total=state.total,
            unverified=state.unverified,
            complete=state.complete,
            failures=self._checkpoint.failures,
            **self._setup.counter.totals(),
        )

    def progress(self) -> Progress:
        """Return the progress of the run."""
        state = self._checkpoint.state
        return self.estimator.progress(
            done=state.done,
            failed=state.failed,
            skipped=state.skipped,
            settled=state.found,
            total=state.total,
            waiting=self._setup.breaker.outage_seconds,
            cause=self._setup.breaker.cause,
        )
