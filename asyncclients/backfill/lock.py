"""One run per state file: a lock file that names the process that holds it.

The lock is the operating system's (`flock`) and ends with the process, however
it ends. The file holds the process id, for the message to the second one.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from asyncclients.errors import StateInUseError

_TRIES = 3
_PAUSE = 0.02
"""Seconds: who only looks at the state holds the lock for a moment, too."""


class Lock:
    """Holds *state* for this run, from its making until `release`.

    Raises:
        StateInUseError: if another run has it.
    """

    def __init__(self, state: Path) -> None:
        self._path = lock_path(state)
        self._descriptor = self._take(state)

    def _take(self, state: Path) -> int:
        tries = _TRIES
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                pid = _read_pid(descriptor)
                os.close(descriptor)
                tries -= 1
                if not tries:
                    raise _in_use(state, pid) from None
                time.sleep(_PAUSE)
                continue
            if self._is_current(descriptor):
                break
            os.close(descriptor)  # the one before us removed it in between
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return descriptor

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let the next one have it."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def lock_path(state: Path) -> Path:
    """Where the lock of *state* lies: beside it."""
    return state.with_name(state.name + ".lock")


def _read_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _in_use(state: Path, pid: int | None) -> StateInUseError:
    who = f"process {pid}" if pid else "another process"
    return StateInUseError(
        f"{state} is in use by {who}",
        file=str(state),
        pid=pid,
        advice="Wait for it, stop it, or give another state file",
    )
