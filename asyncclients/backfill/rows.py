"""Convert a row of the input to the argument of the operation.

1. `map` is applied, if given.
2. Dotted names become nested objects.
3. The result is converted to the row type. A row that does not fit fails without being sent.

Fields that the row type does not have go into its `extra`; if it has none, they are ignored with
a warning.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from decimal import Decimal
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from types import GenericAlias
from typing import Any, cast, get_args, get_origin, get_type_hints

import msgspec

from asyncclients.arguments import check_function, close_coroutine, did_you_mean
from asyncclients.backfill.files.source import Rows, Source, is_path, open_source
from asyncclients.core.call import check_argument
from asyncclients.core.codec import from_plain
from asyncclients.core.constraints import constraint_of
from asyncclients.core.endpoint import endpoint_of
from asyncclients.core.events import logger
from asyncclients.errors import ConfigurationError, InputError

_SEQUENCES = (list, Iterable, Sequence)
_EXTRA_FIELD = "extra"
"""The field of a row type for fields that it does not name."""
_MAX_EXACT_FLOAT = 2**53
"""Up to this number every integer is exact as a float."""
_MAX_REPORTED = 20
"""Unknown fields that are logged at most."""
_RENAME_ADVICE = "Rename the columns, or give map= (on the command line --map COLUMN=field)"

Map = Callable[[Any], Any]


class Renaming:
    """A `map` that renames columns and adds fixed values.

    Args:
        columns: column -> field; an empty field drops the column. Other columns keep
            their names.
        fixed: field -> value, the same in each row.
    """

    def __init__(self, columns: Mapping[str, str], fixed: Mapping[str, Any] | None = None) -> None:
        self.columns, self.fixed = dict(columns), dict(fixed or {})

    def __call__(self, row: Any) -> dict[str, Any]:
        """Return *row* with its new names; raise `ValueError` if two columns become one field."""
        if not isinstance(row, Mapping):
            raise ValueError(f"a row must be an object with names, not {type(row).__name__}")
        names, columns = self.columns, cast("Mapping[str, Any]", row)
        fields = {names.get(column, column): value for column, value in columns.items()}
        if len(fields) < len(columns):
            _check_distinct(names, columns)
        fields.pop("", None)
        return {**self.fixed, **fields}

    def fields(self, columns: Sequence[str]) -> set[str]:
        """Return the fields of rows with *columns*; raise `ValueError` if a renamed one is missing."""
        missing = sorted(self.columns.keys() - set(columns))
        if missing:
            hint = did_you_mean(missing[0], columns)
            raise ValueError(f"has no column {missing[0]!r}{hint}")
        _check_distinct(self.columns, columns)
        return {self.columns.get(column, column) for column in columns} | self.fixed.keys()


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
    """Converts rows to *row_type*; without one, returns the result of *map*.

    Attributes:
        name: of the row type; empty without one.
        mapped_columns: the columns that a mapping names; each must occur in the input.
    """

    def __init__(
        self,
        row_type: type[Any] | None,
        map: Map | Mapping[str, str] | None,  # noqa: A002
    ) -> None:
        map = _map_of(map)  # noqa: A001
        self._type, self._map, self.has_map = row_type, map, map is not None
        self._renaming = Renaming({}) if map is None else map if isinstance(map, Renaming) else None
        self.mapped_columns = frozenset(self._renaming.columns if self._renaming else ())
        fields = () if row_type is None else _struct_fields(row_type)
        self.name = "" if row_type is None else f"{row_type.__module__}.{row_type.__qualname__}"
        self._wire_names = {field.name: field.encode_name for field in fields}
        self._known = {*self._wire_names, *self._wire_names.values(), ""}
        self._required = [field for field in fields if field.required]
        nullable = [field for field in fields if type(None) in get_args(field.type)]
        self._nullable = {name for each in nullable for name in (each.name, each.encode_name)}
        self._list_type = GenericAlias(list, (row_type,))
        self._direct_names: set[str] = set()
        """Names that need neither nesting nor renaming: rows with no other ones skip both."""
        self._add_direct_names(self._wire_names)
        self._source = "a row"
        self._reported: set[str] = set()
        if self._renaming is not None:
            targets = {*self._renaming.columns.values(), *self._renaming.fixed}
            if unknown := self._without_field(targets):
                hint = did_you_mean(unknown[0], self._wire_names)
                names = ", ".join(repr(name) for name in unknown)
                raise ConfigurationError(
                    f"map names {names}{hint}, which {self.name} does not have",
                    advice=f"It has: {', '.join(self._wire_names)}",
                )

    @property
    def fields(self) -> AbstractSet[str]:
        """Names of the fields of the row type."""
        return self._wire_names.keys()

    def _without_field(self, names: Iterable[str]) -> list[str]:
        """Return those of *names* that the row type cannot hold."""
        if self._type is None or _EXTRA_FIELD in self._known:
            return []
        return sorted(name for name in names if name.split(".", 1)[0] not in self._known)

    def _add_direct_names(self, names: Iterable[str]) -> None:
        wire = self._wire_names
        direct = {name for name in names if "." not in name and wire.get(name, name) == name}
        self._direct_names |= direct & wire.keys() if _EXTRA_FIELD in wire else direct

    def check(self, source: Source) -> None:
        """Raise `InputError` if *source* lacks a required column."""
        columns, self._source = source.columns, source.name
        if columns is None:
            return
        self._add_direct_names(columns)
        if self._renaming is None:
            return
        try:
            fields = self._renaming.fields(columns)
            self._check_required(fields)
        except ValueError as bad:
            raise InputError(
                f"{source.name} {bad}; it has: {', '.join(columns)}",
                file=source.name,
                line=1,
                advice=_RENAME_ADVICE,
            ) from None
        self._warn_unknown_fields(fields)

    def _check_required(self, fields: set[str]) -> None:
        heads = {field.split(".", 1)[0] for field in fields}
        missing = [
            each.name for each in self._required if not heads & {each.name, each.encode_name}
        ]
        if missing:
            hint = did_you_mean(missing[0], heads)
            raise ValueError(f"has no column {' and no column '.join(missing)}{hint}")

    def use_column(self, name: str) -> None:
        """Note that the column *name* is used, so that no warning says that it is ignored."""
        self._reported.add(name)

    @property
    def fingerprint(self) -> str:
        """Text that differs if equal rows may have other values now; empty if that is not known.

        The user may have edited a function or a row type since the last run.
        """
        is_own = self._type is None or self._type.__module__.startswith("asyncclients.")
        if not is_own or self._renaming is None:
            return ""
        try:
            release = version("asyncclients")
        except PackageNotFoundError:
            return ""
        return repr((release, self.name, self._renaming.columns, self._renaming.fixed))

    def _warn_unknown_fields(self, fields: Iterable[str]) -> None:
        """Warn about *fields* that the row type does not have, once for each."""
        if len(self._reported) > _MAX_REPORTED:
            return
        others = set(self._without_field(fields)) - self._reported
        if others and self._type is not None:
            self._reported |= others
            logger.warning(
                "%s: %s has no field for %s: ignored",
                self._source,
                self._type.__name__,
                ", ".join(sorted(others)[:_MAX_REPORTED]),
            )

    def convert(self, data: Any, *, coerce: bool) -> Any:
        """Return the value to send for *data*; None to skip the row.

        With *coerce*, values are texts that may stand for numbers, as in CSV.

        Raises:
            ValueError: a field does not fit the row type.
            TypeError: *map* is asynchronous.
        """
        if self._map is not None and data is not None:
            data = self._map(data)
            if isinstance(data, Awaitable):
                close_coroutine(data)
                raise TypeError("map returned an awaitable; it must be a plain function")
        if data is None or self._type is None or isinstance(data, self._type):
            return data
        if isinstance(data, Mapping):
            data = self._with_wire_names(cast("Mapping[str, Any]", data))
        try:
            return from_plain(data, self._type, strict=not coerce)
        except msgspec.ValidationError as bad:
            wrong = bad
        try:
            return from_plain(_with_ints(data), self._type, strict=not coerce)
        except msgspec.ValidationError:
            raise ValueError(_message(wrong, data, self._type, strict=not coerce)) from None

    def convert_all(self, data: list[Any], *, coerce: bool) -> list[Any] | None:
        """Return the values of several rows as `convert` does, or None to convert them one by one.

        That is so if a row is invalid or empty, is mapped, or has names to rename.
        """
        if self._map is not None or self._type is None:
            return None
        try:
            if not all(map(self._direct_names.issuperset, data)):
                return None
            values: list[Any] = from_plain(data, self._list_type, strict=not coerce)
        except (TypeError, msgspec.ValidationError):
            return None
        return values

    def with_nulls(self, data: Any) -> Any:
        """Return *data* with None for each empty cell whose field may be null.

        `convert` leaves empty cells out; with None the vendor clears the field.
        """
        columns: Sequence[str] = getattr(data, "columns", ())
        if len(columns) <= len(data) or self._renaming is None:
            return data
        names = self._renaming.columns
        empty = [name for name in columns if name and name not in data]
        nulls = {name: None for name in empty if names.get(name, name) in self._nullable}
        return {**data, **nulls}

    def _with_wire_names(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        if isinstance(data, dict) and self._direct_names.issuperset(data):
            return data
        if self._renaming is not None:
            self._warn_unknown_fields(data)
        return self._renamed(nested(data))

    def _renamed(self, data: Mapping[str, Any]) -> dict[str, Any]:
        names = self._wire_names
        renamed = {names.get(name, name): value for name, value in data.items()}
        if len(renamed) < len(data):
            _check_distinct(names, data)
        if _EXTRA_FIELD in names:
            known, extra = {*names.values()}, renamed.get(_EXTRA_FIELD, {})
            others = [name for name in renamed if name not in known]
            if others and isinstance(extra, dict):  # otherwise the conversion fails
                renamed[_EXTRA_FIELD] = extra | {name: renamed.pop(name) for name in others}
        return renamed


def check_rows(rows: Any) -> None:
    """Raise `ConfigurationError` unless *rows* can give the same rows in every run."""
    problem, advice = "", "Give the path of a file, or an iterable of rows"
    if isinstance(rows, (str, os.PathLike)):
        return
    if isinstance(rows, (bytes, bytearray, memoryview)):
        problem = "bytes are not rows"
    elif isinstance(rows, Mapping):
        problem, advice = "a mapping is a single row", "Give a list of mappings"
    elif isinstance(rows, AbstractSet):
        problem = "a set has no order, so a resumed job would not know which rows were sent"
        advice = "Give a list, as sorted(rows)"
    elif callable(rows) and endpoint_of(rows) is not None:
        problem = "an operation is the target"
        advice = "Give the rows first, as in push('people.csv', intouch.contacts.create, ...)"
    elif not isinstance(rows, (Iterable, AsyncIterable)) and not hasattr(rows, "__getitem__"):
        problem = f"{rows!r} cannot be iterated"
        if callable(rows):
            advice = "Call the function, and pass its result"
    if problem:
        close_coroutine(rows)
        raise ConfigurationError(f"the source cannot be used: {problem}", advice=advice)


def _is_file(rows: Rows) -> bool:
    """Return whether *rows* is a file that can be read twice."""
    return is_path(rows) and Path(rows).is_file()


async def check_mapped(converter: RowConverter, rows: Rows) -> None:
    """Raise `InputError` if no row of the file *rows* has a column that a mapping names.

    Files with a header are checked by `RowConverter.check`. Others are read until every mapped
    column has occurred.
    """
    missing = set(converter.mapped_columns)
    if not missing or not _is_file(rows):
        return
    async with aclosing(await open_source(rows)) as source:
        if source.columns is not None:
            return
        found = False
        while missing and (chunk := await source.chunk()):
            for row in chunk:
                names: Any = row.data
                if isinstance(names, dict):
                    missing.difference_update(cast("dict[str, Any]", names))
                    found = True
    if missing and found:
        raise InputError(
            f"{source.name} has no row with {' and '.join(map(repr, sorted(missing)))}",
            file=source.name,
            advice=_RENAME_ADVICE,
        )


def _map_of(given: Any) -> Map | None:
    """Return *given* as a function."""
    if isinstance(given, Mapping):
        names = cast("Mapping[object, object]", given)
        if not all(isinstance(each, str) for each in (*names, *names.values())):
            raise ConfigurationError(
                f"map must map names of columns to names of fields, not {names!r}",
                advice='Write map={"Column": "field"}; an empty field drops the column',
            )
        return Renaming(cast("Mapping[str, str]", given))
    if isinstance(given, type) and hasattr(given, "__struct_fields__"):
        raise ConfigurationError(
            f"map must be a function or a mapping, not the type {given.__qualname__}",
            advice="Give it as row_type=",
        )
    check_function("map", given)
    return cast("Map | None", given)


def _struct_fields(row_type: Any) -> tuple[msgspec.structs.FieldInfo, ...]:
    if not isinstance(row_type, type) or not issubclass(row_type, msgspec.Struct):
        raise ConfigurationError(
            f"row_type must be a msgspec Struct, not {row_type!r}",
            advice="Use the vendor's own, as in asyncclients.vendors.totango.NewTouchpoint",
        )
    return msgspec.structs.fields(row_type)


def row_type_of(target: Callable[..., Any]) -> type[Any] | None:
    """Return the struct that an operation takes, alone or in a list; None for other callables."""
    if endpoint_of(target) is None:
        return None
    parameters = inspect.signature(target).parameters
    hints = get_type_hints(unbound(target))
    for parameter in parameters.values():
        if parameter.default is parameter.empty:
            hint = hints.get(parameter.name)
            if get_origin(hint) in _SEQUENCES:
                hint = get_args(hint)[0]
            return hint if hasattr(hint, "__struct_fields__") else None
    return None


def check_row(target: Callable[..., Any], row: Any) -> None:
    """Raise `InvalidValueError` for a converted *row* that a call of *target* would reject.

    Only structs of operations are checked.
    """
    endpoint = endpoint_of(target)
    if endpoint is not None and isinstance(row, msgspec.Struct):
        check_argument(getattr(unbound(target), "__self__", None), endpoint, row)


def unbound(target: Any) -> Any:
    """Return *target* without the arguments that `partial` bound."""
    while isinstance(target, partial):
        target = target.func
    return target


def nested(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of *data* with `{"a.b": 1}` as `{"a": {"b": 1}}`.

    Raises:
        ValueError: two names give the same field.
    """
    result: dict[str, Any] = {}
    # Names without a dot first, so that `a` never overwrites the object of `a.b`.
    for name, value in sorted(data.items(), key=lambda item: "." in item[0]):
        *path, last = name.split(".")
        inner = result
        for part in path:
            deeper = inner.get(part, {})
            if not isinstance(deeper, dict):
                raise ValueError(f"{name} contradicts {part}, which is already a value")
            inner[part] = {**cast("dict[str, Any]", deeper)}
            inner = inner[part]
        if last in inner:
            raise ValueError(f"{name} is given twice")
        inner[last] = value
    return result


def _with_ints(value: Any) -> Any:
    """Return *value* with integral floats and decimals as ints; data frames store ints as floats."""
    if isinstance(value, (float, Decimal)):
        exact = isfinite(value) and value == int(value) and abs(int(value)) <= _MAX_EXACT_FLOAT
        return int(value) if exact else value
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {name: _with_ints(field) for name, field in fields.items()}
    if isinstance(value, list):
        return [_with_ints(each) for each in cast("list[object]", value)]
    return value


def _message(bad: msgspec.ValidationError, data: Any, cls: Any, *, strict: bool) -> str:
    """Return the message of *bad* with the first value of *data* that does not fit *cls*."""
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
            shown, constraint = repr(value), constraint_of(field.type)
            close = did_you_mean(str(value), constraint.choices) if constraint else ""
            return f"{bad}, which is {shown if len(shown) <= 80 else shown[:79] + '…'}{close}"
    return str(bad)
