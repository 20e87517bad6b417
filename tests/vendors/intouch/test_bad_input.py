"""Bad input and bad responses: each raises its own error, with advice and without a credential.

No call hangs, no output holds the credential, and the next call works.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from asyncclients import (
    AsyncClientsError,
    AttemptTimeoutError,
    ConfigurationError,
    DecodeError,
    DisconnectedError,
    ForbiddenError,
    IntouchClient,
    NotFoundError,
    OutcomeUnknownError,
    PaginationError,
    RateLimitedError,
    ResponseTooLargeError,
    SessionPool,
    UnauthorizedError,
    UnexpectedRedirectError,
)
from asyncclients.sandbox import Sandbox, cut, drop, hang, html, redirect, status
from asyncclients.sandbox.faults import Fault
from asyncclients.vendors.intouch import NewContact
from tests.support.byte_server import answers, byte_server, http
from tests.support.leaks import leaks

pytestmark = pytest.mark.virtual_time

BOMB = status(200, gzip.compress(b" " * 100_000_000), {"Content-Encoding": "gzip"})
REPEATED = status(
    200,
    b'{"data": [{"uuid": "u", "name": "n"}], "current_page": 1, "last_page": 9, "total": 9}',
    {"Content-Type": "application/json"},
)
WRONG_KEY = status(401, b'{"message": "Missing Authentication Token"}')


async def read(client: IntouchClient) -> None:
    """An idempotent call."""
    await client.tags.get("u")


async def write(client: IntouchClient) -> None:
    """A call that is not idempotent."""
    await client.tags.create("t")


async def walk(client: IntouchClient) -> None:
    """Read a list to its end."""
    async for _ in client.tags.list():
        pass


Call = Callable[[IntouchClient], Awaitable[None]]
CASES: dict[str, tuple[Fault, Call, type[AsyncClientsError], str]] = {
    "no key": (WRONG_KEY, read, UnauthorizedError, "Check INTOUCH_API_KEY"),
    "html": (html(), read, DecodeError, "check base_url"),
    "html, written": (html(), write, DecodeError, "check base_url"),
    "cut": (cut(), walk, DisconnectedError, "network"),
    "cut, written": (cut(), write, OutcomeUnknownError, "look at the vendor's side"),
    "bomb": (BOMB, read, ResponseTooLargeError, "max_response_bytes"),
    "redirect": (
        redirect("https://evil.example/x", 307),
        read,
        UnexpectedRedirectError,
        "never followed",
    ),
    "redirect, written": (
        redirect("https://evil.example/x", 307),
        write,
        UnexpectedRedirectError,
        "never followed",
    ),
    "dropped": (drop(), read, DisconnectedError, "network"),
    "dropped, written": (drop(), write, OutcomeUnknownError, "look at the vendor's side"),
    "silent": (hang(), read, AttemptTimeoutError, "timeout="),
    "silent, written": (hang(), write, OutcomeUnknownError, "look at the vendor's side"),
    "repeats": (REPEATED, walk, PaginationError, "repeats a page"),
    "spent": (
        status(429, b'{"message": "Limit Exceeded"}'),
        read,
        RateLimitedError,
        "a short wait will not help",
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_bad_response_raises_its_error(
    name: str, sandbox: Sandbox, intouch: IntouchClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad response raises its error, with advice and no credential, and the next call works."""
    caplog.set_level(logging.DEBUG)
    fault, call, expected, remedy = CASES[name]
    key = sandbox.environ["INTOUCH_API_KEY"]
    sandbox.fail("intouch", fault, times=None)
    began = asyncio.get_running_loop().time()
    with pytest.raises(expected, match=re.escape(remedy)) as caught:
        await call(intouch)
    assert type(caught.value) is expected
    assert asyncio.get_running_loop().time() - began < 300
    assert caught.value.operation
    assert caught.value.vendor == "intouch"
    assert leaks(caught.value, key) == []
    assert key not in caplog.text
    sandbox.heal("intouch")
    assert (await intouch.tags.create("next")).name == "next"
    assert intouch.stats().in_flight == 0


async def test_forbidden_has_advice_for_both_causes(sandbox: Sandbox) -> None:
    """A 403 of API Gateway has advice for both causes, the key and the path."""
    environ = sandbox.environ | {"INTOUCH_API_KEY": "ii_wrong-and-secret-key"}
    async with SessionPool() as pool:
        intouch = IntouchClient.from_env(pool, environ)
        with pytest.raises(ForbiddenError, match="check INTOUCH_API_KEY and base_url") as caught:
            await intouch.tags.create("x")
        assert caught.value.attempts == 1
        assert leaks(caught.value, "ii_wrong-and-secret-key") == []
    async with SessionPool() as pool:
        assert await IntouchClient.from_env(pool, sandbox.environ).tags.list().first() is None


def test_missing_variable_is_named() -> None:
    """A missing variable is named, with advice."""
    with pytest.raises(ConfigurationError, match="INTOUCH_API_KEY is not set") as caught:
        IntouchClient.from_env(SessionPool(), {})
    assert "Set INTOUCH_API_KEY" in str(caught.value)


def test_base_url_without_https_is_rejected() -> None:
    """http:// to any host but loopback is rejected: the key would travel unencrypted."""
    with pytest.raises(ConfigurationError, match="https") as caught:
        IntouchClient(SessionPool(), api_key="ii_secret_key", base_url="http://api.example.com/")
    assert leaks(caught.value, "ii_secret_key") == []
    environ = {"INTOUCH_API_KEY": "ii_secret_key", "INTOUCH_BASE_URL": "http://api.example.com/"}
    with pytest.raises(ConfigurationError, match="INTOUCH_BASE_URL is not https"):
        IntouchClient.from_env(SessionPool(), environ)


async def test_id_with_dot_segments_is_one_segment(
    sandbox: Sandbox, intouch: IntouchClient
) -> None:
    """`../admin` is sent as one segment and not found; `..` alone is rejected."""
    with pytest.raises(NotFoundError):
        await intouch.contacts.get("../admin")
    assert sandbox.requests("intouch")[-1].path == "/public/v1/contacts/..%2Fadmin"
    before = len(sandbox.requests("intouch"))
    missing: Any = None
    for uuid in ("..", ".", "", "a\nb", missing):
        for call in (intouch.contacts.get, intouch.contacts.delete, intouch.contacts.subscribe):
            with pytest.raises(ValueError, match="uuid must not"):
                await call(uuid)
    assert len(sandbox.requests("intouch")) == before


async def test_redirect_gets_no_key() -> None:
    """A create that is answered with a 307 sends nothing to the other server."""
    async with byte_server(answers(http())) as other:
        moved = http(307, headers={"Location": other.url + "public/v1/contacts"})
        async with byte_server(answers(moved)) as server, SessionPool() as pool:
            intouch = IntouchClient(pool, api_key="ii_secret_key", base_url=server.url)
            with pytest.raises(UnexpectedRedirectError) as caught:
                await intouch.contacts.create(NewContact(email="a@example.com"))
            assert caught.value.location == other.url + "public/v1/contacts"
            assert leaks(caught.value, "ii_secret_key") == []
        assert other.arrived == []


async def test_key_with_newline_is_rejected() -> None:
    """A key with a newline at its end is rejected by the constructor."""
    with pytest.raises(ConfigurationError, match="newline at its end") as caught:
        IntouchClient(SessionPool(), api_key="ii_secret_key\n")
    assert leaks(caught.value, "ii_secret_key") == []
