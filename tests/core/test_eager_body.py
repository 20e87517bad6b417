"""Our requests equal aiohttp's byte by byte."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from asyncclients.core.session import NO_TIMEOUT, open_session


class _Listener:
    """Answers each request with an empty page and keeps what it was sent."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = 0
            for line in head.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            self.heard.append(head + await reader.readexactly(length))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


@asynccontextmanager
async def listening() -> AsyncGenerator[tuple[_Listener, str]]:
    listener = _Listener()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await listener.serve(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        await server.wait_closed()


def original() -> aiohttp.ClientSession:
    """A session like ours, with aiohttp's own requests."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=NO_TIMEOUT)


BODY = b'{"email": "a@example.com"}'
JSON = {"Content-Type": "application/json"}
SENT: list[tuple[str, dict[str, Any]]] = [
    ("GET", {}),
    ("GET", {"headers": {"X-Own": "1"}}),
    ("DELETE", {}),
    ("POST", {}),
    ("POST", {"data": BODY, "headers": JSON}),
    ("PUT", {"data": b"x" * 16_384, "headers": JSON}),
    ("PUT", {"data": b"x" * 16_385, "headers": JSON}),
    ("PATCH", {"data": BODY, "skip_auto_headers": ("Content-Type",)}),
    ("POST", {"data": b"", "headers": JSON}),
]


@pytest.mark.parametrize(("method", "given"), SENT)
async def test_eager_body_request_sends_the_bytes_of_aiohttp(
    method: str, given: dict[str, Any]
) -> None:
    """Two requests in a row, to two paths, equal those of aiohttp."""
    async with listening() as (listener, url):
        for session in (original(), open_session()):
            async with session:
                for path in ("one?page=1", "two?page=2"):
                    async with session.request(method, url + path, **given) as reply:
                        assert await reply.read() == b"{}"
    theirs, ours = listener.heard[:2], listener.heard[2:]
    assert ours == theirs
    assert len(ours) == 2


async def test_eager_body_request_sends_a_small_body_without_a_task() -> None:
    """While it waits for the response there is no task but the caller's; a large body has one."""
    tasks: list[int] = []

    async def count(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        sent = asyncio.ensure_future(handler(request))
        before = len(asyncio.all_tasks())
        await asyncio.sleep(0)
        tasks.append(len(asyncio.all_tasks()) - before)
        reply: aiohttp.ClientResponse = await sent
        return reply

    async with listening() as (_, url), open_session() as session:
        async with session.get(url):
            pass  # so that the connection is there
        for body in (BODY, b"x" * 100_000):
            async with session.post(url, data=body, middlewares=(count,)):
                pass
    assert tasks == [0, 1] or sys.version_info >= (3, 12)
