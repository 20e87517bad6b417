"""The input of a sync: digests of all its rows, and the rows themselves when they are sent.

The input is read twice. The first pass finds duplicate and empty keys before anything is sent,
and keeps digests of the key and content of each row, and later what to do with it. The second pass
converts only the rows to send. A file that is the same as at the end of the last run, when all its
rows agreed with their items, is not read.

In a tree, parents are created before their children, and deleted after. The parent of a row is the
key of another row, the key of a known item, or the vendor's id of an item. The parents of all rows
are kept in memory.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any, cast

import msgspec

from asyncclients.backfill.files.source import (
    Row,
    Rows,
    Source,
    is_path,
    open_source,
)
from asyncclients.backfill.rows import RowConverter, check_mapped
from asyncclients.backfill.state.stored_rows import digest
from asyncclients.backfill.state.sync_state import Item, SyncMemory
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
from asyncclients.own_files import in_thread

CHUNK = 256
"""Rows that are handled at once."""


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
        digests: digest of the content of each row; 0 if it is invalid or skipped.
        listed: digest that an equal item would have in the vendor's list; empty if not needed.
        actions: the `Action` of each row.
        fingerprint: identifies the rows of a file; empty if equal files may have other rows.
        parents: key or id of the parent of each row, in a tree, by number.
        numbers: of the rows of a tree, by the digest of their keys.
        shape: the fields of the rows.
        unkeyed: number of invalid rows whose key is not known.
        invalid: number of invalid rows.
    """

    def __init__(self, source: Rows, target: Target, converter: RowConverter) -> None:
        self._source, self._target, self.converter = source, target, converter
        converter.use_column(target.key)
        self._content = ""
        self._key_is_field = target.key in converter.fields
        self.name, self.coerce = "", False
        self.keys, self.digests, self.listed = array("q"), array("q"), array("q")
        self.actions, self.fingerprint = bytearray(), ""
        self.parents: dict[int, str] = {}
        self.shape: Shape = {}
        self.unkeyed = self.invalid = 0
        self._distinct: set[int] = set()
        self.numbers: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: int) -> bool:
        """Return whether a row has the key with the digest *key*."""
        return key in self._distinct

    # --- The first pass ---------------------------------------------------------------------

    async def check(self) -> None:
        """Raise `InputError` if the input cannot be opened or lacks a column."""
        if is_path(self._source):
            async with self._opened(check=True) as source:
                await source.chunk()
            await check_mapped(self.converter, self._source)
            self._content = await self._digest_content()
            if rule := self.converter.fingerprint:
                self.fingerprint = digest(repr((self.name, rule, self._content)).encode())

    async def examine(self, on_invalid: WriteFailure, *, compare_listed: bool) -> None:
        """Read all rows; *compare_listed*: compute `listed` and `shape` as well.

        Raises:
            InputError: it cannot be read, or a key is empty or occurs twice.
        """
        await self._make_repeatable()
        async with self._opened(check=True) as source:
            while rows := await source.chunk():
                values = [self._add(row, on_invalid) for row in rows]
                digests = iter(row_digests([row for row in values if row is not None]))
                self.digests.extend([0 if row is None else next(digests) for row in values])
                self._distinct.update(self.keys[-len(rows) :])
                if compare_listed:
                    self._compare_listed(values)
            source.check_encoding()
        await self._check_content()
        self.actions = bytearray(len(self))
        self._distinct.discard(0)
        if surplus := len(self) - self.keys.count(0) - len(self._distinct):
            raise await self._duplicates(surplus)

    async def _duplicates(self, surplus: int) -> InputError:
        """Return the error for the first two rows with the same key, of *surplus* such rows."""
        earlier: set[int] = set()
        for number, key in enumerate(self.keys, 1):  # noqa: B007 - used after the loop
            if key in earlier:
                break
            earlier.update([key] if key else [])
        first, second = await self._again([self.keys.index(key) + 1, number])
        key, other = self._key_again(first), self._key_again(second)
        what = f"have the key {key!r}"
        if key != other:
            what = f"have the keys {key!r} and {other!r}, which differ only in case or "
            what += "surrounding white space"
        advice = f"Leave one row for each key; {surplus:,} rows have the key of an earlier one"
        return self._error(f"lines {first.line} and {second.line} {what}", second.line, advice)

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

    # --- Reading again ----------------------------------------------------------------------

    async def rows(self, wanted: Callable[[int], bool]) -> AsyncIterator[list[Row]]:
        """Yield the rows whose number is *wanted*, some at a time; raise if the input has changed."""
        await self._check_content()
        ready: list[Row] = []
        async with self._opened() as source:
            while rows := await source.chunk():
                if rows[-1].number > len(self):
                    raise self._changed()
                ready += [row for row in rows if wanted(row.number)]
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

    @asynccontextmanager
    async def _opened(self, *, check: bool = False) -> AsyncGenerator[Source]:
        """Open the input; *check*: that the columns are there."""
        source = await open_source(self._source)
        try:
            self.name, self.coerce = source.name, source.coerce
            if check:
                self.converter.check(source)
                self._check_key(source.columns)
            yield source
        finally:
            await source.aclose()

    def _check_key(self, columns: Sequence[str] | None) -> None:
        key = self._target.key
        if columns is None or self._key_is_field or self.converter.has_map or key in columns:
            return
        problem = f"no column {key!r}; it has: {', '.join(columns)}"
        raise self._error(problem, 1, "Give key= the name of the column that identifies a row")

    def _error(self, problem: str, line: int, advice: str) -> InputError:
        return InputError(f"{self.name}: {problem}", file=self.name, line=line, advice=advice)

    async def _check_content(self) -> None:
        if await self._digest_content() != self._content:
            raise self._changed()

    async def _digest_content(self) -> str:
        """Return a digest of the file; empty for an iterable."""
        if not is_path(self._source):
            return ""
        try:
            return await in_thread(_digest_file, self._source)
        except OSError:
            raise self._changed() from None

    def _changed(self) -> InputError:
        return InputError(
            f"{self.name} has changed while it was read",
            file=self.name,
            advice="Run again when it is complete; sent rows are not sent again",
        )


def _digest_file(path: str | os.PathLike[str]) -> str:
    with Path(path).open("rb") as file:
        return file_digest(file, "blake2b").hexdigest()


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
        waiting = {
            number: rows.numbers.get(key_digest(parent))
            for number, parent in rows.parents.items()
            if rows.actions[number - 1] in _NEW
        }
        level, ready = 0, {number for number, parent in waiting.items() if parent not in waiting}
        while ready:
            self._levels.update(dict.fromkeys(ready, level))
            waiting = {number: parent for number, parent in waiting.items() if number not in ready}
            ready = {number for number, parent in waiting.items() if parent not in waiting}
            level += 1
        return sorted(waiting)

    async def parents_of(self, numbers: Iterable[int]) -> dict[int, str | None]:
        """Return the id of the parent of each row; None if the parent's row has no item."""
        given = {
            number: self._rows.parents[number] for number in numbers if number in self._rows.parents
        }
        digests = {number: key_digest(parent) for number, parent in given.items()}
        known = await self._memory.items([*{*digests.values()}])
        found: dict[int, str | None] = {}
        for number, parent in given.items():
            digest = digests[number]
            item = known.get(digest)
            found[number] = parent if item is None else item.id
            if item is None and digest in self._rows:
                found[number] = None
        return found

    def with_parent(self, value: Any, parent: str) -> Any:
        """Return the row *value* with the id *parent*."""
        return msgspec.structs.replace(value, **{self._field or "": parent})


def deletion_order(items: Mapping[int, Item]) -> list[list[int]]:
    """Return the keys of *items* in groups, such that children are in groups before their parents."""
    waiting = dict(items)
    groups: list[list[int]] = []
    while waiting:
        parents = {item.parent for item in waiting.values()}
        group = [key for key, item in waiting.items() if item.id not in parents] or [*waiting]
        groups.append(group)
        for key in group:
            del waiting[key]
    return groups
