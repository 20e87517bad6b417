"""Blobs with a checksum (CRC-32), so that a state file that was damaged is never believed.

SQLite notices damage to its own structures, and none to what they hold.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, TypeVar
from zlib import crc32

import msgspec

T = TypeVar("T")

_SIZE = 4


def sealed(row: Sequence[Any]) -> list[Any]:
    """*row* with its blobs sealed."""
    return [_digest(value) + value if isinstance(value, bytes) else value for value in row]


def unsealed(row: Sequence[Any]) -> tuple[Any, ...]:
    """*row* as it was before it was `sealed`.

    Raises:
        sqlite3.DatabaseError: a blob was changed since.
    """
    return tuple(_opened(value) if isinstance(value, bytes) else value for value in row)


def _opened(blob: bytes) -> bytes:
    value = blob[_SIZE:]
    if _digest(value) != blob[:_SIZE]:
        raise sqlite3.DatabaseError("what it holds was changed by something else")
    return value


def _digest(value: bytes) -> bytes:
    return crc32(value).to_bytes(_SIZE)


def read_state(database: sqlite3.Connection, cls: type[T]) -> T | None:
    """The value that each commit replaces, None in a new journal."""
    if set(select(database, "SELECT name FROM job")) - {("job",), ("state",), ("wal",)}:
        raise sqlite3.DatabaseError("it holds something unknown")
    return read_value(database, "state", cls)


def read_value(database: sqlite3.Connection, name: str, cls: type[T]) -> T | None:
    """What the journal holds under *name*, None if nothing."""
    rows = select(database, "SELECT value FROM job WHERE name = ?", (name,))
    try:
        return msgspec.json.decode(rows[0][0], type=cls) if rows else None
    except (TypeError, msgspec.MsgspecError) as bad:
        raise sqlite3.DatabaseError(f"its {name} cannot be read") from bad


def select(database: sqlite3.Connection, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
    """The rows that *sql* selects; an error if one was damaged."""
    return [unsealed(row) for row in database.execute(sql, parameters)]
