"""Encoding and decoding: JSON bodies, form bodies, query strings.

`decode` raises nothing but `DecodeError`, whatever the server sends. Types with a wire form
of their own (an id that may be a number or text, a time with a prefix) have `from_wire` and
`to_wire`; msgspec handles all others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from types import NoneType
from typing import Any, Protocol, Self, cast, get_origin, runtime_checkable
from urllib.parse import quote_plus

import msgspec
from msgspec import UNSET

from asyncclients.core.coercion import coerce
from asyncclients.errors import DecodeError

EXCERPT_LIMIT = 200
"""Most characters of a body that an error quotes."""

_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*\Z").match
_quoted_name = lru_cache(maxsize=1024)(quote_plus)
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


@runtime_checkable
class WireForm(Protocol):
    """A type with a wire form of its own.

    If `accepts_empty` is true, `from_wire` gets None for an empty body. `wire_fields` are
    the JSON fields of a result: a body with `error` and none of them is an error.
    """

    @classmethod
    def from_wire(cls, value: Any) -> Self: ...
    def to_wire(self) -> Any: ...


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
    if not fields:
        return cast("frozenset[str] | None", getattr(cls, "wire_fields", None))
    required = any(field.required for field in fields)
    return None if required else frozenset(field.encode_name for field in fields)


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
    """Decode other encodings of JSON and the deviations of `coercion.py`."""
    try:
        if json.detect_encoding(body) != "utf-8":
            return decode(to_utf8(body), cls)
        fitted = coerce(msgspec.json.decode(body), cls)
        return msgspec.convert(fitted, cls, dec_hook=decode_custom)
    except _UNREADABLE as bad:
        if not body.strip():
            if cls is Any:
                return None
            if getattr(cls, "accepts_empty", False):
                return cls.from_wire(None)
        reason = str(bad) if isinstance(bad, msgspec.MsgspecError) else type(bad).__name__
    own = frozenset(field.encode_name for field in _struct_fields(cls))
    check_body(body, own or getattr(cls, "wire_fields", own))
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
    """Convert a value of a response, accepting the deviations of `coercion.py`.

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
    The list may also be an object, see `coercion.py`. None if there is no such field.
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


def encode_form(body: Any) -> bytes:
    """Return the flat object *body* as `application/x-www-form-urlencoded`.

    Raises:
        ValueError: for lists and objects inside, which no vendor documents.
    """
    return "&".join(_form_fields(to_plain(body))).encode()


def encode_query(params: Mapping[str, Any]) -> str:
    """Return *params* as a query string without `?`; lists repeat the name, None is left out.

    Raises:
        ValueError: for objects and lists inside, which no vendor documents.
    """
    pairs: list[str] = []
    for name, value in params.items():
        if value is None or value is UNSET:
            continue
        if type(value) is not int:  # digits need no quoting
            if isinstance(value, (list, tuple)):
                several = [{name: each} for each in cast("Sequence[Any]", value)]
                pairs.extend(pair for pair in map(encode_query, several) if pair)
                continue
            value = _quoted(_flat(name, value))
        pairs.append(f"{_quoted_name(name)}={value}")
    return "&".join(pairs)


def _form_fields(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if value is not None and value is not UNSET:
            yield f"{_quoted_name(name)}={_quoted(_flat(name, value))}"


def _quoted(text: str) -> str:
    return text if _PLAIN(text) else quote_plus(text)


def _flat(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{name} is {value}, which no vendor documents; leave it out")
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ValueError(f"{name} has no form as a flat field: {type(value).__name__}")


def excerpt(body: bytes) -> str:
    """Return the start of *body* as one line of at most 200 characters."""
    text = body[: EXCERPT_LIMIT * 8].decode("utf-8", "replace")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= EXCERPT_LIMIT else text[: EXCERPT_LIMIT - 1] + "…"
