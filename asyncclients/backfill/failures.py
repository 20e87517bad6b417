"""The file of failed rows: JSON lines that say what failed, why, and how often it was tried.

It is itself good as the input of a push: the rows inside are read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from asyncclients.backfill.encoding import encode_row
from asyncclients.backfill.lines import FAILED_SUFFIX
from asyncclients.backfill.sources import Row
from asyncclients.core import codec
from asyncclients.errors import AsyncClientsError, encodable, error_text


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the file of failed rows."""

    line: int
    number: int
    row: Any
    reason: str
    error: str = ""
    attempts: int = 0
    errors: Any = None


class Failures:
    """The file of failed rows: appended and fsynced before the commit that counts them."""

    def __init__(self, state: Path) -> None:
        self.path = state.with_name(state.name + FAILED_SUFFIX)
        self._waiting: list[bytes] = []
        self.waiting = 0

    def add(self, failure: Failure) -> None:
        """Write *failure* with the next commit."""
        line = codec.encode(failure) + b"\n"
        self._waiting.append(line)
        self.waiting += len(line)

    def take(self) -> Any:
        """What writes all that waits; None for nothing."""
        lines, self._waiting, self.waiting = self._waiting, [], 0
        return (lambda: self._append(b"".join(lines))) if lines else None

    def _append(self, lines: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def cut(self, size: int) -> None:
        """Forget what comes after the first *size* bytes."""
        if self.path.exists() and self.path.stat().st_size > size:
            os.truncate(self.path, size)

    def recover(self, size: int) -> list[Failure]:
        """Failures after the first *size* bytes; half a line at the end is cut off."""
        if not self.path.exists() or self.path.stat().st_size <= size:
            return []
        with self.path.open("rb+") as file:
            file.seek(size)
            tail = file.read()
            whole = tail[: tail.rfind(b"\n") + 1]
            file.truncate(size + len(whole))
        return [failure for line in whole.splitlines() if (failure := _read(line))]


def _read(line: bytes) -> Failure | None:
    try:
        return msgspec.json.decode(line, type=Failure)
    except msgspec.MsgspecError:
        return None  # a person has edited the file since


def describe(row: Row, failure: BaseException) -> Failure:
    """What the file says about *row*."""
    attempts, errors = 0, None
    if isinstance(failure, AsyncClientsError):
        attempts = failure.attempts or 0
        errors = getattr(failure, "errors", None)
    return Failure(
        line=row.line,
        number=row.number,
        row=msgspec.json.decode(encode_row(row.data)),
        reason=error_text(failure),
        error=encodable(type(failure).__name__),
        attempts=attempts,
        errors=errors,
    )
