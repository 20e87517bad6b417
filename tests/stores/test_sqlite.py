"""Quotas shared through one file: the same rules, and what may happen to a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from asyncclients import ConfigurationError, IntouchClient, Quota, SessionPool
from asyncclients.sandbox import Sandbox
from asyncclients.stores import FileLimits
from asyncclients.stores.protocol import StoreUnavailableError
from asyncclients.stores.quota_log import QuotaLog
from asyncclients.stores.sqlite import SqliteBackend, explain
from tests.support.shared_quota import pause_text, quotas_text

from .test_quota_log import SECOND, START, calendar_spec, lease_request


async def test_two_sessions_share_one_window(tmp_path: Path) -> None:
    """Two processes, one file, two slots: the third request gets none."""
    ours, theirs = (SqliteBackend(tmp_path / "limits.db") for _ in range(2))
    assert len((await ours.apply("s", lease_request(process="a", count=1))).opens_in) == 1
    assert len((await theirs.apply("s", lease_request(process="b", count=1))).opens_in) == 1
    assert (await ours.apply("s", lease_request(process="a", count=1, first=2))).opens_in == ()
    assert len((await ours.apply("other", lease_request(process="a", count=1))).opens_in) == 1
    await ours.aclose()
    await theirs.aclose()


async def test_window_outlives_the_process(tmp_path: Path) -> None:
    """A process that starts later finds the calls of the previous one."""
    path = tmp_path / "limits.db"
    first = SqliteBackend(path)
    await first.apply("s", lease_request(process="a", count=2))
    await first.aclose()
    second = SqliteBackend(path)
    assert (await second.apply("s", lease_request(process="b", count=1))).opens_in == ()
    await second.aclose()


async def test_limit_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    """The file is created with mode 0600, whatever the umask."""
    before = os.umask(0)
    try:
        backend = SqliteBackend(tmp_path / "limits.db")
        await backend.apply("s", lease_request())
        await backend.aclose()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "limits.db").stat().st_mode) == 0o600


async def test_limit_file_is_synchronised_with_the_disk(tmp_path: Path) -> None:
    """At each checkpoint, so that a power cut damages nothing; an operator's change at once."""
    backend = SqliteBackend(tmp_path / "limits.db")
    await backend.apply("s", lease_request())
    assert backend.open().execute("PRAGMA synchronous").fetchone() == (1,)
    await backend.set_control("s", "intouch", "operator_pause", pause_text(time.time() + 60))
    assert backend.open().execute("PRAGMA synchronous").fetchone() == (2,)
    await backend.aclose()


async def test_file_is_asked_by_many_processes_at_once(tmp_path: Path) -> None:
    """Requests that overlap wait for each other: none fails, and each counts."""
    backends = [SqliteBackend(tmp_path / "limits.db") for _ in range(3)]
    await backends[0].apply("s", lease_request())
    requests = [
        backend.apply("s", lease_request(process=f"p{number}", accepted=1))
        for _ in range(40)
        for number, backend in enumerate(backends)
    ]
    responses = await asyncio.gather(*requests)
    assert max(response.accepted for response in responses) == len(requests)
    for backend in backends:
        await backend.aclose()


async def test_file_holds_processes_to_the_quotas_that_are_set(tmp_path: Path) -> None:
    """A process that does not obey the quotas of an operator yet gets no slots."""
    backend = SqliteBackend(tmp_path / "limits.db")
    text = quotas_text(Quota(5, 3.0))
    await backend.set_control("s", "intouch", "operator_quotas", text)
    response = await backend.apply("s", lease_request(count=1))
    assert (response.opens_in, response.operator_quotas) == ((), text)
    await backend.aclose()


async def test_file_forgets_a_pause_that_has_ended(tmp_path: Path) -> None:
    """The first request after the end of a pause removes it from the file."""
    backend = SqliteBackend(tmp_path / "limits.db")
    await backend.set_control("s", "intouch", "operator_pause", pause_text(1.0))
    assert (await backend.apply("s", lease_request(count=1))).opens_in == (0,)
    (scope,) = await backend.scopes()
    assert scope.operator_pause is None
    await backend.aclose()


async def test_removed_limit_file_counts_as_spent(tmp_path: Path) -> None:
    """Removed at work: a new file is created, and its window counts as spent."""
    path = tmp_path / "limits.db"
    backend = SqliteBackend(path)
    epoch = (await backend.apply("s", lease_request(count=1))).epoch
    for name in tmp_path.iterdir():
        name.unlink()
    lost = await backend.apply("s", lease_request(epoch=epoch, new_epoch="e2", count=1))
    assert (lost.opens_in, lost.epoch) == ((), "e2")
    assert path.exists()
    await backend.aclose()


async def test_log_from_before_a_reboot_counts_as_spent(tmp_path: Path) -> None:
    """A log with a later time was written before a reboot: the window counts as spent."""
    path = tmp_path / "limits.db"
    backend = SqliteBackend(path)
    await backend.apply("s", lease_request(count=1))
    with sqlite3.connect(path) as connection:
        (state,) = connection.execute("SELECT state FROM quota_log").fetchone()
        later = msgspec.msgpack.decode(state, type=QuotaLog)
        later.updated_at += 10**15
        connection.execute("UPDATE quota_log SET state = ?", (msgspec.msgpack.encode(later),))
    connection.close()
    assert (await backend.apply("s", lease_request(process="b", count=1))).opens_in == ()
    await backend.aclose()


async def test_log_of_another_version_counts_as_spent(tmp_path: Path) -> None:
    """A state that cannot be decoded is neither an error nor a free window."""
    path = tmp_path / "limits.db"
    backend = SqliteBackend(path)
    await backend.apply("s", lease_request())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE quota_log SET state = ?", (b"\xc1",))
    connection.close()
    assert (await backend.apply("s", lease_request(count=1))).opens_in == ()
    await backend.aclose()


async def test_locked_limit_file_is_an_outage(tmp_path: Path) -> None:
    """Another program locks the file: unavailable in bounded time, and no request applied."""
    path = tmp_path / "limits.db"
    backend = SqliteBackend(path)
    await backend.apply("s", lease_request())
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    loop = asyncio.get_running_loop()
    before = loop.time()
    with pytest.raises(StoreUnavailableError, match="locked"):
        await backend.apply("s", lease_request(count=1))
    assert loop.time() - before < 2
    holder.rollback()
    holder.close()
    assert len((await backend.apply("s", lease_request(count=2, first=2))).opens_in) == 2
    await backend.aclose()


@pytest.mark.parametrize("kind", ["a text", "a directory", "nowhere"])
async def test_unusable_limit_path_fails_the_first_call(tmp_path: Path, kind: str) -> None:
    """Not an SQLite file, no file, no directory: a ConfigurationError that names the path."""
    path = tmp_path / "limits.db"
    if kind == "a text":
        path.write_text("dear diary, " * 100)
    elif kind == "a directory":
        path.mkdir()
    else:
        path = tmp_path / "missing" / "limits.db"
    async with Sandbox() as sandbox, SessionPool(limits=FileLimits(path)) as pool:
        client = IntouchClient.from_env(pool, sandbox.environ)
        with pytest.raises(ConfigurationError, match=r"limits\.db"):
            await client.tags.list(limit=1).first()


async def test_old_logs_are_deleted(tmp_path: Path) -> None:
    """A scope that was unused for long is deleted when the file is next opened."""
    path = tmp_path / "limits.db"
    backend = SqliteBackend(path)
    await backend.apply("old", lease_request())
    await backend.aclose()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE quota_log SET needed_until = needed_until - ?", (3600 * SECOND,))
    connection.close()
    again = SqliteBackend(path)
    await again.apply("new", lease_request())
    await again.aclose()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT scope FROM quota_log").fetchall() == [("new",)]
    connection.close()


async def test_calendar_log_is_kept_until_its_window_ends(tmp_path: Path) -> None:
    """The units used of a day's quota are still known after ten minutes without a process."""
    path = tmp_path / "limits.db"
    daily = calendar_spec(5, START, 86_400 * SECOND)
    request = lease_request(quotas=(daily,), wall=START, count=3)
    for first, count in ((1, 1), (2, 5)):
        backend = SqliteBackend(path)
        response = await backend.apply("scope", replace(request, first=first, count=count))
        await backend.aclose()
        with sqlite3.connect(path) as connection:
            connection.execute(
                "UPDATE quota_log SET needed_until = needed_until - ?", (3600 * SECOND,)
            )
        connection.close()
    assert len(response.opens_in) == 4


def test_quota_log_survives_encoding() -> None:
    """An encoded log is decoded without a difference."""
    log = QuotaLog()
    log.apply(lease_request(count=2), 10**12)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(log), type=QuotaLog) == log


def _break(path: Path, kind: str) -> None:
    """Make the file at *path* unusable, in one step: a process at work recreates a missing file."""
    other = path.with_suffix(".other")
    if kind == "directory":
        other.mkdir()
    elif kind == "dangling symlink":
        other.symlink_to(path.parent / "missing" / "file")
    elif kind == "another program":
        with sqlite3.connect(other) as connection:
            connection.execute("CREATE TABLE quota_log (id INTEGER, name TEXT)")
        connection.close()
    elif kind == "damaged":
        other.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    elif kind == "text":
        other.write_text("dear diary " * 100)
    for name in list(path.parent.glob(f"{path.name}-*")):
        name.unlink()
    while kind == "directory" and not path.is_dir():  # which replaces no file
        path.unlink(missing_ok=True)
        with contextlib.suppress(NotADirectoryError):
            other.rename(path)
    if kind != "directory":
        other.replace(path)


KINDS = ["directory", "dangling symlink", "another program", "damaged", "text"]


@pytest.mark.parametrize("kind", KINDS)
async def test_unusable_limit_file_is_explained(tmp_path: Path, kind: str) -> None:
    """A file that cannot be used is a ConfigurationError with its path and the next step."""
    path = tmp_path / "limits.db"
    _break(path, kind)
    backend = SqliteBackend(path)
    with pytest.raises(ConfigurationError, match=r"limits\.db") as caught:
        await backend.apply("s", lease_request())
    assert "local disk" in str(caught.value.advice)
    await backend.aclose()


async def test_limit_file_replaced_at_work_is_an_outage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that becomes unusable stops no call; when it is usable again it is used."""

    def logged(path: Path) -> list[str]:
        return [
            record.getMessage() for record in caplog.records if path.name in record.getMessage()
        ]

    async def replace(kind: str) -> None:
        path = tmp_path / f"{kind.replace(' ', '-')}.db"
        async with (
            Sandbox() as sandbox,
            SessionPool(limits=FileLimits(path, when_down="local")) as pool,
        ):
            client = IntouchClient.from_env(pool, sandbox.environ)
            await client.tags.list(limit=1).first()
            _break(path, kind)
            await client.tags.list(limit=1).first()
            await asyncio.sleep(1.2)
            await client.tags.list(limit=1).first()
            assert sum("unreachable" in message for message in logged(path)) == 1
            path.rmdir() if path.is_dir() else path.unlink()
            async with asyncio.timeout(20):
                while not any("reachable again" in message for message in logged(path)):
                    await client.tags.list(limit=1).first()
                    await asyncio.sleep(0.05)
        assert len(logged(path)) == 2 or any("lost its data" in each for each in logged(path))

    # All kinds at once: each takes seconds of real time.
    await asyncio.gather(*(replace(kind) for kind in KINDS))


@pytest.mark.parametrize(
    ("name", "lasting", "says"),
    [
        ("SQLITE_READONLY_DIRECTORY", True, "cannot be written"),
        ("SQLITE_READONLY_DBMOVED", False, "Check the file"),
        ("SQLITE_CANTOPEN_FULLPATH", True, "cannot be opened"),
        ("SQLITE_CORRUPT_INDEX", True, "damaged"),
        ("SQLITE_FULL", False, "Free space"),
        ("SQLITE_IOERR_WRITE", False, "disk"),
        ("SQLITE_BUSY_RECOVERY", False, "locked"),
        ("SQLITE_LOCKED_SHAREDCACHE", False, "locked"),
        ("", False, "Check the file"),
    ],
)
def test_sqlite_error_code_is_explained(name: str, lasting: bool, says: str) -> None:
    """The error names SQLite's code and the next step."""
    failure = sqlite3.OperationalError("some text")
    if name:
        failure.sqlite_errorname = name
    error = explain(Path("limits.db"), failure)
    assert isinstance(error, ConfigurationError) is lasting
    assert says in f"{error} {error.advice}"
    assert "some text" in str(error)


async def test_database_of_another_program_is_not_changed(tmp_path: Path) -> None:
    """A database with tables of another program does not become a limit file."""
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
    connection.close()
    before = path.read_bytes()
    backend = SqliteBackend(path)
    with pytest.raises(ConfigurationError, match="another program"):
        await backend.apply("s", lease_request())
    await backend.aclose()
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("kind", ["symlink", "file"])
async def test_file_beside_limit_file_is_not_changed(
    tmp_path: Path, suffix: str, kind: str
) -> None:
    """A file of another program at the path of an SQLite side file is named, and not changed."""
    precious, beside = tmp_path / "precious", tmp_path / f"limits.db{suffix}"
    precious.write_text("precious")
    if kind == "symlink":
        beside.symlink_to(precious)
    else:
        beside.write_text("precious")
    backend = SqliteBackend(tmp_path / "limits.db")
    with pytest.raises(ConfigurationError, match=f"limits.db{suffix}"):
        await backend.apply("s", lease_request())
    await backend.aclose()
    assert (precious.read_text(), beside.read_text()) == ("precious", "precious")


async def test_log_of_another_version_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A log that cannot be read counts as spent, which is logged once with file and pause."""
    path = tmp_path / "limits.db"
    backend = SqliteBackend(path)
    for _ in range(2):
        await backend.apply("abcdef", lease_request(count=1))
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE quota_log SET state = ?", (b"another",))
        connection.close()
        assert (await backend.apply("abcdef", lease_request(count=1))).opens_in == ()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"quota (scope abcd): limit store {path}: another version of ")
    assert re.search(r"no calls for [0-9.]+ s\. Run the same version", line)
    await backend.aclose()


async def test_second_connection_of_a_process_keeps_the_locks_of_the_first(tmp_path: Path) -> None:
    """Another process that closes the file finds it in use, and does not delete its WAL."""
    path = tmp_path / "limits.db"
    first = SqliteBackend(path)
    await first.apply("s", lease_request())
    for _ in range(2):  # the second one finds that the first has the file open, too
        other = SqliteBackend(path)
        await other.apply("s", lease_request())
        await other.aclose()
    script = f"import sqlite3; c = sqlite3.connect({str(path)!r}); "
    script += "c.execute('SELECT count(*) FROM quota_log').fetchone(); c.close()"
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], check=True)
    assert Path(f"{path}-wal").exists()
    await first.apply("s", lease_request())
    await first.aclose()
