"""Behaviour on platforms without POSIX: locks, open files, signals, encodings."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from asyncclients.backfill import Progress
from asyncclients.cli import run
from asyncclients.cli.demo.scenario import open_scenario
from asyncclients.cli.demo.screen import closing, frame
from asyncclients.cli.jobs import read_jobs
from asyncclients.cli.progress import ProgressDisplay
from asyncclients.cli.signals import on_signals
from asyncclients.errors import InputError

ROOT = Path(__file__).parents[2]
FILES = ("tests/backfill/test_target_files.py", "tests/backfill/test_state_files.py")
SAMPLE = "second_pull or other_names_of_the_state or takes_no_lock or may_be_a_symlink or another_program"
"""The tests of locks and names of files. `nox -s windows_like` runs those of whole backfills."""

posix = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, to imitate Windows")


@posix
def test_files_and_locks_work_without_posix() -> None:
    """Without fcntl, the flags of `open` and renames of open files, the same tests pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.windows_like"]
    command += ["-p", "no:cacheprovider", "-k", f"({SAMPLE}) and not (hard or csv or parquet)"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    ran = subprocess.run(
        [*command, *FILES], cwd=ROOT, env=environ, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stdout.decode()[-3000:]
    assert b" passed" in ran.stdout


def no_handler(*_: object) -> None:
    """Behave as `add_signal_handler` of the loops of Windows."""
    raise NotImplementedError


@pytest.mark.parametrize("has_handlers", [True, False])
async def test_signals_call_back_and_are_restored(
    has_handlers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each signal calls back until the handlers are restored, also in loops without handlers."""
    loop: Any = asyncio.get_running_loop()
    if not has_handlers:
        monkeypatch.setattr(loop, "add_signal_handler", no_handler)
    before = signal.getsignal(signal.SIGTERM)
    came: asyncio.Queue[int] = asyncio.Queue()
    restore = on_signals(lambda: came.put_nowait(1), ("SIGTERM", "SIGNAL_OF_ANOTHER_PLATFORM"))
    for _ in range(2):
        signal.raise_signal(signal.SIGTERM)
        assert await asyncio.wait_for(came.get(), 5) == 1
    restore()
    assert signal.getsignal(signal.SIGTERM) == before


def test_signal_after_the_loop_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """In loops without handlers, a signal after the end of the command raises nothing."""

    async def command() -> None:
        loop: Any = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "add_signal_handler", no_handler)
        on_signals(lambda: None, ("SIGTERM",))

    before = signal.getsignal(signal.SIGTERM)
    try:
        asyncio.run(command())
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def stream(encoding: str) -> io.TextIOWrapper:
    """A stream that raises an error for each character that *encoding* does not have."""
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")


@pytest.mark.parametrize("encoding", ["cp437", "cp1252"])
@pytest.mark.parametrize("command", ["--help", "sync --help", "simulate --hours 0.01"])
def test_output_fits_the_encodings_of_windows(
    monkeypatch: pytest.MonkeyPatch, encoding: str, command: str
) -> None:
    """Help and charts that go to a pipe have only characters of its encoding."""
    output = stream(encoding)
    monkeypatch.setattr(sys, "stdout", output)
    assert run(command.split()) == 0
    output.seek(0)
    text = output.read()
    assert len(text) > 500
    assert "\\u" not in text


@pytest.mark.parametrize("encoding", ["cp437", "cp1252"])
async def test_screens_fit_the_encodings_of_windows(encoding: str) -> None:
    """Bars, the demo's frames and its table have only characters of the console's encoding."""
    output = stream(encoding)
    console = Console(file=output, force_terminal=True, width=80)
    with ProgressDisplay(console=console) as display:
        display.job("a" * 200)(
            Progress(
                done=1,
                failed=1,
                unknown=0,
                skipped=0,
                total=4,
                remaining=2,
                rate=1.0,
                quota_use=0.5,
                eta=2.0,
                limited_by_quota=False,
                cause="refused " * 80,
            )
        )
    async with open_scenario(fast=True) as scene:
        console.print(frame(scene), closing(scene))
    output.seek(0)
    text = output.read()
    assert "##" in text
    assert "\\u" not in text


def test_jobs_saved_on_windows_are_read(tmp_path: Path) -> None:
    """A byte order mark is skipped; for a backslash in a path the error has the right form."""
    path = tmp_path / "jobs.toml"
    job = '[jobs.tags]\r\npush = "intouch.tags"\r\nfile = '
    path.write_text(job + r"'C:\data\tags.csv'", encoding="utf-8-sig")
    (found,) = read_jobs(path)
    assert str(found.file).endswith(r"C:\data\tags.csv")
    path.write_text(job + r'"C:\data\tags.csv"', encoding="utf-8-sig")
    with pytest.raises(InputError) as error:
        read_jobs(path)
    assert r"single quotes, as in 'C:\data\contacts.csv'" in str(error.value.advice)
