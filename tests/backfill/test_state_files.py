"""The state file, its lock, and the files beside it."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncclients import StateError, StateInUseError
from asyncclients.backfill import Report, pull, push, read_status
from asyncclients.backfill.state.identity import JobIdentity
from asyncclients.backfill.state.journal import Changes, Journal, Statement
from asyncclients.own_files import Lock, holder_of, replacing, target_of
from asyncclients.paging import Page

JOB = JobIdentity(kind="push", source="a.csv", target="things.create")
Run = Callable[[Path, Path], Awaitable[Report]]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


async def nothing(_: Any) -> None:
    pass


async def refuse(_: Any) -> None:
    raise ValueError("no")


async def one_page() -> Any:
    yield Page(items=[{"id": "1"}], number=1, total=1, last=True)


async def pushed(state: Path, _: Path) -> Report:
    return await push([{"id": 1}], nothing, state=state)


async def pulled(state: Path, to: Path) -> Report:
    return await pull(one_page(), to, state=state)


RUNS = pytest.mark.parametrize("run", [pushed, pulled])


# --- The lock -----------------------------------------------------------------------


def linked(state: Path, how: str) -> Path:
    other = state.with_name("other")
    other.mkdir()
    if how == "symlink":
        (other / "l.db").symlink_to(state)
        return other / "l.db"
    if how == "symlink to folder":
        (other / "folder").symlink_to(state.parent)
        return other / "folder" / state.name
    if how == "hard link":
        os.link(state, other / "l.db")
        return other / "l.db"
    return Path(os.path.relpath(state))


LINKS = pytest.mark.parametrize("how", ["symlink", "symlink to folder", "hard link", "relative"])


@LINKS
@RUNS
async def test_lock_follows_other_names_of_the_state(
    state: Path, tmp_path: Path, run: Run, how: str
) -> None:
    """A state in use is in use under each of its names, and free under each afterwards."""
    journal = await Journal.open(state, JOB)
    other = linked(state, how)
    try:
        with pytest.raises(StateInUseError, match="in use") as caught:
            await run(other, tmp_path / "out.jsonl")
        assert caught.value.pid == os.getpid()
        if how == "hard link":
            with pytest.raises(StateInUseError, match="hard link"):
                read_status(other)
        else:
            assert read_status(other).running == os.getpid()
    finally:
        await journal.aclose()
    assert read_status(other).running is None
    await (await Journal.open(other, JOB)).aclose()


HOLD = """
import asyncio, sys
from asyncclients.backfill.state.identity import JobIdentity
from asyncclients.backfill.state.journal import Journal

async def main():
    journal = await Journal.open(sys.argv[1], JobIdentity(kind="push", source="a.csv", target="x"))
    print("go", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await journal.aclose()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux lists the locks of files")
async def test_status_keeps_the_locks_of_a_job_in_the_same_process(state: Path) -> None:
    """SQLite holds the same locks on the files of a state after its status was read."""
    journal = await Journal.open(state, JOB)
    files = [f":{path.stat().st_ino} " for path in state.parent.iterdir()]

    def locks() -> list[str]:
        lines = [line.partition(":")[2] for line in Path("/proc/locks").read_text().splitlines()]
        return sorted(line for line in lines if any(file in line for file in files))

    before = locks()
    assert len(before) > 2
    assert read_status(state).running == os.getpid()
    assert locks() == before
    await journal.aclose()


@LINKS
def test_lock_of_another_process_follows_other_names(state: Path, how: str) -> None:
    """Another process cannot use the state under any of its names, and `status` shows that it runs."""
    command = [sys.executable, "-c", HOLD, str(state)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"go\n"
        other = linked(state, how)
        pid = 0 if how == "hard link" else holder.pid
        assert holder_of(target_of(other)) == pid
        with pytest.raises(StateInUseError) as caught:
            Lock(target_of(other))
        assert (caught.value.pid or 0) == pid
        holder.communicate()
    assert read_status(other).running is None
    assert sorted(path.name for path in state.parent.iterdir() if path.is_file()) == ["s.db"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
@RUNS
async def test_missing_locks_of_file_system_are_named(
    state: Path, tmp_path: Path, run: Run, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without locks is named in the error, and not mistaken for a state in use."""
    fcntl = pytest.importorskip("fcntl", reason="as POSIX locks files")

    def flock(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StateError, match="does not support file locks") as caught:
        await run(state, tmp_path / "out.jsonl")
    assert not isinstance(caught.value, StateInUseError)


async def test_status_takes_no_lock(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job starts while `status` is reading its state, however long that takes."""
    await push(range(5), nothing, state=state)
    reading, go_on = threading.Event(), threading.Event()
    connect = sqlite3.connect

    def slow(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is monitor:
            reading.set()
            go_on.wait(30)
        return connect(*arguments, **options)

    monitor = threading.Thread(target=read_status, args=(state,))
    monkeypatch.setattr(sqlite3, "connect", slow)
    monitor.start()
    try:
        await asyncio.to_thread(reading.wait, 30)
        assert (await push(range(9), nothing, state=state)).done == 9
    finally:
        go_on.set()
        await asyncio.to_thread(monitor.join)


async def test_status_changes_no_file(state: Path) -> None:
    """Asking for the status leaves a state that is not in use byte by byte as it was."""
    await push(range(5), nothing, state=state)
    before = state.read_bytes()
    read_status(state)
    assert state.read_bytes() == before
    assert [path.name for path in state.parent.iterdir()] == ["s.db"]


# --- A state without its -wal file --------------------------------------------------


async def crashed(state: Path, into: Path, *names: str) -> Path:
    """Copy the files of a state in use as a crash would leave them, those with *names*."""
    into.mkdir()
    journal = await Journal.open(state, JOB)
    value = Statement("INSERT OR REPLACE INTO job VALUES ('state', ?)", [(b"{}",)])
    journal.set_source(lambda: Changes([value]))
    await journal.saved()
    for name in names:
        shutil.copy(state.with_name(name), into / name)
    await journal.aclose()
    return into / state.name


async def test_state_copied_without_wal_is_rejected(state: Path, tmp_path: Path) -> None:
    """A copy without the -wal file is an error that names it, for a run and for `status`."""
    copy = await crashed(state, tmp_path / "copy", "s.db")
    before = copy.read_bytes()
    for _ in range(2):
        with pytest.raises(StateError, match=r"s\.db-wal, which is missing"):
            await Journal.open(copy, JOB)
        with pytest.raises(StateError, match=r"s\.db-wal, which is missing"):
            read_status(copy)
    assert copy.read_bytes() == before


async def test_state_copied_with_wal_is_complete(state: Path, tmp_path: Path) -> None:
    """A copy with its -wal file can be resumed, also after `status` or another program has read it."""
    copy = await crashed(state, tmp_path / "copy", "s.db", "s.db-wal")
    assert read_status(copy).done == 0
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("SELECT count(*) FROM job").fetchone() == (3,)
    assert not copy.with_name("s.db-wal").exists()
    journal = await Journal.open(copy, JOB)
    assert await journal.read("SELECT value FROM job WHERE name = 'state'") == [(b"{}",)]
    await journal.aclose()


async def test_long_wal_is_moved_into_the_state(state: Path, tmp_path: Path) -> None:
    """The -wal file stays short, and a copy without it is rejected after that as well."""
    journal = await Journal.open(state, JOB)
    value = Statement("INSERT OR REPLACE INTO job VALUES ('state', ?)", [(bytes(2**20),)])
    journal.set_source(lambda: Changes([value]))
    longest = 0
    for _ in range(12):
        await journal.saved()
        longest = max(longest, state.with_name("s.db-wal").stat().st_size)
    (tmp_path / "copy").mkdir()
    shutil.copy(state, tmp_path / "copy")
    await journal.aclose()
    assert longest < 7 * 2**20
    with pytest.raises(StateError, match="which is missing"):
        await Journal.open(tmp_path / "copy" / "s.db", JOB)


# --- Files of somebody else ---------------------------------------------------------

DERIVED = [".lock", "-wal", "-shm", "-journal", ".failed.jsonl"]


@pytest.mark.parametrize("suffix", DERIVED)
@pytest.mark.parametrize("kind", ["symlink", "file", "fifo"])
@RUNS
async def test_derived_name_in_use_is_reported(
    state: Path, tmp_path: Path, run: Run, suffix: str, kind: str
) -> None:
    """Another program's file at a path that the state needs is named in the error and not touched."""
    precious, derived = tmp_path / "precious", state.with_name(state.name + suffix)
    precious.write_text("precious")
    if kind == "symlink":
        derived.symlink_to(precious)
    elif kind == "fifo":
        os.mkfifo(derived)
    else:
        derived.write_text("precious")
    with pytest.raises(StateError) as caught:
        await run(state, tmp_path / "out.jsonl")
    assert str(derived) in str(caught.value)
    assert precious.read_text() == "precious"
    assert derived.is_symlink() == (kind == "symlink")
    assert kind == "fifo" or derived.read_text() == "precious"


def test_lock_file_stays_ours_until_its_text_is_replaced(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies while it takes over a lock file leaves one that the next run removes."""
    lock = state.with_name("s.db.lock")
    lock.write_text("asyncclients: process 4194304\n")

    def die(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", die)
        with pytest.raises(KeyboardInterrupt):
            Lock(target_of(state))
    Lock(target_of(state)).release()
    assert not lock.exists()


async def test_empty_lock_file_of_another_program_stays(state: Path) -> None:
    """An empty file with the name of the lock file is locked, but not written or removed."""
    lock = state.with_name("s.db.lock")
    lock.touch()
    assert (await push([1], nothing, state=state)).done == 1
    assert lock.read_bytes() == b""


async def test_state_may_be_a_symlink(state: Path, tmp_path: Path) -> None:
    """The file that the user names may be a symbolic link: its target is the state."""
    link = tmp_path / "link.db"
    link.symlink_to(state)
    report = await push(range(100), nothing, state=link, map=lambda n: None if n == 1 else n)
    assert (report.done, report.skipped, link.is_symlink()) == (99, 1, True)
    assert read_status(state).done == 99


async def test_state_is_readable_by_its_owner_only(state: Path) -> None:
    """A state holds rows, so other users of the machine cannot read it."""
    await push([1], nothing, state=state)
    assert state.stat().st_mode & 0o777 == 0o600


# --- The file of failed rows --------------------------------------------------------


def failed_of(state: Path) -> Path:
    return state.with_name("s.db.failed.jsonl")


async def evens(value: int) -> None:
    if value % 2:
        raise ValueError("odd")


async def test_fresh_state_replaces_old_failed_rows(state: Path) -> None:
    """A fresh state does not count the failed rows of an older one."""
    report = await push(range(10), evens, state=state, max_failed=1.0)
    assert (report.failed, len(failed_of(state).read_bytes().splitlines())) == (5, 5)
    state.unlink()
    report = await push(range(10), nothing, state=state)
    assert (report.done, report.failed) == (10, 0)
    assert not failed_of(state).exists()


def corrected(content: bytes) -> bytes:
    return content.replace(b'"row":1,', b'"row":100,')


EDITS: list[Callable[[bytes], bytes]] = [
    corrected,
    lambda content: corrected(content) + b'{"row":7}\n',
    lambda content: content + b'{"row":7}\n',
    lambda content: content + b'{"row":7}',
    lambda content: content[:-1],
    lambda content: content.replace(b"\n", b"\r\n"),
    lambda content: content[: content.index(b"\n") + 1],
    lambda _: b"",
]


@pytest.mark.parametrize("edit", EDITS)
async def test_corrected_failed_rows_are_never_cut(
    state: Path, edit: Callable[[bytes], bytes]
) -> None:
    """However a person edited the file, a resumed job keeps it and appends the rows that fail now."""
    rows = range(20)
    await push(range(10), evens, state=state, max_failed=1.0)
    kept = edit(failed_of(state).read_bytes())
    failed_of(state).write_bytes(kept)
    report = await push(rows, evens, state=state, max_failed=1.0)
    assert (report.done, report.failed) == (10, 10)
    content = failed_of(state).read_bytes()
    assert content.startswith(kept)
    added = content[len(kept) :].splitlines()
    numbers = [msgspec.json.decode(line)["number"] for line in added if line]
    assert sorted(numbers) == [12, 14, 16, 18, 20]
    assert content.count(b"\n\n") == 0


@pytest.mark.parametrize("size", [1, 8, 30])
async def test_torn_failed_row_is_cut_off(state: Path, size: int) -> None:
    """An incomplete line left by a crash is removed, and the row is written again."""
    await push(range(10), evens, state=state, max_failed=1.0)
    content = failed_of(state).read_bytes()
    failed_of(state).write_bytes(content + content[:size])
    await push(range(12), evens, state=state, max_failed=1.0)
    lines = failed_of(state).read_bytes().splitlines()
    assert [msgspec.json.decode(line)["number"] for line in lines] == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("idempotent", [True, False])
async def test_push_counts_row_once_that_failed_before_a_failed_commit(
    state: Path, monkeypatch: pytest.MonkeyPatch, *, idempotent: bool
) -> None:
    """A failed row that is in the file, but in no commit, is neither sent again nor counted twice."""
    sent: list[int] = []

    async def target(row: dict[str, int]) -> None:
        sent.append(row["id"])
        if row["id"] == 2:
            raise ValueError("no")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    async def run() -> Report:
        return await push(
            [{"id": number} for number in (1, 2, 3)],
            target,
            state=state,
            idempotent=idempotent,
            concurrency=1,
        )

    with monkeypatch.context() as patched:
        patched.setattr("asyncclients.backfill.state.stored_rows.os.fsync", fail)
        with pytest.raises(StateError, match="I/O error"):
            await run()
    assert read_status(state).failed == 0
    for _ in range(2):
        report = await run()
        assert (report.done, report.failed, report.unknown) == (2, 1, 0)
    assert sent.count(2) == 1
    lines = failed_of(state).read_bytes().splitlines()
    assert [msgspec.json.decode(line)["number"] for line in lines] == [2]


@pytest.mark.parametrize("step", range(4))
async def test_state_is_complete_after_error_while_log_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """A run that fails at any step of marking the log, and again when it opens, can be resumed."""
    path = tmp_path / "s.db"
    marks = 0

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            nonlocal marks
            marking = "'wal', ?" in sql or "wal_checkpoint" in sql or "name = ?" in sql
            marks += marking
            if marking and marks > step:
                raise MemoryError
            return super().execute(sql, *args)

    connect = sqlite3.connect

    def failing(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return connect(*args, **kwargs, factory=Failing)

    async def target(row: int) -> None:
        pass

    for _ in range(2):
        marks = 0
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", failing)
            with pytest.raises(StateError):
                await push([1, 2, 3], target, state=path)
    report = await push([1, 2, 3], target, state=path)
    assert report.done + report.unknown == 3


def test_replacing_a_shared_file_in_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process writes a file of its own; the one that ends last wins, and none fails."""
    path = tmp_path / "rows.jsonl"
    with replacing(path, is_shared=True) as one:
        one.write(b"one")
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with replacing(path, is_shared=True) as other:
            other.write(b"other")
    assert (path.read_bytes(), [*tmp_path.iterdir()]) == (b"one", [path])
