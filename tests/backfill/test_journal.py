"""The journal: one owner, one job, and what is saved is saved."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from asyncclients import StateError, StateInUseError, StateMismatchError
from asyncclients.backfill.state.identity import JobIdentity
from asyncclients.backfill.state.journal import VERSION, Changes, Journal, Statement

JOB = JobIdentity(kind="push", source="a.csv", target="things.create", row_type="Thing")


async def fill(journal: Journal, value: bytes) -> None:
    statement = Statement("INSERT OR REPLACE INTO job VALUES ('state', ?)", [(value,)])
    journal.set_source(lambda: Changes([statement]))
    await journal.saved()


async def test_journal_returns_saved_state(tmp_path: Path) -> None:
    """After `saved()` the value is in the file when it is opened again."""
    path = tmp_path / "s.db"
    journal = await Journal.open(path, JOB)
    await fill(journal, b"x")
    await journal.aclose()
    journal = await Journal.open(path, JOB)
    try:
        rows = await journal.read("SELECT value FROM job WHERE name = 'state'")
    finally:
        await journal.aclose()
    assert rows == [(b"x",)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.db"]


async def test_journal_groups_commits(tmp_path: Path) -> None:
    """A hundred concurrent calls of `saved()` cost a few commits, not a hundred."""
    journal = await Journal.open(tmp_path / "s.db", JOB)
    collected: list[int] = []

    def collect() -> Changes:
        collected.append(1)
        return Changes(())

    journal.set_source(collect)
    await asyncio.gather(*(journal.saved() for _ in range(100)))
    await journal.aclose()
    assert 1 <= len(collected) <= 3


async def test_journal_keeps_an_interval_between_commits(tmp_path: Path) -> None:
    """Consecutive commits start at least a millisecond apart, so that more rows share one."""
    loop = asyncio.get_running_loop()
    journal = await Journal.open(tmp_path / "s.db", JOB)
    begun: list[float] = []

    def collect() -> Changes:
        begun.append(loop.time())
        return Changes(())

    journal.set_source(collect)
    for _ in range(10):
        await journal.saved()
    await journal.aclose()
    assert len(begun) == 10
    # uvloop's clock counts whole milliseconds, whose differences are rounded as floats.
    assert all(after - before >= 0.001 - 1e-9 for before, after in pairwise(begun))


async def test_journal_in_use_names_the_process(tmp_path: Path) -> None:
    """Opening a state file in use raises with the process id; it is free again afterwards."""
    path = tmp_path / "s.db"
    journal = await Journal.open(path, JOB)
    with pytest.raises(StateInUseError, match=str(os.getpid())) as caught:
        await Journal.open(path, JOB)
    assert caught.value.pid == os.getpid()
    await journal.aclose()
    await (await Journal.open(path, JOB)).aclose()


@pytest.mark.parametrize(
    "other",
    [
        JobIdentity(kind="pull", source="a.csv", target="things.create", row_type="Thing"),
        JobIdentity(kind="push", source="b.csv", target="things.create", row_type="Thing"),
        JobIdentity(kind="push", source="a.csv", target="things.update", row_type="Thing"),
        JobIdentity(kind="push", source="a.csv", target="things.create", row_type="Other"),
    ],
)
async def test_journal_rejects_another_job(tmp_path: Path, other: JobIdentity) -> None:
    """A state file serves one job; the error for another job names the difference."""
    path = tmp_path / "s.db"
    await (await Journal.open(path, JOB)).aclose()
    with pytest.raises(StateMismatchError, match="belongs to another job"):
        await Journal.open(path, other)


@pytest.mark.parametrize(("other", "remedy"), [(1, "Upgrade"), (-1, "Finish the job with that")])
async def test_journal_rejects_another_format(tmp_path: Path, other: int, remedy: str) -> None:
    """A file of another version is neither read nor written, and the error names the remedy."""
    path = tmp_path / "s.db"
    await (await Journal.open(path, JOB)).aclose()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {VERSION + other}")
    before = path.read_bytes()
    with pytest.raises(StateMismatchError, match=remedy):
        await Journal.open(path, JOB)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"hello", b"SQLite format 3\0" + b"x" * 500])
async def test_journal_leaves_other_files_alone(tmp_path: Path, content: bytes) -> None:
    """Any other file is rejected and keeps its bytes."""
    path = tmp_path / "s.db"
    path.write_bytes(content)
    with pytest.raises(StateError):
        await Journal.open(path, JOB)
    assert path.read_bytes() == content


async def test_journal_leaves_databases_of_other_programs_alone(tmp_path: Path) -> None:
    """A database of another program is rejected and keeps its bytes."""
    path = tmp_path / "s.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (x)")
    before = path.read_bytes()
    with pytest.raises(StateMismatchError, match="not a state file"):
        await Journal.open(path, JOB)
    assert path.read_bytes() == before


async def test_journal_rejects_a_damaged_file(tmp_path: Path) -> None:
    """A state file with overwritten pages is rejected, not read in part."""
    path = tmp_path / "s.db"
    journal = await Journal.open(path, JOB)
    await fill(journal, b"x" * 50_000)
    await journal.aclose()
    content = bytearray(path.read_bytes())
    content[4096:8192] = os.urandom(4096)
    path.write_bytes(content)
    with pytest.raises(StateMismatchError, match="is damaged"):
        await Journal.open(path, JOB)


async def test_journal_accepts_an_empty_file(tmp_path: Path) -> None:
    """The file left by a run that was killed at its first step can be used."""
    path = tmp_path / "s.db"
    path.touch()
    await (await Journal.open(path, JOB)).aclose()
    with pytest.raises(StateMismatchError):
        await Journal.open(path, JobIdentity(kind="pull", source="", target=""))


async def test_journal_rejects_an_unwritable_path(tmp_path: Path) -> None:
    """A directory, and a path in a missing directory, are rejected with the reason."""
    with pytest.raises(StateMismatchError):
        await Journal.open(tmp_path, JOB)
    with pytest.raises(StateMismatchError, match="No such file"):
        await Journal.open(tmp_path / "no" / "s.db", JOB)


async def test_journal_fails_for_good_on_a_full_disk(tmp_path: Path) -> None:
    """After a failed commit every waiter gets the error, now and later; nothing hangs."""
    journal = await Journal.open(tmp_path / "s.db", JOB)
    await journal.read("PRAGMA max_page_count = 6")
    with pytest.raises(StateError, match="full"):
        await fill(journal, b"x" * 100_000)
    with pytest.raises(StateError, match="full"):
        await journal.saved()
    await journal.aclose()
    await (await Journal.open(tmp_path / "s.db", JOB)).aclose()


class Odd(BaseException):
    """Neither an `Exception` nor one of Python's own."""


class Mute(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


ANYTHING: list[type[BaseException]] = [
    sqlite3.OperationalError,
    OSError,
    MemoryError,
    RecursionError,
    StopIteration,
    Mute,
    Odd,
    GeneratorExit,
    asyncio.CancelledError,
    SystemExit,
]


@pytest.mark.parametrize("error", ANYTHING)
async def test_journal_commit_that_fails_wakes_everyone(
    tmp_path: Path, error: type[BaseException]
) -> None:
    """Whatever a commit raises, every waiter gets a `StateError`, and the file is released."""
    path = tmp_path / "s.db"
    journal = await Journal.open(path, JOB)
    begun = asyncio.Event()

    def collect() -> Changes:
        begun.set()
        return Changes((), before=fail)

    def fail() -> None:
        raise error

    journal.set_source(collect)
    first = asyncio.ensure_future(journal.saved())
    await begun.wait()
    second = journal.saved()
    for waiter in (first, second):
        with pytest.raises(StateError, match=r"s\.db"):
            await waiter
    with pytest.raises(StateError):
        journal.saved()
    await journal.aclose()
    await (await Journal.open(path, JOB)).aclose()


@pytest.mark.parametrize("error", [MemoryError, Mute, UnicodeError])
async def test_journal_that_cannot_collect_changes_wakes_everyone(
    tmp_path: Path, error: type[Exception]
) -> None:
    """Whatever the source of the changes raises, every waiter gets a `StateError`."""
    journal = await Journal.open(tmp_path / "s.db", JOB)

    def collect() -> Changes:
        raise error

    journal.set_source(collect)
    with pytest.raises(StateError):
        await journal.saved()
    await journal.aclose()


async def test_journal_saves_without_a_task(tmp_path: Path) -> None:
    """`asyncio.run` cancels every task at its end: saving and closing need none."""
    path = tmp_path / "s.db"
    journal = await Journal.open(path, JOB)
    journal.set_source(lambda: Changes([PUT]))
    saved = journal.saved()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await saved
    journal.commit_now()
    closing = asyncio.create_task(journal.aclose())
    await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert others == {closing}
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await (await Journal.open(path, JOB)).aclose()


PUT = Statement("INSERT OR REPLACE INTO job VALUES ('state', ?)", [(b"x",)])


async def test_journal_that_is_closed_saves_nothing_more(tmp_path: Path) -> None:
    """A call that is still running when the journal is closed gets an error and does not wait."""
    journal = await Journal.open(tmp_path / "s.db", JOB)
    await journal.aclose()
    journal.commit_now()
    journal.commit_later()
    with pytest.raises(StateError, match="closed"):
        journal.saved()
    await journal.aclose()


async def test_journal_releases_a_file_that_cannot_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk while closing neither hangs nor keeps the lock."""

    class Stuck(sqlite3.Connection):
        def close(self) -> None:
            super().close()
            raise Odd

    connect = sqlite3.connect

    def stuck(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return connect(*args, **kwargs, factory=Stuck)

    monkeypatch.setattr(sqlite3, "connect", stuck)
    path = tmp_path / "s.db"
    await (await Journal.open(path, JOB)).aclose()
    monkeypatch.undo()
    await (await Journal.open(path, JOB)).aclose()
