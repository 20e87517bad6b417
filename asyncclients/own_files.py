"""Open the files that the package writes without damaging files of other programs; lock states.

* A path given by the user may be a symbolic link: its target is written.
* A path derived from it (`.lock`, `.part`, `.failed.jsonl`) is opened without following links, must
  be a regular file, and is changed only if its content proves that the package wrote it.

One run uses a state file at a time, whatever name the file is opened by:

* `<state>.lock`, beside the target of a symbolic link, is locked. The system releases the lock
  when the process ends. The file contains the process id, for the error message of a second
  process.
* On Linux the state file itself is locked too, at an offset that SQLite does not use, because
  a hard link is another name of the same file. `status` can query that lock without taking
  it, so it never prevents a job from starting.

POSIX releases the locks that SQLite holds on a file when the process closes any descriptor
of that file. So a state in use by this process is recognised by its inode and not opened.

Files are read and written in threads. A thread cannot be cancelled: if its caller continued while
the thread still writes, both would write to the same file, or the caller would open a file that the
thread has not closed yet. So a cancellation is raised after the end of the thread's work.
`asyncio.run` cancels every task at its end, internal ones too, so threads are awaited as futures,
which it does not cancel.

Windows has neither `fcntl` nor the flags of `open` below, does not rename or delete an open
file, and cannot open a folder.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import stat
import struct
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

from asyncclients.errors import InputError, StateInUseError, StateMismatchError

T = TypeVar("T")

_LOCK_SUFFIX = ".lock"
FAILED_SUFFIX = ".failed.jsonl"
"""Suffix of the file of failed rows, appended to the name of the state file."""
_FLAGS = sum(
    getattr(os, name, 0)
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_BINARY")
)
fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None
_msvcrt: Any = None if fcntl else import_module("msvcrt")
_LOCKED_BYTE = 2**43 - 2
"""Offset of the lock on Windows, which locks out readers as well: beyond any content."""


def target_of(path: str | os.PathLike[str]) -> Path:
    """Return *path*, or its target if it is a symbolic link."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)  # noqa: PTH114


class ForeignFileError(OSError):
    """A file with a derived name is a symbolic link, or not a regular file."""


def open_own(path: Path, flags: int, mode: int = 0o666) -> int:
    """Return a descriptor of the regular file *path*; raise `ForeignFileError` if it is none."""
    descriptor = -1
    try:
        if hasattr(os, "O_NOFOLLOW") or not path.is_symlink():
            descriptor = os.open(path, flags | _FLAGS, mode)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    if descriptor < 0:
        raise ForeignFileError(errno.ELOOP, "is a symbolic link", str(path))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ForeignFileError(errno.EEXIST, "is not a regular file", str(path))
    return descriptor


def open_to_read(path: Path) -> int:
    """Return a descriptor for reading *path*, whatever kind of file it is."""
    return os.open(path, os.O_RDONLY | _FLAGS & ~getattr(os, "O_NOFOLLOW", 0))


def try_lock(descriptor: int) -> bool:
    """Lock the file of *descriptor* until it is closed; return False if it is locked."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            _msvcrt.locking(descriptor, _msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def sync_folder(folder: Path) -> None:
    """Make renames in *folder* durable; does nothing on Windows, which opens no folder."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def replacing(path: Path, *, is_shared: bool = False) -> Generator[BinaryIO]:
    """Open a new file, which replaces *path* at the end; after an `OSError` *path* is unchanged.

    *is_shared*: another process may replace it at the same time.
    """
    path = target_of(path)
    temporary = temporary_of(path)
    if is_shared:
        temporary = temporary.with_suffix(f".{os.getpid()}.tmp")
    descriptor = open_own(temporary, os.O_RDWR | os.O_CREAT)
    try:
        with os.fdopen(descriptor, "rb+") as file:
            file.truncate()
            yield cast("BinaryIO", file)
            file.flush()
            os.fsync(descriptor)
        with suppress(FileNotFoundError):
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_of(path: Path) -> Path:
    """Return the path of the file that is to replace *path*; its name shows that it is ours."""
    return path.with_name(f".{path.name}.asyncclients.tmp")


def are_same(one: Path, other: Path) -> bool:
    """True if both paths are the same file, or would be if it existed."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False


_BEGINNINGS: dict[str, tuple[bytes, ...]] = {
    "-wal": (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"),
    "-shm": (b"\x18\xe2\x2d\x00", b"\x00\x2d\xe2\x18", bytes(4)),
    "-journal": (b"\xd9\xd5\x05\xf9", bytes(4)),
}
"""Suffix of each file that SQLite keeps beside a database -> possible first bytes."""
SQLITE_SUFFIXES = tuple(_BEGINNINGS)


def foreign_companions(database: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of other programs that SQLite would overwrite for *database*, and why.

    Not for a database that this process has opened: SQLite would lose its locks.
    """
    for suffix, beginnings in _BEGINNINGS.items():
        path = database.with_name(database.name + suffix)
        try:
            with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
                start = file.read(4)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield path, error.strerror or str(error)
        else:
            if start and not any(each.startswith(start) for each in beginnings):
                yield path, "is not a file of SQLite"


# --- Threads ----------------------------------------------------------------------------


class Outcome(NamedTuple):
    """The result of a function, or the exception that it raised."""

    result: Any = None
    error: BaseException | None = None


def outcome_of(work: Callable[..., Any], *arguments: Any) -> Outcome:
    """Call *work*; return an exception instead of raising it.

    A future cannot hold every exception: in Python 3.11 a `StopIteration` never reaches the
    waiter, and a `GeneratorExit` ends the waiter without running its cleanup.
    """
    try:
        return Outcome(work(*arguments))
    except BaseException as error:  # noqa: BLE001 - the waiter decides
        return Outcome(error=error)


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Return the result of *work*, run in a thread; a cancellation is raised after its end."""
    loop = asyncio.get_running_loop()
    outcome = await finish_before_cancel(loop.run_in_executor(None, outcome_of, work, *arguments))
    if outcome.error is not None:
        raise outcome.error
    result: T = outcome.result
    return result


async def finish_before_cancel(work: Awaitable[T]) -> T:
    """Return the result of *work*; a cancellation is raised after its end."""
    future = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return future.result()
    if not future.cancelled():
        future.exception()  # avoids asyncio's warning: the cancellation is raised instead
    raise cancelled


# --- One run per state file -------------------------------------------------------------


_MARK = re.compile(rb"asyncclients: process (\d+) *\n")
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
        self._state, self._path = state, state.with_name(state.name + _LOCK_SUFFIX)
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
                self._lock(descriptor)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), self._path.lstat()):
                        self._claim(descriptor)
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # the previous run has removed the file

    def _open(self) -> int:
        """Return a descriptor of the lock file, created if missing."""
        while True:
            self._is_ours = True
            try:
                with suppress(FileExistsError):
                    return open_own(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
                self._is_ours = False
                with suppress(FileNotFoundError):  # the previous run has removed the file
                    return open_own(self._path, os.O_RDWR)
            except ForeignFileError as error:
                raise self._foreign(error.strerror or "") from None

    def _lock(self, descriptor: int) -> None:
        try:
            is_locked = try_lock(descriptor)
        except OSError as error:
            raise StateMismatchError(
                f"the file system of {self._state} does not support file locks ({error.strerror})",
                file=str(self._state),
                advice="Put the state on a local disk: without a lock, two runs could send a row "
                "twice",
            ) from None
        if not is_locked:
            raise _in_use(self._state, _pid_in(self._path))

    def _claim(self, descriptor: int) -> None:
        content = os.read(descriptor, 64)
        self._is_ours |= bool(_MARK.fullmatch(content))
        if self._is_ours:
            # Of one length: a process killed here leaves the old text or the new one.
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, b"asyncclients: process %-10d\n" % os.getpid())
        elif content:  # an empty file is locked but left empty: it may be another program's
            raise self._foreign("is not a lock file of asyncclients")

    def _foreign(self, problem: str) -> StateMismatchError:
        return StateMismatchError(
            f"{self._path}, the lock file of the state {self._state}, {problem}",
            file=str(self._path),
            advice="Give the state another name; this file was not touched",
        )

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


def holder_of(state: Path) -> int | None:
    """Return the id of the process that uses *state*, 0 if unknown, None if not in use.

    Without a query for locks, as outside of Linux, the lock file is locked for an instant.
    """
    if _held.get(_key(state.stat())) == os.getpid():
        return os.getpid()
    path = state.with_name(state.name + _LOCK_SUFFIX)
    pid = _pid_in(path)
    with suppress(OSError):  # no such locks on this file system
        if _GET is not None:
            descriptor = open_to_read(state)
            try:
                found = fcntl.fcntl(descriptor, _GET, _range_lock())
            finally:
                os.close(descriptor)
            return None if struct.unpack(_FLOCK, found)[0] == fcntl.F_UNLCK else pid or 0
    with suppress(OSError):  # without a lock file
        descriptor = open_own(path, os.O_RDWR)
        try:
            return None if try_lock(descriptor) else pid or 0
        finally:
            os.close(descriptor)
    return None


def lock_or_fail(descriptor: int, error: Exception) -> None:
    """Lock the file of *descriptor* until it is closed; raise *error* if it is locked."""
    try:
        is_locked = try_lock(descriptor)
    except OSError:
        return  # no locks on this file system: the lock of the state protects the job
    if not is_locked:
        raise error


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _range_lock() -> bytes:
    return struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, *_RANGE, 0)


def _pid_in(path: Path) -> int | None:
    with suppress(OSError), os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
        found = _MARK.fullmatch(file.read(64))
        return int(found[1]) if found else None
    return None


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
    suffixes = (_LOCK_SUFFIX, FAILED_SUFFIX, *SQLITE_SUFFIXES)
    return [state, *(state.with_name(state.name + suffix) for suffix in suffixes)]


def check_apart(state: Path, others: Iterable[Path], role: str) -> None:
    """Raise `InputError` if one of *others*, the *role* of the job, is a file of *state*."""
    for other, mine in product(others, files_of_state(state)):
        if are_same(other, mine):
            problem = "cannot be its state file"
            if mine.name != state.name:
                problem = f"is a file of its state {state}"
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
