"""Read the status of a job from its state file, also while the job runs."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from asyncclients.backfill.report import SyncReport
from asyncclients.backfill.state.identity import JobIdentity
from asyncclients.backfill.state.journal import (
    connect,
    log_path,
    read_job,
    read_state,
    select,
    unmark_log,
    unusable,
)
from asyncclients.backfill.state.pull_state import LastRefresh, PullState
from asyncclients.backfill.state.push_state import PushState, Unknown, read_unknown
from asyncclients.backfill.state.sync_state import SyncState
from asyncclients.errors import StateInUseError, StateMismatchError
from asyncclients.own_files import FAILED_SUFFIX, check_companions, holder_of, target_of

_ON_THE_WIRE = "on the wire when the state was last saved"


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a job.

    Attributes:
        job: identity of the job.
        done: as in `Report`.
        failed: as in `Report`.
        unknown: as in `Report`.
        skipped: as in `Report`.
        total: as in `Report`.
        remaining: number of rows or items without an outcome; None if the total is unknown.
        complete: the job is finished.
        running: id of the process that runs it, 0 if that is unknown, None if it is not running.
        failures: path of the file of failed rows; None without any.
        unverified: as in `Report`.
        unknown_rows: the rows that may or may not have been executed.
        refreshed: the last complete refresh of a pull; None without one.
        refreshing: items read by a refresh that is not complete; None without one.
        sync: of a sync, the report of its last run; the requests and what follows them are known
            when it has ended. `done` are the rows and items that agree.
        planned: of a sync, the creates, updates and deletions that its last run decided on.
    """

    job: JobIdentity
    done: int
    failed: int = 0
    unknown: int = 0
    skipped: int = 0
    total: int | None = None
    remaining: int | None = None
    complete: bool = False
    running: int | None = None
    failures: str | None = None
    unverified: tuple[str, ...] = ()
    unknown_rows: tuple[Unknown, ...] = ()
    refreshed: LastRefresh | None = None
    refreshing: int | None = None
    sync: SyncReport | None = None
    planned: tuple[int, ...] | None = None


def read_status(path: str | os.PathLike[str]) -> Status:
    """Return the status stored in the state file *path*.

    Raises:
        StateMismatchError: it is not a state file, or one of another version.
        StateInUseError: it is a hard link, and a job uses it under another name.
        StateError: it cannot be read.
    """
    with _reading(target_of(path)) as state:
        job = read_job(state.database)
        return {"pull": _read_pull, "push": _read_push, "sync": _read_sync}[job.kind](state, job)


def copy_state(
    path: Path, copy: Path, job: JobIdentity, *, new_credential: bool, new_map: bool = False
) -> None:
    """Copy the state of *job* in the file *path*, with its failed rows, to the new file *copy*.

    Raises:
        StateMismatchError: it belongs to another job, or as for `read_status`.
        StateInUseError: as for `read_status`.
        StateError: it cannot be read.
    """
    with _reading(path) as (database, _, _):
        job.check(read_job(database), str(path), new_credential=new_credential, new_map=new_map)
        with closing(sqlite3.connect(copy)) as target:
            database.backup(target)
            with target:  # the copy has all of the `-wal` file in it
                unmark_log(target)
    with suppress(FileNotFoundError):
        failures, target_path = (each.with_name(each.name + FAILED_SUFFIX) for each in (path, copy))
        shutil.copyfile(failures, target_path, follow_symlinks=False)


class _State(NamedTuple):
    """An open state file; *running* is the id of the process that uses it."""

    database: sqlite3.Connection
    failures: str
    running: int | None


@contextmanager
def _reading(path: Path) -> Generator[_State]:
    """Open the state file *path* without changing it."""
    if not path.is_file():
        problem = "is a directory" if path.is_dir() else "does not exist"
        raise StateMismatchError(f"{path} {problem}", file=str(path))
    try:
        running = holder_of(path)
        if running != os.getpid():
            check_companions(path)
        if running is not None and not log_path(path).exists():
            raise StateInUseError(
                f"{path} is a hard link to a state in use under another name, where its -wal file "
                "is",
                file=str(path),
                advice="Give the path of the state that the job was started with",
            )
        with closing(connect(path, _mode(path, running))) as database:
            yield _State(database, str(path) + FAILED_SUFFIX, running)
    except (sqlite3.Error, OSError, msgspec.MsgspecError) as failure:
        raise unusable(path, failure) from None


def _mode(path: Path, running: int | None) -> Literal["rw", "ro"]:
    """Return the mode to open *path* in such that no `-wal` file is created or removed."""
    may_write = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return "ro" if log_path(path).exists() or running is not None or not may_write else "rw"


def _counts(opened: _State, job: JobIdentity, state: PullState | PushState, settled: int) -> Status:
    """Return the counts of *state*, of which *settled* rows or items have an outcome."""
    remaining = None if state.total is None else max(0, state.total - settled)
    return Status(
        job=job,
        done=state.done,
        failed=state.failed,
        skipped=state.skipped,
        total=state.total,
        remaining=0 if state.complete else remaining,
        complete=state.complete,
        running=opened.running,
        failures=opened.failures if state.failed else None,
    )


def _read_pull(opened: _State, job: JobIdentity) -> Status:
    state = read_state(opened.database, PullState) or PullState()
    return msgspec.structs.replace(
        _counts(opened, job, state, state.found),
        unverified=state.unverified,
        refreshed=state.refreshed,
        refreshing=None if state.refresh is None else state.refresh.reading.found,
    )


def _read_push(opened: _State, job: JobIdentity) -> Status:
    state = read_state(opened.database, PushState) or PushState()
    records = select(opened.database, "SELECT * FROM unknown")
    records += [(number, line, bytes(row), "") for number, line, row in state.sent]
    unknown = _unknown_rows(opened, sorted(records))
    settled = state.done + state.failed + len(unknown) + state.skipped
    return msgspec.structs.replace(
        _counts(opened, job, state, settled), unknown=len(unknown), unknown_rows=unknown
    )


def _unknown_rows(
    opened: _State, records: Iterable[tuple[int, int, bytes, str]]
) -> tuple[Unknown, ...]:
    """Return the unknown rows among *records*; those without a reason are on the wire of a run."""
    return tuple(
        read_unknown((number, line, row, reason or _ON_THE_WIRE))
        for number, line, row, reason in records
        if reason or opened.running is None
    )


def _read_sync(opened: _State, job: JobIdentity) -> Status:
    state = read_state(opened.database, SyncState) or SyncState()
    sql = "SELECT key, line, row, reason FROM sync_intent ORDER BY line"
    unknown = _unknown_rows(opened, select(opened.database, sql))
    report = state.report(opened.failures)
    return Status(
        job=msgspec.structs.replace(job, source=state.source),
        done=report.created + report.updated + report.deleted + report.unchanged,
        failed=report.failed,
        unknown=len(unknown),
        skipped=report.skipped,
        total=sum(state.planned) + report.unchanged,
        remaining=report.remaining,
        complete=state.complete,
        running=opened.running,
        failures=report.failures,
        unknown_rows=unknown,
        sync=report,
        planned=state.planned,
    )
