"""The lines of a text file, and those that an earlier run has read already.

A reader takes one line at a time. Between two rows it can skip lines that are known: a line that
was one whole row, and follows the end of a row, is the same row again.
"""

from __future__ import annotations

import io
from array import array
from codecs import BOM_UTF8
from collections.abc import Iterator
from hashlib import blake2b

from asyncclients.backfill.files.text import MAX_LENGTH, READ_ERRORS, EncodingCheck, TextFile

_AHEAD = 2**16
"""Characters that are read ahead to be compared, and at most one line more."""
_SIZE = 8
"""Bytes of a digest."""
_WINDOW = 64
"""Known lines among which an unexpected line is searched."""


class Lines:
    """The lines of *text*, which is the text of *file* read as *codec*.

    Attributes:
        encoding: finds out whether they are UTF-8.
        number: of the last line that was read or skipped, from 1.
        last: the last line that was read.
        is_at_end: all lines have been read.
    """

    def __init__(self, file: TextFile, text: io.TextIOWrapper, codec: str) -> None:
        self._file, self._text = file, text  # the wrapper closes the file when it is collected
        self._codec = codec
        self.encoding = EncodingCheck(file)
        self._ahead: list[str] = []
        self._digests = b""
        self._place = 0
        self.number, self.last, self.is_at_end = 0, "", False

    def __iter__(self) -> Iterator[str]:
        """Yield the lines that are not skipped, with their ends.

        Raises:
            InputError: a line is too long.
            OSError, EOFError, zlib.error: the file cannot be read further.
        """
        readline = self._text.readline
        while True:
            if self._place < len(self._ahead):
                line = self._ahead[self._place]
                self._place += 1
            else:
                line = readline(MAX_LENGTH)
            if not line:
                break
            self.number += 1
            self._check_length(line, self.number)
            self.last = line
            if not line.isascii():
                self.encoding.add(self.number, self._bytes(line))
            yield line
        self.is_at_end = True

    def _check_length(self, line: str, number: int) -> None:
        if len(line) >= MAX_LENGTH:
            raise self._file.too_long(number)

    def last_digest(self) -> int:
        """Return the digest of the last line, as a number of an array.

        It is 0 for a line with a byte order mark, which is valid in the first line only.
        """
        if self._bytes(self.last).startswith(BOM_UTF8):
            return 0
        return array("q", self._digest(self.last))[0]

    def _bytes(self, line: str) -> bytes:
        return line.encode(self._codec, "surrogateescape")

    def _digest(self, line: str) -> bytes:
        return blake2b(self._bytes(line), digest_size=_SIZE).digest()

    def next_digests(self) -> bytes:
        """Return the digests of some of the next lines, one after the other; none at the end.

        Raises:
            InputError: the file cannot be read further.
        """
        if self._place == len(self._ahead):
            try:
                self._read_ahead()
            except READ_ERRORS as error:
                raise self._file.read_error(error, self.number + 1) from None
        return self._digests[self._place * _SIZE :]

    def _read_ahead(self) -> None:
        lines: list[str] = []
        readline, size = self._text.readline, 0
        while size < _AHEAD and (line := readline(MAX_LENGTH)):
            lines.append(line)
            size += len(line)
            self._check_length(line, self.number + len(lines))
        self._ahead, self._place = lines, 0
        self._digests = b"".join([self._digest(line) for line in lines])

    def skip(self, count: int) -> None:
        """Skip *count* of the lines whose digests were returned last."""
        skipped = self._ahead[self._place : self._place + count]
        if not "".join(skipped).isascii():
            for number, line in enumerate(skipped, self.number + 1):
                if not line.isascii():
                    self.encoding.add(number, self._bytes(line))
        self._place += count
        self.number += count


class KnownLines:
    """Digests of lines that are known, in the order of the file in which they were.

    Each is recognised once at most, and none that is before one that was recognised. Lines that
    have moved count as new.
    """

    def __init__(self, digests: array[int] | None = None) -> None:
        self._digests = b"" if digests is None else digests.tobytes()
        self._next = self._unexpected = 0

    def skip(self, lines: Lines) -> range:
        """Skip the next of *lines* as far as they are known; return their places in `digests`."""
        if self._next * _SIZE >= len(self._digests) or not (found := lines.next_digests()):
            return range(0)
        first = self._find(found[:_SIZE])
        if first < 0:
            self._unexpected += 1
            return range(0)
        count = _equal(found, self._digests[first * _SIZE : first * _SIZE + len(found)])
        lines.skip(count)
        self._next, self._unexpected = first + count, 0
        return range(first, self._next)

    def _find(self, digest: bytes) -> int:
        """Return the place of *digest* among the next known lines, -1 if it is none of them.

        After 2, 4, 8, ... unexpected lines it looks as many times further ahead, since that many
        known lines may have been removed.
        """
        count = self._unexpected
        window = _WINDOW * (count if count & (count - 1) == 0 else 1)
        start, end = self._next * _SIZE, (self._next + max(window, _WINDOW)) * _SIZE
        while (place := self._digests.find(digest, start, end)) % _SIZE and place >= 0:
            start = place + 1  # across two digests
        return place // _SIZE


def _equal(one: bytes, other: bytes) -> int:
    """Return how many digests at the beginning of *one* and *other* are equal."""
    if one == other:
        return len(one) // _SIZE
    pairs = zip(array("q", one), array("q", other), strict=False)
    count = 0
    for mine, yours in pairs:
        if mine != yours:
            break
        count += 1
    return count
