"""The behaviour of aiohttp that we rely on or work around: an upgrade that changes it fails here.

Each test states aiohttp's own behaviour first and ours beside it. Those of other libraries
are in `test_upstream_parsers.py`, `tests/ratelimit/test_slots.py`, `tests/stores/test_upstream.py`.
"""

from __future__ import annotations

import asyncio
import gzip
import inspect
import pickle
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler

from asyncclients.core.pool import SessionPool
from asyncclients.core.session import open_session
from asyncclients.errors import (
    AsyncClientsError,
    AttemptTimeoutError,
    ConnectError,
    DecodeError,
    ResponseTooLargeError,
    UnexpectedRedirectError,
)
from tests.support.byte_server import Connection, answers, byte_server, hangs_up, http
from tests.support.fake_vendor import QUICK, ToyClient
from tests.support.leaks import CANARY, leaks

pytestmark = pytest.mark.virtual_time

HEADERS: Mapping[str, str] = {"x-api-key": CANARY, "Authorization": "Bearer " + CANARY}
FINE = http(body=b'{"id": 1}')


@pytest.mark.parametrize(("method", "hits"), [("GET", 2), ("PUT", 2), ("DELETE", 2), ("POST", 1)])
async def test_aiohttp_resends_by_itself(method: str, hits: int) -> None:
    """Upstream: a dropped GET, PUT or DELETE is sent twice, on a fresh connection even.

    Ours: the middleware is called again and raises, so one permit is one request.
    """
    async with byte_server(hangs_up) as server, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.request(method, server.url)
        assert len(server.arrived) == hits
    async with byte_server(hangs_up) as server, SessionPool(retry=QUICK) as pool:
        client = ToyClient(pool, base_url=server.url).with_options(max_attempts=1)
        with pytest.raises(AsyncClientsError):
            await client.request(method, "things")
        assert len(server.arrived) == client.stats().sent == 1


async def test_aiohttp_carries_keys_to_another_origin() -> None:
    """Upstream: a 307 takes the key and the body along, and drops `Authorization` alone.

    Ours: no redirect is followed.
    """
    async with byte_server(answers(FINE)) as other:
        moved = answers(http(307, headers={"Location": other.url + "steal"}))
        async with byte_server(moved) as server, aiohttp.ClientSession() as session:
            async with session.post(server.url, json={"a": 1}, headers=HEADERS):
                pass
            (stolen,) = other.arrived
            assert stolen.headers["x-api-key"] == CANARY
            assert stolen.body == b'{"a": 1}'
            assert "authorization" not in stolen.headers
        async with byte_server(moved) as server, SessionPool() as pool:
            with pytest.raises(UnexpectedRedirectError):
                await ToyClient(pool, base_url=server.url).things.make()
        assert len(other.arrived) == 1


async def test_aiohttp_has_no_cap_on_a_body() -> None:
    """Upstream: a small compressed answer becomes whatever it unpacks to. Ours: an error."""
    packed = gzip.compress(b" " * 30_000_000)
    bomb = answers(http(body=packed, headers={"Content-Encoding": "gzip"}))
    assert len(packed) < 50_000
    async with (
        byte_server(bomb) as server,
        aiohttp.ClientSession() as session,
        session.get(server.url) as response,
    ):
        assert len(await response.read()) == 30_000_000
    async with byte_server(bomb) as server, SessionPool(max_response_bytes=10**6) as pool:
        with pytest.raises(ResponseTooLargeError):
            await ToyClient(pool, base_url=server.url).things.get()


async def test_aiohttp_gives_a_stray_response_to_the_next_request() -> None:
    """Upstream (aio-libs/aiohttp#13656): bytes on an idle connection become the next response.

    Ours: such a connection is closed and another one taken.
    """

    async def late(connection: Connection) -> None:
        await connection.request()
        await connection.send(FINE)
        await asyncio.sleep(0.5)
        await connection.send(http(body=b'{"id": 666}'))
        while True:
            await connection.request()
            await connection.send(FINE)

    async def read(session: aiohttp.ClientSession, url: str) -> bytes:
        async with session.get(url) as response:
            body = await response.read()
        await asyncio.sleep(1.0)
        return body

    async with byte_server(late) as server:
        async with aiohttp.ClientSession() as session:
            bodies = [await read(session, server.url) for _ in range(2)]
            assert bodies == [b'{"id": 1}', b'{"id": 666}']
        async with open_session() as session:
            bodies = [await read(session, server.url) for _ in range(3)]
            assert bodies == [b'{"id": 1}'] * 3


async def test_connector_passes_over_a_stray_response_behind_an_old_connection() -> None:
    """If the first idle connection is too old, the next one is not taken with a stray response."""

    async def late(connection: Connection) -> None:
        await connection.request()
        await asyncio.sleep(0.2)
        await connection.send(FINE)
        await asyncio.sleep(1.0)
        await connection.send(http(body=b'{"id": 666}'))
        await connection.request()
        await connection.send(FINE)

    async def read(session: aiohttp.ClientSession, url: str) -> bytes:
        async with session.get(url) as response:
            return await response.read()

    async with (
        byte_server(answers(FINE, FINE), late, answers(FINE)) as server,
        open_session() as session,
    ):
        await asyncio.gather(read(session, server.url), read(session, server.url))
        await asyncio.sleep(1.5)
        connector: Any = session.connector
        (idle,) = connector._conns.values()
        first, since = idle.popleft()
        idle.appendleft((first, since - 5.0))  # aiohttp reads the clock of the process
        assert await read(session, server.url) == b'{"id": 1}'


async def test_aiohttp_errors_hold_the_request() -> None:
    """Upstream: repr, args and frames of its errors show the headers, and some cannot be pickled.

    Ours: none of it escapes. This also proves that the searcher for leaks finds them.
    """
    broken = answers(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 500 + b"\r\n")
    async with byte_server(broken) as server, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientResponseError) as theirs:
            await session.get(server.url, headers=HEADERS)
    assert theirs.value.status == 400  # invented: the server sent 200
    assert CANARY in repr(theirs.value.request_info)
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(theirs.value)
    found = leaks(theirs.value, CANARY)
    assert {"repr", "args", "attributes", "no pickle"} <= set(found)
    assert any(place.startswith("local") for place in found)
    async with byte_server(broken) as server, SessionPool(retry=QUICK) as pool:
        with pytest.raises(AsyncClientsError) as ours:
            await ToyClient(pool, base_url=server.url).things.get()
    assert ours.value.status is None
    assert leaks(ours.value, CANARY) == []


async def test_private_names_of_aiohttp_exist() -> None:
    """The private names that are relied upon exist and mean what we think."""
    async with open_session() as session:
        assert session._loop is asyncio.get_running_loop()  # pyright: ignore[reportPrivateUsage]
        connector = session.connector
        assert connector is not None
        upstream = aiohttp.TCPConnector._get  # pyright: ignore[reportPrivateUsage]
        parameters = list(inspect.signature(upstream).parameters)
        assert parameters == ["self", "key", "traces"]
        assert inspect.signature(type(connector)._get).parameters.keys() == set(parameters)  # pyright: ignore[reportPrivateUsage]
    assert isinstance(ResponseHandler.should_close, property)


async def test_aiohttp_gives_a_session_s_cookies_to_every_host() -> None:
    """Upstream: cookies that a session is made with go wherever it is asked. Ours: no jar."""
    async with byte_server(answers(FINE)) as one, byte_server(answers(FINE)) as other:
        jar = aiohttp.CookieJar(unsafe=True)  # hosts that are numbers have cookies too
        async with aiohttp.ClientSession(cookies={"login": CANARY}, cookie_jar=jar) as session:
            for server in (one, other):
                async with session.get(server.url):
                    pass
                assert CANARY in server.arrived[0].headers["cookie"]
    async with open_session() as session:
        assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)


CUT = (
    http(body=gzip.compress(bytes(range(256)) * 400)[:300], headers={"Content-Encoding": "gzip"}),
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"id": 1',
)


@pytest.mark.parametrize("reply", CUT, ids=["compressed", "until the end of the connection"])
async def test_aiohttp_takes_a_cut_body_for_a_whole_one(reply: bytes) -> None:
    """Upstream: a compressed stream without its end is no error, nor one that ends with the line.

    Ours: a truncated JSON body is a `DecodeError`.
    """

    async def cut(connection: Connection) -> None:
        await connection.request()
        await connection.send(reply)

    async with byte_server(cut) as server:
        async with aiohttp.ClientSession() as session, session.get(server.url) as response:
            assert await response.read()
        async with SessionPool(retry=QUICK) as pool:
            with pytest.raises(DecodeError):
                await ToyClient(pool, base_url=server.url).things.get()


async def test_aiohttp_s_frames_hold_the_request_where_nobody_listens() -> None:
    """Upstream: a traceback with locals of a failed connection shows the headers.

    Ours: its frames are cut off.
    """
    async with byte_server(answers(FINE)) as server:
        url = server.url
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError) as theirs:
            await session.post(url, json={}, headers=HEADERS)
    assert "traceback" in leaks(theirs.value, CANARY)
    async with SessionPool(retry=QUICK) as pool:
        with pytest.raises(ConnectError) as ours:
            await ToyClient(pool, base_url=url).things.make()
    assert leaks(ours.value, CANARY) == []


async def test_aiohttp_s_read_timeout_is_between_two_bytes() -> None:
    """Upstream: `sock_read` never fires while bytes drip. Ours: an attempt ends at its time."""

    async def drip(connection: Connection) -> None:
        await connection.request()
        whole = http(body=b" " * 90 + b'{"id": 1}')
        for byte in whole:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.05)

    async with byte_server(drip) as server:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=0.2)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(server.url) as response,
        ):
            assert len(await response.read()) == 99
        async with SessionPool(retry=QUICK, timeout=1.0) as pool:
            with pytest.raises(AttemptTimeoutError):
                await ToyClient(pool, base_url=server.url).things.get()


@pytest.mark.parametrize(
    ("timeout", "ends"),
    [
        (aiohttp.ClientTimeout(total=3.0), True),
        (aiohttp.ClientTimeout(total=None, connect=1.0), True),
        (aiohttp.ClientTimeout(total=None, sock_connect=1.0), False),
    ],
    ids=["total", "connect", "sock_connect"],
)
async def test_aiohttp_s_timers_run_while_a_call_waits_for_a_connection(
    timeout: aiohttp.ClientTimeout, ends: bool
) -> None:
    """Upstream: `total` and `connect` count the wait for one of the pool's connections.

    `sock_connect` does not. Ours: the connector has no limit, so that there is no such wait.
    """

    async def slow(connection: Connection) -> None:
        while True:
            await connection.request()
            await asyncio.sleep(2.0)
            await connection.send(FINE)

    async def read(session: aiohttp.ClientSession, url: str) -> bytes:
        async with session.get(url) as response:
            return await response.read()

    async with byte_server(slow) as server:
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            calls = (read(session, server.url) for _ in range(2))
            first, second = await asyncio.gather(*calls, return_exceptions=True)
    assert first == b'{"id": 1}'
    assert isinstance(second, TimeoutError) == ends
    async with open_session() as session:
        assert session.connector is not None
        assert session.connector.limit == 0


def test_aiohttp_does_not_say_that_a_session_is_of_another_loop() -> None:
    """Upstream: a `RuntimeError` about something else. Ours: `WrongEventLoopError`, by the pool."""

    async def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    async def use(session: aiohttp.ClientSession) -> None:
        async with session, byte_server(answers(FINE)) as server:
            with pytest.raises(RuntimeError, match=r"inside a task|is closed"):
                await session.get(server.url)

    asyncio.run(use(asyncio.run(make())))


async def test_aiohttp_takes_a_connection_of_a_cancelled_call_off_its_pool() -> None:
    """Upstream: calls that are cancelled in the middle of a body leave no connection taken.

    Relied upon: the next call gets one of its own, and no answer of another's.
    """

    async def half(connection: Connection) -> None:
        await connection.request()
        await connection.send(http(body=b'{"id": 666}')[:-5])
        await asyncio.sleep(3600.0)

    async with byte_server(half, half, half, answers(FINE)) as server:
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector) as session:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1.0), session.get(server.url) as response:
                        await response.read()
            async with session.get(server.url) as response:
                assert await response.read() == b'{"id": 1}'
        assert server.connections == 4
