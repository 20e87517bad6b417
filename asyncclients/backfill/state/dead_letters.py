"""The file of failed rows: JSON lines with each row, the error and the number of attempts.

It can be used as the input of a push, which reads the rows in it. A retry of the failed rows renames
it (`begin_retry`) and starts another one; a row that a person has edited in it is sent as edited.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast
from zlib import crc32

import msgspec

from asyncclients.backfill.encoding import encode_row, json_problem
from asyncclients.backfill.files.csv import Cells
from asyncclients.backfill.files.jsonl import row_checksum
from asyncclients.backfill.files.source import Row
from asyncclients.core import codec
from asyncclients.errors import AsyncClientsError, StateMismatchError, encodable, row_reason
from asyncclients.own_files import FAILED_SUFFIX, RETRY_SUFFIX, open_own

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
        checksum: of the row in the input, so that an edited one is recognised; 0 if the row was
            edited before it failed again.
    """

    line: int
    number: int
    row: Any
    reason: str
    error: str = ""
    attempts: int = 0
    errors: Any = None
    checksum: int = 0

    @property
    def is_edited(self) -> bool:
        """True if `row` differs from the input."""
        return row_checksum(self.row) != self.checksum


class FailedRows(NamedTuple):
    """The rows of a file of failed rows.

    Attributes:
        numbers: of all rows, in ascending order.
        edited: the content of those that a person has edited, by number.
    """

    numbers: Sequence[int] = ()
    edited: Mapping[int, Any] = {}

    def current(self, row: Row) -> Row:
        """Return *row*, or a row with its edited content."""
        if row.number not in self.edited:
            return row
        data = self.edited[row.number]
        if isinstance(row.data, Cells) and isinstance(data, dict):
            data = row.data.replaced(cast("dict[str, Any]", data))
        return Row(row.number, row.line, data, is_edited=True)


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
        self.retry_path = state.with_name(state.name + RETRY_SUFFIX)
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

    def _open(self, flags: int, mode: str, path: Path | None = None) -> BinaryIO:
        path = path or self.path
        try:
            return cast("BinaryIO", os.fdopen(open_own(path, flags), mode))
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EEXIST):
                raise
            raise _foreign(path, error.strerror or "") from None

    def begin(self) -> None:
        """Remove a file left by an older state."""
        self._remove(self.path)

    def _remove(self, path: Path) -> None:
        try:
            with self._open(os.O_RDWR, "rb+", path) as file:
                start = file.readline()
        except FileNotFoundError:
            return
        if start and _read(start) is None:
            raise _foreign(path, "is not a list of failed rows")
        path.unlink()

    # --- Retry --------------------------------------------------------------------------

    def read(self, retried: bool) -> FailedRows:
        """Return the rows of the file, or with *retried* those of the renamed one.

        Raises:
            StateMismatchError: a line is not a failed row.
        """
        path = self.retry_path if retried else self.path
        numbers: set[int] = set()
        edited: dict[int, Any] = {}
        try:
            with self._open(os.O_RDONLY, "rb", path) as file:
                for line, text in enumerate(file, 1):
                    if not text.strip():
                        continue
                    failure = _read(text)
                    if failure is None or failure.number in numbers:
                        raise _unusable_line(path, line)
                    numbers.add(failure.number)
                    if failure.is_edited:
                        edited[failure.number] = failure.row
        except FileNotFoundError:
            pass
        return FailedRows(sorted(numbers), edited)

    def check_retry(
        self, found: FailedRows, failed: int, is_settled: Callable[[int], bool]
    ) -> None:
        """Raise `StateMismatchError` unless *found* are some of the *failed* rows."""
        if not found.numbers or len(found.numbers) > failed:
            problem = "has no row" if not found.numbers else f"has {len(found.numbers)} rows"
            raise StateMismatchError(
                f"{self.path} {problem}, but {failed} rows of this state have failed",
                file=str(self.path),
                advice="Restore the file: it has the rows to send again",
            )
        for number in found.numbers:
            if not is_settled(number):
                raise StateMismatchError(
                    f"{self.path} has row {number}, which has not failed",
                    file=str(self.path),
                    advice="Delete its line; a row is sent again only if it has failed",
                )

    def forget(self) -> None:
        """Start with an empty file: the next commit counts no row of this one."""
        self.mark = Mark()
        self._waiting.clear()

    def begin_retry(self) -> None:
        """Rename the file, unless that was done; the commit that counts none of its rows is made."""
        if not self.retry_path.exists():
            with suppress(FileNotFoundError):
                self.path.rename(self.retry_path)

    def end_retry(self) -> None:
        """Remove the renamed file: all its rows have an outcome."""
        self._remove(self.retry_path)

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


def _foreign(path: Path, problem: str) -> StateMismatchError:
    return StateMismatchError(
        f"{path}, the file of failed rows of this state, {problem}",
        file=str(path),
        advice="Move it away, or give the state another name; it was not touched",
    )


def _unusable_line(path: Path, line: int) -> StateMismatchError:
    return StateMismatchError(
        f"{path}, line {line}: is not a failed row, or the second one with its number",
        file=str(path),
        advice='Correct the line: change only what is in "row". Without the line, its row stays '
        "failed",
    )


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
    shown = _shown(row.data)
    return DeadLetter(
        line=row.line,
        number=row.number,
        row=shown,
        checksum=0 if row.is_edited else row_checksum(shown),
        reason=row_reason(failure),
        error=encodable(type(failure).__name__),
        attempts=attempts,
        errors=errors,
    )
