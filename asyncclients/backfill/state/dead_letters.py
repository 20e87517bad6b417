"""The file of failed rows: JSON lines with each row, the error and the number of attempts.

It can be used as the input of a push, which reads the rows in it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast
from zlib import crc32

import msgspec

from asyncclients.backfill.encoding import encode_row, json_problem
from asyncclients.backfill.files.source import Row
from asyncclients.core import codec
from asyncclients.errors import AsyncClientsError, StateMismatchError, encodable, error_text
from asyncclients.own_files import FAILED_SUFFIX, open_own

_START = b'{"line":'
"""The first bytes of each line."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the file of failed rows.

    Attributes:
        line: where the row starts in the input.
        number: of the row in the input.
        row: its content.
        reason: text of the error.
        error: class of the error.
        attempts: requests sent for the row.
        errors: field errors in the vendor's response, if any.
    """

    line: int
    number: int
    row: Any
    reason: str
    error: str = ""
    attempts: int = 0
    errors: Any = None


class Mark(msgspec.Struct, frozen=True):
    """The part of the file whose rows a commit has counted: *size* bytes and their CRC-32."""

    size: int = 0
    checksum: int = 0

    def after(self, lines: bytes) -> Mark:
        """Return the mark after *lines* are appended."""
        return Mark(self.size + len(lines), crc32(lines, self.checksum))


class DeadLetterFile:
    """The file of failed rows: written and fsynced before the commit that counts them.

    A person may edit it between two runs. So only an incomplete line written by this package
    is removed from its end, and only if the part before it is as the last commit left it.

    Attributes:
        mark: covers all rows that `take` has returned.
    """

    def __init__(self, state: Path) -> None:
        self.path = state.with_name(state.name + FAILED_SUFFIX)
        self.mark = Mark()
        self._waiting: list[bytes] = []

    def add(self, failure: DeadLetter) -> None:
        """Add *failure*, to be written with the next commit."""
        self._waiting.append(codec.encode(failure) + b"\n")

    def take(self) -> Callable[[], None] | None:
        """Return a function that writes the rows added, None without any; `mark` covers them."""
        lines, self._waiting = b"".join(self._waiting), []
        if not lines:
            return None
        self.mark = self.mark.after(lines)
        return lambda: self._append(lines)

    def _append(self, lines: bytes) -> None:
        with self._open(os.O_WRONLY | os.O_APPEND | os.O_CREAT, "ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def _open(self, flags: int, mode: str) -> BinaryIO:
        try:
            return cast("BinaryIO", os.fdopen(open_own(self.path, flags), mode))
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EEXIST):
                raise
            raise self._foreign(error.strerror or "") from None

    def _foreign(self, problem: str) -> StateMismatchError:
        return StateMismatchError(
            f"{self.path}, the file of failed rows of this state, {problem}",
            file=str(self.path),
            advice="Move it away, or give the state another name; it was not touched",
        )

    def begin(self) -> None:
        """Remove a file left by an older state."""
        try:
            with self._open(os.O_RDWR, "rb+") as file:
                start = file.readline()
        except FileNotFoundError:
            return
        if start and _read(start) is None:
            raise self._foreign("is not a list of failed rows")
        self.path.unlink()

    def resume(self, mark: Mark, *, drop: bool = False) -> list[DeadLetter]:
        """Return the failures after *mark*, which no commit has counted; with *drop*, remove them."""
        try:
            with self._open(os.O_RDWR, "rb+") as file:
                content = file.read()
                found, keep = _tail(content, mark, drop=drop)
                if keep < len(content):
                    file.truncate(keep)
        except FileNotFoundError:
            return []
        self.mark = Mark().after(content[:keep])
        if keep and content[keep - 1 : keep] != b"\n":
            self._waiting.append(b"\n")
        return found


def _tail(content: bytes, mark: Mark, *, drop: bool) -> tuple[list[DeadLetter], int]:
    """Return the failures in *content* after *mark*, and the number of bytes of the file to keep."""
    if Mark().after(content[: mark.size]) != mark:
        return [], len(content)  # edited since
    end = max(content.rfind(b"\n") + 1, mark.size)
    lines = [_read(line) for line in content[mark.size : end].splitlines()]
    found = [failure for failure in lines if failure is not None]
    half = content[end:]
    if not (half.startswith(_START) or _START.startswith(half)):
        return ([] if drop else found), len(content)
    if drop:
        return [], mark.size if len(found) == len(lines) else end
    return found, end


def _read(line: bytes) -> DeadLetter | None:
    try:
        return msgspec.json.decode(line, type=DeadLetter)
    except msgspec.MsgspecError:
        return None  # edited since


def _shown(data: Any) -> Any:
    """Return *data* as a JSON value; as text if JSON cannot hold it, so it cannot be pushed."""
    text = encode_row(data)
    shown = msgspec.json.decode(text)
    return text.decode() if not isinstance(shown, str) and json_problem(data) else shown


def describe(row: Row, failure: BaseException) -> DeadLetter:
    """Return the line for *row*, which failed with *failure*."""
    attempts, errors = 0, None
    if isinstance(failure, AsyncClientsError):
        attempts = failure.attempts or 0
        errors = getattr(failure, "errors", None)
    return DeadLetter(
        line=row.line,
        number=row.number,
        row=_shown(row.data),
        reason=error_text(failure),
        error=encodable(type(failure).__name__),
        attempts=attempts,
        errors=errors,
    )
