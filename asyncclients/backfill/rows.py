"""From a row of the input to what the operation takes.

`map` first, if there is one; then dotted names become nested objects; then the
row type, which says what is missing or of the wrong type. Nothing is sent for a
row that does not fit. What no field takes goes into the row type's `extra`; where
it has none it is left out, and said so if the header tells.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

import msgspec

from asyncclients.backfill.arguments import check_function, close
from asyncclients.backfill.files.source import Source, open_source
from asyncclients.core.codec import from_plain
from asyncclients.core.endpoint import endpoint_of
from asyncclients.errors import ConfigurationError, InputError

_MANY = (list, Iterable, Sequence)
_EXTRA = "extra"
"""The field for whatever else a vendor takes, in the row types that have one."""
_EXACT = 2**53
"""Up to here, each whole number is a float of its own."""
_MOST_TOLD = 20
"""Fields that no row type has, of which a log may say so."""
_CORRECT_NAMES = "Rename the columns, or give map= (on the command line --map COLUMN=field)"
_log = logging.getLogger(__name__)

Map = Callable[[Any], Any]


class Renaming:
    """A map by names: columns become fields, fixed values are added.

    Args:
        columns: column -> field; an empty field drops the column. Columns that
            are not named keep their names.
        fixed: field -> value, the same in each row.
    """

    def __init__(self, columns: Mapping[str, str], fixed: Mapping[str, Any] | None = None) -> None:
        self._columns, self._fixed = dict(columns), dict(fixed or {})

    def __call__(self, row: Any) -> dict[str, Any]:
        """*row* under its new names.

        Raises:
            ValueError: *row* is no object, or two of its columns become one field.
        """
        if not isinstance(row, Mapping):
            raise ValueError(f"a row must be an object with names, not {type(row).__name__}")
        names, columns = self._columns, cast("Mapping[str, Any]", row)
        fields = {names.get(column, column): value for column, value in columns.items()}
        if len(fields) < len(columns):
            _check_distinct(names, columns)
        fields.pop("", None)
        return {**self._fixed, **fields}

    def names(self) -> tuple[dict[str, str], dict[str, Any]]:
        """The columns with their fields, and the fixed fields with their values."""
        return self._columns, self._fixed

    def fields(self, columns: Sequence[str]) -> set[str]:
        """The fields that rows with *columns* get.

        Raises:
            ValueError: a column that is to be renamed is not there, or two become one field.
        """
        missing = sorted(self._columns.keys() - set(columns))
        if missing:
            raise ValueError(f"has no column {missing[0]!r}")
        _check_distinct(self._columns, columns)
        return {self._columns.get(column, column) for column in columns} | self._fixed.keys()

    def columns(self) -> frozenset[str]:
        """The columns that this map names."""
        return frozenset(self._columns)

    def targets(self) -> set[str]:
        """The fields that this map names."""
        return {*self._columns.values(), *self._fixed} - {""}


def _check_distinct(names: Mapping[str, str], columns: Iterable[str]) -> None:
    """Raise `ValueError` if *names* gives two of *columns* the same field."""
    columns_of: dict[str, str] = {}
    for column in columns:
        field = names.get(column, column)
        if field and columns_of.setdefault(field, column) != column:
            raise ValueError(
                f"has the columns {columns_of[field]!r} and {column!r}, which both become {field!r}"
            )


class RowConverter:
    """Makes a *row_type* of a row; without one, whatever *map* makes of it."""

    def __init__(
        self,
        row_type: type[Any] | None,
        map: Map | Mapping[str, str] | None,  # noqa: A002
    ) -> None:
        map = _map_of(map)  # noqa: A001
        self._type, self._map = row_type, map
        self._wire_names: dict[str, str] = {}
        self._required: tuple[str, ...] = ()
        self._as_they_are: frozenset[str] = frozenset()
        self._source = "a row"
        self._told: set[str] = set()
        self.name = ""
        if row_type is not None:
            fields = _fields(row_type)
            self.name = f"{row_type.__module__}.{row_type.__qualname__}"
            self._wire_names = {field.name: field.encode_name for field in fields}
            self._required = tuple(field.name for field in fields if field.required)
            self._note(self._wire_names)
            if isinstance(map, Renaming):
                self._check_targets(map)

    def _check_targets(self, renaming: Renaming) -> None:
        known = {*self._wire_names, *self._wire_names.values()}
        unknown = sorted(name for name in renaming.targets() if name.split(".", 1)[0] not in known)
        if unknown and _EXTRA not in known:
            raise ConfigurationError(
                f"map names {', '.join(map(repr, unknown))}, which {self.name} does not have",
                advice=f"It has: {', '.join(self._wire_names)}",
            )

    def _note(self, names: Iterable[str]) -> None:
        """Rows with these *names* alone may be taken as they are, if none is nested or renamed."""
        same = {name for name in names if "." not in name}
        if _EXTRA in self._wire_names:
            same &= self._wire_names.keys()
        self._as_they_are |= {name for name in same if self._wire_names.get(name, name) == name}

    def check(self, source: Source) -> None:
        """Raise `InputError` if no row of *source* can fit: a required column is missing."""
        columns, self._source = source.columns, source.name
        if columns is None:
            return
        self._note(columns)
        complaint = ""
        if self._map is None or isinstance(self._map, Renaming):
            try:
                fields = set(columns) if self._map is None else self._map.fields(columns)
            except ValueError as bad:
                complaint = str(bad)
            else:
                complaint = self._missing(fields)
                self._tell_of_others(fields)
        if complaint:
            raise InputError(
                f"{source.name} {complaint}; it has: {', '.join(columns)}",
                file=source.name,
                line=1,
                advice=_CORRECT_NAMES,
            )

    @property
    def mapped(self) -> frozenset[str]:
        """The columns that a mapping names; rows without a header must have each somewhere."""
        return self._map.columns() if isinstance(self._map, Renaming) else frozenset()

    def _missing(self, fields: set[str]) -> str:
        heads = {field.split(".", 1)[0] for field in fields}
        missing = [
            name
            for name in self._required
            if name not in heads and self._wire_names[name] not in heads
        ]
        return f"has no column {' and no column '.join(missing)}" if missing else ""

    def _tell_of_others(self, fields: Iterable[str]) -> None:
        """Warn of *fields* that the row type does not have, once of each."""
        known = {*self._wire_names, *self._wire_names.values(), ""}
        if self._type is None or _EXTRA in known or len(self._told) > _MOST_TOLD:
            return
        others = {name for name in fields if name.split(".", 1)[0] not in known} - self._told
        if others:
            self._told |= others
            _log.warning(
                "%s: %s has no field for %s: left out",
                self._source,
                self._type.__name__,
                ", ".join(sorted(others)[:_MOST_TOLD]),
            )

    def convert(self, data: Any, *, lax: bool) -> Any:
        """What is sent for *data*; None for nothing.

        Raises:
            ValueError: saying which field does not fit; TypeError: *map* is asynchronous.
        """
        if self._map is not None and data is not None:
            data = self._map(data)
            if isinstance(data, Awaitable):
                close(data)
                raise TypeError("map returned an awaitable; it must be a plain function")
        if data is None or self._type is None or isinstance(data, self._type):
            return data
        names: Any = data
        plain = isinstance(data, dict) and self._as_they_are.issuperset(names)
        if not plain and isinstance(data, Mapping):
            if self._map is None or isinstance(self._map, Renaming):
                self._tell_of_others(cast("Mapping[str, Any]", data))
            data = self._renamed(nested(cast("Mapping[str, Any]", data)))
        try:
            return from_plain(data, self._type, strict=not lax)
        except msgspec.ValidationError as bad:
            wrong = bad
        try:
            return from_plain(_with_ints(data), self._type, strict=not lax)
        except msgspec.ValidationError:
            raise ValueError(_words(wrong, data, self._type, strict=not lax)) from None

    def _renamed(self, data: dict[str, Any]) -> dict[str, Any]:
        names = self._wire_names
        renamed = {names.get(name, name): value for name, value in data.items()}
        if len(renamed) < len(data):
            _check_distinct(names, data)
        if _EXTRA in names:
            known, extra = {*names.values()}, renamed.get(_EXTRA, {})
            others = [name for name in renamed if name not in known]
            if others and isinstance(extra, dict):  # else it is for the row type to complain
                renamed[_EXTRA] = extra | {name: renamed.pop(name) for name in others}
        return renamed


def _is_file(rows: Any) -> bool:
    """Whether *rows* is a file that can be read twice."""
    return isinstance(rows, (str, os.PathLike)) and Path(cast("str", rows)).is_file()


async def check_mapped(shape: RowConverter, rows: Any) -> None:
    """Raise `InputError` if no row of the file *rows* has a column that a mapping names.

    A header says at once which columns there are. Without one the file is read, up to where
    each of them has come.
    """
    missing = set(shape.mapped)
    if not missing or not _is_file(rows):
        return
    source = await open_source(rows)
    try:
        if source.columns is not None:
            return
        found = False
        while missing and (chunk := await source.chunk()):
            for row in chunk:
                names: Any = row.data
                if isinstance(names, dict):
                    missing.difference_update(cast("dict[str, Any]", names))
                    found = True
    finally:
        await source.aclose()
    if missing and found:
        raise InputError(
            f"{source.name} has no row with {' and '.join(map(repr, sorted(missing)))}",
            file=source.name,
            advice=_CORRECT_NAMES,
        )


def _map_of(given: Any) -> Map | None:
    """*given* as a function.

    Raises:
        ConfigurationError: it is neither a plain function nor a mapping of names.
    """
    if isinstance(given, Mapping):
        names = cast("Mapping[object, object]", given)
        if not all(isinstance(each, str) for each in (*names, *names.values())):
            raise ConfigurationError(
                f"map must map names of columns to names of fields, not {names!r}",
                advice='Write map={"Column": "field"}; an empty field leaves the column out',
            )
        return Renaming(cast("Mapping[str, str]", given))
    if isinstance(given, type) and hasattr(given, "__struct_fields__"):
        raise ConfigurationError(
            f"map must be a function or a mapping, not the type {given.__qualname__}",
            advice="Give it as row_type=",
        )
    check_function("map", given)
    return cast("Map | None", given)


def _fields(row_type: Any) -> tuple[msgspec.structs.FieldInfo, ...]:
    if not isinstance(row_type, type) or not issubclass(row_type, msgspec.Struct):
        raise ConfigurationError(
            f"row_type must be a msgspec Struct, not {row_type!r}",
            advice="Use the vendor's own, as in asyncclients.vendors.totango.NewTouchpoint",
        )
    return msgspec.structs.fields(row_type)


def row_type_of(target: Callable[..., Any]) -> type[Any] | None:
    """The struct that an operation takes, or takes a list of; None for any other callable."""
    if endpoint_of(target) is None:
        return None
    parameters = inspect.signature(target).parameters
    hints = get_type_hints(unbound(target))
    for parameter in parameters.values():
        if parameter.default is parameter.empty:
            hint = hints.get(parameter.name)
            if get_origin(hint) in _MANY:
                hint = get_args(hint)[0]
            return hint if hasattr(hint, "__struct_fields__") else None
    return None


def unbound(target: Any) -> Any:
    """*target* without the arguments that `partial` bound."""
    while isinstance(target, partial):
        target = target.func
    return target


def nested(data: Mapping[str, Any]) -> dict[str, Any]:
    """*data* with `{"a.b": 1}` as `{"a": {"b": 1}}`; objects inside *data* stay as they are.

    Raises:
        ValueError: two names give the same field.
    """
    result: dict[str, Any] = {}
    # Names without a dot first: `a` is then never put over what `a.b` made.
    for name, value in sorted(data.items(), key=lambda item: "." in item[0]):
        *path, last = name.split(".")
        inner = result
        for part in path:
            deeper = inner.get(part, {})
            if not isinstance(deeper, dict):
                raise ValueError(f"{name} contradicts {part}, which is a value already")
            inner[part] = {**cast("dict[str, Any]", deeper)}
            inner = inner[part]
        if last in inner:
            raise ValueError(f"{name} is given twice")
        inner[last] = value
    return result


def _with_ints(value: Any) -> Any:
    """*value* with whole floats and decimals as ints, which data frames store as floats."""
    if isinstance(value, (float, Decimal)):
        exact = isfinite(value) and value == int(value) and abs(int(value)) <= _EXACT
        return int(value) if exact else value
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {name: _with_ints(field) for name, field in fields.items()}
    if isinstance(value, list):
        return [_with_ints(each) for each in cast("list[object]", value)]
    return value


def _words(bad: msgspec.ValidationError, data: Any, cls: Any, *, strict: bool) -> str:
    """What *bad* says, with the first value in *data* that does not fit its field of *cls*."""
    is_struct = isinstance(cls, type) and issubclass(cls, msgspec.Struct)
    for field in (
        msgspec.structs.fields(cast("Any", cls)) if is_struct and isinstance(data, dict) else ()
    ):
        if field.encode_name not in data:
            continue
        value: Any = cast("dict[str, Any]", data)[field.encode_name]
        try:
            from_plain(_with_ints(value), field.type, strict=strict)
        except msgspec.ValidationError:
            shown = repr(value)
            return f"{bad}, which is {shown if len(shown) <= 80 else shown[:79] + '…'}"
    return str(bad)
