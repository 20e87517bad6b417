"""Rows as JSON, to store them and to compare the rows of two runs, and the file of failed rows.

NaN and infinities, which JSON does not have, become the texts "nan", "inf" and "-inf"; lone
surrogates are escaped; an object without a JSON form becomes its repr. For comparison, keys and
sets are sorted, and a repr that may differ between processes is rejected.

The file of failed rows has JSON lines with each row, the error and the number of attempts. It can be
used as the input of a push, which reads the rows in it. A retry of the failed rows removes it; a row
that a person has edited in it is sent as edited.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, cast
from zlib import crc32

import msgspec

from asyncclients.backfill.files.jsonl import row_checksum
from asyncclients.backfill.files.source import Row
from asyncclients.core import codec
from asyncclients.errors import (
    AsyncClientsError,
    InputError,
    StateMismatchError,
    encodable,
    error_text,
    row_reason,
)
from asyncclients.own_files import FAILED_SUFFIX, ForeignFileError, open_own

_UNSTABLE = re.compile(r" at 0x[0-9A-Fa-f]|\{")
"""Matches a repr with an address, or with a set, whose order may vary."""

Text = Callable[[Any], Any]


class _UnstableError(Exception):
    """A value has no text that is the same in every process."""


def encode_row(data: Any) -> bytes:
    """Return *data* as JSON, to be shown or stored; never raises."""
    return _encode(data, _shown)


def digest(data: bytes) -> str:
    """Return 32 hexadecimal characters that identify *data*, the same in every process."""
    return blake2b(data, digest_size=16).hexdigest()


def content_digests(items: Sequence[Any]) -> list[int]:
    """Return a number of 1 to 2**63 for each of *items* that identifies its content."""
    try:
        lines = _compared.encode_lines(items).split(b"\n")[:-1]
    except Exception:  # noqa: BLE001 - `to_wire` may raise anything
        lines = [encode_row(item) for item in items]
    return [int.from_bytes(blake2b(line, digest_size=8).digest()) >> 1 or 1 for line in lines]


def json_problem(data: Any) -> str:
    """Return why *data* cannot be encoded as JSON unchanged, "" if it can."""
    try:
        codec.encode(data)
    except Exception as bad:  # noqa: BLE001 - `to_wire` may raise anything
        return error_text(bad)
    return ""


def encode_rows(rows: Sequence[Row]) -> bytes:
    """Return the data of *rows* as JSON lines; raise `InputError` if another run would differ."""
    data = [row.data for row in rows]
    try:
        encoded = _compared.encode_lines(data)
    except Exception:  # noqa: BLE001 - `to_wire` and `__repr__` may raise anything
        return b"".join([_comparable(row) for row in rows])
    return b"".join([_comparable(row) for row in rows]) if codec.may_hold_nan(encoded) else encoded


def _comparable(row: Row) -> bytes:
    try:
        return _encode(row.data, _compared) + b"\n"
    except _UnstableError as unstable:
        raise InputError(
            f"row {row.number} holds {unstable}, which looks different in each process, so a "
            "resumed job would not know which rows were sent",
            line=row.line,
            advice="Make rows of plain values: dicts, lists, texts, numbers, structs or "
            "dataclasses",
        ) from None


def _encode(data: Any, encoder: msgspec.json.Encoder) -> bytes:
    text = cast("Text", encoder.enc_hook)
    try:
        encoded = encoder.encode(data)
        if not codec.may_hold_nan(encoded):
            return encoded
    except Exception:  # noqa: BLE001, S110 - `to_wire` may raise anything
        pass
    try:
        return encoder.encode(_plain(data, text))
    except RecursionError:
        return encoder.encode(text(data))


def _plain(value: Any, text: Text) -> Any:
    """Return *value* with everything replaced that msgspec cannot encode."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if value is None or isinstance(value, (int, bytes)):
        return value
    if isinstance(value, Mapping):
        fields = cast("Mapping[object, Any]", value)
        return {encodable(str(_plain(key, text))): _plain(fields[key], text) for key in fields}
    if isinstance(value, (list, tuple)):
        return [_plain(each, text) for each in cast("Iterable[Any]", value)]
    if isinstance(value, AbstractSet):
        members = [_plain(each, text) for each in cast("AbstractSet[object]", value)]
        return sorted(members, key=_shown.encode)
    try:
        plain = msgspec.to_builtins(value, order="deterministic", enc_hook=text)
    except _UnstableError:
        raise
    except Exception:  # noqa: BLE001 - `to_wire` may raise anything
        plain = value
    return _plain(plain, text) if type(plain) is not type(value) else text(value)


def _show(value: Any) -> Any:
    """Return the wire form of *value*, else its repr."""
    try:
        return value.to_wire() if hasattr(value, "to_wire") else encodable(repr(value))
    except Exception:  # noqa: BLE001 - a user's method may raise anything
        return encodable(f"<{type(value).__name__}>")


def _compare(value: Any) -> Any:
    """Return the result of `_show`; reject one that may differ between processes."""
    shown = _show(value)
    if not hasattr(value, "to_wire") and _UNSTABLE.search(shown):
        raise _UnstableError(f"an object of type {type(value).__qualname__}")
    return shown


_shown = msgspec.json.Encoder(enc_hook=_show)
_compared = msgspec.json.Encoder(enc_hook=_compare, order="deterministic")


# --- The file of failed rows ----------------------------------------------------------------

_START = b'{"line":'
"""The first bytes of each line."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the file of failed rows.

    Attributes:
        line: where the row starts in the input.
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
        with _open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, "ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def begin(self) -> None:
        """Remove the file, and start an empty one: the next commit counts no row of it."""
        self.mark = Mark()
        self._waiting.clear()
        _remove(self.path)

    def read(self, is_settled: Callable[[int], bool]) -> dict[int, Any]:
        """Return the number of each row in the file, with its content if a person has edited that.

        The value of any other row is UNSET. Rows whose lines were deleted are left out.

        Raises:
            StateMismatchError: a line is no failed row.
        """
        found: dict[int, Any] = {}
        try:
            with _open(self.path, os.O_RDONLY, "rb") as file:
                for line, text in enumerate(file, 1):
                    if not text.strip():
                        continue
                    failure = _read(text)
                    if failure is None or failure.number in found:
                        raise self._unusable(
                            f", line {line}: is not a failed row, or the second one with its number",
                            'Correct the line: change only what is in "row". Without the line, its '
                            "row stays failed",
                        )
                    if not is_settled(failure.number):
                        raise self._unusable(
                            f" has row {failure.number}, which has not failed",
                            "Delete its line; a row is sent again only if it has failed",
                        )
                    is_edited = row_checksum(failure.row) != failure.checksum
                    found[failure.number] = failure.row if is_edited else msgspec.UNSET
        except FileNotFoundError:
            pass
        return found

    def check_count(self, found: Collection[int], failed: int) -> None:
        """Raise `StateMismatchError` unless *found* can be some of the *failed* rows of the state."""
        if not found or len(found) > failed:
            raise self._unusable(
                f" has {len(found) or 'no'} row{'s' if found else ''}, but {failed} rows of this "
                "state have failed",
                "Restore the file: it has the rows to send again",
            )

    def _unusable(self, problem: str, advice: str) -> StateMismatchError:
        return StateMismatchError(f"{self.path}{problem}", file=str(self.path), advice=advice)

    def resume(self, mark: Mark, *, drop: bool = False) -> list[DeadLetter]:
        """Return the failures after *mark*, which no commit has counted; with *drop*, remove them."""
        try:
            with _open(self.path, os.O_RDWR, "rb+") as file:
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


def _open(path: Path, flags: int, mode: str) -> BinaryIO:
    try:
        return cast("BinaryIO", os.fdopen(open_own(path, flags), mode))
    except ForeignFileError as error:
        raise _foreign(path, error.strerror or "") from None


def _remove(path: Path) -> None:
    try:
        with _open(path, os.O_RDWR, "rb+") as file:
            start = file.readline()
    except FileNotFoundError:
        return
    if start and _read(start) is None:
        raise _foreign(path, "is not a list of failed rows")
    path.unlink()


def _foreign(path: Path, problem: str) -> StateMismatchError:
    return StateMismatchError(
        f"{path}, the file of failed rows of this state, {problem}",
        file=str(path),
        advice="Move it away, or give the state another name; it was not touched",
    )


def _read(line: bytes) -> DeadLetter | None:
    try:
        return msgspec.json.decode(line, type=DeadLetter)
    except msgspec.MsgspecError:
        return None  # edited since


def _json_value(data: Any) -> Any:
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
    shown = _json_value(row.data)
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
