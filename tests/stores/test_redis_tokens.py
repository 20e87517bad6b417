"""Access tokens shared through a real server: one request for all, and never an old one back."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from asyncclients import DigitalOnboardingClient, SessionPool
from asyncclients.core.auth import Token, bearer
from asyncclients.core.tokens import TokenCache
from asyncclients.errors import ConfigurationError, TokenEndpointError
from asyncclients.sandbox import Sandbox
from asyncclients.secret import Secret
from asyncclients.stores import RedisTokens
from tests.support.shared_quota import now
from tests.support.valkey_server import Server, command, connect

pytestmark = pytest.mark.usefixtures("patient")


class Vendor:
    """Gives out numbered tokens after *takes* seconds, or fails."""

    def __init__(self, *, takes: float = 0.05, lives: float = 100.0) -> None:
        self.takes, self.lives = takes, lives
        self.refresh = math.inf
        self.requests = 0
        self.failing = False

    async def fetch(self) -> Token:
        self.requests += 1
        number = self.requests
        await asyncio.sleep(self.takes)
        if self.failing:
            raise TokenEndpointError("down")
        now = asyncio.get_running_loop().time()
        return bearer(Secret(f"canary-{number}"), now + self.lives, now + self.refresh)

    def process(self, url: str) -> TokenCache:
        return TokenCache("scope", self.fetch, RedisTokens(url))


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


def held(process: TokenCache) -> str:
    """The token that *process* would use now."""
    token = process.current(now())
    return token.value.reveal() if token is not None else ""


async def test_one_token_request_for_eight_processes(url: str, vendor: Vendor) -> None:
    """Eight processes need a token at the same time: one requests it, all use it."""
    processes = [vendor.process(url) for _ in range(8)]
    tokens = await asyncio.gather(*(process.get(now()) for process in processes))
    assert vendor.requests == 1
    assert {token.value.reveal() for token in tokens} == {"canary-1"}
    assert all(90 < token.expires_at - now() <= 100.1 for token in tokens)


async def test_rejected_token_is_renewed_once(url: str, vendor: Vendor) -> None:
    """The vendor rejects the token of all eight: one requests the next."""
    processes = [vendor.process(url) for _ in range(8)]
    olds = await asyncio.gather(*(process.get(now()) for process in processes))

    async def renew(process: TokenCache, old: Token) -> Token:
        await process.invalidate(old)
        return await process.get(now())

    tokens = await asyncio.gather(*map(renew, processes, olds))
    assert vendor.requests == 2
    assert {token.value.reveal() for token in tokens} == {"canary-2"}


async def test_token_due_for_renewal_is_renewed_once(url: str, vendor: Vendor) -> None:
    """All eight find the token due for renewal: one requests the next, all get it."""
    vendor.refresh = 0.5
    processes = [vendor.process(url) for _ in range(8)]
    await asyncio.gather(*(process.get(now()) for process in processes))
    await asyncio.sleep(0.55)
    vendor.refresh = math.inf
    used = [process.current(now()) for process in processes]
    assert all(token is not None for token in used)
    async with asyncio.timeout(30.0):  # however slow the machine is
        while len(tokens := set(map(held, processes))) > 1 or tokens == {"canary-1"}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert tokens == {f"canary-{vendor.requests}"}


async def test_failed_token_request_releases_the_lock(url: str, vendor: Vendor) -> None:
    """A process that got no token releases the lock, and another requests one."""
    vendor.failing = True
    with pytest.raises(TokenEndpointError):
        await vendor.process(url).get(now())
    vendor.failing = False
    before = now()
    await vendor.process(url).get(now())
    assert now() - before < 1


async def test_late_process_overwrites_no_newer_token(url: str) -> None:
    """A process that lost its lock returns late: its older token is not stored."""
    late, early = RedisTokens(url), RedisTokens(url)
    assert await late.load("scope", now()) is None
    command(url, "DEL", "asyncclients:{scope}:lock")  # as if it had expired
    assert await early.load("scope", now()) is None
    await early.save("scope", bearer(Secret("second"), now() + 50), now())
    await late.save("scope", bearer(Secret("first"), now() + 50), now())
    kept = await RedisTokens(url).load("scope", now())
    assert kept is not None
    assert kept.value.reveal() == "second"


async def test_drop_deletes_only_the_given_token(url: str) -> None:
    """A process that still holds an old token does not drop the new one."""
    tokens = RedisTokens(url)
    assert await tokens.load("scope", now()) is None
    new = bearer(Secret("new"), now() + 50)
    await tokens.save("scope", new, now())
    await tokens.drop("scope", bearer(Secret("old"), now() + 50))
    kept = await tokens.load("scope", now())
    assert kept is not None
    await tokens.drop("scope", new)
    assert await tokens.load("scope", now()) is None


async def test_stored_token_expires(url: str) -> None:
    """The key expires with the token, and its name contains no credential."""
    tokens = RedisTokens(url)
    await tokens.load("scope", now())
    await tokens.save("scope", bearer(Secret("canary"), now() + 30), now())
    with connect(url) as client:
        assert 29_000 < client.pttl("asyncclients:{scope}:token") <= 30_000
        assert not [name for name in client.scan_iter() if "canary" in name]
    assert "canary" not in repr(tokens)


async def test_unreachable_token_store_fails_no_call(
    vendor: Vendor, caplog: pytest.LogCaptureFixture, absent_port: int
) -> None:
    """Without the store each process requests its own token, and this is logged."""
    token = await vendor.process(f"redis://127.0.0.1:{absent_port}/0").get(now())
    assert token.value.reveal() == "canary-1"
    assert "alone" in caplog.text
    assert "canary" not in caplog.text


async def test_token_store_with_new_password_fails_no_call(
    vendor: Vendor, caplog: pytest.LogCaptureFixture
) -> None:
    """A login that was accepted before is rejected: one warning, local tokens, recovery."""
    with Server() as server:
        process = vendor.process(server.url)
        first = await process.get(now())
        command(server.url, "CONFIG", "SET", "requirepass", "two")
        changed = server.url.replace("redis://", "redis://:two@")
        for number in (2, 3):
            await process.invalidate(first)
            first = await process.get(now())
            assert first.value.reveal() == f"canary-{number}"
        assert caplog.text.count("unusable") == 1
        assert f"127.0.0.1:{server.port}" in caplog.text
        assert "password" in caplog.text
        command(changed, "CONFIG", "SET", "requirepass", "")
        await process.invalidate(first)
        await process.get(now())
        assert caplog.text.count("usable again") == 1
        assert (await vendor.process(server.url).get(now())).value.reveal() == "canary-4"
    assert len(caplog.records) == 2
    assert "canary" not in caplog.text


async def test_token_store_that_never_worked_is_rejected(vendor: Vendor) -> None:
    """A wrong password at first use is a ConfigurationError without the password."""
    with (
        Server("--requirepass", "sesame") as server,
        pytest.raises(ConfigurationError, match="rejects the login") as caught,
    ):
        await vendor.process(server.url.replace("redis://", "redis://:canary@")).get(now())
    assert "canary" not in f"{caught.value!r}"


@pytest.mark.parametrize(
    "planted",
    [
        ("SET", "asyncclients:{scope}:token", "text"),
        ("HSET", "asyncclients:{scope}:token", "value", "text"),
        (
            "HSET",
            "asyncclients:{scope}:token",
            "value",
            "new\nline",
            *("expires", "1e17"),
            "refresh",
            "1e17",
        ),
        ("HSET", "asyncclients:{scope}:token", "value", "v", *("expires", "soon"), "refresh", "1"),
    ],
)
async def test_foreign_data_in_token_store_fails_no_call(
    url: str, vendor: Vendor, planted: tuple[str, ...]
) -> None:
    """Data of another program is not used as a token, and the process gets its own."""
    store = RedisTokens(url)
    await store.load("warm", now())
    command(url, *planted)
    token = await TokenCache("scope", vendor.fetch, store).get(now())
    assert token.value.reveal().startswith("canary-")


def test_invalid_token_store_url_is_rejected() -> None:
    """An invalid URL is a ConfigurationError at construction."""
    with pytest.raises(ConfigurationError):
        RedisTokens("memcached://localhost")


async def test_eight_pools_request_one_token(url: str) -> None:
    """Eight pools call Digital Onboarding: its token endpoint gets one request."""
    async with Sandbox(quotas={"digital_onboarding": (1000, 1.0)}) as sandbox:
        pools = [SessionPool(tokens=RedisTokens(url)) for _ in range(8)]
        clients = [DigitalOnboardingClient.from_env(pool, sandbox.environ) for pool in pools]
        await asyncio.gather(*(client.templates.list() for client in clients))
        for pool in pools:
            await pool.aclose()
        paths = [arrival.path for arrival in sandbox.requests("digital_onboarding")]
        assert len([path for path in paths if path.endswith("/oauth2/token")]) == 1
        assert len(paths) == 9


async def _needs_a_token(url: str, environ: dict[str, str]) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("token_worker.py")),
        url,
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, **environ},
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.sweep
async def test_eight_processes_request_one_token(url: str) -> None:
    """Eight programs start at the same instant: one token request, and all calls succeed."""
    async with Sandbox(quotas={"digital_onboarding": (1000, 1.0)}) as sandbox:
        environ = dict(sandbox.environ)
        processes = await asyncio.gather(*(_needs_a_token(url, environ) for _ in range(8)))
        await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
        arrivals = sandbox.requests("digital_onboarding")
    token_requests = [arrival for arrival in arrivals if arrival.path.endswith("/oauth2/token")]
    assert [process.returncode for process in processes] == [0] * 8
    assert len(token_requests) == 1
    assert [arrival.status for arrival in arrivals] == [200] * 9
