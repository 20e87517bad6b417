"""Credentials that rotate: functions and files, which are read again after a 401."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from asyncclients import (
    ConfigurationError,
    DigitalOnboardingClient,
    EmmaClient,
    ForbiddenError,
    IntemptClient,
    IntouchClient,
    SessionPool,
    TokenEndpointError,
    TokenRejectedError,
    TotangoClient,
    UnauthorizedError,
)
from asyncclients.core.call import config_of
from asyncclients.core.client import VendorClient
from asyncclients.ratelimit.quota import Quota
from asyncclients.sandbox import Sandbox
from asyncclients.stores import FileTokens
from tests.support.byte_server import Connection, byte_server, http
from tests.support.clients import CLIENTS
from tests.support.fake_vendor import QUICK, Thing, ToyClient
from tests.support.leaks import CANARY, leaks

FINE, REJECTED = http(body=b'{"id": 1}'), http(401, b'{"message": "bad key"}')


class Vault:
    """A key store: the current key and the number of reads."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.reads = 0
        self.failure: Exception | None = None

    def __call__(self) -> str:
        """Read the key."""
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return self.key


class Server:
    """A vendor that accepts one key, the value of one header."""

    def __init__(self, accepts: str, *, delay: float = 0.0) -> None:
        self.accepts, self.delay = accepts, delay

    async def __call__(self, connection: Connection) -> None:
        """Answer each request after the delay."""
        while True:
            request = await connection.request()
            await asyncio.sleep(self.delay)
            is_known = request.headers.get("x-api-key") == self.accepts
            await connection.send(FINE if is_known else REJECTED)


@pytest.mark.virtual_time
async def test_function_is_called_again_after_a_401_only() -> None:
    """Once at the start, once after each rotation; the call that met the 401 succeeds."""
    vault, vendor = Vault("first-4711"), Server("first-4711")
    async with byte_server(vendor) as server, SessionPool() as pool:
        client = ToyClient(pool, key=vault, base_url=server.url).with_options(max_attempts=1)
        for _ in range(3):
            assert await client.things.make() == Thing(id=1)
        assert (vault.reads, len(server.arrived)) == (1, 3)
        for key in ("second-4711", "third-4711"):
            vault.key = vendor.accepts = key
            assert await client.things.make() == Thing(id=1)
            assert await client.things.make() == Thing(id=1)
        assert (vault.reads, len(server.arrived)) == (3, 9)


@pytest.mark.virtual_time
async def test_waiting_calls_share_one_read() -> None:
    """A hundred calls in flight meet the 401: one read, each is retried once, none fails."""
    vault, vendor = Vault("first-4711"), Server("first-4711", delay=0.5)
    async with byte_server(vendor) as server, SessionPool() as pool:
        client = ToyClient(pool, key=vault, base_url=server.url)
        await client.things.get()
        vault.key = vendor.accepts = "second-4711"
        found = await asyncio.gather(*(client.things.get() for _ in range(100)))
        assert found == [Thing(id=1)] * 100
        assert vault.reads == 2
        assert len(server.arrived) == 201


@pytest.mark.virtual_time
async def test_queued_calls_are_sent_with_the_new_key() -> None:
    """Calls that wait for a permit during the rotation do not spend it on the old key."""
    vault, vendor = Vault("first-4711"), Server("first-4711")
    async with byte_server(vendor) as server, SessionPool() as pool:
        client = ToyClient(pool, key=vault, base_url=server.url, quotas=(Quota(1, 10.0),))
        await client.things.get()
        vault.key = vendor.accepts = "second-4711"
        await asyncio.gather(*(client.things.get() for _ in range(5)))
        keys = [request.headers["x-api-key"] for request in server.arrived]
        assert keys == ["first-4711"] * 2 + ["second-4711"] * 5


@pytest.mark.virtual_time
async def test_unchanged_key_raises_the_401() -> None:
    """The call is not repeated with the key that was just rejected; the next call asks again."""
    vault, vendor = Vault("first-4711"), Server("first-4711")
    async with byte_server(vendor) as server, SessionPool() as pool:
        client = ToyClient(pool, key=vault, base_url=server.url)
        await client.things.get()
        vendor.accepts = "second-4711"
        ends = await asyncio.gather(
            *(client.things.get() for _ in range(10)), return_exceptions=True
        )
        assert {type(end) for end in ends} == {UnauthorizedError}
        assert (vault.reads, len(server.arrived)) == (2, 11)
        vault.key = "second-4711"
        assert await client.things.get() == Thing(id=1)
        assert (vault.reads, len(server.arrived)) == (3, 13)


@pytest.mark.virtual_time
async def test_new_key_that_is_rejected_raises_the_401() -> None:
    """There is one retry; the error shows neither the old nor the new key."""
    vault, vendor = Vault("first-4711"), Server("other-4711")
    async with byte_server(vendor) as server, SessionPool() as pool:
        client = ToyClient(pool, key=vault, base_url=server.url)
        vault.key = CANARY
        with pytest.raises(UnauthorizedError) as caught:
            await client.things.get()
        assert (vault.reads, len(server.arrived), caught.value.attempts) == (2, 2, 2)
        assert leaks(caught.value, "first-4711", CANARY) == []


@pytest.mark.virtual_time
@pytest.mark.parametrize("broken", [OSError(CANARY), "", "key\n", 5, None])
async def test_unreadable_key_fails_calls_until_it_can_be_read(broken: Any) -> None:
    """The error names the problem and no credential; for some seconds no call is sent."""
    vault, vendor = Vault("first-4711"), Server("first-4711")
    async with byte_server(vendor) as server, SessionPool(retry=QUICK) as pool:
        client = ToyClient(pool, key=vault, base_url=server.url)
        await client.things.get()
        if isinstance(broken, Exception):
            vault.failure = broken
        else:
            vault.key = broken
        vendor.accepts = "second-4711"
        for _ in range(2):
            with pytest.raises(TokenEndpointError, match="read again") as caught:
                await client.things.get()
            assert leaks(caught.value, "first-4711", CANARY) == []
        assert (vault.reads, len(server.arrived)) == (2, 2)
        await asyncio.sleep(10.0)
        vault.key, vault.failure = "second-4711", None
        assert await client.things.get() == Thing(id=1)


@pytest.mark.virtual_time
async def test_scope_and_quota_keep_their_identity() -> None:
    """A rotation starts no new window: scope, slots and counts stay."""
    vault, vendor = Vault("first-4711"), Server("first-4711")
    async with byte_server(vendor) as server, SessionPool() as pool:
        client = ToyClient(pool, key=vault, base_url=server.url, quotas=(Quota(5, 60.0),))
        await client.things.get()
        before = client.stats()
        vault.key = vendor.accepts = "second-4711"
        await client.things.get()
        after = client.stats()
        assert (after.scope, after.sent, after.held) == (before.scope, 3, 3)
        assert len(pool.stats()) == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("fixed_first", [False, True])
async def test_fixed_and_rotating_client_share_a_scope(fixed_first: bool) -> None:
    """Clients of one key, given as text and as a function: each sends it, only one renews it."""
    vault, vendor = Vault("first-4711"), Server("first-4711")
    async with byte_server(vendor) as server, SessionPool() as pool:
        fixed = ToyClient(pool, key="first-4711", base_url=server.url)
        rotating = ToyClient(pool, key=vault, base_url=server.url)
        for client in (fixed, rotating) if fixed_first else (rotating, fixed):
            assert await client.things.get() == Thing(id=1)
        vault.key = vendor.accepts = "second-4711"
        with pytest.raises(UnauthorizedError):
            await fixed.things.get()
        assert await rotating.things.get() == Thing(id=1)
        assert len(pool.stats()) == 1


@pytest.mark.virtual_time
async def test_cancelled_call_does_not_cancel_the_read_for_others() -> None:
    """The call that started the read is cancelled; another waiting call gets the new key."""
    goes_on = threading.Event()
    keys = iter(["first-4711", "second-4711"])

    def read() -> str:
        key = next(keys)
        if key == "second-4711":
            goes_on.wait(10)
        return key

    vendor = Server("first-4711")
    async with byte_server(vendor) as server, SessionPool() as pool:
        client = ToyClient(pool, key=read, base_url=server.url)
        await client.things.get()
        vendor.accepts = "second-4711"
        first, second = (asyncio.create_task(client.things.get()) for _ in range(2))
        await asyncio.sleep(1.0)
        assert len(server.arrived) == 3
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert first.cancelled()
        goes_on.set()
        assert await second == Thing(id=1)


class TokenServer:
    """A vendor with a token endpoint that accepts one client secret."""

    def __init__(self, accepts: str) -> None:
        self.accepts = accepts
        self.tokens: list[str] = []
        self.revoked = 0

    async def __call__(self, connection: Connection) -> None:
        """Issue tokens to the accepted secret; accept the tokens that are not revoked."""
        while True:
            request = await connection.request()
            login = request.headers["authorization"]
            if request.target == "/oauth2/token":
                is_known = login == _basic(self.accepts)
                body = json.dumps({"access_token": f"token-{len(self.tokens)}"}).encode()
                self.tokens += [login] if is_known else []
                await connection.send(http(body=body) if is_known else http(401))
            else:
                number = int(login.rpartition("-")[2])
                fine = number >= self.revoked
                await connection.send(http(body=b"[]") if fine else http(401))


def login_of(client: VendorClient) -> Any:
    """The login of *client*."""
    config = config_of(client)
    assert config is not None
    return config.login


def _basic(secret: str) -> str:
    pool = SessionPool()
    client = DigitalOnboardingClient(pool, client_id="client-4711", client_secret=secret)
    return str(login_of(client).value.reveal())


@pytest.mark.virtual_time
@pytest.mark.parametrize("shared", [False, True])
async def test_client_secret_is_read_again_if_the_token_endpoint_rejects_it(
    shared: bool, tmp_path: Path
) -> None:
    """Secret and tokens are revoked: one read and two token requests serve fifty calls."""
    vault, vendor = Vault("first-4711"), TokenServer("first-4711")
    tokens = FileTokens(tmp_path / "tokens.json") if shared else None
    async with byte_server(vendor) as server, SessionPool(tokens=tokens) as pool:
        client = DigitalOnboardingClient(
            pool,
            client_id="client-4711",
            client_secret=vault,
            base_url=server.url,
            quotas=[Quota(1000, 1.0)],
        )
        await client.templates.list()
        vendor.revoked = 1
        vault.key = vendor.accepts = "second-4711"
        await asyncio.gather(*(client.templates.list() for _ in range(50)))
        assert (vault.reads, len(vendor.tokens)) == (2, 2)
        requests = [r for r in server.arrived if r.target == "/oauth2/token"]
        assert len(requests) == 3


@pytest.mark.virtual_time
async def test_unchanged_client_secret_raises_token_rejected_error() -> None:
    """It is read once more and not tried again."""
    vault, vendor = Vault("first-4711"), TokenServer("other-4711")
    async with byte_server(vendor) as server, SessionPool() as pool:
        client = DigitalOnboardingClient(
            pool, client_id="client-4711", client_secret=vault, base_url=server.url
        )
        with pytest.raises(TokenRejectedError):
            await client.templates.list()
        assert (vault.reads, len(server.arrived)) == (2, 1)


@pytest.mark.virtual_time
async def test_file_is_read_again_after_a_401(tmp_path: Path) -> None:
    """The content without the line end is the key, as in a mounted secret."""
    file, vendor = tmp_path / "key", Server("first-4711")
    file.write_text("first-4711\n")
    async with byte_server(vendor) as server, SessionPool() as pool:
        client = ToyClient(pool, key_file=file, base_url=server.url)
        assert await client.things.get() == Thing(id=1)
        file.write_text("second-4711\r\n")
        vendor.accepts = "second-4711"
        assert await client.things.get() == Thing(id=1)
        assert len(server.arrived) == 3


ROTATING: dict[type[VendorClient], tuple[str, Callable[[Any], Awaitable[object]]]] = {
    IntouchClient: ("api_key", lambda client: client.tags.create("a")),
    TotangoClient: ("app_token", lambda client: client.touchpoint_types.list()),
    IntemptClient: ("api_key", lambda client: client.segmentations.latest(profile_id="1")),
    EmmaClient: ("private_key", lambda client: client.touchpoint_types.list()),
    DigitalOnboardingClient: ("client_secret", lambda client: client.templates.list()),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("made", ROTATING, ids=lambda cls: cls.__name__)
async def test_rejected_key_is_read_again(made: Any) -> None:
    """The mock vendors reject an old key in their own way; the call succeeds with the new one."""
    name, call = ROTATING[made]
    vault = Vault("old-4711")
    async with Sandbox() as sandbox, SessionPool() as pool:
        client = made.from_env(pool, sandbox.environ, **{name: vault})
        vault.key = sandbox.environ[made.vendor.environment[name]]
        await call(client)
        assert vault.reads == 2


@pytest.mark.virtual_time
async def test_403_of_another_kind_reads_nothing_again() -> None:
    """A key without permission is known; the function is not called."""

    async def forbid(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(http(403, b'{"message": "Not yours"}'))

    vault = Vault("first-4711")
    async with byte_server(forbid) as server, SessionPool() as pool:
        resources: list[Any] = [
            ToyClient(pool, key=vault, base_url=server.url).things,
            IntouchClient(pool, api_key=vault, base_url=server.url).tags,
        ]
        for resource in resources:
            with pytest.raises(ForbiddenError):
                await resource.get("1")
        assert vault.reads == 2


# --- Arguments ----------------------------------------------------------------------

FILES = [
    (made, name)
    for made, arguments in CLIENTS.items()
    for name in arguments
    if name not in {"account_id", "org"}
]
each_file = pytest.mark.parametrize(("made", "name"), FILES)


@each_file
def test_credential_may_be_a_function_or_a_file(
    made: Callable[..., VendorClient], name: str, tmp_path: Path
) -> None:
    """Both make the login that the text makes."""
    arguments: Any = CLIENTS[made]  # type: ignore[index]
    file = tmp_path / "secret"
    file.write_text(arguments[name] + "\n")
    others = {other: text for other, text in arguments.items() if other != name}
    expected = login_of(made(SessionPool(), **arguments))
    for given in ({name: lambda: arguments[name]}, {f"{name}_file": str(file)}):
        login = login_of(made(SessionPool(), **others, **given))
        assert login.secrets == expected.secrets
        assert login.renew().secrets == expected.secrets


@each_file
def test_from_env_reads_the_file_that_a_variable_names(
    made: type[VendorClient], name: str, tmp_path: Path
) -> None:
    """`<VARIABLE>_FILE` replaces the variable; both together are an error that names the argument."""
    variable = made.vendor.environment[name]
    environ = dict.fromkeys(made.vendor.environment.values(), "value-4711")
    expected = login_of(made.from_env(SessionPool(), environ))
    file = tmp_path / "secret"
    file.write_text("value-4711\n")
    both = {**environ, f"{variable}_FILE": str(file)}
    with pytest.raises(ConfigurationError, match=f"{name} and {name}_file"):
        made.from_env(SessionPool(), both)
    del both[variable]
    found = login_of(made.from_env(SessionPool(), both))
    assert found.secrets == expected.secrets
    call: Any = made
    found = login_of(call.from_env(SessionPool(), both, **{name: "other-4711"}))
    assert found.secrets != expected.secrets


@each_file
def test_unusable_file_is_rejected_at_construction(
    made: type[VendorClient], name: str, tmp_path: Path
) -> None:
    """Missing, a folder, empty, of several lines, not UTF-8: the error names the argument."""
    others = {other: text for other, text in CLIENTS[made].items() if other != name}
    call: Any = made
    for content in (None, b"", b"\n", b"one\ntwo\n", b"\xff" + CANARY.encode()):
        file = tmp_path / "missing"
        if content is not None:
            file = tmp_path / "file"
            file.write_bytes(content)
        for path in (file, tmp_path, 5):
            with pytest.raises(ConfigurationError, match=f"{name}_file") as caught:
                call(SessionPool(), **others, **{f"{name}_file": path})
            assert leaks(caught.value, CANARY) == []


def test_credential_given_twice_is_rejected(tmp_path: Path) -> None:
    """The error shows neither."""
    with pytest.raises(ConfigurationError, match="app_token and app_token_file") as caught:
        TotangoClient(SessionPool(), app_token=CANARY, app_token_file=tmp_path / "key")
    assert leaks(caught.value, CANARY) == []


async def test_coroutine_function_is_rejected() -> None:
    """The error explains that a function may block."""

    async def read() -> str:
        return "key-4711"

    wrong: Any = read
    with pytest.raises(ConfigurationError, match=r"api_key .* it may block"):
        IntouchClient(SessionPool(), api_key=wrong)


@pytest.mark.parametrize("value", [5, None, b"key", "", "key\n"])
def test_function_that_returns_no_credential_is_rejected(value: Any) -> None:
    """As the value itself would be."""
    with pytest.raises(ConfigurationError, match="private_key"):
        EmmaClient(SessionPool(), account_id=1, public_key="p", private_key=lambda: value)


def test_failure_of_the_function_at_construction_is_not_changed() -> None:
    """The caller's own exception is raised."""

    def read() -> str:
        raise ArithmeticError("the vault is closed")

    with pytest.raises(ArithmeticError, match="the vault is closed"):
        IntouchClient(SessionPool(), api_key=read)
