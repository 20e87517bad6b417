"""Quotas shared by the processes of one host through one SQLite file; no server needed.

The rules are in `ledger.py`; each scope's ledger is one row, read and written in
one IMMEDIATE transaction, in a thread. The clock is the host's monotonic one,
the same in all its processes; it starts again with the host, so a ledger from
its future is from before the start.

For processes of one host only: the locks of network file systems are not to be trusted.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import msgspec

from asyncclients.arguments import check_type
from asyncclients.errors import ConfigurationError
from asyncclients.own_files import foreign_companions, target_of
from asyncclients.stores.clock import micros
from asyncclients.stores.config import (
    StoreConfig,
    StoreUnavailableError,
    WhenDown,
    check_store_options,
)
from asyncclients.stores.protocol import LeaseRequest, LeaseResponse
from asyncclients.stores.quota_log import QuotaLog
from asyncclients.stores.session import StoreSession

_TIMEOUT = 0.5
_KEEP = 600.0
"""Seconds after which an unused ledger is removed, beside its longest period."""
_SCHEMA = "CREATE TABLE IF NOT EXISTS ledger (scope TEXT PRIMARY KEY, at INTEGER, state BLOB)"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(QuotaLog).decode


class FileLimits:
    """Shares quotas between all processes of this host that name the same *path*.

    Args:
        path: the file; it is made on first use, readable by its owner only.
        when_down: what is sent while the file cannot be used, as in `RedisLimits`.
        lease: seconds for which a process may hold a slot before it uses it.

    Raises:
        ConfigurationError: for an unusable argument, and at the first call where the file
            cannot be made or is no SQLite file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        when_down: WhenDown = "safe_share",
        lease: float = 0.1,
    ) -> None:
        check_type("path", path, (str, os.PathLike), "FileLimits('limits.db')")
        self._path = Path(path)
        self._when_down: WhenDown = when_down
        check_store_options(when_down, lease)
        self._lease = lease

    def __repr__(self) -> str:
        return f"<FileLimits {self._path.name} when_down={self._when_down!r}>"

    def open(self, *, cold: bool = False) -> StoreSession:
        """A line for one pool."""
        terms = StoreConfig(
            process=uuid4().hex[:12],
            display_name=str(self._path),
            when_down=self._when_down,
            lease=self._lease,
            timeout=_TIMEOUT,
            assume_spent=cold,
        )
        return StoreSession(SqliteBackend(self._path), terms)


class SqliteBackend:
    """Ledgers in one SQLite file, used by one thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="asyncclients limits")
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    async def apply(self, key: str, claim: LeaseRequest) -> LeaseResponse:
        """See `Backend.exchange`."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._exchange, key, claim
        )

    def _exchange(self, key: str, claim: LeaseRequest) -> LeaseResponse:
        try:
            return self._transact(self._open(), key, claim)
        except sqlite3.Error as failure:
            self._close()
            raise explain(self._path, failure) from None

    def _transact(
        self, connection: sqlite3.Connection, key: str, claim: LeaseRequest
    ) -> LeaseResponse:
        connection.execute("BEGIN IMMEDIATE")
        try:
            now = micros(time.monotonic())
            row = connection.execute("SELECT state FROM ledger WHERE scope = ?", (key,)).fetchone()
            ledger = _read(row, claim, now)
            grant = ledger.apply(claim, now)
            connection.execute(
                "INSERT OR REPLACE INTO ledger VALUES (?, ?, ?)", (key, now, _encode(ledger))
            )
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
        return grant

    def _open(self) -> sqlite3.Connection:
        """The connection; a new one where the file was removed or replaced meanwhile."""
        try:
            inode = self._path.stat().st_ino
        except OSError:
            inode = 0  # why is said when it is opened
        if self._connection is not None and inode == self._inode:
            return self._connection
        self._close()
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            self._inode = self._path.stat().st_ino
        except OSError as failure:
            raise _unusable(self._path, f"cannot be opened ({failure.strerror})") from None
        for path, problem in foreign_companions(target_of(self._path)):
            raise _unusable(self._path, f"needs {path}, which {problem}")
        self._connection = _connect(self._path)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def aclose(self) -> None:
        """Close the file and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()  # its work is done: nothing is waited for


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_TIMEOUT, isolation_level=None, check_same_thread=False
    )
    try:
        _check_tables(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        # After a power cut the clock begins anew, and the ledgers with it: nothing to save.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(_SCHEMA)
        oldest = micros(time.monotonic() - _KEEP)
        connection.execute("DELETE FROM ledger WHERE at < ?", (oldest,))
    except BaseException:
        connection.close()
        raise
    return connection


def _check_tables(connection: sqlite3.Connection, path: Path) -> None:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    if {name for (name,) in tables} - {"ledger"}:
        raise _unusable(path, "belongs to another program")


def _read(row: tuple[bytes] | None, claim: LeaseRequest, now: int) -> QuotaLog:
    if row is None:
        return QuotaLog()
    try:
        return _decode(row[0])
    except msgspec.DecodeError:
        # Written by another version: what it holds is unknown.
        return QuotaLog(spent_until=now + claim.recovery_hold + claim.detection_time)


_LASTING = {
    "SQLITE_CANTOPEN": "cannot be opened, or the files beside it",
    "SQLITE_CORRUPT": "is damaged",
    "SQLITE_ERROR": "belongs to another program",
    "SQLITE_NOTADB": "is no SQLite file, or a damaged one",
    "SQLITE_PERM": "cannot be written",
    "SQLITE_READONLY": "cannot be written",
}
_PASSING = {
    "SQLITE_BUSY": "End the program that keeps it locked",
    "SQLITE_FULL": "Free space on its disk",
    "SQLITE_IOERR": "Check its disk",
    "SQLITE_LOCKED": "End the program that keeps it locked",
}


def explain(path: Path, failure: sqlite3.Error) -> ConfigurationError | StoreUnavailableError:
    """Return what *failure* means: configuration to be changed, or an outage."""
    name = getattr(failure, "sqlite_errorname", "") or type(failure).__name__
    code = "_".join(name.split("_")[:2])
    if code in _LASTING and name != "SQLITE_READONLY_DBMOVED":
        return _unusable(path, f"{_LASTING[code]} ({failure})")
    advice = _PASSING.get(code, "Check the file and its disk")
    return StoreUnavailableError(f"{name}: {failure}", advice)


def _unusable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the shared limit file {path} {why}",
        advice="Name a file that this user may write, on a local disk",
    )
