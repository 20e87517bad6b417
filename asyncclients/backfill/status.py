"""What a state file says, for a person; readable while its job runs."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from asyncclients.backfill.checkpoint import PullState
from asyncclients.backfill.database import connect, unusable
from asyncclients.backfill.journal import Job, read_job
from asyncclients.backfill.ledger import State
from asyncclients.backfill.lines import FAILED_SUFFIX
from asyncclients.backfill.lock import Lock
from asyncclients.backfill.seal import read_state, select
from asyncclients.backfill.unknowns import Unknown, read_unknown
from asyncclients.errors import StateInUseError

_ON_THE_WIRE = "on the wire when the state was last saved"


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job is.

    Attributes:
        job: what it does.
        done: see `Report`, as are the three that follow.
        failed: see `Report`.
        unknown: see `Report`.
        skipped: see `Report`.
        total: what the vendor says there is; pulls only.
        complete: nothing is left to do.
        running: the process that works on it now, None for nobody.
        failures: the file that holds the failed rows.
        unproved: see `Report`.
        unknown_rows: each row of which nobody can say whether it was carried out.
    """

    job: Job
    done: int
    failed: int = 0
    unknown: int = 0
    skipped: int = 0
    total: int | None = None
    complete: bool = False
    running: int | None = None
    failures: str | None = None
    unproved: tuple[str, ...] = ()
    unknown_rows: tuple[Unknown, ...] = ()


def read_status(path: str | os.PathLike[str]) -> Status:
    """What the state file at *path* says.

    Raises:
        StateMismatchError: it is no state file, or another version's.
        StateError: it cannot be read.
    """
    path = Path(path)
    running: int | None = None
    lock: Lock | None = None
    try:
        lock = Lock(path)
    except StateInUseError as busy:
        running = busy.pid or 0
    except OSError:
        pass  # a directory that cannot be written to; reading may still do
    try:
        with closing(connect(path, "rw" if lock else "ro")) as database:
            return _read(database, path, running)
    except (sqlite3.Error, OSError, msgspec.MsgspecError) as failure:
        raise unusable(path, failure) from None
    finally:
        if lock is not None:
            lock.release()


def _read(database: sqlite3.Connection, path: Path, running: int | None) -> Status:
    job = read_job(database)
    if job.kind == "pull":
        pull = read_state(database, PullState) or PullState()
        return Status(
            job=job,
            done=pull.done,
            failed=pull.failed,
            skipped=pull.skipped,
            total=pull.total,
            complete=pull.complete,
            running=running,
            failures=str(path) + FAILED_SUFFIX if pull.failed else None,
            unproved=pull.unproved,
        )
    push = read_state(database, State) or State()
    unknown = [read_unknown(row) for row in select(database, "SELECT * FROM unknown")]
    known = {row.number for row in unknown}
    if running is None:
        unknown += [
            Unknown(number=number, line=line, row=None, reason=_ON_THE_WIRE)
            for number, line in push.sent
            if number not in known
        ]
    return Status(
        job=job,
        done=push.done,
        failed=push.failed,
        unknown=len(unknown),
        skipped=push.skipped,
        complete=push.complete,
        running=running,
        failures=str(path) + FAILED_SUFFIX if push.failed else None,
        unknown_rows=tuple(sorted(unknown, key=lambda row: row.number)),
    )
