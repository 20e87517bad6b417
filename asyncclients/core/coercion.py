"""Convert plain values to a type if a vendor's JSON deviates from its manual.

Used after strict decoding has failed, so that correct responses cost nothing. The type decides, never the text of an error:

| expected         | accepted as well                              |
|------------------|-----------------------------------------------|
| object           | `[]` (PHP's empty object)                     |
| array            | an object with numeric keys (a filtered PHP array), `{}`; in a field also `null` |
| integer          | `"25"`, `25.0`, `"25.0"`                      |
| floating point   | `"2.5"`                                       |
| boolean          | 0, 1                                          |

A value that fits none of these is returned unchanged, for msgspec to reject.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, cast

from msgspec import inspect

_INTEGER = re.compile(r"(-?[0-9]{1,40})(?:\.0{1,20})?", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_LARGEST_EXACT = 2.0**53
"""Whole floats from here on may have lost digits, and an id must not."""

Fit = Callable[[Any], Any]
"""Converts a value."""

_OBJECTS = (inspect.StructType, inspect.TypedDictType, inspect.DataclassType)
_NO_TEXT = (
    *_OBJECTS,
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.CollectionType,
    inspect.DictType,
)
"""The types that no JSON string is decoded as."""


def coerce(value: Any, cls: Any) -> Any:
    """Return *value* with the deviations above converted, as *cls* requires."""
    fit = _fit_of_type(cls)
    return value if fit is None or value is None else fit(value)


@lru_cache(maxsize=512)
def _fit_of_type(cls: Any) -> Fit | None:
    return _fit_of(inspect.type_info(cls))


def _fit_of(kind: inspect.Type) -> Fit | None:
    """Return the converter for values of *kind*; None if there is none."""
    if isinstance(kind, inspect.Metadata):
        return _fit_of(kind.type)
    if isinstance(kind, inspect.UnionType):
        return _fit_of_union(kind.types)
    if isinstance(kind, inspect.IntType):
        return _integer
    if isinstance(kind, inspect.FloatType):
        return _float
    if isinstance(kind, inspect.BoolType):
        return _boolean
    if isinstance(kind, inspect.CollectionType):
        return partial(_array, _fit_of(kind.item_type))
    if isinstance(kind, inspect.DictType):
        return partial(_mapping, _fit_of(kind.value_type))
    # By class and when it is needed: a type may contain itself.
    return partial(_object, kind.cls) if isinstance(kind, _OBJECTS) else None


@lru_cache(maxsize=512)
def _fits_of_fields(cls: Any) -> Mapping[str, Fit]:
    kind = inspect.type_info(cls)
    assert isinstance(kind, _OBJECTS)
    fits = {field.encode_name: _fit_of(field.type) for field in kind.fields}
    return {name: fit for name, fit in fits.items() if fit is not None}


def _fit_of_union(kinds: Sequence[inspect.Type]) -> Fit | None:
    def members(*types: Any) -> list[inspect.Type]:
        return [kind for kind in kinds if isinstance(kind, types)]

    fits: dict[type, Fit] = {}
    integers, floats = members(inspect.IntType), members(inspect.FloatType)
    if all(isinstance(kind, _NO_TEXT) for kind in kinds) and (integers or floats):
        fits[str] = _number if integers and floats else (_integer if integers else _float)
    if integers and not floats:
        fits[float] = _integer
    if members(inspect.BoolType) and not integers and not floats:
        fits[int] = _boolean
    arrays, objects = members(inspect.CollectionType), members(inspect.DictType, *_OBJECTS)
    for given, wanted in ((list, arrays or objects), (dict, objects or arrays)):
        fit = _fit_of(wanted[0]) if len(wanted) == 1 else None  # several have tags
        if fit is not None:
            fits[given] = fit
    return partial(_member, fits) if fits else None


def _member(fits: Mapping[type, Fit], value: Any) -> Any:
    fit = fits.get(value.__class__)
    return value if fit is None else fit(value)


def _integer(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_EXACT:
        return int(value)
    whole = _INTEGER.fullmatch(value) if isinstance(value, str) else None
    return int(whole[1]) if whole else value


def _float(value: Any) -> Any:
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _number(value: Any) -> Any:
    return _float(_integer(value))


def _boolean(value: Any) -> Any:
    return bool(value) if type(value) is int and value in (0, 1) else value


def _array(fit: Fit | None, value: Any) -> Any:
    if value is None:
        return []
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if not all(key.isascii() and key.isdigit() for key in fields):
            return fields
        value = [*fields.values()]
    if fit is None or not isinstance(value, list):
        return value
    return [*map(fit, cast("Sequence[Any]", value))]


def _mapping(fit: Fit | None, value: Any) -> Any:
    if value == []:
        return {}
    if fit is None or not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    return dict(zip(fields, map(fit, fields.values()), strict=True))


def _object(cls: Any, value: Any) -> Any:
    if value == []:
        return {}
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    fitted = {**fields}
    for name, fit in _fits_of_fields(cls).items():
        if name in fields:
            fitted[name] = fit(fields[name])
    return fitted
