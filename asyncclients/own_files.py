"""Open the files that the package writes without damaging files of other programs.

* A path given by the user may be a symbolic link: its target is written.
* A path derived from it (`.lock`, `.part`, `.failed.jsonl`, `.retry.jsonl`) is opened without
  following links, must be a regular file, and is changed only if its content proves that the
  package wrote it.

Windows has neither `fcntl` nor the flags of `open` below, does not rename or delete an open
file, and cannot open a folder.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, cast

FAILED_SUFFIX = ".failed.jsonl"
"""Suffix of the file of failed rows, appended to the name of the state file."""
RETRY_SUFFIX = ".retry.jsonl"
"""Suffix of that file while its rows are sent again."""
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


def open_own(path: Path, flags: int, mode: int = 0o666) -> int:
    """Return a descriptor of the regular file *path*.

    Raises:
        OSError: it cannot be opened, is a symbolic link, or is not a regular file.
    """
    try:
        if not (hasattr(os, "O_NOFOLLOW") or flags & os.O_EXCL) and path.is_symlink():
            raise OSError(errno.ELOOP, "")  # noqa: TRY301 - as `open` does elsewhere
        descriptor = os.open(path, flags | _FLAGS, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a symbolic link", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EEXIST, "is not a regular file", str(path))
    return descriptor


def open_to_read(path: Path) -> int:
    """Return a descriptor for reading *path*, whatever kind of file it is.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, os.O_RDONLY | _FLAGS & ~getattr(os, "O_NOFOLLOW", 0))


def try_lock(descriptor: int) -> bool:
    """Lock the file of *descriptor* until it is closed; return False if it is locked.

    Raises:
        OSError: the file system does not support locks.
    """
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


def open_temporary(path: Path) -> BinaryIO:
    """Open and truncate the temporary file beside *path*; its name shows that it is ours.

    Raises:
        OSError: it cannot be opened.
    """
    file = os.fdopen(open_own(temporary_of(path), os.O_RDWR | os.O_CREAT), "rb+")
    file.truncate()
    return cast("BinaryIO", file)


def temporary_of(path: Path) -> Path:
    """Return the name of the temporary file beside *path*."""
    return path.with_name(f".{path.name}.asyncclients.tmp")


def are_same(one: Path, other: Path) -> bool:
    """True if both paths are the same file, or would be if it existed."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace the content of *path* atomically by the output of *write*.

    Raises:
        OSError: it cannot be written; *path* is unchanged.
    """
    path = target_of(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(handle)
        Path(name).chmod(_mode_of(path))
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _mode_of(path: Path) -> int:
    """Return the permissions of *path*, or the default of a new file."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


_BEGINNINGS: dict[str, tuple[bytes, ...]] = {
    "-wal": (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"),
    "-shm": (b"\x18\xe2\x2d\x00", b"\x00\x2d\xe2\x18", bytes(4)),
    "-journal": (b"\xd9\xd5\x05\xf9", bytes(4)),
}
"""Suffix of each file that SQLite keeps beside a database -> possible first bytes."""
SQLITE_SUFFIXES = tuple(_BEGINNINGS)


def foreign_companions(database: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of other programs that SQLite would overwrite for *database*, and why."""
    for suffix, beginnings in _BEGINNINGS.items():
        path = database.with_name(database.name + suffix)
        try:
            descriptor = open_own(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield path, error.strerror or str(error)
            continue
        start = os.read(descriptor, 4)
        os.close(descriptor)
        if start and not any(each.startswith(start) for each in beginnings):
            yield path, "is not a file of SQLite"
