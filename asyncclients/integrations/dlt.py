"""A list of a client as a resource of dlt, for every destination of dlt. Needs the extra `[dlt]`.

```python
async with SessionPool() as pool:
    contacts = IntouchClient.from_env(pool).contacts.list()
    loaded = resource(contacts, primary_key="uuid", incremental="updated_at")
    pipeline = dlt.pipeline("intouch", destination="duckdb", dataset_name="crm")
    await asyncio.to_thread(pipeline.run, loaded)
```

`pipeline.run` blocks, and dlt reads its resources in threads of its own. A pool belongs to its event
loop, so the pages are read there, and the loop must keep running. A pool that was not used before
gets the loop in which `resource` is called, or one of this module if there is none, as in a script
without `asyncio`.

dlt commits a load as a whole. A run that is killed is repeated from the start, or, if it was killed
while it loaded, with the rows that it had extracted; the destination gets each row once if the
resource has a primary key.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar

try:
    import dlt
    from dlt.extract import DltResource
except ImportError:
    raise ImportError("dlt is not installed: pip install 'asyncclients[dlt]'") from None

from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.prefetch import PagePrefetcher, read_list
from asyncclients.backfill.report import RequestCounter
from asyncclients.backfill.state.pull_state import ItemKeys, PullState, SeenKeys, drop_at
from asyncclients.core import codec
from asyncclients.core.call import ScopeHandle, config_of
from asyncclients.core.events import logger
from asyncclients.errors import ClientClosedError, ConfigurationError
from asyncclients.paging import Page, Paginator

T = TypeVar("T")

PREFETCH = 4
"""Pages requested ahead of the next one; as many more may wait for dlt."""
_LAG = 300.0
"""Seconds before the newest loaded time that are read again."""
_MAX_OUTAGE = 900.0
_MAX_BLOCKED = 5.0
"""Seconds without a response after which the pool's loop is regarded as blocked."""
_TYPES = (datetime, date, time, timedelta, Decimal)
"""Types that dlt has columns for."""
_LEFT_OUT = "%s: %d items on page %d were left out: %s"


def resource(
    paginator: Paginator[Any],
    *,
    name: str | None = None,
    primary_key: str | None = None,
    incremental: Any = None,
) -> DltResource:
    """Return the list *paginator* as a resource for `dlt.pipeline(...).run`.

    Its calls use the pool's quota at background priority. An outage of up to 15 minutes is waited
    for. Items that cannot be decoded are left out, and logged.

    Args:
        paginator: as `intouch.contacts.list()`.
        name: of the table; by default that of the operation, as `contacts`.
        primary_key: the field that identifies an item. With it, rows are merged into the table,
            otherwise appended; `pipeline.run(..., write_disposition="replace")` replaces it.
        incremental: load only new and changed items: the field with the time of the last change,
            such as `updated_at`, or a `dlt.sources.incremental`. If the vendor can sort by it,
            the list is read newest first, and only as far as needed. Otherwise all of it is
            read, and a change may be missed if it happens during a long reading. With a primary
            key, the last 300 s before the newest loaded time are loaded again, because a
            vendor's times may be out of order. Items that the vendor deletes stay in the table.

    Raises:
        ConfigurationError: an argument is invalid.
    """
    listed: Any = paginator
    if not isinstance(listed, Paginator):
        raise ConfigurationError(
            f"a dlt resource needs a list in pages, not {paginator!r}",
            advice="Call the operation, as in intouch.contacts.list()",
        )
    cursor: Any = incremental
    if isinstance(incremental, str):
        lag = _LAG if primary_key else None
        cursor = dlt.sources.incremental(incremental, lag=lag, on_cursor_value_missing="include")
    source, is_sorted, field = paginator, False, ""
    if cursor is not None and paginator.newest_first is not None:
        field = str(cursor.cursor_path)
        source, is_sorted = paginator.newest_first(field), True
    table = name or (paginator.operation or "items").partition(".")[0]
    rows = RowReader(source, table, primary_key)

    async def load(cursor: Any = cursor) -> AsyncGenerator[list[Any]]:
        start: Any = cursor.start_value if is_sorted and cursor is not None else None
        async for page in rows.pages(field, start):
            yield page

    create: Any = dlt.resource
    loaded: DltResource = create(
        load,
        name=table,
        primary_key=primary_key,
        write_disposition="merge" if primary_key else "append",
    )()
    return loaded


class _AllOlderError(Exception):
    """Ends the reading: all rows of a page are older than those loaded before."""


class RowReader:
    """The rows of *source*, read on the event loop of its pool."""

    def __init__(self, source: Paginator[Any], table: str, primary_key: str | None) -> None:
        self._source, self._table, self._keys = source, table, ItemKeys(primary_key)
        self._loop = _loop_of(source)

    async def pages(self, field: str = "", start: Any = None) -> AsyncGenerator[list[Any]]:
        """Yield the rows of each page; called on a loop of dlt.

        With *start*, reading ends at the first page whose rows are all older in *field*.
        """
        await self._check_loop()
        stream = self._read(field, start)
        try:
            while (rows := await self._on_loop(anext(stream, None))) is not None:
                yield rows
        finally:
            await self._on_loop(stream.aclose())

    async def _check_loop(self) -> None:
        """Raise `ConfigurationError` if the pool's loop does not run."""
        try:
            await asyncio.wait_for(self._on_loop(asyncio.sleep(0)), _MAX_BLOCKED)
        except TimeoutError:
            raise ConfigurationError(
                "the event loop of the pool is blocked, so no page can be read",
                advice="Run the pipeline in a thread: await asyncio.to_thread(pipeline.run, resource)",
            ) from None

    async def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of *work*, run on the pool's loop."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        except RuntimeError:
            work.close()
            if not self._loop.is_closed():
                raise
        raise ClientClosedError(
            "the event loop of the pool has ended",
            advice="Keep it running until the pipeline has ended",
        )

    async def _read(self, field: str, start: Any) -> AsyncGenerator[list[Any]]:
        """Yield the rows of each page; called on the pool's loop."""
        state, seen = PullState(), SeenKeys()
        queue: asyncio.Queue[list[Any]] = asyncio.Queue(1)

        async def take(page: Page[Any]) -> None:
            state.note_total(page.total)
            for invalid in page.invalid_items:
                state.failed += invalid.items
                logger.warning(_LEFT_OUT, self._table, invalid.items, page.number, invalid.reason)
            items = page.items
            if items and state.has_keys is None:
                state.has_keys = self._keys.raw_keys(items)[0] is not None
            if state.has_keys:
                items = drop_at(items, seen.add(self._keys.keys_of(items)))
            state.done += len(items)
            rows = [codec.to_plain(item, _TYPES) for item in items]
            await queue.put(rows)
            if start is not None and rows and all(_is_older(row, field, start) for row in rows):
                raise _AllOlderError

        reader = PagePrefetcher(
            self._source,
            PREFETCH if start is None else 0,
            f"dlt {self._table}",
            RequestCounter(),
            CircuitBreaker(_MAX_OUTAGE),
            lenient=True,
        )
        reading = asyncio.create_task(read_list(reader, state, take))
        try:
            while not (reading.done() and queue.empty()):
                getting = asyncio.create_task(queue.get())
                await asyncio.wait({reading, getting}, return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    yield getting.result()
                else:
                    getting.cancel()
            with suppress(_AllOlderError):
                reading.result()
            for doubt in state.unverified:
                logger.warning("%s: %s", self._table, doubt)
        finally:
            reading.cancel()
            await asyncio.wait([reading])


def _is_older(row: Any, field: str, start: Any) -> bool:
    value = row.get(field)
    return value is None or value < start


def _loop_of(source: Paginator[Any]) -> asyncio.AbstractEventLoop:
    """Return the event loop to read *source* on: that of its pool, else the running one, else ours."""
    config = config_of(source.owner)
    if config is not None and isinstance(config.scope, ScopeHandle):
        loop = config.scope.loop()
        if loop is not None:
            return loop
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return _own_loop()


@cache
def _own_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that runs in a thread of its own, as long as the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="asyncclients-dlt", daemon=True).start()
    return loop
