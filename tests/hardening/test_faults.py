"""Every client against every way in which a server can fail."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
import trustme

from asyncclients import (
    RetryPolicy,
    SessionPool,
    StatusError,
    TLSError,
    TokenEndpointError,
)
from tests.hardening.vendor_cases import SUBJECTS, Subject
from tests.support.byte_server import ByteServer, Connection, Script, byte_server, http
from tests.support.leaks import leaks
from tests.support.resources import descriptors

from .fault_server import CAP, Behaviour, met_by, promised

pytestmark = pytest.mark.virtual_time

POLICY = RetryPolicy(max_retries=1, max_rate_limited=2, base=0.01, cap=0.02)
CASES = [
    pytest.param(vendor, kind, behaviour, id=f"{vendor}-{kind}-{behaviour.name}")
    for vendor in SUBJECTS
    for behaviour in met_by(vendor)
    for kind in ("read", "write")
    # A success, see test_create_without_note_id_succeeds.
    if (vendor, kind, behaviour.name) != ("totango", "write", "is empty")
]
PASSING = [case for case in CASES if promised(case.values[2], case.values[1]).requests > 1]


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction] - autouse
    """No socket is left behind."""
    before = {*descriptors().values()}
    yield
    assert {*descriptors().values()} - before == set()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that is logged, down to the last detail."""
    caplog.set_level(logging.DEBUG)
    return caplog


@asynccontextmanager
async def serve(subject: Subject, *scripts: Script) -> AsyncGenerator[tuple[ByteServer, Any]]:
    """A server that is right once, then runs *scripts*; and a client that knows it by then."""
    pool = SessionPool(retry=POLICY, timeout=5.0, max_response_bytes=CAP)
    async with byte_server(subject.serves_once, *scripts) as server:
        async with pool:
            client = subject.client(pool, server.url)
            await subject.read(client)
            yield server, client
        for _ in range(5):
            await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def calm(client: Any) -> bool:
    """Is nothing in flight, and nobody waiting?"""
    stats = client.stats()
    return stats.in_flight == 0 and not any(stats.queued.values())


@pytest.mark.parametrize(("vendor", "kind", "behaviour"), CASES)
async def test_fault_raises_the_promised_error(
    vendor: str, kind: str, behaviour: Behaviour, logged: pytest.LogCaptureFixture
) -> None:
    """The promised error after the promised requests, no credential, and the next call succeeds."""
    subject = SUBJECTS[vendor]
    promise, call = promised(behaviour, kind), getattr(subject, kind)
    async with serve(subject, *[behaviour.script] * promise.requests, subject.serves) as (
        server,
        client,
    ):
        sent, connections = client.stats().sent, server.connections
        with pytest.raises(promise.error) as caught:
            await call(client)
        error = caught.value
        assert type(error) is promise.error
        assert error.attempts == client.stats().sent - sent == promise.requests
        assert server.connections - connections == promise.requests
        assert error.vendor == vendor
        assert error.operation
        assert error.advice
        assert calm(client)
        assert leaks(error, *subject.canaries) == []
        assert await subject.read(client) is not None
        assert server.connections - connections == promise.requests + 1
    assert not [canary for canary in subject.canaries if canary in logged.text]


@pytest.mark.parametrize(("vendor", "kind", "behaviour"), PASSING)
async def test_idempotent_call_survives_a_transient_fault(
    vendor: str, kind: str, behaviour: Behaviour
) -> None:
    """An idempotent call succeeds with the next request, which is the only additional one."""
    subject = SUBJECTS[vendor]
    async with serve(subject, behaviour.script, subject.serves) as (server, client):
        connections = server.connections
        await getattr(subject, kind)(client)
        assert server.connections - connections == 2
        assert calm(client)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("vendor", SUBJECTS)
async def test_second_response_is_discarded(vendor: str, late: bool) -> None:
    """It reaches no call, whether it comes with the first or while the connection is idle."""
    subject = SUBJECTS[vendor]
    stale = http(418, b'{"stale": true}')

    async def twice(connection: Connection) -> None:
        fine = http(body=subject.reply(await connection.request()))
        if late:
            await connection.send(fine)
            await asyncio.sleep(0.5)
            await connection.send(stale)
        else:
            await connection.send(fine + stale)
        await connection.request()
        await connection.send(fine)

    async with serve(subject, twice, subject.serves) as (_, client):
        expected = await subject.read(client)
        for _ in range(3):
            await asyncio.sleep(1.0)
            assert await subject.read(client) == expected
        assert calm(client)


@pytest.mark.parametrize("vendor", SUBJECTS)
async def test_early_response_ends_an_upload(vendor: str) -> None:
    """A 413 in the middle of a long body is reported as such, once."""
    subject = SUBJECTS[vendor]

    async def early(connection: Connection) -> None:
        await connection.head()
        await connection.send(http(413, b"too long", {"Connection": "close"}))
        await asyncio.sleep(1.0)

    async with serve(subject, early, subject.serves) as (server, client):
        with pytest.raises(StatusError) as caught:
            await client.request("POST", "x", json={"long": "x" * 5_000_000})
        assert caught.value.status == 413
        assert server.connections == 2
        assert leaks(caught.value, *subject.canaries) == []
        assert calm(client)


AUTHORITY: Any = trustme.CA()
STRANGER: Any = trustme.CA()
YESTERDAY = datetime.now(UTC) - timedelta(days=1)
CERTIFICATES: dict[str, Any] = {
    "expired": AUTHORITY.issue_cert("127.0.0.1", not_after=YESTERDAY),
    "of another host": AUTHORITY.issue_cert("other.example.com"),
    "of nobody": STRANGER.issue_cert("127.0.0.1"),
    "good": AUTHORITY.issue_cert("127.0.0.1"),
}


@pytest.mark.parametrize("certificate", CERTIFICATES)
@pytest.mark.parametrize("vendor", SUBJECTS)
async def test_invalid_certificate_ends_the_call_unsent(vendor: str, certificate: str) -> None:
    """An invalid certificate ends the call before anything is sent; a valid one works."""
    subject = SUBJECTS[vendor]
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    CERTIFICATES[certificate].configure_cert(theirs)
    AUTHORITY.configure_trust(ours)
    connector = aiohttp.TCPConnector(ssl=ours)
    async with (
        byte_server(subject.serves, tls=theirs) as server,
        aiohttp.ClientSession(connector=connector) as session,
        SessionPool(session=session, retry=POLICY) as pool,
    ):
        client = subject.client(pool, server.url)
        if certificate == "good":
            await subject.read(client)
            return
        by_token = vendor == "digital_onboarding"
        with pytest.raises(TokenEndpointError if by_token else TLSError) as caught:
            await subject.read(client)
        assert "could not verify the certificate of 127.0.0.1:" in str(caught.value)
        assert caught.value.attempts == 1 or by_token
        assert (server.arrived, server.connections) == ([], 0)
        assert leaks(caught.value, *subject.canaries) == []
        assert calm(client)
