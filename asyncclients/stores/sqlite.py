"""Quotas shared by the processes of one host through one SQLite file; no server needed.

Each scope's quota log is one row, read and written in one IMMEDIATE transaction in a thread.
The clock is the host's monotonic clock, which all its processes share. It restarts with the
host: a log with a later time was written before the restart.

For processes of one host only: the locks of network file systems are not reliable.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from asyncclients.arguments import check_type
from asyncclients.core.events import logger
from asyncclients.errors import ConfigurationError
from asyncclients.own_files import foreign_companions, target_of
from asyncclients.stores.clock import SECOND, micros
from asyncclients.stores.config import StoreConfig, WhenDown, scope_name
from asyncclients.stores.control import ScopeLimits, scope_limits
from asyncclients.stores.protocol import LeaseRequest, LeaseResponse, StoreUnavailableError
from asyncclients.stores.quota_log import QuotaLog
from asyncclients.stores.session import SharedLimits

T = TypeVar("T")

_TIMEOUT = 0.5
_KEEP = 600.0
"""Seconds after which a log that is not needed is deleted when the file is opened."""
_SAVE = "INSERT OR REPLACE INTO quota_log VALUES (?, ?, ?)"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(QuotaLog).decode


class FileLimits(SharedLimits):
    """Shares quotas between all processes of this host that name the same *path*.

    Args:
        path: the file; it is created on first use, readable by its owner only.
        when_down: what each process sends while the file cannot be used, see `RedisLimits`.
        lease: seconds for which a process may hold a slot before it uses it.

    Raises:
        ConfigurationError: for an invalid argument, and at the first call if the file cannot
            be created or is not an SQLite file.
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
        self._config = StoreConfig(
            display_name=str(self._path), when_down=when_down, lease=lease, timeout=_TIMEOUT
        )

    def _connect(self) -> SqliteBackend:
        return SqliteBackend(self._path)

    def backend(self) -> SqliteBackend:
        """Return a connection for `LimitsControl`.

        Raises:
            ConfigurationError: the file does not exist.
        """
        if not self._path.exists():
            raise ConfigurationError(
                f"the shared limit file {self._path} does not exist",
                advice="Give the path that the processes use; the first of them creates it",
            )
        return self._connect()


_opening = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_opening.release
    )
_open_files: Counter[tuple[int, int] | None] = Counter()
"""Device and inode of each file that this process has open -> number of its connections."""


class SqliteBackend:
    """The quota logs of all scopes in one SQLite file, used by a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="asyncclients limits")
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._has_warned = False

    async def apply(self, key: str, request: LeaseRequest) -> LeaseResponse:
        """Apply *request*, see `Backend.apply`."""

        def work(connection: sqlite3.Connection) -> LeaseResponse:
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                return self._apply(connection, key, request)

        return await self._in_thread(work)

    def _apply(
        self, connection: sqlite3.Connection, key: str, request: LeaseRequest
    ) -> LeaseResponse:
        now = micros(time.monotonic())
        try:
            log = _load(connection, key)
        except msgspec.DecodeError:  # another version wrote it: its content is unknown
            pause = request.recovery_hold + request.detection_time
            log = QuotaLog(spent_until=now + pause)
            self._warn(scope_name(request.vendor, key), pause)
        response = log.apply(request, now, wall=micros(time.time()))
        _save(connection, key, log, request.wall)
        return response

    def _warn(self, name: str, pause: int) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s: limit store %s: another version of asyncclients wrote its log; the window "
                "counts as spent, no calls for %g s. Run the same version in all processes",
                *(name, self._path, pause / SECOND),
            )

    def open(self) -> sqlite3.Connection:
        """Return the connection; a new one if the file was removed or replaced."""
        found = _identity(self._path)
        if self._connection is not None and found == self._file:
            return self._connection
        self.close()
        with _opening:
            if found not in _open_files:
                _check_file(self._path)
            self._connection = _connect(self._path)
            self._file = _identity(self._path)
            _open_files[self._file] += 1
        return self._connection

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            with _opening:
                _open_files.subtract([self._file])
                if not _open_files[self._file]:
                    del _open_files[self._file]

    async def scopes(self) -> list[ScopeLimits]:
        """Return all scopes in the file, see `ControlBackend`."""
        return await self._in_thread(_scopes)

    async def set_control(self, scope: str, vendor: str, field: str, value: str) -> None:
        """Set what an operator wants for *scope*, see `ControlBackend`."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA synchronous = FULL")  # it outlasts a power cut
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                log = _load(connection, scope)
                log.vendor = vendor
                setattr(log, field, value)
                _save(connection, scope, log, micros(time.time()))

        await self._in_thread(change)

    async def _in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            try:
                return work(self.open())
            except sqlite3.Error as failure:
                self.close()
                raise explain(self._path, failure) from None

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    async def aclose(self) -> None:
        """Close the file and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.close)
        self._thread.shutdown()  # idle, so this does not wait


def time_transaction(path: Path) -> float:
    """Return the seconds that a transaction takes on the file at *path*; it changes nothing.

    Raises:
        ConfigurationError: the file cannot be used.
        StoreUnavailableError: it cannot be used at present, such as while it is locked.
    """
    backend = SqliteBackend(path)
    try:
        connection, began = backend.open(), time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
        return time.perf_counter() - began
    except sqlite3.Error as failure:
        raise explain(path, failure) from None
    finally:
        backend.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file at *path*; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _check_file(path: Path) -> None:
    """Create a missing file; check that it can be opened, and the files that SQLite keeps beside it.

    Only if this process has not opened it: POSIX drops all locks that a process has on a file
    when it closes any descriptor of the file.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as failure:
        raise _unusable(path, f"cannot be opened ({failure.strerror})") from None
    for companion, problem in foreign_companions(target_of(path)):
        raise _unusable(path, f"needs {companion}, which {problem}")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_TIMEOUT, isolation_level=None, check_same_thread=False
    )
    try:
        _check_tables(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        # A power cut does not damage the file. It may lose the last requests, but the clock
        # restarts with the host, and a log with a later time counts as spent.
        # https://sqlite.org/pragma.html#pragma_synchronous
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS quota_log "
            "(scope TEXT PRIMARY KEY, needed_until INTEGER, state BLOB)"
        )
        oldest = micros(time.monotonic() - _KEEP)
        connection.execute("DELETE FROM quota_log WHERE needed_until < ?", (oldest,))
    except BaseException:
        connection.close()
        raise
    return connection


def _check_tables(connection: sqlite3.Connection, path: Path) -> None:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    if {name for (name,) in tables} - {"quota_log"}:
        raise _unusable(path, "belongs to another program")


def _load(connection: sqlite3.Connection, scope: str) -> QuotaLog:
    row = connection.execute("SELECT state FROM quota_log WHERE scope = ?", (scope,)).fetchone()
    return QuotaLog() if row is None else _decode(row[0])


def _save(connection: sqlite3.Connection, scope: str, log: QuotaLog, wall: int) -> None:
    needed_until = micros(time.monotonic()) + log.needed_for(wall)
    connection.execute(_SAVE, (scope, needed_until, _encode(log)))


def _scopes(connection: sqlite3.Connection) -> list[ScopeLimits]:
    now, found = micros(time.monotonic()), list[ScopeLimits]()
    for scope, state in connection.execute("SELECT scope, state FROM quota_log"):
        with suppress(msgspec.DecodeError):  # another version wrote it
            found.append(scope_limits(scope, _decode(state), now))
    return found


_CONFIGURATION_ERRORS = {
    "CANTOPEN": "cannot be opened, or a file that SQLite keeps beside it",
    "CORRUPT": "is damaged",
    "ERROR": "belongs to another program",
    "NOTADB": "is not an SQLite file, or is damaged",
    "PERM": "cannot be written",
    "READONLY": "cannot be written",
}
_OUTAGES = {
    "BUSY": "End the program that keeps it locked",
    "FULL": "Free space on its disk",
    "IOERR": "Check its disk",
    "LOCKED": "End the program that keeps it locked",
}


def explain(path: Path, failure: sqlite3.Error) -> ConfigurationError | StoreUnavailableError:
    """Return *failure* as an error of configuration or an outage."""
    name = getattr(failure, "sqlite_errorname", "") or type(failure).__name__
    code = "".join(name.split("_")[1:2])
    if code in _CONFIGURATION_ERRORS and name != "SQLITE_READONLY_DBMOVED":
        return _unusable(path, f"{_CONFIGURATION_ERRORS[code]} ({failure})")
    advice = _OUTAGES.get(code, "Check the file and its disk")
    return StoreUnavailableError(f"{name}: {failure}", advice)


def _unusable(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"the shared limit file {path} {reason}",
        advice="Name a file that this user may write, on a local disk",
    )
