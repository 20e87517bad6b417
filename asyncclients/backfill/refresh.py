"""Refresh: bring the result of an earlier pull up to date.

The pages go into the table of items in the state file (`item_table`). When the list is read, the
file is written from the table, in the order first seen, and replaces the old one. A user's sink
gets the new and changed items of each page at once, because it can replace single items.

The whole list is read, or with `since=` only what changed:

* The list is sorted by a time of the items, newest first. Reading ends at the first page whose
  items are all older than the watermark less the lag.
* The watermark is a time of the vendor. All changes before it are in the table. After a partial
  reading it is the newest time that was read: an item that changes during the reading moves to the
  front, and the next reading begins there. After a reading of the whole list it is the newest time
  of all items less the duration of the reading, because an item may have changed after its page was
  read.
* The vendor's clock need not agree with ours. But an item with a time in the future would end all
  later readings at their first page, so the watermark is never later than the beginning of a
  reading by our clock. If our clock is behind, some more pages are read.

An item that was not found is removed only if the whole list was read, as many items were found as
the vendor counts, and each unreadable item has a readable key. If the vendor gives no count, it is
removed if a second reading does not find it either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec

from asyncclients.backfill.files.sink import FileSink, UnwritableItemsError, UpsertSink
from asyncclients.backfill.prefetch import (
    PagePrefetcher,
    Pages,
    PullSetup,
    read_list,
    resume_at,
)
from asyncclients.backfill.report import Progress, Report
from asyncclients.backfill.state.item_table import ItemTable, Known
from asyncclients.backfill.state.journal import Journal
from asyncclients.backfill.state.pull_state import (
    ItemKeys,
    LastRefresh,
    PullState,
    failed_keys,
    text_of,
)
from asyncclients.backfill.state.stored_rows import content_digests, encode_row
from asyncclients.errors import BackfillStoppedError, ConfigurationError, encodable
from asyncclients.paging import InvalidItem, Page, Paginator

_SAVE_INTERVAL = 0.2
"""Minimum seconds between saves; a crash costs the pages read in this time."""
_MAX_UNSAVED = 2**20
"""Bytes of items that may wait for the next save."""
_MAX_UNREPORTED = 600.0
"""Seconds after which a refresh is repeated, although its result was never reported."""
_MAX_SECONDS = 1e11
"""Numbers above this are milliseconds since 1970."""


class RefreshOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of `pull` for a refresh only."""

    since: str = ""
    lag: float = 300.0
    changes: Path | None = None


class _AllOlderError(Exception):
    """Ends the reading: all items of a page are older than what is known."""


class Refresh:
    """One run of a refresh; *estimator* is that of its end."""

    def __init__(self, setup: PullSetup, table: ItemTable, options: RefreshOptions) -> None:
        self._setup, self._table, self._options = setup, table, options
        self._sink: FileSink | UpsertSink = setup.sink
        self._item_keys, self._key = ItemKeys(setup.key), setup.key
        self.estimator = setup.estimator(table.current.reading.found)
        self._loop = asyncio.get_running_loop()
        self._saved_at = self._loop.time()
        self._is_sink_uncertain = False
        self._result: LastRefresh | None = None

    @classmethod
    async def open(cls, journal: Journal, setup: PullSetup, options: RefreshOptions) -> Refresh:
        """Return a run that refreshes the sink of *setup* with the state in *journal*."""
        state = await journal.state(PullState) or PullState()
        sink, key, lines = setup.sink, setup.key, None
        if isinstance(sink, FileSink) and state.complete:
            # After a crash while the file was replaced, it may be the old or the new one.
            if state.refresh is None or not state.refresh.reading.read:
                await sink.check_unchanged(state.file)
            lines = sink.path if sink.has_lines else None
        names = [key] if isinstance(key, str) else [] if key else ["uuid", "id"]
        table = await ItemTable.open(journal, state, names, lines)
        return cls(setup, table, options)

    async def work(self, source: Pages) -> None:
        """Read *source*, and publish the result."""
        table, sink = self._table, self._sink
        stop: BackfillStoppedError | None = None
        await sink.open(None if isinstance(sink, FileSink) else table.position)
        if isinstance(sink, FileSink):
            sink.keeps_part = False
        try:
            if self._is_unreported():
                self._result = table.state.refreshed
            else:
                await self._refresh(source)
        except BackfillStoppedError as error:
            stop = error
        finally:
            await sink.close()
        if stop is None:
            await table.record_report()
            return
        raise BackfillStoppedError(stop.message, advice=stop.advice, report=self.report())

    def _is_unreported(self) -> bool:
        """Return whether the last run was killed after it had published the same refresh.

        Its differences would be lost if another refresh replaced the file of changes at once.
        """
        state, options = self._table.state, self._options
        last = state.refreshed
        if state.is_reported or state.refresh is not None or last is None:
            return False
        is_recent = 0 <= time.time() - last.ended_at < _MAX_UNREPORTED
        has_changes = options.changes is None or options.changes.exists()
        return is_recent and has_changes and last.since in ("", options.since)

    async def _refresh(self, source: Pages) -> None:
        table, since = self._table, self._options.since
        under_way = table.state.refresh
        if under_way is not None:
            await table.resume()
            # A refresh of the whole list is one of its changes as well.
            is_wanted = under_way.since in ("", since)
            if under_way.reading.read:
                await self._publish()
                if is_wanted:
                    return
            elif not is_wanted:
                under_way = None
        if under_way is None or under_way.reading.read:
            watermark = await self._watermark() if since else None
            if watermark is None:
                await table.begin()
            else:
                await table.begin(since, watermark, self._options.lag)
        reading = table.current.reading
        try:
            if not table.current.since:
                reader = self._setup.reader(source)
                await read_list(reader, reading, self._take, self._is_known, self._may_miss_some)
            else:
                await self._read_changes(source)
        finally:
            if not self._is_sink_uncertain:
                await self._save()
        await self._publish()

    async def _read_changes(self, source: Pages) -> None:
        current = self._table.current
        assert isinstance(source, Paginator)
        assert source.newest_first is not None
        reader = self._setup.reader(source.newest_first(current.since))
        assert isinstance(reader, PagePrefetcher)
        reader.prefetch = 0  # usually the first page is the last
        with suppress(_AllOlderError):
            number = await resume_at(reader, current.reading, self._is_known)
            await reader.read(number, self._take)
        current.reading.read = True

    async def _watermark(self) -> float | None:
        """Return the time before which all changes are known; None to read the whole list."""
        table, state, since = self._table, self._table.state, self._options.since
        if state.watermark is not None and state.since == since:
            return state.watermark
        if not (state.complete and state.done and state.began_at) or not await table.has_contents():
            return None
        newest = await table.newest(lambda item: _time_of(item, since))
        if newest is None:
            raise self._no_time()
        return min(newest - state.seconds, state.began_at)

    def _no_time(self) -> ConfigurationError:
        return ConfigurationError(
            f"since={self._options.since!r}: no item has a time in this field",
            advice="Give the field in which the vendor keeps the time of the last change",
        )

    # --- Pages ---------------------------------------------------------------------------

    async def _is_known(self, page: Page[Any]) -> bool:
        known = await self._table.find(self._keys_of(page.items))
        number = self._table.current.number
        return any(each.seen == number for each in known.values())

    async def _may_miss_some(self) -> bool:
        """Return whether the reading may have missed items, which a second one finds."""
        reading = self._table.current.reading
        if reading.total is not None:
            return reading.is_missing_some
        # Without a count, an item that is not there any more looks like a hidden one.
        await self._save()
        return await self._table.count_missing() > 0

    def _keys_of(self, items: Sequence[Any]) -> list[str]:
        keys = self._item_keys.raw_keys(items)
        self._table.current.has_number_keys |= any(isinstance(key, int) for key in keys)
        if None in keys:
            name = self._key if isinstance(self._key, str) else "uuid and no id"
            raise ConfigurationError(
                f"a refresh identifies items by their key, and an item has no {name}",
                advice="Give key=, a field that every item has",
            )
        return [encodable(key) for key in self._item_keys.keys_of(items)]

    async def _take(self, page: Page[Any]) -> None:
        table, reading = self._table, self._table.current.reading
        reading.has_keys = True
        reading.note_total(page.total)
        items, contents, invalid = self._encode(page)
        if invalid:
            await self._set_aside(msgspec.structs.replace(page, invalid_items=invalid))
        keys, number = self._keys_of(items), table.current.number
        known, fresh = await table.find(keys), list[Any]()
        is_first_reading = page.number > reading.page and reading.pass_number == 1
        digests = content_digests(items)
        for item, key, content, digest in zip(items, keys, contents, digests, strict=True):
            before = known.get(key)
            if before is None or before.seen != number:
                reading.done += 1
            else:
                reading.skipped += is_first_reading
            if before is None or before.digest != digest:
                fresh.append(item)
            table.put(key, digest, content)
            known[key] = Known(digest, number)
        if fresh and not isinstance(self._sink, FileSink):
            await self._use_sink(self._sink.upsert(fresh))
        reading.page = max(reading.page, page.number)
        is_due = self._loop.time() - self._saved_at >= _SAVE_INTERVAL
        if is_due or table.unsaved_bytes > _MAX_UNSAVED:
            await self._save()
        if table.current.since and contents:
            self._note_times(page, contents)

    def _note_times(self, page: Page[Any], contents: Sequence[bytes]) -> None:
        """Note the newest time of *contents*; end the reading if all of *page* are older."""
        current = self._table.current
        found = [_time_of(msgspec.json.decode(item), current.since) for item in contents]
        times = [each for each in found if each is not None]
        if not times and page.number == 1:
            raise self._no_time()
        if times:
            current.newest = max(current.newest, min(max(times), current.reading.began_at))
        if not times or max(times) < current.watermark - current.lag:
            raise _AllOlderError

    def _encode(self, page: Page[Any]) -> tuple[Sequence[Any], list[bytes], list[InvalidItem]]:
        """Return the items of *page* that can be stored, as JSON too, and the other ones."""
        items, invalid = page.items, [*page.invalid_items]
        if not isinstance(self._sink, FileSink):
            return items, [encode_row(item) for item in items], invalid
        try:
            lines = self._sink.lines_of(items)
        except UnwritableItemsError as error:
            items, lines = error.good, self._sink.lines_of(error.good)
            invalid += error.invalid
        return items, lines.split(b"\n")[:-1], invalid

    async def _set_aside(self, page: Page[Any]) -> None:
        """Set the unreadable items of *page* aside; keep what is known of those with a key."""
        table = self._table
        await table.set_aside(page, failed_keys(page), self._setup.max_failed)
        for invalid in page.invalid_items:
            key = self._key_in(invalid.raw)
            if key is None:
                table.current.unnamed += invalid.items
            elif (known := (await table.find([key])).get(key)) is not None:
                table.put(key, known.digest)

    def _key_in(self, raw: bytes) -> str | None:
        """Return the key in an unreadable item, None if it is unreadable as well."""
        if not isinstance(self._key, str | None):
            return None
        try:
            (key,) = self._item_keys.raw_keys([msgspec.json.decode(raw, type=dict[str, Any])])
        except msgspec.MsgspecError:
            return None
        return None if key is None else encodable(text_of(key))

    async def _save(self) -> None:
        """Make the sink durable, then save."""
        if not isinstance(self._sink, FileSink):
            self._table.current.reading.position = await self._use_sink(self._sink.flush())
        await self._table.save()
        self._saved_at = self._loop.time()

    async def _use_sink(self, step: Coroutine[Any, Any, Any]) -> Any:
        """Await *step* of the sink. If it fails, the content of the sink is uncertain."""
        self._is_sink_uncertain = True
        result = await step
        self._is_sink_uncertain = False
        return result

    # --- The result ----------------------------------------------------------------------

    async def _publish(self) -> None:
        """Write the changes, then the result, then record both."""
        table, sink, changes = self._table, self._sink, self._options.changes
        result = await table.compare()
        reading = table.current.reading
        reading.unverified = await self._doubts(result)
        if changes is not None:
            await table.write_changes(changes)
        mark = table.state.file
        if not isinstance(sink, FileSink):
            async for keys in table.removed_keys():
                await sink.remove(keys)
            reading.position = await sink.flush()
            await sink.finish()
        elif result.added or result.changed or result.removed or not table.state.complete:
            async for lines in table.lines():
                await sink.write_lines(lines)
            await sink.flush()
            await sink.finish()
            mark = sink.mark
        await table.publish(result, mark)
        self._result = result

    async def _doubts(self, result: LastRefresh) -> tuple[str, ...]:
        """Return a sentence for each property of the result that is not verified."""
        current, count = self._table.current, result.added + result.changed + result.unchanged
        total = current.reading.total
        if current.since:
            doubts = [
                f"items that the vendor has deleted are kept: since={current.since} finds none"
            ]
            if total is not None and total != count:
                doubts.append(f"the vendor counts {total} items, the result has {count}")
            return tuple(doubts)
        doubts = [*current.reading.doubts()]
        missing = await self._table.count_missing()
        if missing and not current.may_remove:
            doubts.append(f"{missing} items that were not found again are kept: they may be hidden")
        return tuple(doubts)

    def report(self) -> Report:
        """Return the counts of the job, and the differences that this run published."""
        state = self._table.state
        is_published = state.complete and state.refresh is None
        reading = state if is_published else self._table.current.reading
        result = self._result or LastRefresh(ended_at=0.0)
        return Report(
            done=state.done if state.complete else reading.done,
            failed=reading.failed,
            skipped=reading.skipped,
            added=result.added,
            changed=result.changed,
            removed=result.removed,
            unchanged=result.unchanged,
            total=reading.total,
            unverified=reading.unverified,
            failures=self._table.failures if reading.failed else None,
            **self._setup.counter.totals(),
        )

    def progress(self) -> Progress:
        """Return the progress of the run."""
        current = self._table.current
        reading = current.reading
        return self.estimator.progress(
            done=reading.done,
            failed=reading.failed,
            skipped=reading.skipped,
            settled=reading.found,
            total=None if current.since else reading.total,
            waiting=self._setup.breaker.outage_seconds,
            cause=self._setup.breaker.cause,
        )


def _time_of(item: Any, field: str) -> float | None:
    """Return the time in *field* of *item* in seconds since 1970; None without one."""
    value = cast("dict[str, Any]", item).get(field) if isinstance(item, dict) else None
    if isinstance(value, bool):
        return None
    with suppress(ValueError, OverflowError):
        if isinstance(value, (int, float)):
            return value / 1000 if value > _MAX_SECONDS else float(value)
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        if found is not None:
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    return None
