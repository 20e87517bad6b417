"""Encode rows as JSON, to store them and to compare the rows of two runs.

NaN and infinities, which JSON does not have, become the texts "nan", "inf" and "-inf"; lone
surrogates are escaped; an object without a JSON form becomes its repr. For comparison, keys and
sets are sorted, and a repr that may differ between processes is rejected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from math import isfinite
from typing import Any, cast

import msgspec

from asyncclients.backfill.files.source import Row
from asyncclients.core import codec
from asyncclients.errors import InputError, encodable, error_text

_UNSTABLE = re.compile(r" at 0x[0-9A-Fa-f]|\{")
"""Matches a repr with an address, or with a set, whose order may vary."""

Text = Callable[[Any], Any]


class _UnstableError(Exception):
    """A value has no text that is the same in every process."""


def encode_row(data: Any) -> bytes:
    """Return *data* as JSON, to be shown or stored; never raises."""
    return _encode(data, _shown, _show)


def digest(data: bytes) -> str:
    """Return 32 hexadecimal characters that identify *data*, the same in every process."""
    return blake2b(data, digest_size=16).hexdigest()


def content_digests(items: Sequence[Any]) -> list[int]:
    """Return a number of 1 to 2**63 for each of *items* that identifies its content."""
    try:
        lines = _compared.encode_lines(items).split(b"\n")[:-1]
    except Exception:  # noqa: BLE001 - `to_wire` may raise anything
        lines = [encode_row(item) for item in items]
    return [int.from_bytes(blake2b(line, digest_size=8).digest()) >> 1 or 1 for line in lines]


def json_problem(data: Any) -> str:
    """Return why *data* cannot be encoded as JSON unchanged, "" if it can."""
    try:
        codec.encode(data)
    except Exception as bad:  # noqa: BLE001 - `to_wire` may raise anything
        return error_text(bad)
    return ""


def encode_rows(rows: Sequence[Row]) -> bytes:
    """Return the data of *rows* as JSON lines, to be compared with those of another run.

    Raises:
        InputError: a row has no text that is the same in every process.
    """
    data = [row.data for row in rows]
    try:
        encoded = _compared.encode_lines(data)
    except Exception:  # noqa: BLE001 - `to_wire` and `__repr__` may raise anything
        return b"".join([_comparable(row) for row in rows])
    return b"".join([_comparable(row) for row in rows]) if codec.may_hold_nan(encoded) else encoded


def _comparable(row: Row) -> bytes:
    try:
        return _encode(row.data, _compared, _compare) + b"\n"
    except _UnstableError as unstable:
        raise InputError(
            f"row {row.number} holds {unstable}, which looks different in each process, so a "
            "resumed job would not know which rows were sent",
            line=row.line,
            advice="Make rows of plain values: dicts, lists, texts, numbers, structs or "
            "dataclasses",
        ) from None


def _encode(data: Any, encoder: msgspec.json.Encoder, text: Text) -> bytes:
    try:
        encoded = encoder.encode(data)
        if not codec.may_hold_nan(encoded):
            return encoded
    except Exception:  # noqa: BLE001, S110 - `to_wire` may raise anything
        pass
    try:
        return encoder.encode(_plain(data, text))
    except RecursionError:
        return encoder.encode(text(data))


def _plain(value: Any, text: Text) -> Any:
    """Return *value* with everything replaced that msgspec cannot encode."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if value is None or isinstance(value, (int, bytes)):
        return value
    if isinstance(value, Mapping):
        fields = cast("Mapping[object, Any]", value)
        return {encodable(str(_plain(key, text))): _plain(fields[key], text) for key in fields}
    if isinstance(value, (list, tuple)):
        return [_plain(each, text) for each in cast("Iterable[Any]", value)]
    if isinstance(value, AbstractSet):
        members = [_plain(each, text) for each in cast("AbstractSet[object]", value)]
        return sorted(members, key=_show_order)
    try:
        plain = msgspec.to_builtins(value, order="deterministic", enc_hook=text)
    except _UnstableError:
        raise
    except Exception:  # noqa: BLE001 - `to_wire` may raise anything
        plain = value
    return _plain(plain, text) if type(plain) is not type(value) else text(value)


def _show_order(member: Any) -> bytes:
    return _shown.encode(member)


def _show(value: Any) -> Any:
    """Return the wire form of *value*, else its repr."""
    try:
        return value.to_wire() if hasattr(value, "to_wire") else encodable(repr(value))
    except Exception:  # noqa: BLE001 - a user's method may raise anything
        return encodable(f"<{type(value).__name__}>")


def _compare(value: Any) -> Any:
    """Return the result of `_show`; reject one that may differ between processes."""
    shown = _show(value)
    if not hasattr(value, "to_wire") and _UNSTABLE.search(shown):
        raise _UnstableError(f"an object of type {type(value).__qualname__}")
    return shown


_shown = msgspec.json.Encoder(enc_hook=_show)
_compared = msgspec.json.Encoder(enc_hook=_compare, order="deterministic")
