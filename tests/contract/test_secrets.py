"""Credentials appear nowhere: five clients, with servers that echo all they receive.

Looked at is all that a program, a log or a crash reporter may see: texts, pickles,
tracebacks with locals, events, the log, and the values that are handed out.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest

from asyncclients import (
    AsyncClientsError,
    ConfigurationError,
    DigitalOnboardingClient,
    EmmaClient,
    IntemptClient,
    IntouchClient,
    Quota,
    SessionPool,
    TotangoClient,
)
from asyncclients.core.client import VendorClient
from asyncclients.stores import FileTokens, LimitsControl, RedisLimits, RedisTokens
from tests.support.byte_server import Connection, RawRequest, Script, byte_server, hangs_up, http
from tests.support.leaks import CANARY, leaks

TOKEN = "token/Canary+4711=="


def _basic(user: str) -> str:
    return base64.b64encode(f"{user}:{CANARY}".encode()).decode()


USERS = ("public-4711", "client-4711")
SECRETS = (CANARY, TOKEN, *USERS, *map(_basic, USERS))

CREDENTIALS: dict[type[VendorClient], dict[str, str]] = {
    IntouchClient: {"api_key": CANARY},
    TotangoClient: {"app_token": CANARY},
    IntemptClient: {"api_key": CANARY, "org": "acme"},
    EmmaClient: {"account_id": "100", "public_key": "public-4711", "private_key": CANARY},
    DigitalOnboardingClient: {"client_id": "client-4711", "client_secret": CANARY},
}
CALLS: dict[type[VendorClient], Callable[[Any], Awaitable[object]]] = {
    IntouchClient: lambda client: client.tags.get("a"),
    TotangoClient: lambda client: client.events.list("a"),
    IntemptClient: lambda client: client.collections.list_items("1"),
    EmmaClient: lambda client: client.touchpoint_types.list(),
    DigitalOnboardingClient: lambda client: client.templates.list(),
}
each_client = pytest.mark.parametrize("client", CREDENTIALS, ids=lambda cls: cls.__name__)


def _login(request: RawRequest) -> str:
    names = ("authorization", "x-api-key", "app-token")
    return next(request.headers[name] for name in names if name in request.headers)


def _plain(request: RawRequest) -> bytes:
    """The login as a server may log it: user and password, or whatever it is."""
    scheme, _, rest = _login(request).partition(" ")
    return base64.b64decode(rest) if scheme == "Basic" else _login(request).encode()


def _headers(request: RawRequest) -> bytes:
    return json.dumps(dict(request.headers)).encode()


ECHOES: dict[str, Callable[[RawRequest], bytes]] = {
    "in the body": lambda r: http(400, _headers(r)),
    "in plain words": lambda r: http(403, b"<p>Who is " + _plain(r) + b"?</p>"),
    "in the fields of a 422": lambda r: http(422, b'{"errors":' + _headers(r) + b"}"),
    "in a 500 and its id": lambda r: http(500, _headers(r), {"X-Request-Id": _login(r)}),
    "where JSON is expected": lambda r: http(200, _headers(r)),
    "in a redirect": lambda r: http(302, b"", {"Location": f"https://x.com/{_login(r)}"}),
    "in a header that breaks HTTP": lambda r: http(200, b"", {_login(r): _login(r), "a b": ""}),
    "in a refusal": lambda r: http(429, _headers(r), {"Retry-After": "999"}),
}


def echoing(reply: Callable[[RawRequest], bytes], *, token: bool) -> Script:
    """Answers with what was sent; with *token* only after having granted one."""

    async def script(connection: Connection) -> None:
        while True:
            request = await connection.request()
            granted = token and request.target == "/oauth2/token"
            body = json.dumps({"access_token": TOKEN}).encode()
            await connection.send(http(200, body) if granted else reply(request))

    return script


@pytest.mark.parametrize("token", [False, True], ids=["login", "token"])
@pytest.mark.parametrize("echo", ECHOES)
@each_client
async def test_echoed_credential_is_redacted(
    client: type[VendorClient], echo: str, token: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors, pickles, tracebacks, events, logs, stats and reprs do not show it."""
    caplog.set_level(logging.DEBUG)
    heard: list[object] = []
    async with (
        byte_server(echoing(ECHOES[echo], token=token)) as server,
        SessionPool(listeners=[heard.append]) as pool,
    ):
        made: Any = client
        quotas = [Quota(10_000, 1.0)]
        whole: VendorClient = made(pool, **CREDENTIALS[client], base_url=server.url, quotas=quotas)
        speaker = whole.with_options(max_attempts=1)
        with pytest.raises(AsyncClientsError) as raised:
            await CALLS[client](speaker)
        seen = [repr(heard), caplog.text, repr(pool.stats()), repr(speaker), repr(vars(speaker))]
    assert leaks(raised.value, *SECRETS) == []
    assert heard
    assert [text for text in seen for secret in SECRETS if secret in text] == []


@each_client
async def test_connection_error_shows_no_credential(
    client: type[VendorClient], pool: SessionPool
) -> None:
    """The error of a broken connection, with aiohttp's as its cause, does not show it."""
    async with byte_server(hangs_up) as server:
        made: Any = client
        speaker = made(pool, **CREDENTIALS[client], base_url=server.url)
        with pytest.raises(AsyncClientsError) as raised:
            await CALLS[client](speaker.with_options(max_attempts=1))
    assert leaks(raised.value, *SECRETS) == []


@pytest.mark.parametrize(
    "address", ["http://example.com", f"https://user:{CANARY}@example.com", f"ftp://{CANARY}@x"]
)
@each_client
def test_constructor_error_shows_no_credential(client: type[VendorClient], address: str) -> None:
    """Neither the credential nor a password in the address appears."""
    pool = SessionPool()
    made: Any = client
    with pytest.raises(ConfigurationError) as raised:
        made(pool, **CREDENTIALS[client], base_url=address)
    assert leaks(raised.value, *SECRETS) == []
    environ = dict.fromkeys(client.vendor.environment.values(), CANARY)
    environ[f"{client.vendor.name.upper()}_BASE_URL"] = address
    with pytest.raises(ConfigurationError) as raised:
        client.from_env(pool, environ)
    assert leaks(raised.value, *SECRETS) == []


@each_client
def test_client_cannot_be_pickled(client: type[VendorClient]) -> None:
    """A pickle would contain its credential."""
    made: Any = client
    with pytest.raises(TypeError, match="cannot be pickled"):
        made(SessionPool(), **CREDENTIALS[client]).__reduce__()


STORE = f"redis://user:{quote(CANARY, safe='')}@127.0.0.1:6379"
WRONG_STORES: dict[str, Callable[[], object]] = {
    "a URL in place of a store": lambda: LimitsControl(STORE),
    "another scheme": lambda: RedisLimits(STORE.replace("redis", "http")),
    "a query": lambda: RedisTokens(f"{STORE}?a=1"),
    "prefix": lambda: RedisTokens(STORE, prefix=1),  # type: ignore[arg-type]
    "when_down": lambda: RedisLimits(STORE, when_down="never"),  # type: ignore[arg-type]
    "path": lambda: FileTokens(1),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("mistake", WRONG_STORES)
def test_error_of_a_store_shows_no_password(mistake: str) -> None:
    """A store whose constructor fails is shown without the password of its URL."""
    with pytest.raises(ConfigurationError) as raised:
        WRONG_STORES[mistake]()
    assert leaks(raised.value, CANARY, quote(CANARY, safe="")) == []
