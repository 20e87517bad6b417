"""One run of a pull: the part that a first pull and a refresh have in common.

A run reads the remaining pages of the list, prefetches some of them, passes their items on, and
saves at most five times a second: first the sink is made durable, then the checkpoint.

Numbered pages shift while the list changes: an item added before the current position makes
another one appear twice, a deleted one makes another one move to a page already read. Duplicates
are recognised by their key. A resumed run goes back page by page until one has a known item. If
the total shrank or the count does not match, the list is read a second time.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec

from asyncclients.arguments import (
    NaturalInt,
    QuotaShare,
    Ratio,
    Seconds,
    check_fields,
    check_function,
    check_seconds,
)
from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.files.sink import FileSink, UpsertSink
from asyncclients.backfill.prefetch import PagePrefetcher, Pages, SequentialReader, read_list
from asyncclients.backfill.report import EtaEstimator, Progress, Report, RequestCounter
from asyncclients.backfill.state.pull_state import Checkpoint, ItemKeys, Key
from asyncclients.errors import BackfillStoppedError, ConfigurationError
from asyncclients.paging import Page, Paginator

_SAVE_INTERVAL = 0.2
"""Minimum seconds between saves; a crash costs the pages read in this time."""
_MAX_UNSAVED = 2**20
"""Bytes of items that may wait for the next save."""


class PullOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one run of a pull reads and stores; the fields are arguments of `pull`.

    Raises:
        ConfigurationError: a field is invalid.
    """

    sink: Any
    key: Key | None
    refresh: bool
    since: str | None
    lag: float
    changes: Path | None
    prefetch: NaturalInt
    flow: str
    share: QuotaShare | None
    max_failed: Ratio
    max_outage: Seconds
    new_credential: bool

    def __post_init__(self) -> None:
        if not isinstance(self.key, str):
            check_function("key", self.key)
        check_fields(self)
        check_seconds("lag", self.lag, zero=True)
        for name, value in (("since", self.since), ("changes", self.changes)):
            if value is not None and not self.refresh:
                raise ConfigurationError(
                    f"{name} is only for a refresh", advice="Pass refresh=True as well"
                )
        if self.refresh and not isinstance(self.sink, (FileSink, UpsertSink)):
            raise ConfigurationError(
                f"a {type(self.sink).__name__} cannot be refreshed: it has no methods upsert and "
                "remove",
                advice="Add them, see asyncclients.backfill.UpsertSink, or pull into a file",
            )


class PullRun(ABC):
    """One run of a pull; `estimator` computes its ETA."""

    def __init__(self, options: PullOptions, checkpoint: Checkpoint) -> None:
        self._options, self._checkpoint, self._sink = options, checkpoint, options.sink
        self._item_keys = ItemKeys(options.key)
        self._counter, self._breaker = RequestCounter(), CircuitBreaker(options.max_outage)
        found = checkpoint.reading.found
        self.estimator = EtaEstimator(self._counter, options.flow, found)
        self._loop = asyncio.get_running_loop()
        self._saved_at = self._loop.time()
        self._is_sink_uncertain = False

    async def work(self, source: Pages) -> None:
        """Read *source*, and publish the result."""
        await self._sink.open(self._checkpoint.position)
        try:
            await self._read_and_publish(source)
        except BackfillStoppedError as error:
            error.report = self.report()
            raise
        finally:
            await self._sink.close()

    @abstractmethod
    async def _read_and_publish(self, source: Pages) -> None:
        """Read and publish, while the sink is open."""

    @abstractmethod
    async def _add(self, page: Page[Any], lines: Sequence[bytes]) -> None:
        """Pass the items of *page* on; *lines* are these items as JSON if the sink is a file."""

    def _keys_of(self, items: Sequence[Any]) -> list[str]:
        return self._item_keys.keys_of(items)

    # --- Reading -------------------------------------------------------------------------

    def _reader(self, source: Pages) -> PagePrefetcher | SequentialReader:
        flow = self._options.flow
        if not isinstance(source, Paginator):
            return SequentialReader(source, flow, self._counter)
        ahead = self._options.prefetch
        return PagePrefetcher(source, ahead, flow, self._counter, self._breaker, lenient=True)

    async def _read_and_save(self, source: Pages) -> None:
        """Read the rest of the list; save also after an error, unless it was one of the sink."""
        try:
            await self._read_list(source)
        finally:
            if not self._is_sink_uncertain:
                await self._save()

    async def _read_list(self, source: Pages) -> None:
        reading = self._checkpoint.reading
        await read_list(self._reader(source), reading, self._take, self._has_known_item)

    async def _has_known_item(self, page: Page[Any]) -> bool:
        return any(await self._checkpoint.known(self._keys_of(page.items)))

    async def _take(self, page: Page[Any]) -> None:
        checkpoint, reading, lines = self._checkpoint, self._checkpoint.reading, list[bytes]()
        reading.note_total(page.total)
        if isinstance(self._sink, FileSink):
            page, lines = self._sink.encode(page)
        if page.invalid_items:
            await self._set_aside(page)
        await self._add(page, lines)
        reading.page = max(reading.page, page.number)
        is_due = self._loop.time() - self._saved_at >= _SAVE_INTERVAL
        if is_due or checkpoint.unsaved_bytes > _MAX_UNSAVED:
            await self._save()

    async def _set_aside(self, page: Page[Any]) -> None:
        await self._checkpoint.set_aside(page, self._options.max_failed)

    async def _save(self) -> None:
        """Make the sink durable, then save."""
        self._checkpoint.reading.position = await self._use_sink(self._sink.flush())
        await self._checkpoint.save()
        self._saved_at = self._loop.time()

    async def _use_sink(self, step: Coroutine[Any, Any, Any]) -> Any:
        """Await *step* of the sink. If it fails, the content of the sink is uncertain."""
        self._is_sink_uncertain = True
        result = await step
        self._is_sink_uncertain = False
        return result

    # --- Reporting -----------------------------------------------------------------------

    def report(self) -> Report:
        """Return the counts of the job."""
        state, reading = self._checkpoint.state, self._checkpoint.reading
        # A plain pull, where `reading` is `state`, leaves a refresh in progress alone.
        is_complete = state.complete and (reading is state or state.refresh is None)
        if is_complete:
            reading = state
        return Report(
            done=state.done if state.complete else reading.done,
            failed=reading.failed,
            skipped=reading.skipped,
            total=reading.total,
            unverified=reading.unverified,
            complete=is_complete,
            failures=self._checkpoint.failures if reading.failed else None,
            **self._counter.totals(),
        )

    def progress(self) -> Progress:
        """Return the progress of the run."""
        state, reading = self._checkpoint.state, self._checkpoint.reading
        # A refresh with since= reads only a part of the list; the total counts all of it.
        is_partial = reading is not state and state.refresh is not None and state.refresh.since
        return self.estimator.progress(
            done=reading.done,
            failed=reading.failed,
            skipped=reading.skipped,
            settled=reading.found,
            total=None if is_partial else reading.total,
            waiting=self._breaker.outage_seconds,
            cause=self._breaker.cause,
        )
