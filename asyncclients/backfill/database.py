"""The file of a journal: ours and whole, or refused and left alone.

A file of another program, of another version, or damaged is not written to.

What was saved last is in the `-wal` file beside it, until SQLite moves it here. A copy
without that file would be an older state that looks whole, and rows would be sent twice.
So this file always says, in the row `wal`, that it needs the other one (`mark_log`); the
first commit that follows takes that back, in the other one. Whoever sees the first and
has no `-wal` file has such a copy.

Each blob has a checksum (CRC-32), so that a state file that was damaged is never believed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar
from zlib import crc32

import msgspec

from asyncclients.errors import StateError, StateMismatchError

T = TypeVar("T")

VERSION = 5
"""Of the format of the file. Any other is refused."""
APPLICATION = 0x61636C69
"""Marks the file as ours."""
_LONGEST_LOG = 4 * 2**20
"""Bytes of the `-wal` file from which its content is moved into the state file."""
_NEEDS_LOG, _HAS_LOG = "needed", "applied"


def connect(path: Path, mode: Literal["rwc", "rw", "ro"] = "rwc") -> sqlite3.Connection:
    """A checked connection to the journal at *path*; with `rwc`, made if there is none."""
    _check_file(path, must_exist=mode != "rwc")
    has_log = log_path(path).exists()
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        _check_format(database, path, mode)
        _check_log(database, path, mode, has_log=has_log)
    except BaseException as failure:
        try:
            database.close()
        finally:
            if has_log and mode != "ro":
                keep_log(path)
        if getattr(failure, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise _foreign(path) from None
        raise
    return database


def _check_log(database: sqlite3.Connection, path: Path, mode: str, *, has_log: bool) -> None:
    if not database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        return
    if read_value(database, "wal", str) != _NEEDS_LOG:
        return
    if has_log and mode != "ro":
        # A run was ended while it marked the log: said now, before closing removes the log.
        _write_mark(database, _HAS_LOG)
    if not has_log:
        raise StateMismatchError(
            f"{path} is incomplete: what was saved last is in {path.name}-wal, which is missing",
            file=str(path),
            advice="Copy both files, or go on with the original; rows that were sent since "
            "would be sent again from this one",
        )


def mark_log(database: sqlite3.Connection) -> None:
    """Move the `-wal` file's content into the state file, which then says that it needs the other."""
    _write_mark(database, _NEEDS_LOG)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _write_mark(database, _HAS_LOG)


def _write_mark(database: sqlite3.Connection, mark: str) -> None:
    value = with_checksum([b'"%s"' % mark.encode()])
    database.execute("INSERT OR REPLACE INTO job VALUES ('wal', ?)", value)


def keep_log(path: Path) -> None:
    """Leave a `-wal` file, be it empty, after a run that may have failed while it marked the log.

    Closing has moved what the log held into the state file, which may say that it needs it.
    """
    if path.exists():
        log_path(path).touch()


def log_path(path: Path) -> Path:
    """Return the path of the `-wal` file of the journal at *path*."""
    return path.with_name(path.name + "-wal")


def shorten_log(database: sqlite3.Connection, path: Path) -> None:
    """Keep the `-wal` file short; SQLite's own way would leave a file that looks whole."""
    if log_path(path).stat().st_size > _LONGEST_LOG:
        mark_log(database)


def _check_file(path: Path, *, must_exist: bool) -> None:
    if path.is_dir():
        raise StateMismatchError(
            f"{path} is a directory", file=str(path), advice="Give a file for the state"
        )
    if must_exist and not path.exists():
        raise StateMismatchError(f"{path} does not exist", file=str(path))
    # Not where a job may be running in this process: see the rule on descriptors in `lock`.
    if not must_exist and path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                raise _foreign(path)


def _foreign(path: Path) -> StateMismatchError:
    what = f"{path} is not a state file of asyncclients"
    advice = "Give another path for the state; this file was not touched"
    return StateMismatchError(what, file=str(path), advice=advice)


def _check_format(database: sqlite3.Connection, path: Path, mode: str) -> None:
    application = database.execute("PRAGMA application_id").fetchone()[0]
    # In this order: another process may be making the file, in one transaction.
    empty = not database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION and not (empty and not application and mode == "rwc"):
        raise _foreign(path)
    if version != VERSION and not empty:
        newer = version > VERSION
        remedy = "Upgrade asyncclients" if newer else "End the job with that version, or begin anew"
        raise StateMismatchError(
            f"{path} was written by {'a newer' if newer else 'an older'} version of asyncclients "
            f"(format {version}, this one knows {VERSION})",
            file=str(path),
            advice=f"{remedy}; the file was not touched",
        )
    if mode != "ro":
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA wal_autocheckpoint = 0")
    if not empty:
        found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)


def unusable(path: Path, failure: Exception) -> StateError:
    """The error for what SQLite or the disk said about *path*."""
    words = failure.strerror if isinstance(failure, OSError) and failure.strerror else str(failure)
    if isinstance(failure, OSError) and failure.filename not in (None, str(path)):
        words = f"{failure.filename}: {words}"
    damaged = isinstance(failure, sqlite3.DatabaseError) and not isinstance(
        failure, sqlite3.OperationalError
    )
    if damaged:
        return StateMismatchError(
            f"{path} is damaged: {words}",
            file=str(path),
            advice="Restore it from a copy, or start again with another state file "
            "after looking at what the vendor holds",
        )
    return StateError(
        f"cannot keep the state in {path}: {words}",
        file=str(path),
        advice="Check the disk's space and the file's rights, then run again: "
        "what was saved before is intact",
    )


# --- Blobs with a checksum: SQLite notices damage to its own structures only ------------

_SIZE = 4


def with_checksum(row: Sequence[Any]) -> list[Any]:
    """*row* with its blobs sealed."""
    return [_digest(value) + value if isinstance(value, bytes) else value for value in row]


def verify(row: Sequence[Any]) -> tuple[Any, ...]:
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
    return [verify(row) for row in database.execute(sql, parameters)]
