"""The items of a pull that is refreshed, in its state file.

| table    | content                                                                          |
|----------|----------------------------------------------------------------------------------|
| items    | a row for each item, in the order first seen: key, digest of the latest content, |
|          | digest of the published content, number of the last refresh that found it        |
| contents | the latest content of each item, as JSON                                         |

Memory does not grow with the number of items. The file is written from the tables, so after a crash
it is written again with the same content. The published content is that of the current file.
Differences are computed against it, so they are complete even if a refresh is interrupted often.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from array import array
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec

from asyncclients.backfill.state.journal import (
    Changes,
    Journal,
    Statement,
    put_value,
    select,
    with_checksum,
)
from asyncclients.backfill.state.pull_state import (
    DIGESTS_SCHEMA,
    LastRefresh,
    PullState,
    RefreshPass,
    Stopwatch,
    set_aside,
)
from asyncclients.backfill.state.stored_rows import DeadLetterFile, Mark
from asyncclients.errors import StateMismatchError, encodable
from asyncclients.own_files import open_temporary, temporary_of
from asyncclients.paging import Page

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS items (number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,
    digest INTEGER NOT NULL, published INTEGER, seen INTEGER NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS contents (number INTEGER PRIMARY KEY, item BLOB NOT NULL)",
)
_UNREADABLE = 0
"""Digest of an unreadable item: such a row only shows that it was counted."""
_UNKNOWN = -1
"""Digest of an item written by a version that recorded none."""
_ROWS = 200
"""Rows read at a time."""
_FIND_KEYS = 500
"""Keys of one query; SQLite has a limit."""
_PUT = (
    "INSERT INTO items (key, digest, seen) VALUES (?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET digest = excluded.digest, seen = excluded.seen"
)
_PUT_CONTENT = (
    "INSERT OR REPLACE INTO contents (number, item) SELECT number, ? FROM items WHERE key = ?"
)


class Known(NamedTuple):
    """An item in the table.

    Attributes:
        digest: of its latest content.
        seen: number of the last refresh that found it.
        has_content: whether the content is stored.
    """

    digest: int
    seen: int
    has_content: bool


class Entry(NamedTuple):
    """An item as it was read; *content* is None if the stored one is the same."""

    digest: int
    content: bytes | None


class Difference(msgspec.Struct, frozen=True):
    """A line of the file of changes: one difference between the result before and after."""

    op: str
    key: Any
    item: msgspec.Raw


class ItemTable:
    """The items of one pull and the state of its refresh.

    Attributes:
        state: of the pull.
        current: the refresh in progress.
    """

    def __init__(self, journal: Journal, state: PullState, key_fields: Sequence[str]) -> None:
        self._journal, self.state, self._key_fields = journal, state, key_fields
        self.current = state.refresh or RefreshPass(number=state.passes)
        self._failures = DeadLetterFile(journal.path)
        self._clock = Stopwatch()
        self._unsaved: dict[str, Entry] = {}
        self._in_commit: dict[str, Entry] = {}
        self._statements: list[Statement] = []
        self._committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._committed.set_result(None)
        self.unsaved_bytes = 0

    @classmethod
    async def open(
        cls, journal: Journal, state: PullState, key_fields: Sequence[str], lines: Path | None
    ) -> ItemTable:
        """Return the table of *journal*; at the first refresh, with the items of the pull before.

        Args:
            journal: of the pull.
            state: of the pull.
            key_fields: names of the key field; the first one that an item has is used.
            lines: the published file, if it is one of JSON lines.

        Raises:
            StateMismatchError: *lines* does not have the items of the state.
        """
        await journal.on_database(_create, lines, state)
        return cls(journal, state, key_fields)

    @property
    def position(self) -> Any:
        """The position of a sink that has the items of this table; None if it has to start anew."""
        if self.state.refresh is not None:
            return self.state.refresh.reading.position
        return self.state.position if self.state.complete else None

    # --- The refresh in progress ----------------------------------------------------------

    async def begin(self, since: str = "", watermark: float = 0.0, lag: float = 0.0) -> None:
        """Begin a refresh: of the whole list, or of what changed *since* the *watermark*."""
        state, position = self.state, self.position
        if not state.complete:  # an interrupted pull: what it wrote is in no complete file
            self.state = state = PullState(passes=state.passes)
            self._statements += _FORGET_PULL
        state.passes += 1
        self.current = state.refresh = RefreshPass(
            number=state.passes,
            since=since,
            watermark=watermark,
            lag=lag,
            newest=watermark,
            reading=PullState(position=position),
        )
        await self._journal.run(self._failures.begin)
        self._clock.resume(self.current.reading)
        await self.save()

    async def resume(self) -> None:
        """Continue the refresh of an earlier run."""
        reading = self.current.reading
        self._clock.resume(reading)
        await self._journal.run(partial(self._failures.resume, reading.failures, drop=True))

    async def find(self, keys: Sequence[str]) -> dict[str, Known]:
        """Return what is known of those of *keys* that are in the table."""
        found: dict[str, Known] = {}
        for first in range(0, len(keys), _FIND_KEYS):
            some = keys[first : first + _FIND_KEYS]
            rows = await self._journal.read(
                "SELECT key, digest, seen, EXISTS (SELECT 1 FROM contents WHERE number = "
                f"items.number) FROM items WHERE key IN ({', '.join('?' * len(some))})",
                *some,
            )
            found |= {key: Known(digest, seen, bool(has)) for key, digest, seen, has in rows}
        for entries in (self._in_commit, self._unsaved):
            found |= {
                key: Known(entry.digest, self.current.number, has_content=True)
                for key in keys
                if (entry := entries.get(key)) is not None
            }
        return found

    def put(self, key: str, entry: Entry) -> None:
        """Store that the refresh found the item *key*."""
        before = self._unsaved.get(key)
        if before is not None and entry.content is None:
            entry = Entry(entry.digest, before.content)
        self._unsaved[key] = entry
        self.unsaved_bytes += len(entry.content or b"")

    async def set_aside(self, page: Page[Any], keys: Sequence[str], max_failed: float) -> None:
        """Write the unreadable items of *page*, with *keys*, to the dead-letter file, each once."""
        keys = ["\n" + key for key in keys]  # unlike the key of an item, which is one line
        known = await self.find(keys)
        new = [key not in known or known[key].seen != self.current.number for key in keys]
        set_aside(self._failures, self.current.reading, page, new, max_failed)
        for key in keys:
            self.put(key, Entry(_UNREADABLE, None))

    async def save(self) -> None:
        """Start to save everything so far, after the save before."""
        await self.saved()
        self._in_commit, self._unsaved, self.unsaved_bytes = self._unsaved, {}, 0
        self._committed = self._journal.save(self._snapshot())

    async def saved(self) -> None:
        """Return when the last `save` is durable.

        Raises:
            StateError: it failed.
        """
        await asyncio.wait([self._committed])
        self._committed.result()

    def _snapshot(self) -> Changes:
        reading, number = self.current.reading, self.current.number
        write_failures = self._failures.take()
        reading.failures = self._failures.mark
        self._clock.note(reading)
        statements = [put_value("state", self.state), *self._statements]
        self._statements = []
        if entries := self._in_commit:
            rows = [(key, entry.digest, number) for key, entry in entries.items()]
            statements.append(Statement(_PUT, rows))
            contents = [
                (entry.content, key) for key, entry in entries.items() if entry.content is not None
            ]
            statements.append(Statement(_PUT_CONTENT, contents))
        return Changes(statements, write_failures)

    @property
    def failures(self) -> str:
        """The path of the dead-letter file."""
        return str(self._failures.path)

    # --- The items -----------------------------------------------------------------------

    async def newest(self, time_of: Callable[[Any], float | None]) -> float | None:
        """Return the newest time of all items, None if none has a time."""
        return await self._journal.on_database(_newest, time_of)

    async def has_contents(self) -> bool:
        """Return whether the content of every item is stored."""
        sql = (
            "SELECT 1 FROM items WHERE digest <> 0 AND number NOT IN (SELECT number FROM contents)"
        )
        return not await self._journal.read(sql + " LIMIT 1")

    async def count_unknown(self) -> int:
        """Return the number of items without a recorded digest, from an older version."""
        sql = f"SELECT count(*) FROM items WHERE published = ? AND {self._kept}"
        return int((await self._journal.read(sql, _UNKNOWN))[0][0])

    async def compare(self) -> LastRefresh:
        """Return the numbers of differences between the published items and those of the refresh."""
        kept = self._kept
        counts = await self._journal.read(
            f"SELECT coalesce(sum({kept} AND published IS NULL), 0), "
            f"coalesce(sum({kept} AND published <> digest), 0), "
            f"coalesce(sum(NOT {kept} AND published IS NOT NULL), 0), "
            f"coalesce(sum({kept} AND published = digest), 0) FROM items WHERE digest <> 0"
        )
        added, changed, removed, unchanged = counts[0]
        return LastRefresh(
            ended_at=time.time(),
            since=self.current.since,
            added=added,
            changed=changed,
            removed=removed,
            unchanged=unchanged,
        )

    async def count_missing(self) -> int:
        """Return the number of items that were there before and were not found again."""
        sql = "SELECT count(*) FROM items WHERE digest <> 0 AND seen <> ?"
        return int((await self._journal.read(sql, self.current.number))[0][0])

    @property
    def _kept(self) -> str:
        """The SQL condition for the items of the new result."""
        number, removes = self.current.number, self.current.may_remove
        has_content = "number IN (SELECT number FROM contents)"
        return f"(seen = {number:d} OR ({not removes:d} AND {has_content}))"

    async def lines(self) -> AsyncGenerator[bytes]:
        """Yield the JSON lines of the new result, some at a time, in the order first seen."""
        sql = (
            "SELECT items.number, item FROM items JOIN contents USING (number) "
            f"WHERE number > ? AND digest <> 0 AND {self._kept} ORDER BY number LIMIT {_ROWS:d}"
        )
        number = 0
        while rows := await self._journal.read(sql, number):
            number = rows[-1][0]
            yield b"".join(item + b"\n" for _, item in rows)

    async def removed_keys(self) -> AsyncGenerator[list[Any]]:
        """Yield the keys of the items that a sink has to remove, some at a time."""
        sql = (
            "SELECT number, key, item FROM items LEFT JOIN contents USING (number) WHERE number > ? "
            f"AND digest <> 0 AND NOT {self._kept} ORDER BY number LIMIT {_ROWS:d}"
        )
        number = 0
        while rows := await self._journal.read(sql, number):
            number = rows[-1][0]
            yield [self._key_of(key, item) for _, key, item in rows]

    async def write_changes(self, path: Path) -> None:
        """Replace the file *path* by one with a line for each difference."""
        await self._journal.on_database(self._write_changes, path)

    def _write_changes(self, database: sqlite3.Connection, path: Path) -> None:
        with open_temporary(path) as file:
            for difference in self._differences(database):
                file.write(msgspec.json.encode(difference) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary_of(path).replace(path)

    def _differences(self, database: sqlite3.Connection) -> Iterator[Difference]:
        kept = self._kept
        sql = (
            f"SELECT number, key, {kept}, published IS NULL, item FROM items "
            "LEFT JOIN contents USING (number) WHERE number > ? AND digest <> 0 AND "
            f"CASE WHEN {kept} THEN published IS NOT digest ELSE published IS NOT NULL END "
            f"ORDER BY number LIMIT {_ROWS:d}"
        )
        number = 0
        while rows := select(database, sql, (number,)):
            number = rows[-1][0]
            for _, key, is_kept, is_new, item in rows:
                op = ("added" if is_new else "changed") if is_kept else "removed"
                yield Difference(
                    op=op, key=self._key_of(key, item), item=msgspec.Raw(item or b"null")
                )

    def _key_of(self, key: str, item: bytes | None) -> Any:
        """Return the key in *item*; without one, that in the text *key*."""
        fields = msgspec.json.decode(item) if item else None
        if isinstance(fields, dict):
            found = cast("dict[str, Any]", fields)
            for name in self._key_fields:
                if found.get(name) is not None:
                    return found[name]
        return int(key) if self.current.has_number_keys and key.isdecimal() else key

    async def publish(self, result: LastRefresh, file: Mark | None) -> None:
        """Record that the result of the refresh, with the given counts, is complete.

        *file* is the mark of the new file, None without one.
        """
        state, current, reading = self.state, self.current, self.current.reading
        dropped = f"digest = 0 OR NOT {self._kept}"
        self._statements += [
            _statement(
                f"DELETE FROM contents WHERE number IN (SELECT number FROM items WHERE {dropped})"
            ),
            _statement(f"DELETE FROM items WHERE {dropped}"),
            _statement("UPDATE items SET published = digest WHERE published IS NOT digest"),
            *_FORGET_PULL,
        ]
        self.state = PullState(
            position=reading.position,
            done=result.added + result.changed + result.unchanged,
            skipped=reading.skipped,
            failed=reading.failed,
            failures=self._failures.mark,
            total=reading.total,
            has_keys=True,
            read=True,
            complete=True,
            unverified=reading.unverified,
            file=file,
            passes=state.passes,
            refreshed=result,
            is_reported=False,
            watermark=current.newest if current.since else None,
            since=current.since,
            # The duration of the last reading of the whole list; see `Refresh`.
            began_at=state.began_at if current.since else reading.began_at,
            seconds=state.seconds if current.since else reading.seconds,
        )
        await self.save()
        await self.saved()

    async def record_report(self) -> None:
        """Record that the run returns its report now."""
        self.state.is_reported = True
        await self.save()
        await self.saved()


def _statement(sql: str) -> Statement:
    return Statement(sql, [()])


_FORGET_PULL = [_statement("DELETE FROM keys"), _statement("DELETE FROM digests")]
"""Removes the records of a pull before the first refresh."""


# --- In the journal's thread ------------------------------------------------------------------


def _create(database: sqlite3.Connection, lines: Path | None, state: PullState) -> None:
    """Create the tables; at the first refresh of a complete pull, with its items.

    Raises:
        StateMismatchError: *lines* has not as many lines as the pull has items.
    """
    for sql in (*_SCHEMA, DIGESTS_SCHEMA):
        database.execute(sql)
    if not state.complete or database.execute("SELECT 1 FROM items LIMIT 1").fetchone():
        return
    is_old = "SELECT 1 FROM keys WHERE number NOT IN (SELECT number FROM digests) LIMIT 1"
    if state.failed and database.execute(is_old).fetchone():
        lines = None  # the keys of unreadable items, which are in no line, are not marked
    database.execute("BEGIN IMMEDIATE")
    try:
        with nullcontext() if lines is None else lines.open("rb") as file:
            _import_pull(database, file)
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def _import_pull(database: sqlite3.Connection, file: BinaryIO | None) -> None:
    """Fill the tables with the items of the pull before, whose lines are in *file*."""
    sql = (
        "SELECT number, keys, digests FROM keys LEFT JOIN digests USING (number) "
        f"WHERE number > ? ORDER BY number LIMIT {_ROWS:d}"
    )
    after = count = 0
    while rows := select(database, sql, (after,)):
        after = rows[-1][0]
        found = [pair for _, keys, digests in rows for pair in _pairs(keys, digests)]
        numbers = range(count + 1, count + 1 + len(found))
        items = [
            (n, key, digest, digest, 0) for n, (key, digest) in zip(numbers, found, strict=True)
        ]
        database.executemany("INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?, ?)", items)
        if file is not None:
            contents = [with_checksum((n, file.readline().rstrip(b"\n"))) for n in numbers]
            database.executemany("INSERT INTO contents VALUES (?, ?)", contents)
        count += len(found)
    is_short = "SELECT 1 FROM contents WHERE length(item) <= 4 LIMIT 1"
    if file is not None and (file.readline() or database.execute(is_short).fetchone()):
        raise StateMismatchError(
            f"{file.name} does not have {count} lines, one for each item of its state",
            file=str(file.name),
            advice="Restore it, or delete the state file to start over",
        )


def _pairs(keys: bytes, digests: bytes | None) -> Iterator[tuple[str, int]]:
    """Yield the key and the digest of each item in a row of table `keys`."""
    texts = keys.decode(errors="surrogatepass").split("\n")
    numbers = array("q", digests) if digests else [_UNKNOWN] * len(texts)
    for key, digest in zip(texts, numbers, strict=True):
        if digest != _UNREADABLE:
            yield encodable(key), digest


def _newest(database: sqlite3.Connection, time_of: Callable[[Any], float | None]) -> float | None:
    newest, number = None, 0
    sql = f"SELECT number, item FROM contents WHERE number > ? ORDER BY number LIMIT {_ROWS:d}"
    while rows := select(database, sql, (number,)):
        number = rows[-1][0]
        for _, item in rows:
            found = time_of(msgspec.json.decode(item))
            if found is not None and (newest is None or found > newest):
                newest = found
    return newest
