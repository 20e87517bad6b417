"""The input of a sync: digests of all its rows, and the rows themselves when they are sent.

The input is read twice. The first pass finds duplicate and empty keys before anything is sent,
and keeps 33 bytes per row: digests of its key, content and line, and later what to do with it.

The line of a row that agreed with its item at the end of the last run is remembered. If the file
has the same line again, in the same order, its row is unchanged: it is neither parsed, converted
nor compared with the item. Such rows are those of a CSV or JSON lines file with the same columns.
The second pass reads only the rows to send, in the same way.

In a tree, parents are created before their children, and deleted after. The parent of a row is the
key of another row, the key of a known item, or the vendor's id of an item. The parents of all rows
are kept in memory.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from itertools import islice, pairwise
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, cast

import msgspec

from asyncclients.backfill.files.source import (
    Block,
    FileSource,
    Row,
    Rows,
    Source,
    is_path,
    open_source,
)
from asyncclients.backfill.rows import RowConverter, check_mapped
from asyncclients.backfill.state.stored_rows import digest
from asyncclients.backfill.state.sync_state import Item, RememberedLines, SyncMemory
from asyncclients.backfill.sync_changes import Action, WriteFailure
from asyncclients.backfill.sync_targets import (
    Shape,
    Target,
    key_digest,
    key_text,
    row_digests,
    shape_of,
)
from asyncclients.errors import InputError

CHUNK = 256
"""Rows that are handled at once."""
_SORTED_AT_ONCE = 10_000
"""Keys that are handled between two turns of the event loop."""

Remember = Callable[[str], Awaitable[RememberedLines]]


class SyncInput:
    """The rows of a sync.

    Args:
        source: the rows.
        target: has the name of the key.
        converter: converts rows to the values to send.

    Attributes:
        converter: as given.
        name: of the file, for messages.
        keys: digest of the key of each row, 0 if it has none.
        digests: digest of the content of each row; 0 if it is invalid, skipped, or not read.
        lines: digest of the line of each row; 0 if it has several, or is not known.
        listed: digest that an equal item would have in the vendor's list; empty if not needed.
        agrees: 1 for each row that agrees with its item, at first those with remembered lines.
        actions: the `Action` of each row; KEEP for these.
        layout: identifies how a line becomes a row; empty if lines cannot be remembered.
        remembered: the lines with which the input was compared.
        parents: key or id of the parent of each row, in a tree, by number.
        numbers: of the rows of a tree, by the digest of their keys.
        shape: the fields of the rows.
        unkeyed: number of invalid rows whose key is not known.
        invalid: number of invalid rows.
    """

    def __init__(self, source: Rows, target: Target, converter: RowConverter) -> None:
        self._source, self._target, self.converter = source, target, converter
        converter.use_column(target.key)
        self._version: tuple[int, ...] | None = None
        self._key_is_field = target.key in converter.fields
        self.name, self.coerce = "", False
        self.keys, self.digests, self.listed = array("q"), array("q"), array("q")
        self.lines = array("q")
        self.agrees, self.actions = bytearray(), bytearray()
        self.layout = ""
        self.remembered = RememberedLines(array("q"), array("q"))
        self.parents: dict[int, str] = {}
        self.shape: Shape = {}
        self.unkeyed = self.invalid = 0
        self._sorted = array("q")
        self.numbers: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: int) -> bool:
        """Return whether a row has the key with the digest *key*, after `sort_keys`."""
        place = bisect_left(self._sorted, key)
        return place < len(self._sorted) and self._sorted[place] == key

    def read_rows(self) -> Iterator[list[int]]:
        """Yield the indexes of the valid rows whose lines were not remembered, some at a time."""
        found = (index for index, digest in enumerate(self.digests) if digest)
        while some := [*islice(found, CHUNK)]:
            yield some

    # --- The first pass ---------------------------------------------------------------------

    async def check(self) -> None:
        """Raise `InputError` if the input cannot be opened or lacks a column."""
        if is_path(self._source):
            async with self._opened(check=True) as source:
                await source.chunk()
            await check_mapped(self.converter, self._source)

    async def examine(
        self, on_invalid: WriteFailure, remember: Remember, *, compare_listed: bool
    ) -> None:
        """Read all rows; *compare_listed*: compute `listed` and `shape` as well.

        *remember* returns the lines of the last run if they had the given layout.

        Raises:
            InputError: it cannot be read, or a key is empty or occurs twice.
        """
        await self._make_repeatable()
        self._version = _version_of(self._source)
        async with self._opened(check=True) as source:
            self.layout = self._layout_of(source)
            self.remembered = await remember(self.layout)
            source.expect(self.remembered.digests)
            while blocks := await source.blocks():
                for block in blocks:
                    if block.known:
                        self._add_known(block.known, compare_listed=compare_listed)
                    else:
                        self._add_new(block, on_invalid, compare_listed=compare_listed)
            source.check_encoding()
        self.actions = self.agrees.replace(b"\1", bytes([Action.KEEP]))
        if 0 in self.agrees and (twice := await self.sort_keys()):
            raise await self._duplicates(twice)

    def _layout_of(self, source: Source) -> str:
        """Return what changes if equal lines may become other rows; empty if that is not known.

        The parent of a row is needed even if it is unchanged, so the rows of a tree are read.
        """
        has_lines = isinstance(source, FileSource) and source.has_lines
        fingerprint = self.converter.fingerprint
        if not has_lines or not fingerprint or self._target.parent_field is not None:
            return ""
        return digest(repr((source.columns, source.coerce, fingerprint)).encode())

    def _add_known(self, places: range, *, compare_listed: bool) -> None:
        """Add the rows with the remembered lines at *places*."""
        first, end = places.start, places.stop
        self.keys += self.remembered.keys[first:end]
        self.lines += self.remembered.digests[first:end]
        nothing = array("q", bytes(8 * len(places)))
        self.digests += nothing
        if compare_listed:
            self.listed += nothing
        self.agrees += b"\1" * len(places)

    def _add_new(self, block: Block, on_invalid: WriteFailure, *, compare_listed: bool) -> None:
        """Add the rows of *block*."""
        rows = block.rows
        values = self._add_valid(rows) or [self._add(row, on_invalid) for row in rows]
        good = [row for row in values if row is not None]
        digests = iter(row_digests(good))
        self.digests.extend([0 if row is None else next(digests) for row in values])
        self.lines += block.lines
        self.agrees += bytes(len(rows))
        if compare_listed:
            self._compare_listed(values)

    async def sort_keys(self) -> set[int]:
        """Sort the keys for `in`, without blocking the event loop; return those that occur twice."""
        if self._sorted:
            return set()
        parts = {part: array("q") for part in range(-128, 128)}
        for first in range(0, len(self.keys), _SORTED_AT_ONCE):
            for key in self.keys[first : first + _SORTED_AT_ONCE]:
                if key:
                    parts[key >> 56].append(key)  # by the first byte
            await asyncio.sleep(0)
        twice: set[int] = set()
        for part in parts.values():
            keys = sorted(part)
            twice.update(one for one, other in pairwise(keys) if one == other)
            self._sorted.extend(keys)
            await asyncio.sleep(0)
        return twice

    async def _make_repeatable(self) -> None:
        """Keep rows that can be iterated only once in memory."""
        source = self._source
        if is_path(source):
            return
        if not isinstance(source, AsyncIterable):
            rows_again = cast("Iterable[object]", source)
            if iter(rows_again) is not rows_again:
                return
        kept: list[Any] = []
        async with aclosing(await open_source(source)) as rows:
            while chunk := await rows.chunk():
                kept += [row.data for row in chunk]
        self._source = kept

    def _add_valid(self, rows: list[Row]) -> list[Row | None]:
        """Add *rows* at once; return them with their values, none if one needs a closer look."""
        if self._target.parent_field is not None or any(row.error for row in rows):
            return []
        values = self.converter.convert_all([row.data for row in rows], coerce=self.coerce)
        if values is None:
            return []
        if self._key_is_field:
            found = map(attrgetter(self._target.key), values)
            texts = [key if type(key) is str else key_text(key) for key in found]
        else:
            texts = [self.key_of(value, row.data) for value, row in zip(values, rows, strict=True)]
        keys = [key_digest(text) for text in texts]
        if 0 in keys:
            return []
        self.keys.extend(keys)
        return [Row(row.number, row.line, value) for row, value in zip(rows, values, strict=True)]

    def _add(self, row: Row, on_invalid: WriteFailure) -> Row | None:
        """Add *row*; return it with its value, None if it is invalid or skipped."""
        value, key = None, 0
        try:
            if row.error:
                raise ValueError(row.error)  # noqa: TRY301 - handled as a row of a wrong type
            value = self.converter.convert(row.data, coerce=self.coerce)
        except Exception as error:  # noqa: BLE001 - the user's map may raise anything
            key = 0 if row.error else key_digest(self.key_of(None, row.data))
            self.invalid += 1
            self.unkeyed += not key
            on_invalid(row, error)
        if value is not None:
            key = key_digest(self.key_of(value, row.data))
            if not key:
                problem = f"line {row.line}: the key {self._target.key!r} is empty"
                raise self._error(problem, row.line, "Give each row a key, or drop it with map=")
            if self._target.parent_field is not None:
                self.parents[row.number] = key_text(getattr(value, self._target.parent_field))
                self.numbers[key] = row.number
        self.keys.append(key)
        return None if value is None else Row(row.number, row.line, value)

    def key_of(self, value: Any, data: Any) -> str:
        """Return the key of the row *data*, whose converted *value* is None if it is invalid."""
        name = self._target.key
        if value is not None and self._key_is_field:
            return key_text(getattr(value, name))
        for fields in (value, data):
            if isinstance(fields, Mapping):
                found = cast("Mapping[str, Any]", fields).get(name)
                if found is not None:
                    return key_text(found)
        return key_text(getattr(value, name, None))

    def _compare_listed(self, values: Sequence[Row | None]) -> None:
        """Add the digests that the rows would have in the vendor's list."""
        target = self._target
        for row in values:
            fields = {} if row is None else target.fields(row.data)
            shape_of(fields, self.shape)
            self.listed.append(0 if row is None else target.as_listed(row.data))

    async def _duplicates(self, twice: set[int]) -> InputError:
        """Return the error for the first two rows with the same key, one of *twice*."""
        places: dict[int, list[int]] = {}
        for number, key in enumerate(self.keys, 1):
            if key in twice:
                places.setdefault(key, []).append(number)
        pair = min(places.values(), key=itemgetter(1))[:2]
        first, second = await self._again(pair)
        one, other = self._key_again(first), self._key_again(second)
        what = f"have the key {one!r}"
        if one != other:
            what = f"have the keys {one!r} and {other!r}, which differ only in case or "
            what += "surrounding white space"
        advice = f"{len(twice):,} keys occur more than once. Leave one row for each"
        return self._error(f"lines {first.line} and {second.line} {what}", second.line, advice)

    # --- Reading again ----------------------------------------------------------------------

    async def rows(self, wanted: Callable[[int], bool]) -> AsyncIterator[list[Row]]:
        """Yield the rows whose number is *wanted*, some at a time; raise if the input has changed."""
        if _version_of(self._source) != self._version:
            raise self._changed()
        lines = (line for number, line in enumerate(self.lines, 1) if line and not wanted(number))
        ready: list[Row] = []
        async with self._opened() as source:
            source.expect(array("q", lines))
            while blocks := await source.blocks():
                ready += [row for block in blocks for row in block.rows if wanted(row.number)]
                if ready and ready[-1].number > len(self.keys):
                    raise self._changed()
                if len(ready) >= CHUNK:
                    yield ready
                    ready = []
            if ready:
                yield ready

    async def circle(self, numbers: Sequence[int]) -> InputError:
        """Return the error for the rows with *numbers*, which are below themselves."""
        rows = await self._again(numbers[:2])
        lines = " and ".join(str(row.line) for row in rows)
        problem = f"line {lines}: a node cannot be below itself"
        return self._error(problem, rows[0].line, "Correct the parents")

    async def _again(self, numbers: Sequence[int]) -> list[Row]:
        found = [row async for rows in self.rows(numbers.__contains__) for row in rows]
        if len(found) < len(numbers):
            raise self._changed()
        return found

    def _key_again(self, row: Row) -> str:
        """Return the key of *row*, which was examined before."""
        try:
            value = self.converter.convert(row.data, coerce=self.coerce)
        except Exception:  # noqa: BLE001 - the user's map may raise anything
            value = None
        return self.key_of(value, row.data)

    def values(self, rows: Sequence[Row]) -> list[Row]:
        """Return *rows* with their values; raise `InputError` if one is not that of the first pass."""
        try:
            data = [self.converter.convert(row.data, coerce=self.coerce) for row in rows]
        except Exception:  # noqa: BLE001 - the user's map may raise anything
            raise self._changed() from None
        found = [Row(row.number, row.line, value) for row, value in zip(rows, data, strict=True)]
        if row_digests(found) != [self.digests[row.number - 1] for row in rows]:
            raise self._changed()
        return found

    @asynccontextmanager
    async def _opened(self, *, check: bool = False) -> AsyncGenerator[Source]:
        """Open the input; *check*: that the columns are there."""
        async with aclosing(await open_source(self._source)) as source:
            self.name, self.coerce = source.name, source.coerce
            if check:
                self.converter.check(source)
                self._check_key(source.columns)
            yield source

    def _check_key(self, columns: Sequence[str] | None) -> None:
        key = self._target.key
        if columns is None or self._key_is_field or self.converter.has_map or key in columns:
            return
        problem = f"no column {key!r}; it has: {', '.join(columns)}"
        raise self._error(problem, 1, "Give key= the name of the column that identifies a row")

    def _error(self, problem: str, line: int, advice: str) -> InputError:
        return InputError(f"{self.name}: {problem}", file=self.name, line=line, advice=advice)

    def _changed(self) -> InputError:
        return InputError(
            f"{self.name} has changed while it was read",
            file=self.name,
            advice="Run again when it is complete; sent rows are not sent again",
        )


def _version_of(source: Rows) -> tuple[int, ...] | None:
    """Return what changes if the file *source* is written to or replaced; None for an iterable."""
    if not is_path(source):
        return None
    try:
        found = Path(source).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


# --- Trees ----------------------------------------------------------------------------------------


_NEW = (Action.CREATE, Action.LOCATE)


class Tree:
    """The parents of the rows of a sync; of no row if the target is not a tree."""

    def __init__(self, target: Target, rows: SyncInput, memory: SyncMemory) -> None:
        self._field, self._rows, self._memory = target.parent_field, rows, memory
        self._levels: dict[int, int] = {}

    @property
    def height(self) -> int:
        """Number of levels of new rows, at least 1."""
        return 1 + max(self._levels.values(), default=0)

    def level(self, number: int) -> int:
        """Return the level at which row *number* is sent: after all rows of lower levels."""
        return self._levels.get(number, 0)

    def set_levels(self) -> list[int]:
        """Compute the levels; return the numbers of rows that are their own ancestors."""
        rows = self._rows
        groups, circles = _levels(
            {
                number: rows.numbers.get(key_digest(parent))
                for number, parent in rows.parents.items()
                if rows.actions[number - 1] in _NEW
            }
        )
        self._levels = {number: level for level, group in enumerate(groups) for number in group}
        return circles

    async def parents_of(self, numbers: Iterable[int]) -> dict[int, str | None]:
        """Return the id of the parent of each row; None if the parent's row has no item."""
        parents = self._rows.parents
        digests = {number: key_digest(parents[number]) for number in numbers if number in parents}
        known = await self._memory.items([*{*digests.values()}])
        found: dict[int, str | None] = {}
        for number, key in digests.items():
            if key in known:
                found[number] = known[key].id
            else:
                found[number] = None if key in self._rows else parents[number]
        return found

    def with_parent(self, value: Any, parent: str) -> Any:
        """Return the row *value* with the id *parent*."""
        return msgspec.structs.replace(value, **{self._field or "": parent})


def _levels(parents: Mapping[int, int | None]) -> tuple[list[list[int]], list[int]]:
    """Return the nodes of *parents* in groups, parents first, and those in or below a circle."""
    waiting, groups = dict(parents), list[list[int]]()
    while group := [node for node, parent in waiting.items() if parent not in waiting]:
        groups.append(group)
        for node in group:
            del waiting[node]
    return groups, [*waiting]


def deletion_order(items: Mapping[int, Item]) -> list[list[int]]:
    """Return the keys of *items* in groups, such that children are in groups before their parents."""
    keys = {item.id: key for key, item in items.items()}
    parents = {
        key: None if item.parent == item.id else keys.get(item.parent)
        for key, item in items.items()
    }
    groups, circles = _levels(parents)
    return [group for group in (circles, *reversed(groups)) if group]
