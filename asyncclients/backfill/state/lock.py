"""One run per state file, whatever name the file is opened by.

* `<state>.lock`, beside the target of a symbolic link, is locked. The system releases the lock
  when the process ends. The file contains the process id, for the error message of a second
  process.
* On Linux the state file itself is locked too, at an offset that SQLite does not use, because
  a hard link is another name of the same file. `status` can query that lock without taking
  it, so it never prevents a job from starting.

POSIX releases the locks that SQLite holds on a file when the process closes any descriptor
of that file. So a state in use by this process is recognised by its inode and not opened.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path

from asyncclients.errors import InputError, StateInUseError, StateMismatchError
from asyncclients.own_files import (
    FAILED_SUFFIX,
    RETRY_SUFFIX,
    SQLITE_SUFFIXES,
    are_same,
    fcntl,
    foreign_companions,
    open_own,
    open_to_read,
    target_of,
    try_lock,
)

_MARK = re.compile(rb"asyncclients: process (\d+)\n")
_RANGE = (2**62, 1)
"""Offset and length of the lock in the state file; SQLite's locks are at 2**30."""
_IS_LINUX = sys.platform == "linux"
_SET = getattr(fcntl, "F_OFD_SETLK", None) if _IS_LINUX else None
_GET = getattr(fcntl, "F_OFD_GETLK", None) if _IS_LINUX else None
_FLOCK = "hhqqi"
"""`struct flock` of Linux; that of macOS, which has such locks too, is another."""

_guard = threading.Lock()
_held: dict[tuple[int, int], int] = {}
"""Device and inode of each state in use -> id of the process that uses it: this one, or a parent
from which it was forked."""


class Lock:
    """The lock on *state*, which is not a symbolic link; held until `release`.

    Raises:
        StateInUseError: another run holds it.
        StateMismatchError: the lock file belongs to another program, or the file system does
            not support locks.
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
                _lock_state(descriptor, self._state)
                if self._is_current(descriptor):
                    self._claim(descriptor)
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # the previous run has removed the file

    def _open(self) -> int:
        """Return a descriptor of the lock file, created if missing."""
        while True:
            try:
                descriptor = open_own(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                self._is_ours = False
                try:
                    return open_own(self._path, os.O_RDWR)
                except FileNotFoundError:
                    continue  # the previous run has removed the file
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.EEXIST):
                        raise
                    raise self._foreign(error.strerror or "") from None
            else:
                self._is_ours = True
                return descriptor

    def _claim(self, descriptor: int) -> None:
        content = os.read(descriptor, 64)
        self._is_ours |= bool(_MARK.fullmatch(content))
        if self._is_ours:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, b"asyncclients: process %d\n" % os.getpid())
        elif content:  # an empty file is locked but left empty: it may be another program's
            raise self._foreign("is not a lock file of asyncclients")

    def _foreign(self, problem: str) -> StateMismatchError:
        return StateMismatchError(
            f"{self._path}, the lock file of the state {self._state}, {problem}",
            file=str(self._path),
            advice="Give the state another name; this file was not touched",
        )

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.lstat())
        except FileNotFoundError:
            return False

    def _take_state(self) -> int:
        """Return a locked descriptor of the state file, created if missing."""
        with suppress(FileNotFoundError):
            if _held.get(_key(self._state.lstat())) == os.getpid():
                raise _in_use(self._state, os.getpid())
        descriptor = open_own(self._state, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if _SET is not None:
                fcntl.fcntl(descriptor, _SET, _range_lock())
        except OSError as error:
            # On any other error the file system supports `flock` only, which is held already.
            if error.errno in (errno.EAGAIN, errno.EACCES):
                os.close(descriptor)
                raise _in_use(self._state, None) from None
        self._key = _key(os.fstat(descriptor))
        _held[self._key] = os.getpid()
        return descriptor

    def release(self) -> None:
        """Release the state."""
        if self._file >= 0:
            _held.pop(self._key, None)
            os.close(self._file)
        try:
            if self._is_ours:
                self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
        except PermissionError:  # Windows; another process may have opened the file by now
            os.close(self._descriptor)
            with suppress(OSError):
                self._path.unlink()


def lock_path(state: Path) -> Path:
    """Return the path of the lock file of *state*."""
    return state.with_name(state.name + ".lock")


def holder_of(state: Path) -> int | None:
    """Return the id of the process that uses *state*, 0 if unknown, None if not in use.

    Takes no lock.
    """
    if _held.get(_key(state.stat())) == os.getpid():
        return os.getpid()
    pid = _read_pid(lock_path(state))
    if fcntl is None:
        return _holder_of_lock_file(lock_path(state), pid)
    if _GET is None:
        return pid if pid is not None and _is_alive(pid) else None
    descriptor = open_to_read(state)
    try:
        found = fcntl.fcntl(descriptor, _GET, _range_lock())
    except OSError:
        return pid if pid is not None and _is_alive(pid) else None
    finally:
        os.close(descriptor)
    return None if struct.unpack(_FLOCK, found)[0] == fcntl.F_UNLCK else pid or 0


def _holder_of_lock_file(path: Path, pid: int | None) -> int | None:
    """Return *pid* if *path* is locked. The lock is taken for an instant: Windows has no query."""
    try:
        descriptor = open_own(path, os.O_RDWR)
    except OSError:
        return None
    try:
        return None if try_lock(descriptor) else pid or 0
    finally:
        os.close(descriptor)


def lock_or_fail(descriptor: int, error: Exception) -> None:
    """Lock the file of *descriptor* until it is closed; raise *error* if it is locked."""
    try:
        is_locked = try_lock(descriptor)
    except OSError:
        return  # no locks on this file system: the lock of the state protects the job
    if not is_locked:
        raise error


def _lock_state(descriptor: int, state: Path) -> None:
    try:
        is_locked = try_lock(descriptor)
    except OSError as error:
        raise StateMismatchError(
            f"the file system of {state} does not support file locks ({error.strerror})",
            file=str(state),
            advice="Put the state on a local disk: without a lock, two runs could send a row twice",
        ) from None
    if not is_locked:
        raise _in_use(state, _read_pid(lock_path(state)))


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
        found = _MARK.fullmatch(os.read(descriptor, 64))
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
    """Return the paths of all files that a job may write for *state*."""
    state = target_of(state)
    suffixes = (".lock", FAILED_SUFFIX, RETRY_SUFFIX, *SQLITE_SUFFIXES)
    return [state, *(state.with_name(state.name + suffix) for suffix in suffixes)]


def check_apart(state: Path, others: Iterable[Path], role: str) -> None:
    """Raise `InputError` if one of *others*, the *role* of the job, is a file of *state*."""
    for other, mine in product(others, files_of_state(state)):
        if are_same(other, mine):
            problem = (
                "cannot be its state file"
                if mine.name == state.name
                else f"is a file of its state {state}"
            )
            raise InputError(
                f"{other} is {role} of this job and {problem}",
                file=str(other),
                advice="Give the state another name",
            )


def check_companions(state: Path) -> None:
    """Raise `StateMismatchError` if SQLite would overwrite another program's file beside *state*."""
    for path, problem in foreign_companions(state):
        raise StateMismatchError(
            f"{path}, a file that SQLite needs for the state {state}, {problem}",
            file=str(path),
            advice="Give the state another name; this file was not touched",
        )
