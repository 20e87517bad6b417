"""The sandbox as a whole: addresses, records, shutdown."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import aiohttp
import pytest

from asyncclients.sandbox import Sandbox, hang
from asyncclients.sandbox.limits import SlidingLog

if TYPE_CHECKING:
    from .conftest import Open

CONTRACT = {
    "INTOUCH_API_KEY",
    "INTOUCH_BASE_URL",
    "TOTANGO_APP_TOKEN",
    "TOTANGO_BASE_URL",
    "INTEMPT_API_KEY",
    "INTEMPT_ORG",
    "INTEMPT_BASE_URL",
    "EMMA_ACCOUNT_ID",
    "EMMA_PUBLIC_KEY",
    "EMMA_PRIVATE_KEY",
    "EMMA_BASE_URL",
    "DIGITAL_ONBOARDING_CLIENT_ID",
    "DIGITAL_ONBOARDING_CLIENT_SECRET",
    "DIGITAL_ONBOARDING_BASE_URL",
}


async def statuses(session: aiohttp.ClientSession, path: str, count: int) -> list[int]:
    """The statuses of *count* GETs, one after the other."""
    found: list[int] = []
    for _ in range(count):
        async with session.get(path) as response:
            found.append(response.status)
    return found


async def test_environ_has_the_variables_of_all_clients(sandbox: Sandbox) -> None:
    """The environment has every documented variable, and no other."""
    assert sandbox.environ.keys() == CONTRACT
    assert sandbox.environ["INTOUCH_BASE_URL"].startswith("http://127.0.0.1:")
    assert sandbox.environ["INTOUCH_BASE_URL"].endswith("/public/v1/")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_sandbox_binds_to_loopback_only(host: str) -> None:
    """An address that other machines could reach is rejected before anything listens."""
    with pytest.raises(ValueError, match="loopback only"):
        Sandbox(host=host)


def test_quota_of_an_unknown_vendor_is_an_error() -> None:
    """The error lists the known names."""
    with pytest.raises(ValueError, match=r"intuch.*intouch"):
        Sandbox({"intuch": (1, 1.0)})


async def test_seed_determines_the_credentials() -> None:
    """Two concurrent sandboxes have the same credentials exactly if they have the same seed."""
    async with Sandbox(seed=7) as one, Sandbox(seed=7) as two, Sandbox(seed=8) as other:
        secret = "INTOUCH_API_KEY"
        assert one.environ[secret] == two.environ[secret] != other.environ[secret]
        assert one.environ["INTOUCH_BASE_URL"] != two.environ["INTOUCH_BASE_URL"]


def free_port(span: int) -> int:
    """A port that is free with the *span* - 1 after it, below those given to clients."""
    for port in range(21_000, 32_000, 16):
        with ExitStack() as stack:
            try:
                for offset in range(span):
                    sock = stack.enter_context(socket.socket())
                    sock.bind(("127.0.0.1", port + offset))
            except OSError:
                continue
            return port
    pytest.fail("no free ports")


async def test_ports_follow_the_given_one() -> None:
    """With *port*, the vendors listen on it and the following ports, the storage last."""
    port = free_port(6)
    async with Sandbox(port=port) as sandbox:
        assert f":{port}/" in sandbox.url("intouch")
        assert f":{port + 5}/" in sandbox.url("storage")


async def test_failed_start_leaves_nothing_listening() -> None:
    """A start that fails at the second port releases the first one."""
    port = free_port(6)
    with socket.socket() as taken, socket.socket() as back:
        taken.bind(("127.0.0.1", port + 1))
        with pytest.raises(OSError, match="in use"):
            await Sandbox(port=port).__aenter__()
        back.bind(("127.0.0.1", port))


async def test_requests_are_recorded(sandbox: Sandbox, connect: Open) -> None:
    """A record has time, request, headers, body, credential and response."""
    session = await connect("intouch")
    async with session.post("tags?a=1&a=2", json={"name": "x"}) as response:
        assert response.status == 201
    (arrival,) = sandbox.requests("intouch")
    assert (arrival.method, arrival.path) == ("POST", "/public/v1/tags")
    assert [*arrival.query.items()] == [("a", "1"), ("a", "2")]
    assert arrival.body == b'{"name": "x"}'
    assert arrival.headers["x-api-key"] == arrival.credential == sandbox.environ["INTOUCH_API_KEY"]
    assert (arrival.status, arrival.rejected) == (201, False)


@pytest.mark.virtual_time
async def test_summary_counts_beyond_the_history() -> None:
    """Only the last *history* requests are kept; the summary counts all of them."""
    async with Sandbox({"intouch": (2, 1.0)}, history=3) as sandbox:
        key = {"x-api-key": sandbox.environ["INTOUCH_API_KEY"]}
        async with aiohttp.ClientSession(sandbox.url("intouch"), headers=key) as session:
            for _ in range(5):
                assert await statuses(session, "tags", 3) == [200, 200, 429]
                await asyncio.sleep(1)
        summary = sandbox.summary("intouch")
        assert len(sandbox.requests("intouch")) == 3
        assert (summary.arrivals, summary.rejected) == (15, sandbox.rejected("intouch")) == (15, 5)
        assert summary.by_status == {200: 10, 429: 5}
        assert summary.quota_use == pytest.approx(1.0)


async def test_each_credential_has_its_own_quota(sandbox: Sandbox, connect: Open) -> None:
    """A credential issued later works and is not limited by the first one's calls."""
    first = await connect("intouch")
    second = await connect("intouch", {"x-api-key": sandbox.issue("intouch")["INTOUCH_API_KEY"]})
    assert await statuses(first, "tags", 3) == [200, 200, 429]
    assert await statuses(second, "tags", 2) == [200, 200]


async def test_quotas_accept_any_model() -> None:
    """A callable in *quotas* makes the limit; here one that counts rejections."""

    def strict() -> SlidingLog:
        return SlidingLog(1, 60.0, count_rejected=True)

    async with Sandbox({"intouch": strict}) as sandbox:
        key = {"x-api-key": sandbox.environ["INTOUCH_API_KEY"]}
        async with aiohttp.ClientSession(sandbox.url("intouch"), headers=key) as session:
            assert await statuses(session, "tags", 3) == [200, 429, 429]
        assert sandbox.summary("intouch").rejected == 2


@pytest.mark.virtual_time
async def test_latency_delays_the_response_only() -> None:
    """Each response takes the given latency; the arrival is counted before it."""
    loop = asyncio.get_running_loop()
    async with Sandbox(latency=(0.5, 0.0)) as sandbox:
        key = {"x-api-key": sandbox.environ["INTOUCH_API_KEY"]}
        async with aiohttp.ClientSession(sandbox.url("intouch"), headers=key) as session:
            start = loop.time()
            assert await statuses(session, "tags", 1) == [200]
            assert loop.time() - start == pytest.approx(0.5, abs=0.01)
        assert sandbox.requests("intouch")[0].at == pytest.approx(start, abs=0.01)


@pytest.mark.virtual_time
async def test_idle_connections_are_closed_after_keepalive() -> None:
    """A connection idle for less than *keepalive* is used again; after that it is closed."""
    async with Sandbox(keepalive=5.0) as sandbox:
        port = int(sandbox.url("intouch").split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            await asyncio.sleep(4)
            writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 401")
        async with asyncio.timeout(6):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_sandbox_ends_while_a_call_hangs() -> None:
    """Exit ends unanswered calls and leaves no task behind."""
    async with Sandbox() as sandbox:
        sandbox.fail("intouch", hang())
        key = {"x-api-key": sandbox.environ["INTOUCH_API_KEY"]}
        async with aiohttp.ClientSession(sandbox.url("intouch"), headers=key) as session:
            before = asyncio.all_tasks()
            call = asyncio.create_task(session.post("tags", json={"name": "x"}))
            async with asyncio.timeout(5):
                while not sandbox.requests("intouch"):  # noqa: ASYNC110  # nobody sets an event
                    await asyncio.sleep(0)
            await sandbox.__aexit__()
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await call
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before


@pytest.mark.parametrize("vendor", ["intouch", "totango", "intempt", "emma", "digital_onboarding"])
async def test_unauthenticated_call_uses_no_quota(
    sandbox: Sandbox, connect: Open, vendor: str
) -> None:
    """Without a credential every vendor rejects the call, and no quota is used."""
    session = await connect(vendor, {})
    async with session.get("v1/x/y") as response:
        assert response.status == 401
    assert sandbox.requests(vendor)[-1].credential == ""  # type: ignore[arg-type]
    assert sandbox.rejected(vendor) == 0  # type: ignore[arg-type]
