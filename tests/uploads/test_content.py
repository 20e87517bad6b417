"""What is uploaded, without a network: pieces, lengths, passes, failures."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients.errors import UploadError
from asyncclients.uploads.content import PIECE, Content, Source, open_content
from tests.support.resources import descriptors


class Stream:
    """Gives *pieces*, each pass anew."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


async def read(content: Content) -> list[bytes]:
    """The pieces of one pass."""
    return [piece async for piece in content]


async def passes(source: Source, length: int | None = None) -> list[bytes]:
    """What two passes over *source* give."""
    async with open_content(source, length, None) as content:
        return [b"".join(await read(content)) for _ in range(2)]


async def test_bytes_are_given_in_pieces(tmp_path: Path) -> None:
    """Bytes, a file by path or by text, and a stream: the same bytes, none too large a piece."""
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


async def test_a_cancelled_end_closes_the_file(tmp_path: Path) -> None:
    """Also where no thread was free for it yet."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"abc")
    content = open_content(path, None, None)
    await content.__aenter__()
    assert str(path) in descriptors().values()
    busy = threading.Event()
    with ThreadPoolExecutor(1) as only:
        asyncio.get_running_loop().set_default_executor(only)
        working = asyncio.create_task(asyncio.to_thread(busy.wait))
        closing = asyncio.create_task(content.__aexit__(None, None, None))
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.sleep(0)
        busy.set()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await working
    assert str(path) not in descriptors().values()


async def test_each_pass_starts_anew(tmp_path: Path) -> None:
    """A second pass gives the same bytes, and counts from zero."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"x" * 10)
    assert await passes(path) == [b"x" * 10] * 2
    assert await passes(b"y" * 10) == [b"y" * 10] * 2


async def test_two_passes_at_once_do_not_mix(tmp_path: Path) -> None:
    """A straggler of an abandoned pass reads at its own offsets."""
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
async def test_a_wrong_length_is_found_before_the_last_piece(
    pieces: tuple[bytes, ...], length: int, how: str
) -> None:
    """What is given falls short of the length announced, so no storage takes it for whole."""
    async with open_content(Stream(*pieces), length, None) as content:
        with pytest.raises(Exception):  # noqa: B017 - stops the request, whatever it is
            await read(content)
        assert isinstance(content.failure, UploadError)
        assert how in str(content.failure)
        assert content.sent < max(length, 1)


@given(st.lists(st.binary(max_size=20)), st.integers(-3, 3))
async def test_any_stream_is_whole_or_refused(pieces: list[bytes], off: int) -> None:
    """Cut in whatever pieces: the whole bytes where the length is right, else UploadError."""
    data = b"".join(pieces)
    length = max(0, len(data) + off)
    async with open_content(Stream(*pieces), length, None) as content:
        if length == len(data):
            assert b"".join(await read(content)) == data
        else:
            with pytest.raises(Exception):  # noqa: B017
                await read(content)
            assert isinstance(content.failure, UploadError)


async def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    """Cut short or grown between the announcement and the reading: UploadError."""
    path = tmp_path / "a.csv"
    for after in (b"x" * 5, b"x" * 15):
        path.write_bytes(b"x" * 10)
        async with open_content(path, None, None) as content:
            path.write_bytes(after)
            with pytest.raises(Exception):  # noqa: B017
                await read(content)
            assert isinstance(content.failure, UploadError)


async def test_what_the_source_raises_is_kept() -> None:
    """The user's own exception is not lost in the HTTP library."""

    async def source() -> AsyncIterator[bytes]:
        yield b"a"
        raise LookupError("no more")

    async with open_content(source(), 2, None) as content:
        with pytest.raises(Exception):  # noqa: B017
            await read(content)
        assert isinstance(content.failure, LookupError)


async def test_progress_is_told() -> None:
    """The callback hears the bytes given so far, per piece, from zero at each pass."""
    told: list[int] = []
    async with open_content(Stream(b"ab", b"cde"), 5, told.append) as content:
        await read(content)
        await read(content)
    assert told == [2, 5, 2, 5]


async def test_progress_callback_that_fails_does_not_stop_upload() -> None:
    """An upload goes on when its progress callback raises."""

    def broken(sent: int) -> None:
        raise InterruptedError(sent)

    async with open_content(b"abc", None, broken) as content:
        assert await read(content) == [b"abc"]
        assert content.failure is None


async def test_what_cannot_be_uploaded_is_refused_at_once(tmp_path: Path) -> None:
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
    regular.close()  # nobody else has closed it


async def test_the_file_is_closed_whatever_happens(tmp_path: Path) -> None:
    """After the block nothing is read any more, also by a pass that was under way."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"x" * (2 * PIECE))
    seen: list[Content] = []
    with pytest.raises(LookupError):  # noqa: PT012
        async with open_content(path, None, None) as content:
            seen.append(content)
            await anext(aiter(content))
            raise LookupError
    with pytest.raises(Exception):  # noqa: B017
        await anext(aiter(seen[0]))
    assert isinstance(seen[0].failure, ValueError)
