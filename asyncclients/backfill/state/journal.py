"""The journal of one job: one SQLite file, one connection, one thread.

* A change survives a crash of the process and of the machine once `saved()` is done: WAL
  mode with `synchronous=FULL`, one fsync per commit.
* Commits are grouped: all changes made while a commit is written go into the next one, so
  the number of commits does not grow with the number of rows.
* The file is read when the job starts. After that its owner keeps the state in memory and
  hands over the changes when a commit starts.
* A failed commit is final: after a failed fsync the content of the disk is unknown
  (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).
* Exactly one connection writes: SQLite below 3.51.3 can damage a WAL that two connections
  reset at once (https://sqlite.org/changes.html, 3.51.3).

A file of another program, of another version, or a damaged one is not written to. Each blob
has a checksum (CRC-32), because SQLite detects damage to its own structures only.

The mark of the `-wal` file: recent commits are in the file `<state>-wal` until SQLite moves
them to the state file. A copy of the state file alone would be an older state that looks
complete, and rows would be sent twice. So the state file always contains the mark that it
needs its `-wal` file (`mark_log`), and the first commit after that replaces the mark, in the
`-wal` file only. A reader that sees the mark, and finds no `-wal` file, has such a copy.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar, cast
from zlib import crc32

import msgspec

from asyncclients.backfill.state.identity import JobIdentity
from asyncclients.errors import StateError, StateMismatchError, error_text
from asyncclients.own_files import Lock, Outcome, finish_before_cancel, outcome_of, target_of

T = TypeVar("T")

VERSION = 7
"""Format of the file; a file of any other version is rejected."""
APPLICATION = 0x61636C69
"""SQLite's `application_id` of the file."""
_COMMIT_DELAY = 0.05
"""Seconds that changes wait for others if losing them does no harm."""
_COMMIT_INTERVAL = 0.001
"""Minimum seconds between two commits, so that more rows share one: each commit makes the event
loop wait for the GIL twice. The first commit after a pause starts at once."""
_MAX_LOG_SIZE = 4 * 2**20
"""Bytes of the `-wal` file above which its content is moved into the state file."""
_LOG_NEEDED, _LOG_APPLIED = "needed", "applied"
"""The mark of the `-wal` file, and the value that replaces it."""
_TABLES = {
    "push": {
        "unknown": "number INTEGER PRIMARY KEY, line INTEGER, row BLOB, reason TEXT",
        "retried": "number INTEGER PRIMARY KEY, row BLOB",
    },
    "pull": {
        "keys": "number INTEGER PRIMARY KEY, keys BLOB NOT NULL, digests BLOB NOT NULL",
        "items": "number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, digest INTEGER NOT NULL, "
        "published INTEGER, seen INTEGER NOT NULL, content BLOB",
    },
    "sync": {
        "item": "key INTEGER PRIMARY KEY, id, sent INTEGER, listed INTEGER, parent",
        "sync_intent": "key INTEGER PRIMARY KEY, name TEXT, line INTEGER, row BLOB, reason TEXT",
        "rejected": "key INTEGER PRIMARY KEY, digest INTEGER NOT NULL, reason TEXT NOT NULL",
        "line": "number INTEGER PRIMARY KEY, digests BLOB NOT NULL, keys BLOB NOT NULL",
    },
}
"""Kind of job -> table -> columns; all kinds have the table `job` as well."""
_JOB_TABLE = {"job": "name TEXT PRIMARY KEY, value BLOB NOT NULL"}


class Statement(NamedTuple):
    """One SQL statement, executed for each of *rows*."""

    sql: str
    rows: Sequence[Sequence[Any]]


def put_value(name: Literal["job", "state", "wal"], value: Any) -> Statement:
    """Return the statement that stores *value* under *name* in table job, as JSON."""
    sql = f"INSERT OR REPLACE INTO job VALUES ('{name}', ?)"  # noqa: S608 - one of three names
    return Statement(sql, [(msgspec.json.encode(value),)])


class Changes(NamedTuple):
    """The content of one commit; *before* runs first, in the journal's thread."""

    statements: Sequence[Statement]
    before: Callable[[], None] | None = None


class Journal:
    """An open journal; created by `open`.

    Attributes:
        path: of the state file.
        failure: the error of a failed commit; nothing is saved after it.
    """

    def __init__(self, path: Path, lock: Lock, thread: ThreadPoolExecutor) -> None:
        self.path = path
        self._lock, self._thread = lock, thread
        self._loop = asyncio.get_running_loop()
        self._database: sqlite3.Connection
        self._collect: Callable[[], Changes] = lambda: Changes(())
        self._is_committing = self._may_be_marked = False
        self._closed: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._commit_at, self._next_commit_at = inf, 0.0
        self._changed_job: JobIdentity | None = None
        self.failure: StateError | None = None

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        job: JobIdentity,
        *,
        new_credential: bool = False,
        new_map: bool = False,
    ) -> Self:
        """Open the journal of *job* at *path*, created if missing, and lock it until `aclose`.

        With *new_credential*, a changed credential is accepted, with *new_map* a changed map;
        `finish` stores it.

        Raises:
            StateInUseError: another run uses it.
            StateMismatchError: it belongs to another job or version, is damaged, or is no journal.
            StateError: the file cannot be written.
        """
        path = target_of(path)
        try:
            lock = Lock(path)
        except OSError as error:
            raise no_place(path, error.strerror or str(error)) from None
        journal = cls(path, lock, ThreadPoolExecutor(1, "asyncclients-journal"))
        try:
            await journal.run(journal._connect)
            check = partial(job.check, new_credential=new_credential, new_map=new_map)
            found = await journal.run(_check_job, journal._database, path, job, check)
            journal._changed_job = None if found == job else job
        except BaseException:
            await journal.aclose()
            raise
        return journal

    async def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of *work*, run in the thread; raise a `StateError` for its error."""
        outcome = await finish_before_cancel(self._in_thread(work, *arguments))
        if outcome.error is not None:
            raise _state_error(self.path, outcome.error)
        return outcome.result

    def _connect(self) -> None:
        # Assigned in the thread, so that `aclose` finds it after a cancelled `open`.
        self._database = connect(self.path)

    def _disconnect(self) -> None:
        if hasattr(self, "_database"):
            try:
                self._database.close()
            finally:
                if self._may_be_marked:
                    keep_log(self.path)

    async def read(self, sql: str, *parameters: Any) -> list[Any]:
        """Return the rows that *sql* selects."""
        return cast("list[Any]", await self.run(select, self._database, sql, parameters))

    async def on_database(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return the result of *work*, called with the connection in the journal's thread."""
        return cast("T", await self.run(work, self._database, *arguments))

    async def state(self, cls: type[T]) -> T | None:
        """Return the value that each commit replaces, None in a new journal."""
        return cast("T | None", await self.run(read_state, self._database, cls))

    def set_source(self, collect: Callable[[], Changes]) -> None:
        """Set the function that returns the changes; called on the loop when a commit starts."""
        self._collect = collect

    def commit_now(self) -> None:
        """Commit the changes as soon as possible."""
        self._schedule(self._next_commit_at)

    def commit_later(self) -> None:
        """Commit the changes soon, with others: losing them in a crash does no harm."""
        self._schedule(self._loop.time() + _COMMIT_DELAY)

    def saved(self) -> asyncio.Future[None]:
        """Return a future that is done when all changes are on disk; it may raise `StateError`."""
        if self.failure is not None:
            raise self.failure
        self.commit_now()
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        return waiter

    async def finish(self) -> None:
        """Save all changes, and a changed credential or map: the run has succeeded with it."""
        await self.saved()
        if self._changed_job is not None:
            await self.on_database(_put_now, "job", self._changed_job)

    # --- Commits: callbacks, no task, since `asyncio.run` cancels every task at its end ---

    def _schedule(self, when: float) -> None:
        """Start a commit at *when* or, if one is running then, after it."""
        if when < self._commit_at and self.failure is None:
            self._commit_at = when
            if self._timer is not None:
                self._timer.cancel()
            if not self._is_committing:
                # Later changes of this iteration of the loop are part of the same commit.
                self._timer = self._loop.call_at(when, self._commit)

    def _commit(self) -> None:
        self._is_committing, self._commit_at = True, inf
        waiters, self._waiters = self._waiters, []
        try:
            changes = self._collect()
            commit = self._in_thread(_write, self._database, self.path, changes)
        except BaseException as error:
            self._on_committed(waiters, error)
            if not isinstance(error, Exception):
                raise
        else:
            commit.add_done_callback(lambda done: self._on_committed(waiters, done.result().error))

    def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Outcome]:
        return self._loop.run_in_executor(self._thread, self._outcome, work, *arguments)

    def _outcome(self, work: Callable[..., Any], *arguments: Any) -> Outcome:
        """Run *work*; note an error here, in the thread: a cancelled waiter would not see it."""
        outcome = outcome_of(work, *arguments)
        failed = outcome.error is not None and not isinstance(outcome.error, StateError)
        self._may_be_marked |= failed  # see `keep_log`
        return outcome

    def _on_committed(
        self, waiters: list[asyncio.Future[None]], error: BaseException | None
    ) -> None:
        """Wake the *waiters* of a commit that has ended, and schedule the next one."""
        if error is not None:
            self.failure = _state_error(self.path, error)
            waiters += self._waiters
            self._waiters = []
        self._next_commit_at = self._loop.time() + _COMMIT_INTERVAL
        self._is_committing = False
        when, self._commit_at = self._commit_at, inf
        for waiter in waiters:
            if self.failure is None and not waiter.done():
                waiter.set_result(None)
            elif self.failure is not None and not waiter.done():
                waiter.set_exception(self.failure)
                waiter.exception()  # avoids asyncio's warning; `saved` raises it again
        self._schedule(max(when, self._next_commit_at))
        self._disconnect_if_closing()

    async def aclose(self) -> None:
        """Commit pending changes and release the file, also when cancelled. Idempotent."""
        if self._closed is None:
            self._closed = self._loop.create_future()
            if self._commit_at < inf:
                self.commit_now()
            self._disconnect_if_closing()
        await finish_before_cancel(self._closed)

    def _disconnect_if_closing(self) -> None:
        if self._closed is None or self._is_committing or self._commit_at < inf:
            return
        self._is_committing = True  # no further commit starts
        self.failure = self.failure or StateError(f"{self.path} is closed", file=str(self.path))
        try:
            closing = self._in_thread(self._disconnect)
        except RuntimeError:  # the interpreter is shutting down and starts no threads
            self._release()
        else:
            closing.add_done_callback(self._release)

    def _release(self, _: object = None) -> None:
        assert self._closed is not None
        self._collect = lambda: Changes(())  # its owner refers to this journal as well
        try:
            self._thread.shutdown(wait=False)
            self._lock.release()
        finally:
            self._closed.set_result(None)


def _write(database: sqlite3.Connection, path: Path, changes: Changes) -> None:
    """Commit *changes*."""
    if changes.before is not None:
        changes.before()
    if log_path(path).stat().st_size > _MAX_LOG_SIZE:
        mark_log(database)  # SQLite's automatic checkpoint would not write the mark
    statement = changes.statements[0] if len(changes.statements) == 1 else None
    if statement is not None and len(statement.rows) == 1:
        # Each call into SQLite waits for the GIL: one call instead of three.
        database.execute(statement.sql, with_checksum(statement.rows[0]))
        return
    with transaction(database):
        for statement in changes.statements:
            database.executemany(statement.sql, map(with_checksum, statement.rows))


@contextmanager
def transaction(database: sqlite3.Connection) -> Generator[None]:
    """Commit the changes made in the body, or none of them if it raises."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


# --- Opening the file -----------------------------------------------------------------------


def connect(path: Path, mode: Literal["rwc", "rw", "ro"] = "rwc") -> sqlite3.Connection:
    """Return a checked connection to the journal at *path*; `rwc` creates a missing file."""
    if mode == "rwc":
        check_file(path)
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
            raise _not_a_journal(path) from None
        raise
    return database


def check_file(path: Path) -> None:
    """Raise `StateMismatchError` if *path* is no file for a journal."""
    if path.is_dir():
        raise StateMismatchError(
            f"{path} is a directory", file=str(path), advice="Give a file for the state"
        )
    # Only if no job of this process can use the file: see the rule on descriptors in `own_files`.
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                raise _not_a_journal(path)


def _not_a_journal(path: Path) -> StateMismatchError:
    return StateMismatchError(
        f"{path} is not a state file of asyncclients",
        file=str(path),
        advice="Give another path for the state; this file was not touched",
    )


def _check_format(database: sqlite3.Connection, path: Path, mode: str) -> None:
    application = database.execute("PRAGMA application_id").fetchone()[0]
    # In this order: another process may be creating the file, in one transaction.
    empty = not database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION and not (empty and not application and mode == "rwc"):
        raise _not_a_journal(path)
    if version != VERSION and not empty:
        writer, advice = "an older", "Finish the job with that version, or start again"
        if version > VERSION:
            writer, advice = "a newer", "Upgrade asyncclients"
        raise StateMismatchError(
            f"{path} was written by {writer} version of asyncclients "
            f"(format {version}; this version supports {VERSION})",
            file=str(path),
            advice=f"{advice}; the file was not touched",
        )
    if mode != "ro":
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA wal_autocheckpoint = 0")
    if not empty:
        found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)


def _check_job(
    database: sqlite3.Connection,
    path: Path,
    job: JobIdentity,
    check: Callable[[JobIdentity, str], None],
) -> JobIdentity:
    """Return the identity in the file, which passes *check*; in a new file, *job*."""
    if database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        job = read_job(database)
        check(job, str(path))
    else:
        with transaction(database):
            for name, columns in (_JOB_TABLE | _TABLES[job.kind]).items():
                database.execute(f"CREATE TABLE {name} ({columns})")
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(f"PRAGMA user_version = {VERSION}")
            _put_now(database, "job", job)
    mark_log(database)
    return job


# --- The `-wal` file and its mark -----------------------------------------------------------


def log_path(path: Path) -> Path:
    """Return the path of the `-wal` file of the journal at *path*."""
    return path.with_name(path.name + "-wal")


def mark_log(database: sqlite3.Connection) -> None:
    """Move the content of the `-wal` file into the state file, with the mark that it needs it."""
    _put_now(database, "wal", _LOG_NEEDED)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    unmark_log(database)


def unmark_log(database: sqlite3.Connection) -> None:
    """Note that the state file needs no `-wal` file."""
    _put_now(database, "wal", _LOG_APPLIED)


def _put_now(database: sqlite3.Connection, name: Literal["job", "wal"], value: Any) -> None:
    sql, (row,) = put_value(name, value)
    database.execute(sql, with_checksum(row))


def _check_log(database: sqlite3.Connection, path: Path, mode: str, *, has_log: bool) -> None:
    if not database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        return
    if read_value(database, "wal", str) != _LOG_NEEDED:
        return
    if has_log and mode != "ro":
        # A run was killed in `mark_log`. Write now: closing the connection removes the file.
        unmark_log(database)
    if not has_log:
        raise StateMismatchError(
            f"{path} is incomplete: the last changes are in {path.name}-wal, which is missing",
            file=str(path),
            advice="Copy both files, or continue with the original: with this file, rows "
            "sent since it was copied would be sent again",
        )


def keep_log(path: Path) -> None:
    """Leave a `-wal` file, even an empty one, after an error that may have happened in `mark_log`.

    Closing has moved its content into the state file, which may contain the mark.
    """
    if path.exists():
        log_path(path).touch()


# --- Reading --------------------------------------------------------------------------------


def read_job(database: sqlite3.Connection) -> JobIdentity:
    """Return the job that the journal belongs to."""
    job = read_value(database, "job", JobIdentity)
    if job is None:
        raise sqlite3.DatabaseError("the row 'job' is missing in table job")
    return job


def read_state(database: sqlite3.Connection, cls: type[T]) -> T | None:
    """Return the value that each commit replaces, None in a new journal."""
    if set(select(database, "SELECT name FROM job")) - {("job",), ("state",), ("wal",)}:
        raise sqlite3.DatabaseError("unexpected row in table job")
    return read_value(database, "state", cls)


def read_value(database: sqlite3.Connection, name: str, cls: type[T]) -> T | None:
    """Return the value stored under *name* in table job, None if there is none."""
    rows = select(database, "SELECT value FROM job WHERE name = ?", (name,))
    try:
        return msgspec.json.decode(rows[0][0], type=cls) if rows else None
    except (TypeError, msgspec.MsgspecError) as error:
        raise sqlite3.DatabaseError(f"the row {name!r} in table job cannot be decoded") from error


def select(database: sqlite3.Connection, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
    """Return the rows that *sql* selects; raise `DatabaseError` if a checksum does not match."""
    return [*iter_rows(database, sql, parameters)]


def iter_rows(
    database: sqlite3.Connection, sql: str, parameters: Sequence[Any] = ()
) -> Generator[tuple[Any, ...]]:
    """Yield the rows that *sql* selects; raises as `select`. Close it: it keeps the file open."""
    for row in database.execute(sql, parameters):
        yield tuple(_verified(value) if isinstance(value, bytes) else value for value in row)


_CHECKSUM_SIZE = 4


def with_checksum(row: Sequence[Any]) -> list[Any]:
    """Return *row* with a checksum before the content of each blob."""
    return [_checksum(value) + value if isinstance(value, bytes) else value for value in row]


def _verified(blob: bytes) -> bytes:
    value = blob[_CHECKSUM_SIZE:]
    if _checksum(value) != blob[:_CHECKSUM_SIZE]:
        raise sqlite3.DatabaseError("checksum mismatch: the file is corrupted or was edited")
    return value


def _checksum(value: bytes) -> bytes:
    return crc32(value).to_bytes(_CHECKSUM_SIZE)


# --- Errors ---------------------------------------------------------------------------------


def _state_error(path: Path, error: BaseException) -> StateError:
    """Return the error to raise for *error*; one of neither SQLite nor the disk is its cause."""
    if isinstance(error, StateError):
        return error
    failure = unusable(path, error)
    if not isinstance(error, (sqlite3.Error, OSError)):
        failure.__cause__ = error
    return failure


def no_place(path: Path, problem: str) -> StateMismatchError:
    """Return the error for a state that cannot be created at *path* because of *problem*."""
    return StateMismatchError(
        f"cannot keep a state in {path}: {problem}",
        file=str(path),
        advice="Give a file in an existing directory that is writable",
    )


def unusable(path: Path, failure: BaseException) -> StateError:
    """Return the error for *failure* in the work with the state *path*."""
    text = f"{type(failure).__name__}: {error_text(failure)}"
    if isinstance(failure, OSError):
        text = failure.strerror or str(failure)
        if failure.filename not in (None, str(path)):
            text = f"{failure.filename}: {text}"
    elif isinstance(failure, sqlite3.Error):
        text = str(failure)
    is_damage = isinstance(failure, sqlite3.DatabaseError)
    if is_damage and not isinstance(failure, sqlite3.OperationalError):
        return StateMismatchError(
            f"{path} is damaged: {text}",
            file=str(path),
            advice="Restore it from a backup, or compare the input with the vendor's data and "
            "start again with another state file",
        )
    return StateError(
        f"cannot keep the state in {path}: {text}",
        file=str(path),
        advice="Correct the cause, such as a full disk or missing permissions, then run again: the "
        "state saved before is intact",
    )
