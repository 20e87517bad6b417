"""Pull: write all pages of a list to a file or another sink, or bring its result up to date.

At the end the count is compared with the vendor's total, and the report names everything that is
not verified.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from itertools import product
from pathlib import Path
from typing import Any, Never

from asyncclients.arguments import check_function, check_keywords, check_path, close_coroutine
from asyncclients.backfill.files.sink import FileSink, Sink, open_sink
from asyncclients.backfill.prefetch import Pages, check_since
from asyncclients.backfill.pull_run import PullOptions, PullRun
from asyncclients.backfill.refresh import Refresh
from asyncclients.backfill.report import Progress, Report, reporting_progress
from asyncclients.backfill.state.identity import pull_job
from asyncclients.backfill.state.journal import Journal
from asyncclients.backfill.state.pull_state import Key, PullState, SeenItems, drop_at
from asyncclients.backfill.state.stored_rows import content_digests
from asyncclients.core.options import call_context
from asyncclients.errors import ConfigurationError, InputError
from asyncclients.own_files import are_same, check_apart, target_of, temporary_of
from asyncclients.paging import Page, Paginator
from asyncclients.ratelimit.quota import Priority


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
        options = PullOptions(
            sink=sink,
            key=key,
            refresh=refresh,
            since=since,
            lag=lag,
            changes=None if changes is None else _changes_path(changes),
            prefetch=prefetch,
            flow=flow or f"pull {name} {state}",
            share=share,
            max_failed=max_failed,
            max_outage=max_outage,
            new_credential=new_credential,
        )
        if since is not None:
            check_since(source, since)
        _check_files(Path(state), options)
        job = await asyncio.to_thread(pull_job, source, name, key)
        async with aclosing(
            await Journal.open(state, job, new_credential=new_credential)
        ) as journal:
            return await _run(source, journal, options, progress)
    finally:
        close_coroutine(source)


async def _run(
    source: Pages,
    journal: Journal,
    options: PullOptions,
    progress: Callable[[Progress], None] | None,
) -> Report:
    run = await _open_run(journal, options)
    with call_context(Priority.BACKGROUND, options.flow, share=options.share):
        async with reporting_progress(run.progress, run.estimator, progress):
            await run.work(source)
        await journal.finish()
        return run.report()


async def _open_run(journal: Journal, options: PullOptions) -> PullRun:
    state = await journal.state(PullState)
    # A first reading that was begun by a refresh is continued by one.
    if options.refresh or (state is not None and state.refresh and not state.complete):
        return await Refresh.open(journal, options)
    return Pull(options, await SeenItems.load(journal))


def _changes_path(changes: Any) -> Path:
    """Return the path of the file of changes; raise an error if it cannot be written."""
    check_path("changes", changes)
    path = target_of(changes)
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(
            f"{path} is a directory, or in one that does not exist",
            file=str(path),
            advice="Give changes= a file in an existing directory",
        )
    return path


def _check_files(state: Path, options: PullOptions) -> None:
    """Raise `InputError` if a file of the job is also another one of it."""
    sink, changes = options.sink, options.changes
    files = sink.files if isinstance(sink, FileSink) else []
    check_apart(state, files, "the result")
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


class Pull(PullRun):
    """One run of a pull that is no refresh: it adds each item to the sink as it arrives."""

    def __init__(self, options: PullOptions, items: SeenItems) -> None:
        super().__init__(options, items)
        self._items = items

    async def work(self, source: Pages) -> None:
        """Do nothing if the pull is complete."""
        if not self._items.state.complete:
            await super().work(source)
        elif isinstance(self._sink, FileSink):
            self._sink.check_complete()

    async def _read_and_publish(self, source: Pages) -> None:
        state = self._items.state
        if not state.read:
            await self._read_and_save(source)
        await self._sink.finish()
        if isinstance(self._sink, FileSink):
            state.file = self._sink.mark
        state.complete = True
        await self._items.save()

    async def _add(self, page: Page[Any], lines: Sequence[bytes]) -> None:
        state, items = self._items.state, page.items
        if state.has_keys is None and items:
            state.has_keys = self._item_keys.raw_keys(items)[0] is not None
        if state.has_keys:
            duplicates = self._items.add(self._keys_of(items), content_digests(items))
            if page.number > state.page and state.pass_number == 1:
                state.skipped += len(duplicates)
            items, lines = drop_at(items, duplicates), drop_at(lines, duplicates)
        if items and isinstance(self._sink, FileSink):
            await self._use_sink(self._sink.write_lines(lines))
        elif items:
            await self._use_sink(self._sink.write(items))
        state.done += len(items)
