"""The file of a pull: written by one job at a time, without touching files of other programs."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asyncclients import AsyncClientsError, InputError, StateInUseError, StateMismatchError
from asyncclients.backfill import pull, push
from asyncclients.backfill.files.sink import FileSink
from asyncclients.cli.jobs import read_jobs
from asyncclients.paging import Page

SUFFIXES = pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])


async def one_page() -> Any:
    yield Page(items=[{"id": "1"}], number=1, total=1, last=True)


class Slow:
    """Pages that wait in the middle until they may go on."""

    def __init__(self) -> None:
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def pages(self) -> Any:
        yield Page(items=[{"id": "1"}], number=1, total=2)
        self.reached.set()
        await self.go_on.wait()
        yield Page(items=[{"id": "2"}], number=2, total=2, last=True)


def other_name(to: Path, how: str) -> Path:
    folder = to.with_name("other")
    folder.mkdir()
    other = folder / to.name
    if how == "symlink":
        other.symlink_to(to)
    elif how == "hard link":
        to.touch()
        os.link(to, other)
    elif how == "folder":
        (folder / "link").symlink_to(to.parent)
        other = folder / "link" / to.name
    else:
        other = Path(os.path.relpath(to))
    return other


@SUFFIXES
@pytest.mark.parametrize("how", ["symlink", "hard link", "folder", "relative"])
async def test_second_pull_into_same_file_is_rejected(
    tmp_path: Path, suffix: str, how: str
) -> None:
    """A file is written by one job at a time, under any of its names."""
    to, slow = tmp_path / f"out{suffix}", Slow()
    other = other_name(to, how)
    first = asyncio.create_task(pull(slow.pages(), to, state=tmp_path / "a.db"))
    await slow.reached.wait()
    with pytest.raises(StateInUseError, match="being written by another job"):
        await pull(one_page(), other, state=tmp_path / "b.db")
    slow.go_on.set()
    assert (await first).done == 2
    assert to.stat().st_size > 0
    await pull(one_page(), other, state=tmp_path / "b.db")


async def test_target_may_be_a_symlink(tmp_path: Path) -> None:
    """The file that the user names may be a symbolic link: its target is written."""
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(real)
    await pull(one_page(), link, state=tmp_path / "s.db")
    assert (link.is_symlink(), real.read_bytes()) == (True, b'{"id":"1"}\n')


@SUFFIXES
@pytest.mark.parametrize("derived", ["{}.part", "{}.tmp", ".{}.asyncclients.tmp"])
@pytest.mark.parametrize("kind", ["symlink", "file", "fifo"])
async def test_derived_name_in_use_is_not_touched(
    tmp_path: Path, suffix: str, derived: str, kind: str
) -> None:
    """A file of another program under a derived name is not changed and not used."""
    to, precious = tmp_path / f"out{suffix}", tmp_path / "precious"
    path = tmp_path / derived.format(to.name)
    precious.write_text("precious")
    if kind == "symlink":
        path.symlink_to(precious)
    elif kind == "fifo":
        os.mkfifo(path)
    elif derived.startswith("{"):
        path.write_text("precious")
    (error,) = await asyncio.gather(
        pull(one_page(), to, state=tmp_path / "s.db"), return_exceptions=True
    )
    if isinstance(error, Exception):
        assert isinstance(error, AsyncClientsError)
        assert path.name in str(error)
    assert to.is_file() == (not isinstance(error, Exception))
    assert not to.is_symlink()
    assert precious.read_text() == "precious"
    if kind == "file" and derived.startswith("{"):
        assert path.read_text() == "precious"


async def test_foreign_part_file_is_named(tmp_path: Path) -> None:
    """The error names the file in the way and the remedy."""
    (tmp_path / "out.csv.part").write_text("half a download")
    with pytest.raises(InputError, match=r"out\.csv\.part.*Move it away"):
        await pull(one_page(), tmp_path / "out.csv", state=tmp_path / "s.db")


@pytest.mark.parametrize("refresh", [False, True])
async def test_part_file_of_another_program_or_job_is_kept(tmp_path: Path, refresh: bool) -> None:
    """A run that cannot use the part file leaves it, whether it refreshes or not."""
    to, part, slow = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part", Slow()
    part.write_text("half a download")
    with pytest.raises(InputError, match="Move it away"):
        await pull(one_page(), to, state=tmp_path / "s.db", refresh=refresh)
    assert part.read_text() == "half a download"
    part.unlink()
    first = asyncio.create_task(pull(slow.pages(), to, state=tmp_path / "a.db"))
    await slow.reached.wait()
    with pytest.raises(StateInUseError, match="being written by another job"):
        await pull(one_page(), to, state=tmp_path / "s.db", refresh=refresh)
    slow.go_on.set()
    assert (await first).done == 2
    assert not part.exists()


async def test_complete_pull_without_its_file_is_reported(tmp_path: Path) -> None:
    """A complete pull whose file is missing is an error."""
    to = tmp_path / "out.jsonl"
    await pull(one_page(), to, state=tmp_path / "s.db")
    assert (await pull(one_page(), to, state=tmp_path / "s.db")).done == 1
    to.unlink()
    with pytest.raises(StateMismatchError, match="is missing, although its pull is complete"):
        await pull(one_page(), to, state=tmp_path / "s.db")


HOLD = """
import asyncio, sys
from asyncclients.backfill import pull, push
from asyncclients.backfill.files.sink import FileSink
from asyncclients.cli.jobs import read_jobs
from asyncclients.paging import Page

async def pages():
    yield Page(items=[{"id": "1"}], number=1, total=2)
    print("go", flush=True)
    await asyncio.sleep(60)

asyncio.run(pull(pages(), sys.argv[1], state=sys.argv[2]))
"""


async def test_pull_of_another_process_keeps_its_file(tmp_path: Path) -> None:
    """A file is locked against other processes until the pull's process ends."""
    to = tmp_path / "out.jsonl"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLD, str(to), str(tmp_path / "a.db")),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"go\n"
    with pytest.raises(StateInUseError, match="being written by another job"):
        await pull(one_page(), to, state=tmp_path / "b.db")
    process.kill()
    await process.wait()
    assert (await pull(one_page(), to, state=tmp_path / "b.db")).done == 1


@pytest.mark.parametrize("suffix", ["", ".part"])
async def test_result_that_is_a_file_of_the_state_is_rejected(tmp_path: Path, suffix: str) -> None:
    """A job whose result would overwrite a file of its state is rejected, and writes nothing."""
    to = tmp_path / "out.jsonl"
    with pytest.raises(InputError, match="another name"):
        await pull(one_page(), to, state=f"{to}{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["itself", "symlink", "hard link"])
async def test_input_that_is_a_file_of_the_state_is_rejected(tmp_path: Path, how: str) -> None:
    """The failed rows of a state cannot be the input for the same state, which replaces them."""
    failed = tmp_path / "s.db.failed.jsonl"
    failed.write_text('{"line":1,"number":1,"row":7,"reason":"no"}\n')
    source = failed if how == "itself" else tmp_path / "rows.jsonl"
    if how == "symlink":
        source.symlink_to(failed)
    elif how == "hard link":
        os.link(failed, source)
    before = failed.read_bytes()

    async def target(_: Any) -> None: ...

    with pytest.raises(InputError, match="another name"):
        await push(source, target, state=tmp_path / "s.db")
    assert failed.read_bytes() == before


@pytest.mark.parametrize(
    "second",
    [
        'to = "a.jsonl"\nstate = "b.state"',
        'to = "./a.jsonl"\nstate = "b.state"',
        'to = "link.jsonl"\nstate = "b.state"',
        'to = "b.jsonl"\nstate = "a.jsonl.state"',
        'to = "b.jsonl"\nstate = "../{folder}/a.jsonl.state"',
        'to = "a.jsonl.state.failed.jsonl"',
        'to = "b.jsonl"\nstate = "a.jsonl"',
    ],
)
def test_jobs_that_write_one_file_are_rejected(tmp_path: Path, second: str) -> None:
    """No job of a job file writes a file of another job, under any name."""
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    jobs = tmp_path / "jobs.toml"
    second = second.format(folder=tmp_path.name)
    jobs.write_text(
        '[jobs.a]\npull = "intouch.tags"\nto = "a.jsonl"\n'
        f'[jobs.b]\npull = "intouch.tags"\n{second}\n'
    )
    with pytest.raises(InputError, match="two jobs, a and b, write the file"):
        read_jobs(jobs)


async def test_sink_cancelled_while_it_closes_unlocks_its_target(tmp_path: Path) -> None:
    """All files are closed, so that the next run can open them."""
    path = tmp_path / "items.jsonl"
    path.touch()
    sink = FileSink(path)
    await sink.open(None)
    closing = asyncio.create_task(sink.close())
    await asyncio.sleep(0)
    closing.cancel()
    with suppress(asyncio.CancelledError):
        await closing
    again = FileSink(path)
    await again.open(None)
    await again.close()
