"""A plain request is what aiohttp itself would make of it."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ClientRequest
from yarl import URL

from asyncclients.http.plain_request import PlainRequest
from asyncclients.http.session import NO_TIMEOUT, open_session

_OWN_EACH = {"_timer", "headers", "response_class"}


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
async def test_the_same_bytes_go_out(method: str, given: dict[str, Any]) -> None:
    """Twice in a row, to two paths: to the byte what aiohttp sends."""
    async with listening() as (listener, url):
        for session in (original(), open_session()):
            async with session:
                for path in ("one?page=1", "two?page=2"):
                    async with session.request(method, url + path, **given) as reply:
                        assert await reply.read() == b"{}"
    theirs, ours = listener.heard[:2], listener.heard[2:]
    assert ours == theirs
    assert len(ours) == 2


async def test_a_copied_request_has_all_that_a_fresh_one_has() -> None:
    """Each attribute that aiohttp sets on a plain GET is there, with the same value."""
    made: list[ClientRequest] = []

    async def keep(request: ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        made.append(request)
        before = dict(vars(request)), request.headers.copy()
        kept.append(before)
        reply: aiohttp.ClientResponse = await handler(request)
        return reply

    kept: list[tuple[dict[str, Any], Any]] = []
    async with listening() as (_, url), open_session() as session:
        for _ in range(2):
            async with session.get(url + "same", middlewares=(keep,)):
                pass
    (fresh, fresh_headers), (copied, copied_headers) = kept
    assert all(type(request) is PlainRequest for request in made)
    assert copied.keys() == fresh.keys()
    for name in fresh.keys() - _OWN_EACH:
        assert copied[name] == fresh[name], name
    assert copied_headers == fresh_headers
    assert copied["_timer"] is not fresh["_timer"]


async def test_a_header_of_one_request_is_not_the_next_one_s() -> None:
    """What a middleware adds, such as the credential, is in no later request."""

    async def sign(request: ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        request.headers["X-Key"] = "mine"
        reply: aiohttp.ClientResponse = await handler(request)
        return reply

    async with listening() as (listener, url), open_session() as session:
        for middlewares in ((sign,), (), (sign,), ()):
            async with session.get(URL(url), middlewares=middlewares):
                pass
    assert [b"X-Key" in heard for heard in listener.heard] == [True, False, True, False]


async def test_another_host_has_its_own_name_in_its_request() -> None:
    """Requests are copied within one host only."""
    async with listening() as (listener, url), open_session() as session:
        for _ in range(2):
            for host in ("127.0.0.1", "localhost"):
                async with session.get(url.replace("127.0.0.1", host)):
                    pass
    names = [heard.split(b"\r\n")[1].partition(b":")[2].strip() for heard in listener.heard]
    port = str(URL(url).port).encode()
    assert names == [b"127.0.0.1:" + port, b"localhost:" + port] * 2
