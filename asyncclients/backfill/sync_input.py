"""The input of a sync: digests of all its rows, and the rows themselves when they are sent.

The input is read twice. The first pass finds duplicate and empty keys before anything is sent,
and keeps 25 bytes per row: digests of its key and content, and later what to do with it.
"""

from __future__ import annotations

import asyncio
import os
from array import array
from bisect import bisect_left
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeGuard, cast

from asyncclients.backfill.files.source import Row, Rows, open_source
from asyncclients.backfill.rows import RowConverter, check_mapped
from asyncclients.backfill.sync_targets import (
    Shape,
    Target,
    key_digest,
    key_digests,
    key_text,
    row_digests,
    shape_of,
)
from asyncclients.errors import InputError

CHUNK = 256
"""Rows that are handled at once."""
_SORTED_AT_ONCE = 10_000
"""Keys that are handled between two turns of the event loop."""

OnInvalid = Callable[[Row, Exception], None]


def is_path(source: Rows) -> TypeGuard[str | os.PathLike[str]]:
    """Return whether *source* is the path of a file."""
    return isinstance(source, (str, os.PathLike))


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
        digests: digest of the content of each row.
        listed: digest that an equal item would have in the vendor's list; empty if not needed.
        actions: the `Action` of each row.
        parents: key or id of the parent of each row, in a tree, by number.
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
        self.actions = bytearray()
        self.parents: dict[int, str] = {}
        self.shape: Shape = {}
        self.unkeyed = self.invalid = 0
        self._sorted = array("q")
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: int) -> bool:
        """Return whether a row has the key with the digest *key*."""
        place = bisect_left(self._sorted, key)
        return place < len(self._sorted) and self._sorted[place] == key

    def place_of(self, key: int) -> int | None:
        """Return the number of the row of a tree with the key *key*; None without one."""
        return self._places.get(key)

    def is_valid(self, number: int) -> bool:
        """Return whether row *number* has a value."""
        return self.digests[number - 1] != 0

    # --- The first pass ---------------------------------------------------------------------

    async def check(self) -> None:
        """Raise `InputError` if the input cannot be opened, lacks a column, or is not UTF-8."""
        if is_path(self._source):
            async with aclosing(self._chunks(check=True)) as chunks:
                await anext(chunks, None)
            await check_mapped(self.converter, self._source)
            rows = await open_source(self._source)
            try:
                await rows.count()  # finds another encoding in any row
            finally:
                await rows.aclose()

    async def examine(self, on_invalid: OnInvalid, *, compare_listed: bool) -> None:
        """Read all rows; *compare_listed*: compute `listed` and `shape` as well.

        Raises:
            InputError: it cannot be read, or a key is empty or occurs twice.
        """
        await self._make_repeatable()
        self._version = _version_of(self._source)
        async for rows in self._chunks(check=True):
            values = self._add_valid(rows) or [self._add(row, on_invalid) for row in rows]
            good = [row for row in values if row is not None]
            digests = iter(row_digests(good))
            self.digests.extend([0 if row is None else next(digests) for row in values])
            if compare_listed:
                self._compare_listed(values)
        self.actions = bytearray(len(self.keys))
        if twice := await self._sort_keys():
            raise await self._duplicates(twice)

    async def _sort_keys(self) -> set[int]:
        """Sort the keys, without blocking the event loop; return those that occur twice."""
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
        rows, kept = await open_source(source), list[Any]()
        try:
            while chunk := await rows.chunk():
                kept += [row.data for row in chunk]
        finally:
            await rows.aclose()
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
            texts = [self._key_of(value, row.data) for value, row in zip(values, rows, strict=True)]
        keys = key_digests(texts)
        if 0 in keys:
            return []
        self.keys.extend(keys)
        return [Row(row.number, row.line, value) for row, value in zip(rows, values, strict=True)]

    def _add(self, row: Row, on_invalid: OnInvalid) -> Row | None:
        """Add *row*; return it with its value, None if it is invalid or skipped."""
        value, key, problem = None, 0, ""
        try:
            if row.error:
                raise ValueError(row.error)  # noqa: TRY301 - handled as a row of a wrong type
            value = self.converter.convert(row.data, coerce=self.coerce)
        except Exception as error:  # noqa: BLE001 - the user's map may raise anything
            text = "" if row.error else self._key_of(None, row.data)
            key = key_digest(text) if text.strip() else 0
            self.invalid += 1
            self.unkeyed += not key
            on_invalid(row, error)
        if value is not None:
            text = self._key_of(value, row.data)
            if not text.strip():
                problem = f"line {row.line}: the key {self._target.key!r} is empty"
                raise self._error(problem, row.line, "Give each row a key, or drop it with map=")
            key = key_digest(text)
            if self._target.parent_field is not None:
                self.parents[row.number] = key_text(getattr(value, self._target.parent_field))
                self._places[key] = row.number
        self.keys.append(key)
        return None if value is None else Row(row.number, row.line, value)

    def _key_of(self, value: Any, data: Any) -> str:
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
        numbers = {number for number, key in enumerate(self.keys, 1) if key in twice}
        first: dict[int, tuple[Row, str]] = {}
        async for rows in self.rows(lambda number: number in numbers):
            for row in rows:
                key = self.key_again(row)
                earlier, other = first.setdefault(self.keys[row.number - 1], (row, key))
                if earlier is row:
                    continue
                if key == other:
                    what = f"have the key {key!r}"
                else:
                    what = f"have the keys {other!r} and {key!r}, which differ only in case or "
                    what += "surrounding white space"
                problem = f"lines {earlier.line} and {row.line} {what}"
                advice = f"{len(twice):,} keys occur more than once. Leave one row for each"
                return self._error(problem, row.line, advice)
        return self._changed()

    # --- Reading again ----------------------------------------------------------------------

    async def rows(self, wanted: Callable[[int], bool]) -> AsyncIterator[list[Row]]:
        """Yield the rows whose number is *wanted*, some at a time.

        Raises:
            InputError: the input has changed since the first pass.
        """
        if _version_of(self._source) != self._version:
            raise self._changed()
        async with aclosing(self._chunks()) as chunks:
            async for rows in chunks:
                found = [row for row in rows if wanted(row.number)]
                if found and found[-1].number > len(self.keys):
                    raise self._changed()
                if found:
                    yield found

    async def circle(self, numbers: Sequence[int]) -> InputError:
        """Return the error for the rows with *numbers*, which are below themselves."""
        async for rows in self.rows(lambda number: number in numbers[:2]):
            lines = " and ".join(str(row.line) for row in rows)
            problem = f"line {lines}: a node cannot be below itself"
            return self._error(problem, rows[0].line, "Correct the parents")
        return self._changed()

    def key_of(self, row: Row, value: Row) -> str:
        """Return the key of *row*, whose converted form is *value*."""
        return self._key_of(value.data, row.data)

    def key_again(self, row: Row) -> str:
        """Return the key of *row*, which was examined before."""
        try:
            value = self.converter.convert(row.data, coerce=self.coerce)
        except Exception:  # noqa: BLE001 - the user's map may raise anything
            value = None
        return self._key_of(value, row.data)

    def values(self, rows: Sequence[Row]) -> list[Row]:
        """Return *rows* with their values.

        Raises:
            InputError: a key or a value is not that of the first pass.
        """
        converter = self.converter
        try:
            found = [
                Row(row.number, row.line, converter.convert(row.data, coerce=self.coerce))
                for row in rows
            ]
        except Exception:  # noqa: BLE001 - the user's map may raise anything
            raise self._changed() from None
        digests = [self.digests[row.number - 1] for row in rows]
        if row_digests(found) != digests:
            raise self._changed()
        return found

    def value_with_nulls(self, row: Row) -> Any:
        """Return the value of *row* with None for the fields of its empty cells."""
        return self.converter.convert(self.converter.with_nulls(row.data), coerce=self.coerce)

    async def _chunks(self, *, check: bool = False) -> AsyncGenerator[list[Row]]:
        """Yield all rows, some hundreds at a time; *check*: that the columns are there."""
        rows = await open_source(self._source)
        try:
            self.name, self.coerce = rows.name, rows.coerce
            if check:
                self.converter.check(rows)
                self._check_key(rows.columns)
            ready: list[Row] = []
            while chunk := await rows.chunk():
                ready += chunk
                if len(ready) >= CHUNK:
                    yield ready
                    ready = []
            rows.check_encoding()
            if ready:
                yield ready
        finally:
            await rows.aclose()

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
