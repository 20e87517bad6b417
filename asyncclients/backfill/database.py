"""The file of a journal: ours and whole, or refused and left alone.

A file of another program, of another version, or damaged is not written to.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Literal

from asyncclients.errors import StateError, StateMismatchError

VERSION = 4
"""Of the format of the file. Any other is refused."""
APPLICATION = 0x61636C69
"""Marks the file as ours."""


def connect(path: Path, mode: Literal["rwc", "rw", "ro"] = "rwc") -> sqlite3.Connection:
    """A checked connection to the journal at *path*; with `rwc`, made if there is none."""
    _check_file(path, must_exist=mode != "rwc")
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        _check_format(database, path, mode)
    except BaseException:
        database.close()
        raise
    return database


def _check_file(path: Path, *, must_exist: bool) -> None:
    if path.is_dir():
        raise StateMismatchError(
            f"{path} is a directory", file=str(path), advice="Give a file for the state"
        )
    if must_exist and not path.exists():
        raise StateMismatchError(f"{path} does not exist", file=str(path))
    if path.exists() and path.stat().st_size:
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
    if not empty:
        found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)


def unusable(path: Path, failure: Exception) -> StateError:
    """The error for what SQLite or the disk said about *path*."""
    words = failure.strerror if isinstance(failure, OSError) and failure.strerror else str(failure)
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
