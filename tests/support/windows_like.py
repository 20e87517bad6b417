"""A pytest plugin that imitates Windows on Linux.

`pytest -p tests.support.windows_like`: no `fcntl`, no flags of `open` and functions of `os` that
only POSIX has, no signal handlers in event loops, no descriptors of folders; an open file can
be neither renamed, replaced nor deleted; `os.kill(pid, 0)` would end the process.

With `--collect-only` there are no modules and signals of POSIX either: tests that need them must
be collected all the same, so that the others run.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

_MISSING = (
    *("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_DIRECTORY"),
    *("pread", "pwrite", "fchmod"),
)
_MISSING_MODULES = ("grp", "pty", "pwd", "resource", "termios", "tty", "uvloop")
_MISSING_SIGNALS = ("SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGSTOP", "SIGUSR1")
_open, _kill = os.open, os.kill
import_module("subprocess")  # first: it would take a module `msvcrt` for Windows


def _locking(descriptor: int, mode: int, size: int) -> None:
    assert (mode, size) == (2, 1)
    assert os.lseek(descriptor, 0, os.SEEK_CUR) >= 2**32 - 2, "the content must stay readable"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied") from None


def _open_file(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    if dir_fd is None and Path(path).is_dir():
        raise PermissionError(errno.EACCES, "Permission denied", path)
    return _open(path, flags | 0o2000000, mode, dir_fd=dir_fd)  # O_CLOEXEC


def _refusing_open_files(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*paths: Any, **options: Any) -> Any:
        for path in paths:
            if not options and _is_open(path):
                raise PermissionError(errno.EACCES, "used by another process", path)
        return function(*paths, **options)

    return checked


def _is_open(path: Any) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            other = os.fstat(int(name))
        except OSError:
            continue
        if os.path.samestat(status, other):
            return True
    return False


def _no_handler(*_: object) -> None:
    raise NotImplementedError


def _kill_process(pid: int, number: int) -> None:
    assert number, "os.kill(pid, 0) ends the process on Windows"
    _kill(pid, number)


def _install() -> None:
    msvcrt: Any = ModuleType("msvcrt")
    msvcrt.locking, msvcrt.LK_NBLCK = _locking, 2
    modules: dict[str, Any] = sys.modules
    helpers: Any = tempfile
    helpers._os = SimpleNamespace(**vars(os))  # it deletes open files
    removal: Any = shutil
    removal._use_fd_functions = False
    removal._rmtree_impl = getattr(removal, "_rmtree_unsafe", None)  # since Python 3.13
    for name in _MISSING:
        delattr(os, name)
    modules["fcntl"], modules["msvcrt"] = None, msvcrt
    import_module("asyncclients.backfill.files.sink")
    modules["fcntl"] = fcntl
    del modules["msvcrt"]  # other packages would take this for Windows
    os.open, os.kill = _open_file, _kill_process
    for name in ("replace", "rename", "unlink", "remove"):
        setattr(os, name, _refusing_open_files(getattr(os, name)))
    loop: Any = asyncio.SelectorEventLoop
    loop.add_signal_handler = _no_handler


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remove modules and signals, after all plugins were loaded."""
    if session.config.option.collectonly:
        sys.modules.update(dict.fromkeys((*_MISSING_MODULES, "fcntl"), None))  # type: ignore[arg-type]
        for name in _MISSING_SIGNALS:
            delattr(signal, name)


assert sys.platform == "linux"
_install()
