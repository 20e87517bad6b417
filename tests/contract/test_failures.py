"""Every failure is reported with the call, the cause and the remedy, over real sockets.

Seen from outside: real sockets, one public client, and what a program can catch.
"""

from __future__ import annotations

import pickle

import pytest

from asyncclients import (
    AsyncClientsError,
    IntouchClient,
    PaginationError,
    Quota,
    RateLimitedError,
    ServerError,
    SessionPool,
    StatusError,
    TotangoClient,
)
from tests.support.byte_server import (
    Connection,
    Script,
    answers,
    byte_server,
    hangs_up,
    http,
    never_responds,
)

QUOTA = [Quota(10_000, 1.0)]


async def breaks_off(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")


SERVERS: dict[str, Script] = {
    **{str(status): answers(http(status, b"x" * 900)) for status in (400, 401, 403, 404, 409)},
    **{str(status): answers(http(status, b"x" * 900)) for status in (418, 422, 500, 501, 502, 503)},
    "429": answers(http(429, b"{}", {"Retry-After": "500"})),
    "quota spent": answers(http(429, b'{"message":"Limit Exceeded"}')),
    "redirect": answers(http(302, b"", {"Location": "https://example.com/login?next=/"})),
    "markup": answers(http(200, b"<html>Sign in</html>")),
    "other JSON": answers(http(200, b"[1]")),
    "nothing": answers(http(200, b"")),
    "no HTTP": answers(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "drops": hangs_up,
    "breaks off": breaks_off,
    "hangs": never_responds,
}


@pytest.mark.parametrize("creates", [False, True], ids=["get", "create"])
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.usefixtures("virtual_time")
async def test_error_names_call_attempts_and_remedy(
    server: str, creates: bool, pool: SessionPool
) -> None:
    """An error has the call, the attempts, the remedy and a short excerpt, and can be pickled."""
    async with byte_server(SERVERS[server]) as running:
        client = IntouchClient(pool, api_key="key-4711", base_url=running.url, quotas=QUOTA)
        with pytest.raises(AsyncClientsError) as raised:
            await (client.tags.create("gold") if creates else client.tags.get("a"))
        error = raised.value
        assert error.attempts == len(running.arrived)
    assert error.vendor == "intouch"
    assert (error.operation, error.method, error.path) == (
        ("tags.create", "POST", "/tags") if creates else ("tags.get", "GET", "/tags/a")
    )
    assert error.advice
    assert error.advice in str(error)
    assert len(error.excerpt or "") <= 200
    assert pickle.loads(pickle.dumps(error)) == error
    assert client.stats().in_flight == 0


@pytest.mark.parametrize("status", [429, 503])
async def test_call_rejects_a_wait_longer_than_its_deadline(status: int, pool: SessionPool) -> None:
    """An interactive call that must wait a year fails at once and reports the seconds."""
    year = 365 * 86_400
    refusal = http(status, b"{}", {"Retry-After": str(year)})
    async with byte_server(answers(refusal)) as server:
        client = IntouchClient(pool, api_key="key-4711", base_url=server.url)
        with pytest.raises(StatusError) as raised:
            await client.tags.get("a")
        assert isinstance(raised.value, RateLimitedError | ServerError)
        assert (raised.value.retry_after, raised.value.attempts) == (year, 1)
        assert len(server.arrived) == 1
        assert client.stats().paused_for <= 120.0


async def test_totango_reset_header_is_a_wait(pool: SessionPool) -> None:
    """Totango's `RateLimit-Reset` has the meaning of `Retry-After`."""
    spent = {"RateLimit-Limit": "100", "RateLimit-Remaining": "0", "RateLimit-Reset": "42"}
    async with byte_server(answers(http(429, b"Too many requests", spent))) as server:
        client = TotangoClient(pool, app_token="key-4711", base_url=server.url)
        with pytest.raises(RateLimitedError) as raised:
            await client.with_options(deadline=20.0).events.list("0000")
        assert (raised.value.retry_after, raised.value.attempts) == (42.0, 1)


async def test_list_rejects_a_repeated_page(pool: SessionPool) -> None:
    """If page 2 repeats page 1, the error names the list and no third request is sent."""
    page = b'{"data":[{"uuid":"a","name":"gold"}],"current_page":1,"last_page":9,"total":9}'
    async with byte_server(answers(http(200, page))) as server:
        client = IntouchClient(pool, api_key="key-4711", base_url=server.url)
        with pytest.raises(PaginationError) as raised:
            [tag async for tag in client.tags.list()]
        assert (raised.value.vendor, raised.value.operation) == ("intouch", "tags.list")
        assert len(server.arrived) == 2


async def test_list_break_releases_everything(pool: SessionPool) -> None:
    """After `break`, nothing is in flight or waiting, and no page was prefetched."""
    page = b'{"data":[{"uuid":"a","name":"gold"}],"current_page":1,"last_page":9,"total":9}'
    async with byte_server(answers(http(200, page))) as server:
        client = IntouchClient(pool, api_key="key-4711", base_url=server.url)
        async for tag in client.tags.list():
            assert tag.name == "gold"
            break
        async for pages in client.tags.list().pages():
            assert (pages.number, pages.total, pages.last) == (1, 9, False)
            break
        assert len(server.arrived) == 2
        stats = client.stats()
        assert (stats.in_flight, sum(stats.queued.values())) == (0, 0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://api.totango.com", "https://API.Totango.COM/"),
        ("https://api.totango.com", "https://api.totango.com:443/"),
        ("https://api.totango.com", "https://api.totango.com/api/"),
        ("http://localhost", "http://LOCALHOST:80/"),
    ],
)
async def test_base_url_spellings_share_one_quota(one: str, other: str, pool: SessionPool) -> None:
    """Case, default port, slash and path do not matter: it is one origin and one quota."""
    for base_url in (one, other):
        TotangoClient(pool, app_token="key-4711", base_url=base_url).eta()
    (stats,) = pool.stats()
    TotangoClient(pool, app_token="key-4711", base_url="https://localhost:444").eta()
    assert len(pool.stats()) == 2
    assert stats.vendor == "totango"
