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

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from asyncclients.backfill.files.sink import FileSink
from asyncclients.backfill.prefetch import PagePrefetcher, Pages, read_list, resume_at
from asyncclients.backfill.pull_run import PullOptions, PullRun
from asyncclients.backfill.report import Report
from asyncclients.backfill.state.item_table import ItemTable, KnownItem
from asyncclients.backfill.state.journal import Journal
from asyncclients.backfill.state.pull_state import LastRefresh, PullState, text_of
from asyncclients.backfill.state.stored_rows import content_digests, encode_row
from asyncclients.errors import ConfigurationError, encodable
from asyncclients.paging import Page, Paginator

_MAX_UNREPORTED = 600.0
"""Seconds: the next run reports a refresh that ended unreported less than this ago, and does not
refresh again."""
_MAX_SECONDS = 1e11
"""Numbers above this are milliseconds since 1970."""


class _AllOlderError(Exception):
    """Ends the reading: all items of a page are older than what is known."""


class Refresh(PullRun):
    """One run of a refresh."""

    def __init__(self, options: PullOptions, table: ItemTable) -> None:
        super().__init__(options, table)
        self._table, self._since = table, options.since or ""
        self._result: LastRefresh | None = None

    @classmethod
    async def open(cls, journal: Journal, options: PullOptions) -> Refresh:
        """Return a run that refreshes the sink of *options* with the state in *journal*."""
        state = await journal.state(PullState) or PullState()
        sink, key, jsonl = options.sink, options.key, None
        if isinstance(sink, FileSink):
            sink.keeps_part = False
            # After a crash while the file was replaced, it may be the old or the new one.
            if state.complete and not (state.refresh and state.refresh.reading.read):
                await sink.check_unchanged(state.file)
            jsonl = sink.path if sink.has_lines else None
        names = [key] if isinstance(key, str) else [] if key else ["uuid", "id"]
        return cls(options, await ItemTable.open(journal, state, names, jsonl))

    async def work(self, source: Pages) -> None:
        """Read *source*, publish the result, and record that it is reported."""
        await super().work(source)
        await self._table.record_report()

    async def _read_and_publish(self, source: Pages) -> None:
        if self._is_unreported():
            self._result = self._table.state.refreshed
        else:
            await self._refresh(source)

    def _is_unreported(self) -> bool:
        """Return whether the last run was killed after it had published the same refresh.

        Its differences would be lost if another refresh replaced the file of changes at once.
        """
        state, options = self._table.state, self._options
        last = state.refreshed
        if state.is_reported or state.refresh is not None or last is None:
            return False
        is_recent = 0 <= time.time() - last.ended_at < _MAX_UNREPORTED
        has_file = options.changes is None or options.changes.exists()
        return is_recent and has_file and last.since in ("", self._since)

    async def _refresh(self, source: Pages) -> None:
        table, since = self._table, self._since
        under_way = table.state.refresh
        if under_way is not None:
            await table.resume()
            # A refresh of the whole list also finds what changed.
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
        await self._read_and_save(source)
        await self._publish()

    async def _read_list(self, source: Pages) -> None:
        current = self._table.current
        if not current.since:
            reader, reading = self._reader(source), current.reading
            await read_list(reader, reading, self._take, self._has_known_item, self._may_miss_some)
            return
        assert isinstance(source, Paginator)
        assert source.newest_first is not None
        reader = self._reader(source.newest_first(current.since))
        assert isinstance(reader, PagePrefetcher)
        reader.prefetch = 0  # usually the first page is the last
        with suppress(_AllOlderError):
            number = await resume_at(reader, current.reading, self._has_known_item)
            await reader.read(number, self._take)
        current.reading.read = True

    async def _watermark(self) -> float | None:
        """Return the time before which all changes are known; None to read the whole list."""
        table, state, since = self._table, self._table.state, self._since
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
            f"since={self._since!r}: no item has a time in this field",
            advice="Give the field in which the vendor keeps the time of the last change",
        )

    # --- Pages ---------------------------------------------------------------------------

    async def _may_miss_some(self) -> bool:
        """Return whether the reading may have missed items, which a second one finds."""
        reading = self._table.reading
        if reading.total is not None:
            return reading.is_missing_some
        # Without a count, an item that is not there any more looks like a hidden one.
        await self._save()
        return await self._table.count_missing() > 0

    def _keys_of(self, items: Sequence[Any]) -> list[str]:
        keys = self._item_keys.raw_keys(items)
        self._table.current.has_number_keys |= any(isinstance(key, int) for key in keys)
        if None in keys:
            key = self._options.key
            name = key if isinstance(key, str) else "uuid and no id"
            raise ConfigurationError(
                f"a refresh identifies items by their key, and an item has no {name}",
                advice="Give key=, a field that every item has",
            )
        return [encodable(key) for key in self._item_keys.keys_of(items)]

    async def _add(self, page: Page[Any], lines: Sequence[bytes]) -> None:
        table, reading, items = self._table, self._table.reading, page.items
        keys, this_refresh = self._keys_of(items), table.current.number
        known, fresh = await table.find(keys), list[Any]()
        is_first_reading = page.number > reading.page and reading.pass_number == 1
        is_file = isinstance(self._sink, FileSink)
        contents = lines if is_file else [encode_row(item) for item in items]
        digests = content_digests(items)
        for item, key, content, digest in zip(items, keys, contents, digests, strict=True):
            before = known.get(key)
            if before is None or before.seen != this_refresh:
                reading.done += 1
            else:
                reading.skipped += is_first_reading
            if before is None or before.digest != digest:
                fresh.append(item)
            table.put(key, digest, content)
            known[key] = KnownItem(digest, this_refresh)
        if fresh and not is_file:
            await self._use_sink(self._sink.upsert(fresh))
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

    async def _set_aside(self, page: Page[Any]) -> None:
        """Set the unreadable items of *page* aside; keep what is known of those with a key."""
        table = self._table
        await super()._set_aside(page)
        for invalid in page.invalid_items:
            key = self._key_in(invalid.raw)
            if key is None:
                table.current.unnamed += invalid.items
            elif (known := (await table.find([key])).get(key)) is not None:
                table.put(key, known.digest)

    def _key_in(self, raw: bytes) -> str | None:
        """Return the key in an unreadable item, None if it is unreadable as well."""
        if not isinstance(self._options.key, str | None):
            return None
        try:
            (key,) = self._item_keys.raw_keys([msgspec.json.decode(raw, type=dict[str, Any])])
        except msgspec.MsgspecError:
            return None
        return None if key is None else encodable(text_of(key))

    # --- The result ----------------------------------------------------------------------

    async def _publish(self) -> None:
        """Write the changes, then the result, then record both."""
        table, sink, changes = self._table, self._sink, self._options.changes
        result = await table.count_differences()
        reading = table.reading
        reading.unverified = await self._find_unverified(result)
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

    async def _find_unverified(self, result: LastRefresh) -> tuple[str, ...]:
        """Return a sentence for each property of the result that is not verified."""
        current, count = self._table.current, result.added + result.changed + result.unchanged
        total = current.reading.total
        if current.since:
            unverified = [
                f"items that the vendor has deleted are kept: since={current.since} finds none"
            ]
            if total is not None and total != count:
                unverified.append(f"the vendor counts {total} items, the result has {count}")
            return tuple(unverified)
        unverified = [*current.reading.find_unverified()]
        missing = await self._table.count_missing()
        if missing and not current.may_remove:
            unverified.append(
                f"{missing} items that were not found again are kept: they may be hidden"
            )
        return tuple(unverified)

    def report(self) -> Report:
        """Return the counts of the job, and the differences that this run published."""
        result = self._result or LastRefresh(ended_at=0.0)
        return msgspec.structs.replace(
            super().report(),
            added=result.added,
            changed=result.changed,
            removed=result.removed,
            unchanged=result.unchanged,
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
