"""One run per state file, however the file is named.

* `<state>.lock`, beside the file that a symbolic link leads to, is held by `flock`. It
  ends with its process, however that ends, and names the process for the message to
  the second one.
* The state file itself is locked as well, at a place that SQLite does not use: a hard
  link has another name, and the same content. That lock can be queried without being
  taken, so `status` never stops a job from starting.

POSIX drops the locks that SQLite holds when its process closes any other descriptor
of the file. So a state in use by this very process is known by its inode, and not opened.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path

from asyncclients.errors import InputError, StateInUseError, StateMismatchError
from asyncclients.own_files import (
    FAILED_SUFFIX,
    SQLITE_SUFFIXES,
    are_same,
    foreign_companions,
    open_own,
    target_of,
)

_MARK = re.compile(rb"asyncclients: process (\d+)\n")
_RANGE = (2**62, 1)
"""Offset and length of the lock in the state file: far behind SQLite's at 2**30."""
_SET, _GET = getattr(fcntl, "F_OFD_SETLK", None), getattr(fcntl, "F_OFD_GETLK", None)
_FLOCK = "hhqqi"

_guard = threading.Lock()
_held: dict[tuple[int, int], int] = {}
"""Device and inode of each state in use -> the process that uses it: this one or its parent."""


class Lock:
    """Holds *state*, which is no symbolic link, from its making until `release`.

    Raises:
        StateInUseError: another run has it.
        StateMismatchError: its lock file belongs to somebody else, or its file system has no locks.
        OSError: a file cannot be opened.
    """

    def __init__(self, state: Path) -> None:
        self._state, self._path = state, lock_path(state)
        self._is_ours = True
        self._key = (0, 0)
        self._file = -1
        with _guard:
            self._descriptor = self._take()
            try:
                check_companions(state)
                self._file = self._take_state()
            except BaseException:
                self.release()
                raise

    def _take(self) -> int:
        while True:
            descriptor = self._open()
            try:
                _flock(descriptor, self._state)
                if self._is_current(descriptor):
                    self._claim(descriptor)
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # the previous run removed it in between

    def _open(self) -> int:
        """Return the lock file, made if there is none."""
        while True:
            try:
                descriptor = open_own(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                self._is_ours = False
                try:
                    return open_own(self._path, os.O_RDWR)
                except FileNotFoundError:
                    continue  # the previous run removed it in between
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.EEXIST):
                        raise
                    raise self._foreign(error.strerror or "") from None
            else:
                self._is_ours = True
                return descriptor

    def _claim(self, descriptor: int) -> None:
        content = os.pread(descriptor, 64, 0)
        self._is_ours |= bool(_MARK.fullmatch(content))
        if self._is_ours:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"asyncclients: process %d\n" % os.getpid(), 0)
        elif content:  # an empty file serves as it is: it may be somebody else's
            raise self._foreign("is not a lock file of asyncclients")

    def _foreign(self, problem: str) -> StateMismatchError:
        return StateMismatchError(
            f"{self._path}, which the state {self._state} needs for its lock, {problem}",
            file=str(self._path),
            advice="Give the state another name; this file was not touched",
        )

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.lstat())
        except FileNotFoundError:
            return False

    def _take_state(self) -> int:
        """Return the state file, made if there is none, locked against its other names."""
        with suppress(FileNotFoundError):
            if _held.get(_key(self._state.lstat())) == os.getpid():
                raise _in_use(self._state, os.getpid())
        descriptor = open_own(self._state, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if _SET is not None:
                fcntl.fcntl(descriptor, _SET, _range_lock())
        except OSError as error:
            # Any other failure: this file system knows `flock` only, which is held.
            if error.errno in (errno.EAGAIN, errno.EACCES):
                os.close(descriptor)
                raise _in_use(self._state, None) from None
        self._key = _key(os.fstat(descriptor))
        _held[self._key] = os.getpid()
        return descriptor

    def release(self) -> None:
        """Give the state back."""
        if self._file >= 0:
            _held.pop(self._key, None)
            os.close(self._file)
        if self._is_ours:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def lock_path(state: Path) -> Path:
    """Return the path of the lock file of *state*: beside it."""
    return state.with_name(state.name + ".lock")


def holder_of(state: Path) -> int | None:
    """Return the process that uses *state*, 0 if that is unknown, None for none. Takes no lock."""
    if _held.get(_key(state.stat())) == os.getpid():
        return os.getpid()
    pid = _read_pid(lock_path(state))
    if _GET is None:
        return pid if pid is not None and _is_alive(pid) else None
    descriptor = os.open(state, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = fcntl.fcntl(descriptor, _GET, _range_lock())
    except OSError:
        return pid if pid is not None and _is_alive(pid) else None
    finally:
        os.close(descriptor)
    return None if struct.unpack(_FLOCK, found)[0] == fcntl.F_UNLCK else pid or 0


def lock_or_fail(descriptor: int, error: Exception) -> None:
    """Lock the file of *descriptor* until it is closed; raise *error* if another run has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise error from None
    except OSError:
        pass  # a file system without locks: the lock of the state is what protects a job


def _flock(descriptor: int, state: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise _in_use(state, _read_pid(lock_path(state))) from None
        raise StateMismatchError(
            f"the file system of {state} does not support file locks ({error.strerror})",
            file=str(state),
            advice="Give a state on a local disk: without a lock, two runs could send a row twice",
        ) from None


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _range_lock() -> bytes:
    return struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, *_RANGE, 0)


def _read_pid(path: Path) -> int | None:
    try:
        descriptor = open_own(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        found = _MARK.fullmatch(os.pread(descriptor, 64, 0))
    finally:
        os.close(descriptor)
    return int(found[1]) if found else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _in_use(state: Path, pid: int | None) -> StateInUseError:
    process = f"process {pid}" if pid else "another process"
    return StateInUseError(
        f"{state} is in use by {process}",
        file=str(state),
        pid=pid,
        advice="Wait for it, stop it, or give another state file",
    )


def files_of_state(state: Path) -> list[Path]:
    """Return every file that a job with *state* may write for it."""
    state = target_of(state)
    suffixes = (".lock", FAILED_SUFFIX, *SQLITE_SUFFIXES)
    return [state, *(state.with_name(state.name + suffix) for suffix in suffixes)]


def check_apart(state: Path, others: Iterable[Path], role: str) -> None:
    """Raise `InputError` if one of *others*, which are the *role* of the job, belongs to *state*."""
    for other, mine in product(others, files_of_state(state)):
        if are_same(other, mine):
            problem = (
                "not a state file" if mine.name == state.name else f"a file of the state {state}"
            )
            raise InputError(
                f"{other} is {role} of this job, and is {problem}",
                file=str(other),
                advice="Give the state another name",
            )


# --- The files that SQLite keeps beside the state -----------------------------------


def check_companions(state: Path) -> None:
    """Raise `StateMismatchError` if SQLite would write to a file beside *state* that is not its."""
    for path, problem in foreign_companions(state):
        raise StateMismatchError(
            f"{path}, which belongs to the state {state}, {problem}",
            file=str(path),
            advice="Give the state another name; this file was not touched",
        )
