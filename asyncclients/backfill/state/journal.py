"""The journal of one job: one SQLite file, one connection, one thread.

* What is `saved()` survives the process and the machine: WAL with
  `synchronous=FULL`, one fsync a commit.
* Commits are grouped: whatever is noted while one commit is written goes into
  the next, so the number of commits does not grow with the number of rows.
* Nothing reads the file while the job runs. Its owner keeps the state in memory
  and hands over what changed when a commit begins.
* A failed commit is final: after a failed fsync nobody knows what is on the disk
  (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).

Exactly one connection writes: SQLite below 3.51.3 can damage a WAL that two
connections reset at once (https://sqlite.org/changes.html, 3.51.3).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar, cast
from zlib import crc32

import msgspec

from asyncclients.backfill.completion import Outcome, finish_before_cancel, outcome_of
from asyncclients.backfill.state.identity import JobIdentity
from asyncclients.backfill.state.lock import Lock
from asyncclients.errors import StateError, StateMismatchError, error_text
from asyncclients.own_files import target_of

T = TypeVar("T")

_SOON = 0.05
"""Seconds for which changes that may be lost wait for others."""
_REST = 0.001
"""Seconds between two commits at the least. A lone row meets no commit before it; of many the
more gather for the next, and each commit costs the loop two handings over of the interpreter."""
_SCHEMA = (
    "CREATE TABLE job (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE unknown (number INTEGER PRIMARY KEY, line INTEGER, row BLOB, reason TEXT)",
    "CREATE TABLE keys (number INTEGER PRIMARY KEY, keys BLOB NOT NULL)",
)


class Statement(NamedTuple):
    """One SQL statement for each of *rows*."""

    sql: str
    rows: Sequence[Sequence[Any]]


class Changes(NamedTuple):
    """What one commit writes; *before* runs first, in the journal's thread."""

    statements: Sequence[Statement]
    before: Callable[[], None] | None = None


class Journal:
    """See the module's docstring; made by `open`."""

    def __init__(self, path: Path, lock: Lock, thread: ThreadPoolExecutor) -> None:
        self.path = path
        self._lock, self._thread = lock, thread
        self._loop = asyncio.get_running_loop()
        self._database: sqlite3.Connection
        self._collect: Callable[[], Changes] = lambda: Changes(())
        self._changed = False
        self._busy = self._torn = False
        self._closed: asyncio.Future[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._rested_at = 0.0
        self.failure: StateError | None = None

    @classmethod
    async def open(
        cls, path: str | os.PathLike[str], job: JobIdentity, *, new_credential: bool = False
    ) -> Self:
        """The journal of *job* at *path*, made if there is none; it is ours until `aclose`.

        With *new_credential*, another credential is one of the same account, and noted.

        Raises:
            StateInUseError: another run has it.
            StateMismatchError: it is of another job or version, damaged, or no journal.
            StateError: the disk refuses.
        """
        path = target_of(path)
        try:
            lock = Lock(path)
        except OSError as refused:
            raise StateMismatchError(
                f"cannot keep a state in {path}: {refused.strerror}",
                file=str(path),
                advice="Give a file in a directory that is there and can be written to",
            ) from None
        journal = cls(path, lock, ThreadPoolExecutor(1, "asyncclients-journal"))
        try:
            await journal.run(journal._connect)
            await journal.run(_check_job, journal._database, path, job, new_credential)
        except BaseException:
            await journal.aclose()
            raise
        return journal

    async def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What *work* returns, done in the journal's thread.

        Raises:
            StateError: for whatever it raises.
        """
        outcome = await finish_before_cancel(self._in_thread(work, *arguments))
        if outcome.error is not None:
            raise _state_error(self.path, outcome.error)
        return outcome.result

    def _connect(self) -> None:
        self._database = connect(self.path)  # kept here: a cancelled `open` has it to close

    def _disconnect(self) -> None:
        if hasattr(self, "_database"):
            try:
                self._database.close()
            finally:
                if self._torn:
                    keep_log(self.path)

    async def read(self, sql: str, *parameters: Any) -> list[Any]:
        """The rows that *sql* selects."""
        return cast("list[Any]", await self.run(select, self._database, sql, parameters))

    async def state(self, cls: type[T]) -> T | None:
        """The value that each commit replaces, None in a new journal."""
        return cast("T | None", await self.run(read_state, self._database, cls))

    def set_source(self, collect: Callable[[], Changes]) -> None:
        """Call *collect* on the loop, when a commit begins, for what has changed."""
        self._collect = collect

    def changed(self) -> None:
        """There is something to save; it is saved at once."""
        self._changed = True
        self._schedule()

    def changes_later(self) -> None:
        """There is something to save, and no harm if a crash takes it: it is saved soon."""
        if self._timer is None and self.failure is None:
            self._timer = self._loop.call_later(_SOON, self.changed)

    def saved(self) -> asyncio.Future[None]:
        """Done when all that is noted up to now is on the disk.

        Raises:
            StateError: it could not be saved, and nothing will be any more.
        """
        if self.failure is not None:
            raise self.failure
        self.changed()
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        return waiter

    # --- Commits: callbacks, no task, since `asyncio.run` cancels every task at its end ---

    def _schedule(self) -> None:
        """Begin a commit soon, unless one is under way: its end calls this again."""
        if self._changed and not self._busy and self.failure is None:
            self._busy = True
            # Whatever is noted in this turn of the loop still gets into this commit.
            self._loop.call_later(max(0.0, self._rested_at - self._loop.time()), self._begin)

    def _begin(self) -> None:
        self._changed = False
        self._stop_timer()
        saving, self._waiting = self._waiting, []
        try:
            commit = self._in_thread(_commit, self._database, self.path, self._collect())
        except BaseException as error:
            self._finished(saving, error)
            if not isinstance(error, Exception):
                raise
        else:
            commit.add_done_callback(lambda ended: self._finished(saving, _error_of(ended)))

    def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Outcome]:
        return self._loop.run_in_executor(self._thread, self._outcome, work, *arguments)

    def _outcome(self, work: Callable[..., Any], *arguments: Any) -> Outcome:
        """In the thread, where a cancelled waiter cannot miss the error: see `keep_log`."""
        outcome = outcome_of(work, *arguments)
        self._torn |= outcome.error is not None and not isinstance(outcome.error, StateError)
        return outcome

    def _finished(self, saving: list[asyncio.Future[None]], error: BaseException | None) -> None:
        """A commit has ended: wake everyone who waits for it, and see to the next one."""
        if error is not None:
            self.failure = _state_error(self.path, error)
            saving += self._waiting
            self._waiting = []
        self._rested_at = self._loop.time() + _REST
        self._busy = False
        for waiter in saving:
            if self.failure is None and not waiter.done():
                waiter.set_result(None)
            elif self.failure is not None and not waiter.done():
                waiter.set_exception(self.failure)
                waiter.exception()  # seen, also where the waiter is gone: `saved` raises it again
        self._schedule()
        self._disconnect_if_closing()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def aclose(self) -> None:
        """Save what is left and let go of the file, also when cancelled. Idempotent."""
        if self._closed is None:
            self._closed = self._loop.create_future()
            if self._timer is not None:
                self._stop_timer()
                self.changed()
            self._disconnect_if_closing()
        await finish_before_cancel(self._closed)

    def _disconnect_if_closing(self) -> None:
        if self._closed is None or self._busy:
            return
        self._busy = True  # no commit begins any more
        self.failure = self.failure or StateError(f"{self.path} is closed", file=str(self.path))
        try:
            leaving = self._in_thread(self._disconnect)
        except RuntimeError:  # the interpreter is shutting down and starts no thread any more
            self._let_go()
        else:
            leaving.add_done_callback(self._let_go)

    def _let_go(self, _: object = None) -> None:
        assert self._closed is not None
        try:
            self._thread.shutdown(wait=False)
            self._lock.release()
        finally:
            self._closed.set_result(None)


def _error_of(work: asyncio.Future[Outcome]) -> BaseException | None:
    return asyncio.CancelledError() if work.cancelled() else work.exception() or work.result().error


def _state_error(path: Path, error: BaseException) -> StateError:
    """The error for everyone who waits; what neither SQLite nor the disk says is its cause."""
    if isinstance(error, StateError):
        return error
    if isinstance(error, (sqlite3.Error, OSError)):
        return unusable(path, error)
    failure = StateError(
        f"cannot keep the state in {path}: {type(error).__name__}: {error_text(error)}",
        file=str(path),
        advice="What was saved before is intact: correct the cause, then run again",
    )
    failure.__cause__ = error
    return failure


def _check_job(
    database: sqlite3.Connection, path: Path, job: JobIdentity, new_credential: bool
) -> None:
    new = not database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    if not new:
        job.check(read_job(database), str(path), new_credential=new_credential)
    database.execute("BEGIN IMMEDIATE")
    if new:
        for statement in _SCHEMA:
            database.execute(statement)
        database.execute(f"PRAGMA application_id = {APPLICATION}")
        database.execute(f"PRAGMA user_version = {VERSION}")
    value = with_checksum([msgspec.json.encode(job)])
    database.execute("INSERT OR REPLACE INTO job VALUES ('job', ?)", value)
    database.execute("COMMIT")
    mark_log(database)


def read_job(database: sqlite3.Connection) -> JobIdentity:
    """The job that the journal belongs to."""
    job = read_value(database, "job", JobIdentity)
    if job is None:
        raise sqlite3.DatabaseError("its job is gone")
    return job


def _commit(database: sqlite3.Connection, path: Path, changes: Changes) -> None:
    if changes.before is not None:
        changes.before()
    shorten_log(database, path)
    statement = changes.statements[0] if len(changes.statements) == 1 else None
    if statement is not None and len(statement.rows) == 1:
        # Each call into SQLite waits for the interpreter's lock again: one is best.
        database.execute(statement.sql, with_checksum(statement.rows[0]))
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        for statement in changes.statements:
            database.executemany(statement.sql, map(with_checksum, statement.rows))
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


# The file of a journal: ours and whole, or refused and left alone.
#
# A file of another program, of another version, or damaged is not written to.
#
# What was saved last is in the `-wal` file beside it, until SQLite moves it here. A copy
# without that file would be an older state that looks whole, and rows would be sent twice.
# So this file always says, in the row `wal`, that it needs the other one (`mark_log`); the
# first commit that follows takes that back, in the other one. Whoever sees the first and
# has no `-wal` file has such a copy.
#
# Each blob has a checksum (CRC-32), so that a state file that was damaged is never believed.


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
