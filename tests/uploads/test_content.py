"""Upload bodies without a network: pieces, lengths, passes, failures."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients.errors import UploadError
from asyncclients.uploads import PIECE, Source, UploadBody, open_content
from tests.support.resources import cancel_without_a_free_thread, descriptors


class Stream:
    """A stream of *pieces*, for each pass."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


async def read(content: UploadBody) -> list[bytes]:
    """The pieces of one pass."""
    return [piece async for piece in content]


async def passes(source: Source, length: int | None = None) -> list[bytes]:
    """Return the results of two passes over *source*."""
    async with open_content(source, length, None) as content:
        return [b"".join(await read(content)) for _ in range(2)]


async def test_content_yields_pieces(tmp_path: Path) -> None:
    """Bytes, a path, text and a stream yield the same bytes, in pieces of limited size."""
    data = os.urandom(2 * PIECE + 17)
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    for source in (data, bytearray(data), memoryview(data), path, str(path)):
        async with open_content(source, None, None) as content:
            pieces = await read(content)
            assert (content.length, content.replayable) == (len(data), True)
            assert content.sent == len(data)
        assert b"".join(pieces) == data
        assert max(len(piece) for piece in pieces) == PIECE
    async with open_content(Stream(data[:5], b"", data[5:]), len(data), None) as content:
        assert await read(content) == [data[:5], data[5:]]
        assert not content.replayable


async def test_content_closes_its_file_when_cancelled(tmp_path: Path) -> None:
    """Also if no thread was free to close it."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"abc")
    content = open_content(path, None, None)
    await content.__aenter__()
    assert str(path) in descriptors().values()
    await cancel_without_a_free_thread(content.__aexit__(None, None, None))
    assert str(path) not in descriptors().values()


async def test_content_pass_starts_at_the_beginning(tmp_path: Path) -> None:
    """A second pass yields the same bytes and counts from zero."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"x" * 10)
    assert await passes(path) == [b"x" * 10] * 2
    assert await passes(b"y" * 10) == [b"y" * 10] * 2


async def test_content_passes_are_independent(tmp_path: Path) -> None:
    """A leftover of an abandoned pass reads at its own offsets."""
    data = os.urandom(3 * PIECE)
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    async with open_content(path, None, None) as content:
        straggler = aiter(content)
        await anext(straggler)
        late = asyncio.ensure_future(anext(straggler))
        assert b"".join(await read(content)) == data
        assert await late == data[PIECE : 2 * PIECE]


@pytest.mark.parametrize(
    ("pieces", "length", "how"),
    [
        ((b"abc",), 4, "shorter"),
        ((), 1, "shorter"),
        ((b"abc", b""), 4, "shorter"),
        ((b"abc",), 2, "longer"),
        ((b"ab", b"c"), 2, "longer"),
        ((b"ab", b"", b"c"), 2, "longer"),
        ((b"a",), 0, "longer"),
    ],
)
async def test_content_detects_a_wrong_length_before_its_last_piece(
    pieces: tuple[bytes, ...], length: int, how: str
) -> None:
    """Fewer bytes than announced are sent, so no storage takes them for complete."""
    async with open_content(Stream(*pieces), length, None) as content:
        with pytest.raises(Exception):  # noqa: B017 - stops the request, whatever it is
            await read(content)
        assert isinstance(content.failure, UploadError)
        assert how in str(content.failure)
        assert content.sent < max(length, 1)


@given(st.lists(st.binary(max_size=20)), st.integers(-3, 3))
async def test_content_of_any_stream_is_complete_or_rejected(pieces: list[bytes], off: int) -> None:
    """All bytes if the length is right, else UploadError, however the stream is cut."""
    data = b"".join(pieces)
    length = max(0, len(data) + off)
    async with open_content(Stream(*pieces), length, None) as content:
        if length == len(data):
            assert b"".join(await read(content)) == data
        else:
            with pytest.raises(Exception):  # noqa: B017
                await read(content)
            assert isinstance(content.failure, UploadError)


async def test_content_rejects_a_file_that_changes(tmp_path: Path) -> None:
    """A file that shrinks or grows after the announcement is an UploadError."""
    path = tmp_path / "a.csv"
    for after in (b"x" * 5, b"x" * 15):
        path.write_bytes(b"x" * 10)
        async with open_content(path, None, None) as content:
            path.write_bytes(after)
            with pytest.raises(Exception):  # noqa: B017
                await read(content)
            assert isinstance(content.failure, UploadError)


async def test_content_keeps_the_exception_of_its_source() -> None:
    """The user's exception is not lost in the HTTP library."""

    async def source() -> AsyncIterator[bytes]:
        yield b"a"
        raise LookupError("no more")

    async with open_content(source(), 2, None) as content:
        with pytest.raises(Exception):  # noqa: B017
            await read(content)
        assert isinstance(content.failure, LookupError)


async def test_content_reports_progress() -> None:
    """The callback gets the bytes so far, per piece, from zero in each pass."""
    told: list[int] = []
    async with open_content(Stream(b"ab", b"cde"), 5, told.append) as content:
        await read(content)
        await read(content)
    assert told == [2, 5, 2, 5]


async def test_content_survives_a_failing_progress_callback() -> None:
    """An upload continues if its progress callback raises."""

    def broken(sent: int) -> None:
        raise InterruptedError(sent)

    async with open_content(b"abc", None, broken) as content:
        assert await read(content) == [b"abc"]
        assert content.failure is None


async def test_content_rejects_invalid_sources(tmp_path: Path) -> None:
    """A stream without length, a wrong length, a missing file, a folder, a pipe, no source."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    regular = (tmp_path / "regular").open("wb")
    wrong: Any = regular.fileno()  # a number is no path, though the system would take it for one
    for source, length, error in (
        (Stream(b"a"), None, ValueError),
        (Stream(b"a"), -1, ValueError),
        (b"abc", 4, ValueError),
        (tmp_path / "missing", None, FileNotFoundError),
        (tmp_path, None, ValueError),
        (pipe, None, ValueError),
        (wrong, None, ValueError),
    ):
        with pytest.raises(error):
            await passes(source, length)
    regular.close()  # it was not closed elsewhere


async def test_content_always_closes_its_file(tmp_path: Path) -> None:
    """After the block nothing is read, also by a pass in progress."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"x" * (2 * PIECE))
    seen: list[UploadBody] = []
    with pytest.raises(LookupError):  # noqa: PT012
        async with open_content(path, None, None) as content:
            seen.append(content)
            await anext(aiter(content))
            raise LookupError
    with pytest.raises(Exception):  # noqa: B017
        await anext(aiter(seen[0]))
    assert isinstance(seen[0].failure, ValueError)
