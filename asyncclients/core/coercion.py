"""Fit plain values to a type, where a vendor's JSON deviates from its document.

Used after strict decoding has failed, so the deviations cost nothing where there
are none. The type decides, never the text of an error:

| expected         | accepted as well                              |
|------------------|-----------------------------------------------|
| object           | `[]` (PHP's empty object)                     |
| array            | an object with numeric keys (a filtered PHP array), `{}`; in a field also `null` |
| integer          | `"25"`, `25.0`, `"25.0"`                      |
| floating point   | `"2.5"`                                       |

A value that fits none of these is returned unchanged, for msgspec to reject.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

from msgspec import inspect

_INTEGER = re.compile(r"(-?[0-9]{1,40})(?:\.0{1,20})?", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_LARGEST_EXACT = 2.0**53
"""Whole floats from here on may have lost digits, and an id must not."""

_Objects = inspect.StructType | inspect.TypedDictType | inspect.DataclassType
_NO_TEXT = (
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.CollectionType,
    inspect.DictType,
    inspect.StructType,
    inspect.TypedDictType,
    inspect.DataclassType,
)
"""The types that no JSON string is decoded as."""

_type_info = lru_cache(maxsize=512)(inspect.type_info)


def coerce(value: Any, cls: Any) -> Any:
    """Return *value* with the deviations above put right, as far as *cls* asks for it."""
    return _fit(value, _type_info(cls))


def _fit(value: Any, kind: inspect.Type) -> Any:
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        chosen = _choose(value, kind.types)
        return value if chosen is None else _fit(value, chosen)
    if isinstance(kind, inspect.IntType):
        return _integer(value)
    if isinstance(kind, inspect.FloatType):
        is_number = isinstance(value, str) and _NUMBER.fullmatch(value)
        return float(value) if is_number else value
    if isinstance(kind, inspect.CollectionType):
        return _array(value, kind.item_type)
    if isinstance(kind, (inspect.DictType, _Objects)):
        return _object(value, kind)
    return value


def _choose(value: Any, kinds: Sequence[inspect.Type]) -> inspect.Type | None:
    """Return the member of a union that *value* can be fitted to; None to leave it as it is."""
    wanted: tuple[Any, ...] = ()
    if isinstance(value, str):
        is_text = any(not isinstance(kind, _NO_TEXT) for kind in kinds)
        numbers = (inspect.IntType, inspect.FloatType)
        wanted = numbers if _INTEGER.fullmatch(value) else numbers[::-1]
        wanted = () if is_text else wanted
    elif isinstance(value, float):
        is_float = any(isinstance(kind, inspect.FloatType) for kind in kinds)
        wanted = () if is_float else (inspect.IntType,)
    elif isinstance(value, list):
        wanted = (inspect.CollectionType, inspect.DictType | _Objects)
    elif isinstance(value, dict):
        wanted = (inspect.DictType | _Objects, inspect.CollectionType)
    for each in wanted:
        found = [kind for kind in kinds if isinstance(kind, each)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _integer(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_EXACT:
        return int(value)
    whole = _INTEGER.fullmatch(value) if isinstance(value, str) else None
    return int(whole[1]) if whole else value


def _array(value: Any, item: inspect.Type) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if not all(key.isascii() and key.isdigit() for key in fields):
            return value
        value = [*fields.values()]
    if not isinstance(value, list):
        return value
    return [_fit(each, item) for each in cast("Sequence[Any]", value)]


def _object(value: Any, kind: inspect.DictType | _Objects) -> Any:
    if value == []:
        return {}
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    if isinstance(kind, inspect.DictType):
        return {key: _fit(each, kind.value_type) for key, each in fields.items()}
    kinds = {field.encode_name: field.type for field in kind.fields}
    return {key: _field(each, kinds[key]) if key in kinds else each for key, each in fields.items()}


def _field(value: Any, kind: inspect.Type) -> Any:
    return [] if value is None and isinstance(kind, inspect.CollectionType) else _fit(value, kind)
