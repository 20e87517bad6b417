"""Behaviour on platforms without POSIX: locks, open files, signals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncclients.cli.signals import on_signals

ROOT = Path(__file__).parents[2]
FILES = ("tests/backfill/test_target_files.py", "tests/backfill/test_state_files.py")
POSIX_ONLY = "fifo or hard or parquet or csv or shm or journal"
"""Pipes, hard links (found by a lock that only Linux has), and the same tests for other names."""

posix = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, to imitate Windows")


@posix
def test_files_and_locks_work_without_posix() -> None:
    """Without fcntl, the flags of `open` and renames of open files, the same tests pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.windows_like"]
    command += ["-p", "no:cacheprovider", "--timeout=20", "-k", f"not ({POSIX_ONLY})", *FILES]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stdout.decode()[-3000:]
    assert b" passed" in ran.stdout


@pytest.mark.parametrize("has_handlers", [True, False])
async def test_signals_call_back_and_are_restored(
    has_handlers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each signal calls back until the handlers are restored, also in loops without handlers."""
    loop: Any = asyncio.get_running_loop()

    def missing(*_: object) -> None:
        raise NotImplementedError

    if not has_handlers:
        monkeypatch.setattr(loop, "add_signal_handler", missing)
    before = signal.getsignal(signal.SIGTERM)
    came: asyncio.Queue[int] = asyncio.Queue()
    restore = on_signals(lambda: came.put_nowait(1), ("SIGTERM", "SIGNAL_OF_ANOTHER_PLATFORM"))
    for _ in range(2):
        signal.raise_signal(signal.SIGTERM)
        assert await asyncio.wait_for(came.get(), 5) == 1
    restore()
    assert signal.getsignal(signal.SIGTERM) == before
