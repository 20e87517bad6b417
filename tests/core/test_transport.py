"""The outcome of a call for each failure of a connection: bytes on a real socket.

Each case asserts the named error with what to do next, the number of requests that
the server saw, no credential in the error, and that the next call works.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
import traceback
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from asyncclients.core.pool import SessionPool
from asyncclients.core.retry import RetryPolicy
from asyncclients.errors import (
    AsyncClientsError,
    AttemptTimeoutError,
    ConnectError,
    DeadlineExceededError,
    DecodeError,
    DisconnectedError,
    OutcomeUnknownError,
    ResponseTooLargeError,
    TLSError,
    UnexpectedRedirectError,
)
from tests.support.byte_server import (
    ByteServer,
    Connection,
    Script,
    answers,
    byte_server,
    drips,
    hangs_up,
    http,
    never_ends,
    never_responds,
    resets,
    sends,
)
from tests.support.fake_vendor import QUICK, Thing, ToyClient
from tests.support.leaks import CANARY, chain, leaks

pytestmark = pytest.mark.virtual_time

FINE = http(body=b'{"id": 1, "text": "fine"}')
GOOD = Thing(id=1, text="fine")


@asynccontextmanager
async def serve(
    *scripts: Script, max_bytes: int = 2**20
) -> AsyncGenerator[tuple[ByteServer, ToyClient]]:
    """A server that runs *scripts*, and a client of it that makes at most two attempts."""
    policy = RetryPolicy(max_attempts=2, base=QUICK.base, cap=QUICK.cap)
    async with (
        byte_server(*scripts) as server,
        SessionPool(retry=policy, timeout=5.0, max_response_bytes=max_bytes) as pool,
    ):
        yield server, ToyClient(pool, base_url=server.url)


def compressed(body: bytes, **fields: str) -> bytes:
    return http(body=body, headers={"Content-Encoding": "gzip", **fields})


BOMB = compressed(gzip.compress(b" " * 50_000_000))
HTML = http(body=b"<html>Sign in</html>", headers={"Content-Type": "text/html"})
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b'{"id": 1'
CHUNK_CUT = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nabc"
CLOSE_CUT = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"id": 1'
BAD_GZIP = compressed(b"this is no gzip at all")
HALF_GZIP = compressed(gzip.compress(bytes(range(256)) * 400)[:300])
MANY_HEADERS = b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 500 + b"Content-Length: 2\r\n\r\n{}"
LONG_HEADER = b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 100_000 + b"\r\nContent-Length: 2\r\n\r\n{}"
NOT_HTTP = b"SSH-2.0-OpenSSH_9.6\r\n\r\n"

CASES: list[tuple[str, Script, type[AsyncClientsError], int]] = [
    ("hangs up", hangs_up, DisconnectedError, 2),
    ("resets", resets, DisconnectedError, 2),
    ("cut body", sends(CUT), DisconnectedError, 2),
    ("cut chunk", sends(CHUNK_CUT), DisconnectedError, 2),
    ("never answers", never_responds, AttemptTimeoutError, 2),
    ("drips", drips, AttemptTimeoutError, 2),
    ("bomb", sends(BOMB), ResponseTooLargeError, 1),
    ("never ends", never_ends, ResponseTooLargeError, 1),
    ("too long", sends(http(body=b" " * 2**21)), ResponseTooLargeError, 1),
    ("bad gzip", sends(BAD_GZIP), DecodeError, 2),
    ("half gzip", sends(HALF_GZIP), DecodeError, 1),
    ("not http", sends(NOT_HTTP), DecodeError, 2),
    ("many headers", sends(MANY_HEADERS), DecodeError, 2),
    ("long header", sends(LONG_HEADER), DecodeError, 2),
    ("html", sends(HTML), DecodeError, 1),
    ("cut at close", sends(CLOSE_CUT), DecodeError, 1),
    ("empty", sends(http(body=b"")), DecodeError, 1),
    (
        "redirect",
        sends(http(307, headers={"Location": "https://evil.example/?a=b"})),
        UnexpectedRedirectError,
        1,
    ),
    (
        "redirect within",
        sends(http(301, headers={"Location": "/v2/things"})),
        UnexpectedRedirectError,
        1,
    ),
]


@pytest.mark.parametrize(
    ("script", "error", "requests"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
async def test_idempotent_call_is_retried(
    script: Script, error: type[AsyncClientsError], requests: int
) -> None:
    """A GET raises the expected error after the expected requests, and the next call works."""
    good = answers(FINE)
    async with serve(*[script] * requests, good) as (server, client):
        with pytest.raises(error) as caught:
            await client.things.get()
        assert type(caught.value) is error
        assert caught.value.attempts == requests == len(server.arrived)
        assert (caught.value.vendor, caught.value.operation) == ("toy", "things.get")
        assert (caught.value.method, caught.value.path) == ("GET", "/things/1")
        assert caught.value.advice
        assert leaks(caught.value, CANARY) == []
        assert await client.things.get() == GOOD
        assert client.stats().in_flight == 0


LOST = [
    "hangs up",
    "resets",
    "cut body",
    "cut chunk",
    "never answers",
    "drips",
    "bad gzip",
    "not http",
    "many headers",
    "long header",
]


@pytest.mark.parametrize("name", LOST)
async def test_non_idempotent_call_is_sent_once(name: str) -> None:
    """A POST is sent once and raises `OutcomeUnknownError`, with the advice to check first."""
    (script,) = [case[1] for case in CASES if case[0] == name]
    async with serve(script, answers(FINE)) as (server, client):
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.things.make()
        assert len(server.arrived) == caught.value.attempts == 1
        assert "look at the vendor's side" in str(caught.value)
        assert leaks(caught.value, CANARY) == []
        assert await client.things.make() == GOOD


@pytest.mark.parametrize("method", ["get", "put", "delete", "make"])
async def test_dropped_connection_is_not_resent_by_aiohttp(method: str) -> None:
    """Nothing is resent by aiohttp: there are as many requests as permits and attempts."""
    async with serve(hangs_up, answers(FINE)) as (server, client):
        if method == "make":
            with pytest.raises(OutcomeUnknownError):
                await client.things.make()
        else:
            await getattr(client.things, method)()
        expected = 1 if method == "make" else 2
        assert len(server.arrived) == client.stats().sent == expected


async def test_stale_connection_is_replaced() -> None:
    """If an idle connection was closed, a retryable call succeeds on another one."""
    async with serve(sends(FINE, then=None), answers(FINE)) as (server, client):
        assert await client.things.get() == GOOD
        assert await client.things.get() == GOOD
        assert server.connections == 2


async def test_refused_connection_is_retried() -> None:
    """If nothing was sent, a POST is retried as well, and the error has `sent="no"`."""
    async with byte_server(hangs_up) as server:
        url = server.url
    policy = RetryPolicy(max_attempts=3, base=0.01, cap=0.01)
    async with SessionPool(retry=policy) as pool:
        client = ToyClient(pool, base_url=url)
        with pytest.raises(ConnectError, match="could not connect") as caught:
            await client.things.make()
        assert (caught.value.sent, caught.value.attempts) == ("no", 3)
        address = url.removeprefix("http://").rstrip("/")
        assert caught.value.message == f"could not connect to {address}: Connection refused"
        assert caught.value.advice
        assert leaks(caught.value, CANARY) == []
        assert client.stats().held == 0


async def test_unresolvable_name_is_reported() -> None:
    """A name that cannot be resolved is reported, with `sent="no"`."""
    policy = RetryPolicy(max_attempts=1)
    async with SessionPool(retry=policy) as pool:
        client = ToyClient(pool, base_url="https://does-not-exist.invalid/")
        with pytest.raises(ConnectError, match="could not resolve") as caught:
            await client.things.make()
        assert caught.value.sent == "no"
        assert leaks(caught.value, CANARY) == []


async def test_connect_timeout_means_not_sent() -> None:
    """If the timeout ends before the connection is open, nothing was sent: `sent="no"`."""

    async def deaf(connection: Connection) -> None:
        await asyncio.Event().wait()

    # A plain server never answers a TLS greeting.
    async with byte_server(deaf) as server, SessionPool(retry=RetryPolicy(max_attempts=1)) as pool:
        client = ToyClient(pool, base_url=server.url.replace("http://", "https://"))
        with pytest.raises(ConnectError, match=r"in time to 127\.0\.0\.1:") as caught:
            await client.with_options(timeout=2.0).things.make()
        assert caught.value.sent == "no"
        assert leaks(caught.value, CANARY) == []


async def test_invalid_certificate_is_not_retried() -> None:
    """There is one attempt, and the advice is never to turn verification off."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority: Any = trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with byte_server(answers(FINE), tls=context) as server, SessionPool(retry=QUICK) as pool:
        with pytest.raises(TLSError, match="could not verify") as caught:
            await ToyClient(pool, base_url=server.url).things.get()
        assert (caught.value.attempts, caught.value.sent) == (1, "no")
        assert "SSL_CERT_FILE" in str(caught.value)
        assert leaks(caught.value, CANARY) == []
        assert server.arrived == []


async def test_decompression_stops_at_the_limit() -> None:
    """Reading a compressed body of 50 MB stops soon after the limit."""
    async with serve(sends(BOMB), answers(FINE), max_bytes=100_000) as (_, client):
        tracemalloc.start()
        with pytest.raises(ResponseTooLargeError, match="more than 100000 bytes"):
            await client.things.get()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10_000_000


async def test_body_of_exactly_the_limit_is_read() -> None:
    """A body of exactly the limit is accepted, plain, chunked or compressed."""
    body = b'{"id": 1}'.ljust(1000)
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + body + b"\r\n0\r\n\r\n"
    )
    replies = (http(body=body), chunked, compressed(gzip.compress(body)))
    for reply in replies:
        async with serve(sends(reply), max_bytes=1000) as (_, client):
            assert await client.things.get() == Thing(id=1)
    for reply in replies:
        async with serve(sends(reply), max_bytes=999) as (_, client):
            with pytest.raises(ResponseTooLargeError):
                await client.things.get()


async def test_unrequested_response_is_discarded() -> None:
    """A second, unrequested response is discarded, and the next call gets its own."""
    stale = http(body=b'{"id": 666, "text": "stale"}')

    async def at_once(connection: Connection) -> None:
        await connection.request()
        await connection.send(FINE + stale)
        await connection.request()
        await connection.send(FINE)

    async def later(connection: Connection) -> None:
        await connection.request()
        await connection.send(FINE)
        await asyncio.sleep(0.5)
        await connection.send(stale)
        await connection.request()
        await connection.send(FINE)

    for script in (at_once, later):
        async with serve(script, answers(FINE)) as (_, client):
            for _ in range(5):
                assert (await client.things.get()).text == "fine"
                await asyncio.sleep(1.0)


async def test_redirect_is_not_followed() -> None:
    """Nothing is sent to the other server; the error has its address without the query."""
    async with byte_server(answers(FINE)) as other:
        location = f"{other.url}steal?token={CANARY}"
        for status in (301, 302, 303, 307, 308):
            async with serve(answers(http(status, headers={"Location": location}))) as (_, client):
                with pytest.raises(UnexpectedRedirectError) as caught:
                    await client.things.make()
            assert caught.value.location == f"{other.url}steal"
            assert caught.value.status == status
            assert leaks(caught.value, CANARY) == []
        assert other.arrived == []


async def test_deadline_ends_a_call_on_the_wire() -> None:
    """A GET ends with `DeadlineExceededError`, a POST with `OutcomeUnknownError`, both in time."""
    loop = asyncio.get_running_loop()
    async with serve(never_responds) as (server, client):
        soon, began = client.with_options(deadline=2.0), loop.time()
        with pytest.raises(DeadlineExceededError, match="before its deadline") as late:
            await soon.things.get()
        assert late.value.attempts == 1
        with pytest.raises(OutcomeUnknownError, match="before its deadline"):
            await soon.things.make()
        assert loop.time() - began == pytest.approx(4.0, abs=0.1)
        assert len(server.arrived) == 2


async def test_cancelling_gives_everything_back() -> None:
    """Cancelling in the middle of a body gives back slot, connection and task."""
    async with serve(*[drips] * 5, answers(FINE)) as (_, client):
        for _ in range(5):
            task = asyncio.create_task(client.things.get())
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert leaks(caught.value, CANARY) == []
            assert client.stats().in_flight == 0
        assert await client.things.get() == GOOD


async def test_cancelling_at_every_step() -> None:
    """Cancelling at any step of the loop gives everything back."""
    async with serve(answers(FINE)) as (_, client):
        for turns in range(200):
            task = asyncio.create_task(client.things.get())
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                break
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert client.stats().in_flight == 0
            assert client.stats().queued == {"interactive": 0, "background": 0}
        else:
            pytest.fail("a call never ended")
        assert await task == GOOD
        assert turns > 5


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy variables of the environment are not used."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    async with serve(answers(FINE)) as (server, client):
        assert await client.things.get() == GOOD
        assert server.arrived[0].target == "/things/1"


class FailingSession:
    """A session that holds the key in a local variable when it fails, or hangs."""

    closed = False

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure

    async def request(self, *args: Any, middlewares: Any, **settings: Any) -> None:
        """Do what aiohttp does as far as the middleware, and fail."""
        del args, settings

        async def handler(request: Any) -> None:
            headers = dict(request.headers)
            if self.failure is not None:
                raise self.failure
            await asyncio.Event().wait()
            del headers

        session = SimpleNamespace(connector=None)
        await middlewares[0](SimpleNamespace(headers={}, session=session), handler)


def frames(error: BaseException) -> list[str]:
    """The functions that the traceback of *error* and of all it came from goes through."""
    return [
        frame.name for link in chain(error) for frame in traceback.extract_tb(link.__traceback__)
    ]


async def test_errors_have_no_frames_of_aiohttp() -> None:
    """A cancellation and an unexpected exception have no frames that hold the credential."""
    for failure in (ValueError("odd"), None):
        session: Any = FailingSession(failure)
        async with SessionPool(session=session) as pool:
            session._loop = asyncio.get_running_loop()
            task = asyncio.create_task(ToyClient(pool).things.get())
            await asyncio.sleep(0.1)
            task.cancel()
            expected = asyncio.CancelledError if failure is None else ValueError
            with pytest.raises(expected) as caught:
                await task
            assert "run" in frames(caught.value)
            assert not {"handler", "request", "__call__", "_run"} & set(frames(caught.value))
