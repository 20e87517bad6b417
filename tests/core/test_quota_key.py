"""`quota_key`: one quota for several credentials, which stay apart in all else."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from asyncclients import ConfigurationError, DigitalOnboardingClient, IntouchClient
from asyncclients.core.pool import SessionPool
from asyncclients.errors import ClientClosedError
from asyncclients.ratelimit.quota import Quota
from asyncclients.stores import FileLimits
from tests.support.byte_server import Connection, answers, byte_server, http
from tests.support.fake_vendor import Thing, ToyClient

FINE = http(body=b'{"id": 1}')
TWO = (Quota(2, 60.0),)


@pytest.mark.virtual_time
@pytest.mark.parametrize(("quota_key", "waits"), [("account", True), (None, False)])
async def test_quota_key_joins_the_quotas_of_credentials(
    quota_key: str | None, waits: bool
) -> None:
    """With one key, the third call of two credentials waits for the period; without, none does."""
    async with byte_server(answers(FINE)) as server, SessionPool() as pool:
        made = [
            ToyClient(pool, key=key, base_url=server.url, quotas=TWO, quota_key=quota_key)
            for key in ("one-4711", "two-4711")
        ]
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(client.things.get() for client in made * 2))
        assert (asyncio.get_running_loop().time() - began >= 60.0) is waits
        assert [client.stats().sent for client in made] == ([4, 4] if waits else [2, 2])
        assert sum(stats.sent for stats in pool.stats()) == 4
        keys = sorted(request.headers["x-api-key"] for request in server.arrived)
        assert keys == ["one-4711", "one-4711", "two-4711", "two-4711"]


@pytest.mark.virtual_time
async def test_quota_key_is_one_per_origin() -> None:
    """The same key at another origin is another quota."""
    async with (
        byte_server(answers(FINE)) as one,
        byte_server(answers(FINE)) as two,
        SessionPool() as pool,
    ):
        made = [
            ToyClient(pool, base_url=server.url, quotas=TWO, quota_key="account")
            for server in (one, two)
        ]
        assert len({client.stats().scope for client in made}) == 2


@pytest.mark.virtual_time
async def test_credentials_of_a_quota_key_have_connections_of_their_own() -> None:
    """A cookie and a connection of one credential are never used by the other."""
    set_cookie = http(body=b'{"id": 1}', headers={"Set-Cookie": "session=one; Path=/"})
    async with byte_server(answers(set_cookie)) as server, SessionPool() as pool:
        for key in ("one-4711", "two-4711", "one-4711"):
            await ToyClient(pool, key=key, base_url=server.url, quota_key="account").things.get()
        assert server.connections == 2
        assert all("cookie" not in request.headers for request in server.arrived)


@pytest.mark.virtual_time
async def test_credentials_of_a_quota_key_have_tokens_of_their_own() -> None:
    """Each of two OAuth clients requests its own token; both requests count in one quota."""

    async def serve(connection: Connection) -> None:
        while True:
            request = await connection.request()
            login = request.headers["authorization"]
            token = f'{{"access_token": "for-{login.split(" ")[1]}"}}'.encode()
            await connection.send(http(body=token if "token" in request.target else b"[]"))

    async with byte_server(serve) as server, SessionPool() as pool:
        made = [
            DigitalOnboardingClient(
                pool,
                client_id=name,
                client_secret="secret-4711",
                base_url=server.url,
                quota_key="account",
            )
            for name in ("one", "two")
        ]
        for client in made:
            await client.templates.list()
        logins = [request.headers["authorization"] for request in server.arrived]
        assert len(set(logins)) == 4
        (stats,) = pool.stats()
        assert (stats.sent, stats.token_refreshes) == (4, 2)


@pytest.mark.virtual_time
async def test_evicting_one_credential_leaves_the_quota_to_the_other() -> None:
    """The session of a client that is gone closes; the other one works until it is gone as well."""
    open_now: set[object] = set()

    async def serve(connection: Connection) -> None:
        open_now.add(connection)
        try:
            await answers(FINE)(connection)
        finally:
            open_now.discard(connection)

    async with byte_server(serve) as server, SessionPool() as pool:

        def client(key: str) -> ToyClient:
            return ToyClient(
                pool, key=key, base_url=server.url, quotas=(Quota(3, 20.0),), quota_key="account"
            )

        stays, goes = client("one-4711"), client("two-4711")
        await asyncio.gather(stays.things.get(), goes.things.get())
        assert len(open_now) == 2
        del goes
        gc.collect()
        for _ in range(20):
            await asyncio.sleep(3.0)
            assert await stays.things.get() == Thing(id=1)
        assert len(open_now) == 1
        assert stays.stats().sent == 22
        del stays
        gc.collect()
        await asyncio.sleep(100.0)
        assert (len(open_now), pool.stats()) == (0, ())
        assert await client("two-4711").things.get() == Thing(id=1)


@pytest.mark.virtual_time
async def test_pool_closes_all_credentials_of_a_quota_key() -> None:
    """Calls of each that wait for a permit end with `ClientClosedError`."""
    async with byte_server(answers(FINE)) as server:
        pool = SessionPool()
        made = [
            ToyClient(pool, key=key, base_url=server.url, quotas=TWO, quota_key="account")
            for key in ("one-4711", "two-4711")
        ]
        await asyncio.gather(*(client.things.get() for client in made))
        waiting = [asyncio.create_task(client.things.get()) for client in made]
        await asyncio.sleep(1.0)
        await pool.aclose()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [ClientClosedError, ClientClosedError]


async def test_quota_key_is_shared_through_a_store(tmp_path: Path) -> None:
    """Two pools on one store: the second credential finds the quota spent by the first."""
    async with byte_server(answers(FINE)) as server:
        for key, calls in (("one-4711", 2), ("two-4711", 1)):
            limits = FileLimits(tmp_path / "limits.db")
            async with SessionPool(limits=limits) as pool:
                client = ToyClient(
                    pool, key=key, base_url=server.url, quotas=TWO, quota_key="account"
                )
                hasty = client.with_options(deadline=0.5)
                if calls == 2:
                    await asyncio.gather(*(hasty.things.get() for _ in range(calls)))
                else:
                    with pytest.raises(TimeoutError) as caught:
                        await hasty.things.get()
                    eta: Any = caught.value
                    assert eta.eta > 0.5
        assert len(server.arrived) == 2


@pytest.mark.parametrize("wrong", ["", 5, b"account", ["account"], True])
def test_client_rejects_a_wrong_quota_key(wrong: Any) -> None:
    """It is a text that is not empty; the error shows the form."""
    with pytest.raises(ConfigurationError, match="quota_key='account 4711'"):
        IntouchClient(SessionPool(), api_key="key-4711", quota_key=wrong)


async def test_quota_key_is_read_from_the_environment() -> None:
    """`INTOUCH_QUOTA_KEY` sets it, and an argument replaces it."""
    async with SessionPool() as pool:
        environ = {"INTOUCH_API_KEY": "one-4711", "INTOUCH_QUOTA_KEY": "account"}
        found = IntouchClient.from_env(pool, environ)
        other = IntouchClient.from_env(pool, environ, quota_key="other")
        same = IntouchClient(pool, api_key="two-4711", quota_key="account")
        assert found.stats().scope == same.stats().scope != other.stats().scope
