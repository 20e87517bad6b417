"""JSON: encoding, decoding, and what is accepted although it is not as in the manual.

`decode` raises nothing but `DecodeError`, whatever the server sends. Types with a wire form
of their own (an id that may be a number or text, a time with a prefix) have `from_wire` and
`to_wire`; msgspec handles all others. A result with a form of its own has a reader, see `read`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache, partial
from math import isfinite
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, cast, get_origin

import msgspec
from msgspec import inspect
from msgspec.structs import force_setattr

from asyncclients.errors import DecodeError

T = TypeVar("T")

EXCERPT_LIMIT = 200
"""Most characters of a body that an error quotes."""

_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml)", re.IGNORECASE)

_NO_FIELDS = frozenset[str]()
_NO_RESULT = frozenset({"status", "message", "code"})
"""Fields that error bodies have as well."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError, TypeError)
_UNREAD: Any = object()
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_KEY = re.compile(rb'\A\s*"[0-9]*"\s*:')

JsonObject = dict[str, Any]
"""A free-form JSON object."""
if TYPE_CHECKING:
    PhpObject = dict[str, Any]
else:
    PhpObject = dict[str, Any] | Annotated[list[Any], msgspec.Meta(max_length=0)]
"""A free-form object that a vendor's PHP sends as `[]` if it is empty.

A struct with such a field has `__post_init__ = empty_array_as_object(field)`. Without it, the
array would be a deviation for `coerce`, which costs three times as much as decoding.
"""


def empty_array_as_object(field: str) -> Callable[[Any], None]:
    """Return a `__post_init__` that replaces `[]` in *field*, a `PhpObject`, by `{}`."""

    def __post_init__(self: Any) -> None:  # noqa: N807 - it becomes a method
        if type(getattr(self, field)) is list:
            force_setattr(self, field, {})

    return __post_init__


class ExactId(str):
    """An id that may be sent as a number or as text."""

    __slots__ = ()

    @classmethod
    def from_wire(cls, value: Any) -> Self:
        """Return *value* as text with every digit; accepts a float that is an exact integer."""
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError(f"expected an id, got {type(value).__name__}")
        return cls(value)

    def to_wire(self) -> str:
        """Return it as text."""
        return str.__str__(self)


def decode_custom(cls: type[Any], value: Any) -> Any:
    """Return *value* as a *cls* with a wire form of its own: msgspec's `dec_hook`."""
    return cls.from_wire(value)


def encode_custom(value: Any) -> Any:
    """Return the wire form of *value*: msgspec's `enc_hook`.

    Raises:
        TypeError: it has none.
    """
    if hasattr(value, "to_wire"):
        return value.to_wire()
    raise TypeError(f"{type(value).__name__} has no JSON form")


_encoder = msgspec.json.Encoder(enc_hook=encode_custom)


_MOST_DECODERS = 512
_decoders: dict[int, tuple[Any, msgspec.json.Decoder[Any], frozenset[str] | None]] = {}
"""By identity: hashing a type like `Envelope[Contact]` costs as much as decoding a small body."""


def decoder(cls: Any) -> msgspec.json.Decoder[Any]:
    """Return the decoder of *cls*, created once."""
    return (_decoders.get(id(cls)) or _remember(cls))[1]


def _remember(cls: Any) -> tuple[Any, msgspec.json.Decoder[Any], frozenset[str] | None]:
    made = (cls, *_make_decoder(cls))
    if len(_decoders) < _MOST_DECODERS:
        _decoders[id(cls)] = made  # holds the type, so that its id is not reused
    return made


@lru_cache(maxsize=_MOST_DECODERS)
def _make_decoder(cls: Any) -> tuple[msgspec.json.Decoder[Any], frozenset[str] | None]:
    return msgspec.json.Decoder(cls, dec_hook=decode_custom), _result_fields(cls)


def _result_fields(cls: Any) -> frozenset[str] | None:
    """Return the JSON fields of a *cls*; None if a body without any of them cannot be one."""
    fields = _struct_fields(cls)
    if not fields or any(field.required for field in fields):
        return None
    return frozenset(field.encode_name for field in fields)


def _struct_fields(cls: Any) -> tuple[msgspec.structs.FieldInfo, ...]:
    origin = get_origin(cls) or cls
    is_struct = isinstance(origin, type) and issubclass(origin, msgspec.Struct)
    return msgspec.structs.fields(cast("Any", origin)) if is_struct else ()


def decode(body: bytes, cls: Any) -> Any:
    """Return *body* as *cls*. For `NoneType` any body is None; for `Any` an empty one.

    Raises:
        DecodeError: it is not JSON of that type, it is markup (of a gateway or login page,
            also for `NoneType`), or it reports an error in place of the result.
    """
    if cls is NoneType:
        check_body(body, _NO_FIELDS)
        return None
    _, strict, fields = _decoders.get(id(cls)) or _remember(cls)
    try:
        result = strict.decode(body)
    except _UNREADABLE:
        result = _UNREAD
    if result is _UNREAD:  # outside the handler, so that msgspec's error is no context
        result = _decode_leniently(body, cls)
    if fields is not None:
        check_body(body, fields)
    return result


def _decode_leniently(body: bytes, cls: Any) -> Any:
    """Decode other encodings of JSON and the deviations that `coerce` converts."""
    try:
        if json.detect_encoding(body) != "utf-8":
            return decode(to_utf8(body), cls)
        fitted = coerce(msgspec.json.decode(body), cls)
        return msgspec.convert(fitted, cls, dec_hook=decode_custom)
    except _UNREADABLE as bad:
        if cls is Any and not body.strip():
            return None
        reason = str(bad) if isinstance(bad, msgspec.MsgspecError) else type(bad).__name__
    check_body(body, frozenset(field.encode_name for field in _struct_fields(cls)))
    raise DecodeError(_describe(body, reason), advice=_decode_advice(body))


def read(
    body: bytes, cls: type[T], reader: Callable[[Any], T], fields: frozenset[str] | None = None
) -> T:
    """Return the *cls* that *reader* finds in the JSON of *body*, which is None if it is empty.

    *fields* are those of a result, by default those of *cls*.

    Raises:
        DecodeError: as `decode`, or *reader* raises a ValueError, or an empty list is beside an
            error.
    """
    value = decode(body, Any)
    try:
        result = reader(value)
    except _UNREADABLE as bad:
        reason = str(bad)
    else:
        check_body(body, (fields or _result_fields(cls)) if result else _NO_FIELDS)
        return result
    check_body(body, _NO_FIELDS)
    raise DecodeError(_describe(body, reason), advice=_decode_advice(body))


def check_body(body: bytes, fields: frozenset[str] | None) -> None:
    """Check that *body*, of a 2xx, does not report a failure.

    *fields* are those of a result; None accepts a body with `error`.

    Raises:
        DecodeError: it is markup, or it has `error` or `errors` and none of *fields*.
    """
    if _HTML.match(body):
        raise DecodeError(_describe(body, ""), advice=_decode_advice(body))
    if fields is None or (b"error" not in body and b"\0" not in body):
        return  # with a NUL it is UTF-16
    found = read_object(body) or {}
    if (found.get("error") or found.get("errors")) and not any(
        found.get(name) for name in fields - _NO_RESULT
    ):
        raise DecodeError(
            "answered with an error in place of the result, although its status is a success",
            advice="The excerpt shows what the vendor reports; the call may not have been "
            "carried out",
            is_error_body=True,
        )


def to_utf8(body: bytes) -> bytes:
    """Return JSON in any of its encodings as UTF-8 without a byte order mark.

    Raises:
        UnicodeDecodeError: it is not valid in the encoding that its first bytes show.
    """
    encoding = json.detect_encoding(body)
    return body if encoding == "utf-8" else body.decode(encoding).encode()


def json_object(value: Any) -> JsonObject:
    """Return *value* as an object; `[]` as an empty one.

    Raises:
        ValueError: it is something else.
    """
    found: JsonObject = from_reply(value, JsonObject)
    return found


def from_reply(value: Any, cls: Any) -> Any:
    """Convert a value of a response, accepting the deviations that `coerce` converts.

    Raises:
        ValueError: (of msgspec) naming the field that does not fit.
    """
    try:
        return from_plain(value, cls)
    except msgspec.ValidationError:
        fitted = coerce(value, cls)
    return from_plain(fitted, cls)


def _describe(body: bytes, reason: str) -> str:
    if not body:
        return "answered with an empty body where JSON was expected"
    if _HTML.match(body):
        return "answered with a page of markup where JSON was expected"
    return f"answered with something its document does not describe ({reason[:EXCERPT_LIMIT]})"


def _decode_advice(body: bytes) -> str:
    if _HTML.match(body):
        return "A gateway, proxy or login page answers at this address; check base_url"
    return "If the vendor changed its reply, use client.request(..., response_type=Any)"


def split_list(body: bytes, name: str) -> tuple[bytes, list[bytes]] | None:
    """Return *body* with an empty list in its field *name*, and the items of that list.

    The items need not be valid JSON, as long as their quotes and brackets are balanced.
    The list may also be an object, see `coerce`. None if there is no such field.
    """
    wanted = f'"{name}"'.encode()
    depth, key, items = 0, b"", list[bytes]()
    opened = start = 0
    for token in _TOKEN.finditer(body):
        text = token[0]
        depth += (text in b"[{") - (text in b"]}")
        if not opened:
            if depth == 2 and text in b"[{" and key == wanted:
                opened, start = token.start(), token.end()
            elif depth == 1:
                key = b"" if text in b",{" else key or text
        elif (text == b"," and depth == 2) or (text in b"]}" and depth == 1):
            items.append(_KEY.sub(b"", body[start : token.start()]).strip())
            start = token.end()
            if depth == 1:
                return body[:opened] + b"[]" + body[start:], [item for item in items if item]
    return None


def read_object(body: bytes) -> dict[str, Any] | None:
    """Return *body* as a JSON object, None if it is not one."""
    try:
        found: dict[str, Any] = decoder(dict[str, Any]).decode(to_utf8(body))
    except _UNREADABLE:
        return None
    return found


def encode(body: Any) -> bytes:
    """Return *body* as JSON.

    Raises:
        ValueError: it holds NaN or an infinity, which JSON does not have.
        TypeError: it holds a value without a JSON form.
    """
    encoded = _encoder.encode(body)
    if may_hold_nan(encoded):
        check_finite(body)
    return encoded


def encode_lines(items: Sequence[Any]) -> bytes:
    """Return *items* as JSON lines, each with a line break.

    Raises:
        ValueError: as `encode`.
        TypeError: as `encode`.
    """
    encoded = _encoder.encode_lines(items)
    if may_hold_nan(encoded):
        check_finite(items)
    return encoded


def may_hold_nan(encoded: bytes) -> bool:
    """Return True if msgspec may have encoded NaN: as null for a float, as text for a `Decimal`."""
    find = encoded.find  # twice as fast as `in`
    return find(b"null") >= 0 or find(b"NaN") >= 0 or find(b"Infinity") >= 0


def check_finite(value: Any) -> None:
    """Raise `ValueError` if there is NaN or an infinity anywhere in *value*.

    msgspec encodes such a float as null, which would clear a field.
    """
    plain = msgspec.to_builtins(value, enc_hook=encode_custom, builtin_types=(Decimal,))
    found: list[tuple[str, Any]] = [("", plain)]
    while found:
        place, value = found.pop()
        if isinstance(value, dict):
            fields = cast("dict[object, Any]", value)
            found += [(f"{place}.{name}", field) for name, field in fields.items()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            found += [(f"{place}[]", each) for each in cast("Iterable[Any]", value)]
        elif isinstance(value, (float, Decimal)) and not isfinite(value):
            where = f" in {place.lstrip('.')}" if place else ""
            raise ValueError(f"{value}{where} has no JSON form; leave the field out, or send None")


def to_plain(value: Any, keep: Iterable[type] = ()) -> Any:
    """Return *value* in wire form as plain dicts, lists, strings, numbers, and *keep* as it is."""
    return msgspec.to_builtins(value, enc_hook=encode_custom, builtin_types=keep)


def from_plain(value: Any, cls: Any, *, strict: bool = True) -> Any:
    """Convert plain dicts, lists, strings and numbers to *cls*; without *strict*, "2" is a number.

    Raises:
        ValueError: (of msgspec) naming the field that does not fit.
    """
    return msgspec.convert(value, cls, strict=strict, dec_hook=decode_custom)


def excerpt(body: bytes) -> str:
    """Return the start of *body* as one line of at most 200 characters."""
    text = body[: EXCERPT_LIMIT * 8].decode("utf-8", "replace")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= EXCERPT_LIMIT else text[: EXCERPT_LIMIT - 1] + "…"


# --- Deviations of vendors -----------------------------------------------------

_INTEGER = re.compile(r"(-?[0-9]{1,40})(?:\.0{1,20})?", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_LARGEST_EXACT = 2.0**53
"""Whole floats from here on may have lost digits, and an id must not."""

Fits = Mapping[type, Callable[[Any], Any]]
"""What converts a value, by the class that it was decoded as; nothing for a class that fits."""

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
    """Convert the plain *value* to fit *cls*, if a vendor's JSON deviates from its manual.

    Used after strict decoding has failed, so that correct responses cost nothing. The type
    decides, never the text of an error:

    | expected         | accepted as well                              |
    |------------------|-----------------------------------------------|
    | object           | `[]` (PHP's empty object)                     |
    | array            | an object with numeric keys (a filtered PHP array), `{}`; in a field also `null` |
    | integer          | `"25"`, `25.0`, `"25.0"`                      |
    | floating point   | `"2.5"`                                       |
    | boolean          | 0, 1                                          |

    A value that fits none of these is returned unchanged, for msgspec to reject.
    """
    fit = None if value is None else _fits_of_type(cls).get(value.__class__)
    return value if fit is None else fit(value)


@lru_cache(maxsize=512)
def _fits_of_type(cls: Any) -> Fits:
    return _fits_of(inspect.type_info(cls))


def _fits_of(kind: inspect.Type) -> Fits:
    if isinstance(kind, inspect.Metadata):
        return _fits_of(kind.type)
    if isinstance(kind, inspect.UnionType):
        return _fits_of_union(kind.types)
    if isinstance(kind, inspect.IntType):
        return {str: _integer, float: _whole}
    if isinstance(kind, inspect.FloatType):
        return {str: _float}
    if isinstance(kind, inspect.BoolType):
        return {int: _boolean}
    if isinstance(kind, inspect.CollectionType):
        inner = _fits_of(kind.item_type)
        fits: Fits = {NoneType: _no_items, dict: partial(_values, inner)}
        return {**fits, list: partial(_items, inner)} if inner else fits
    if isinstance(kind, inspect.DictType):
        inner = _fits_of(kind.value_type)
        fits = {list: _empty_object}
        return {**fits, dict: partial(_fields, inner)} if inner else fits
    if isinstance(kind, _OBJECTS):
        # By class and when it is needed: a type may contain itself.
        return {list: _empty_object, dict: partial(_object, kind.cls)}
    return {}


@lru_cache(maxsize=512)
def _fits_of_fields(cls: Any) -> Mapping[str, Fits]:
    kind = inspect.type_info(cls)
    assert isinstance(kind, _OBJECTS)
    fits = {field.encode_name: _fits_of(field.type) for field in kind.fields}
    return {name: each for name, each in fits.items() if each}


def _fits_of_union(kinds: Sequence[inspect.Type]) -> Fits:
    def members(*types: Any) -> list[inspect.Type]:
        return [kind for kind in kinds if isinstance(kind, types)]

    fits: dict[type, Callable[[Any], Any]] = {}
    integers, floats = members(inspect.IntType), members(inspect.FloatType)
    if all(isinstance(kind, _NO_TEXT) for kind in kinds) and (integers or floats):
        fits[str] = _number if integers and floats else (_integer if integers else _float)
    if integers and not floats:
        fits[float] = _whole
    if members(inspect.BoolType) and not integers and not floats:
        fits[int] = _boolean
    arrays, objects = members(inspect.CollectionType), members(inspect.DictType, *_OBJECTS)
    for given, wanted in ((list, arrays or objects), (dict, objects or arrays)):
        fit = _fits_of(wanted[0]).get(given) if len(wanted) == 1 else None  # several have tags
        if fit is not None:
            fits[given] = fit
    return fits


def _whole(value: float) -> float:
    return int(value) if abs(value) < _LARGEST_EXACT and value % 1 == 0 else value


def _integer(value: str) -> Any:
    whole = _INTEGER.fullmatch(value)
    return int(whole[1]) if whole else value


def _float(value: str) -> Any:
    return float(value) if _NUMBER.fullmatch(value) else value


def _number(value: str) -> Any:
    whole = _integer(value)
    return _float(value) if whole is value else whole


def _boolean(value: int) -> Any:
    return bool(value) if value in (0, 1) else value


def _no_items(_: None) -> list[Any]:
    return []


def _values(inner: Fits, fields: dict[str, Any]) -> Any:
    if all(key.isascii() and key.isdigit() for key in fields):
        return _items(inner, fields.values())
    return fields


def _items(inner: Fits, values: Iterable[Any]) -> list[Any]:
    return [
        value if (fit := inner.get(value.__class__)) is None else fit(value) for value in values
    ]


def _empty_object(value: list[Any]) -> Any:
    return value or {}


def _fields(inner: Fits, fields: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(fields, _items(inner, fields.values()), strict=True))


def _object(cls: Any, fields: dict[str, Any]) -> dict[str, Any]:
    fitted = {**fields}
    for name, fits in _fits_of_fields(cls).items():
        if name in fields and (fit := fits.get(fields[name].__class__)) is not None:
            fitted[name] = fit(fields[name])
    return fitted
