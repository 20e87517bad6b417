"""The items of a pull that is refreshed: table `items` of its state, in the order first seen.

| column    | content                                                                      |
|-----------|------------------------------------------------------------------------------|
| key       | of the item                                                                  |
| digest    | of its latest content; 0 for an unreadable item                              |
| published | digest of its content in the current result; NULL if it is not in the result |
| seen      | number of the last refresh that found it                                     |
| content   | its latest content, as JSON; NULL if it is not known                         |

Memory does not grow with the number of items. The file is written from the table, so after a crash
it is written again with the same content. Differences are computed against the current file, so
they are complete even if a refresh is interrupted often.
"""

from __future__ import annotations

import sqlite3
import time
from array import array
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec

from asyncclients.backfill.state.journal import (
    Journal,
    Statement,
    iter_rows,
    transaction,
    with_checksum,
)
from asyncclients.backfill.state.pull_state import (
    UNREADABLE,
    Checkpoint,
    LastRefresh,
    PullState,
    RefreshPass,
)
from asyncclients.backfill.state.stored_rows import Mark
from asyncclients.errors import encodable
from asyncclients.own_files import replacing

_ROWS = 200
"""Rows read at a time."""
_FIND_KEYS = 500
"""Keys of one query; SQLite has a limit."""
_PUT = (
    "INSERT INTO items (key, digest, seen, content) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET digest = excluded.digest, seen = excluded.seen, "
    "content = coalesce(excluded.content, content)"
)
_FORGET_PULL = Statement("DELETE FROM keys", [()])
"""Removes the records of a pull before the first refresh."""


class KnownItem(NamedTuple):
    """An item of the table; *seen* is the number of the last refresh that found it."""

    digest: int
    seen: int


class ItemTable(Checkpoint):
    """The items of one pull and the state of its refresh.

    Attributes:
        state: of the pull.
        current: the refresh in progress.
    """

    def __init__(self, journal: Journal, state: PullState, key_fields: Sequence[str]) -> None:
        super().__init__(journal, state)
        self._key_fields = key_fields
        self.current = state.refresh or RefreshPass(number=state.passes)
        self.reading = self.current.reading
        self._unsaved: dict[str, tuple[int, bytes | None]] = {}
        self._statements: list[Statement] = []

    @classmethod
    async def open(
        cls, journal: Journal, state: PullState, key_fields: Sequence[str], jsonl: Path | None
    ) -> ItemTable:
        """Return the table of *journal*; at the first refresh, with the items of the pull before.

        *key_fields* are possible names of the key field; the first one that an item has is used.
        *jsonl* is the published file, None if it has another format.
        """
        if state.complete:
            await journal.on_database(_import_pull, jsonl)
        return cls(journal, state, key_fields)

    @property
    def position(self) -> Any:
        """Position at which the sink continues; None if it has to start empty."""
        if self.state.refresh is not None:
            return self.state.refresh.reading.position
        return self.state.position if self.state.complete else None

    # --- The refresh in progress ----------------------------------------------------------

    async def begin(self, since: str = "", watermark: float = 0.0, lag: float = 0.0) -> None:
        """Begin a refresh: of the whole list, or of what changed *since* the *watermark*."""
        state, position = self.state, self.position
        if not state.complete:  # an interrupted pull: what it wrote is in no complete file
            self.state = state = PullState(passes=state.passes)
            self._statements.append(_FORGET_PULL)
        state.passes += 1
        self.current = state.refresh = RefreshPass(
            number=state.passes,
            since=since,
            watermark=watermark,
            lag=lag,
            newest=watermark,
            reading=PullState(position=position, has_keys=True),
        )
        self.reading = self.current.reading
        await self._open_reading(is_new=True)
        await self.save()

    async def resume(self) -> None:
        """Continue the refresh of an earlier run."""
        await self._open_reading(is_new=False)

    async def known(self, keys: Sequence[str]) -> list[bool]:
        """Return for each of *keys* whether the current refresh has found it."""
        found = await self.find(keys)
        return [key in found and found[key].seen == self.current.number for key in keys]

    async def find(self, keys: Sequence[str]) -> dict[str, KnownItem]:
        """Return what is known of those of *keys* that are in the table."""
        found: dict[str, KnownItem] = {}
        for first in range(0, len(keys), _FIND_KEYS):
            some = keys[first : first + _FIND_KEYS]
            sql = f"SELECT key, digest, seen FROM items WHERE key IN ({', '.join('?' * len(some))})"
            for key, digest, seen in await self._journal.read(sql, *some):
                found[key] = KnownItem(digest, seen)
        for key in self._unsaved.keys() & keys:
            found[key] = KnownItem(self._unsaved[key][0], self.current.number)
        return found

    def put(self, key: str, digest: int, content: bytes | None = None) -> None:
        """Store that the refresh found the item *key*; without *content* the stored one is kept."""
        if content is None and key in self._unsaved:
            content = self._unsaved[key][1]
        self._unsaved[key] = digest, content
        self.unsaved_bytes += len(content or b"")

    def add_failed(self, keys: Sequence[str]) -> None:
        """Note that the refresh has found the unreadable items with these *keys*."""
        for key in keys:
            self.put(key, UNREADABLE)

    def take_unsaved(self) -> list[Statement]:
        """Return the statements that save the items found since the last call."""
        found, number = self._unsaved.items(), self.current.number
        rows = [(key, digest, number, content) for key, (digest, content) in found]
        statements = [*self._statements, Statement(_PUT, rows)]
        self._unsaved, self._statements, self.unsaved_bytes = {}, [], 0
        return statements

    # --- The items -----------------------------------------------------------------------

    async def newest(self, time_of: Callable[[Any], float | None]) -> float | None:
        """Return the newest time of all items, None if none has a time."""
        return await self._journal.on_database(_newest, time_of)

    async def has_contents(self) -> bool:
        """Return whether the content of every item is stored."""
        sql = "SELECT 1 FROM items WHERE digest <> 0 AND content IS NULL LIMIT 1"
        return not await self._journal.read(sql)

    async def count_differences(self) -> LastRefresh:
        """Return how many items the refresh has added, changed, removed and left unchanged."""
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
        kept = "" if self.current.may_remove else " OR content IS NOT NULL"
        return f"(seen = {self.current.number:d}{kept})"

    async def _batches(self, columns: str, condition: str) -> AsyncGenerator[list[Any]]:
        """Yield the number and *columns* of the items with *condition*, some at a time."""
        sql = (
            f"SELECT number, {columns} FROM items "
            f"WHERE number > ? AND digest <> 0 AND {condition} ORDER BY number LIMIT {_ROWS:d}"
        )
        number = 0
        while rows := await self._journal.read(sql, number):
            number = rows[-1][0]
            yield rows

    async def lines(self) -> AsyncGenerator[list[bytes]]:
        """Yield the JSON lines of the new result, some at a time, in the order first seen."""
        async for rows in self._batches("content", f"content IS NOT NULL AND {self._kept}"):
            yield [content for _, content in rows]

    async def removed_keys(self) -> AsyncGenerator[list[Any]]:
        """Yield the keys of the items that a sink has to remove, some at a time."""
        async for rows in self._batches("key, content", f"NOT {self._kept}"):
            yield [self._key_of(key, content) for _, key, content in rows]

    async def write_changes(self, path: Path) -> None:
        """Replace the file *path* by one with a line for each difference."""
        await self._journal.on_database(self._write_changes, path)

    def _write_changes(self, database: sqlite3.Connection, path: Path) -> None:
        kept = self._kept
        differences = iter_rows(
            database,
            f"SELECT key, {kept}, published IS NULL, content FROM items WHERE digest <> 0 AND "
            f"CASE WHEN {kept} THEN published IS NOT digest ELSE published IS NOT NULL END "
            "ORDER BY number",
        )
        with closing(differences), replacing(path) as file:
            for key, is_kept, is_new, content in differences:
                op = ("added" if is_new else "changed") if is_kept else "removed"
                found, item = self._key_of(key, content), msgspec.Raw(content or b"null")
                file.write(msgspec.json.encode({"op": op, "key": found, "item": item}) + b"\n")

    def _key_of(self, key: str, content: bytes | None) -> Any:
        """Return the key in *content*; without one, that in the text *key*."""
        fields = msgspec.json.decode(content) if content else None
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
        state, current, reading = self.state, self.current, self.reading
        self._statements += [
            Statement(f"DELETE FROM items WHERE digest = 0 OR NOT {self._kept}", [()]),
            Statement("UPDATE items SET published = digest WHERE published IS NOT digest", [()]),
            _FORGET_PULL,
        ]
        self.state = msgspec.structs.replace(
            reading,
            done=result.added + result.changed + result.unchanged,
            failures=self._failures.mark,
            has_keys=True,
            complete=True,
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

    async def record_report(self) -> None:
        """Record that the run returns its report now."""
        self.state.is_reported = True
        await self.save()


# --- In the journal's thread ------------------------------------------------------------------


def _import_pull(database: sqlite3.Connection, jsonl: Path | None) -> None:
    """Fill the table, if it is empty, with the items of the pull, and their content in *jsonl*."""
    if database.execute("SELECT 1 FROM items LIMIT 1").fetchone():
        return
    sql = (
        "INSERT OR IGNORE INTO items (key, digest, published, seen, content) VALUES (?, ?, ?, 0, ?)"
    )
    with (
        nullcontext() if jsonl is None else jsonl.open("rb") as file,
        transaction(database),
        closing(_pulled_items(database, file)) as items,
    ):
        database.executemany(sql, map(with_checksum, items))


def _pulled_items(
    database: sqlite3.Connection, file: BinaryIO | None
) -> Generator[tuple[str, int, int, bytes | None]]:
    """Yield key, digest, published digest (the same) and content of each item of the pull."""
    with closing(iter_rows(database, "SELECT keys, digests FROM keys ORDER BY number")) as parts:
        for keys, digests in parts:
            texts = keys.decode(errors="surrogatepass").split("\n")
            for key, digest in zip(texts, array("q", digests), strict=True):
                if digest != UNREADABLE:
                    line = file.readline().rstrip(b"\n") if file else None
                    yield encodable(key), digest, digest, line


def _newest(database: sqlite3.Connection, time_of: Callable[[Any], float | None]) -> float | None:
    sql = "SELECT content FROM items WHERE content IS NOT NULL"
    with closing(iter_rows(database, sql)) as rows:
        times = (time_of(msgspec.json.decode(content)) for (content,) in rows)
        return max((each for each in times if each is not None), default=None)
