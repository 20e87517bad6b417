"""Failed uploads of a CSV file: retries, errors, and no credential in any of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from asyncclients import (
    AsyncClientsError,
    AttemptTimeoutError,
    BadRequestError,
    DeadlineExceededError,
    ForbiddenError,
    IntemptClient,
    OutcomeUnknownError,
    ServerError,
    SessionPool,
    StatusError,
    UnexpectedRedirectError,
    UploadError,
)
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.faults import Fault, cut, delay, drop, hang, redirect, status
from tests.support.byte_server import Connection, byte_server, http
from tests.support.leaks import CANARY, leaks

from .conftest import FILE, SIGNATURE, bookings, pieces, stored


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", [drop(), drop(committed=True), status(503), cut()], ids=repr)
async def test_lost_file_upload_is_retried(
    sandbox: Sandbox, client: IntemptClient, fault: Fault
) -> None:
    """The PUT is retried after a lost response or a 503, because the link identifies one object."""
    sandbox.fail("storage", fault)
    receipt = await client.collections.upload_csv(bookings(sandbox), FILE)
    assert receipt.bytes_sent == len(FILE)
    assert stored(sandbox) == [FILE]
    assert len(sandbox.requests("storage")) == 2
    assert len(sandbox.requests("intempt")) == 1


@pytest.mark.parametrize("error", [KeyError, OSError, TimeoutError])
async def test_error_of_a_source_has_no_frame_of_the_request(
    sandbox: Sandbox, client: IntemptClient, error: type[Exception]
) -> None:
    """The error of a stream is raised without the frames of aiohttp and their locals."""

    async def broken() -> AsyncGenerator[bytes]:
        yield FILE
        raise error("the disk is gone")

    with pytest.raises(error, match="the disk is gone") as caught:
        await client.collections.upload_csv(bookings(sandbox), broken(), length=99)
    assert not [entry for entry in caught.traceback if "aiohttp" in str(entry.path)]
    assert len(sandbox.requests("storage")) <= 1
    with pytest.raises(UploadError) as wrong:
        await client.collections.upload_csv(bookings(sandbox), pieces(FILE), length=99)
    assert not [entry for entry in wrong.traceback if "aiohttp" in str(entry.path)]


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("fault", "error"),
    [(drop(), OutcomeUnknownError), (status(503), ServerError), (hang(), OutcomeUnknownError)],
    ids=repr,
)
async def test_stream_is_not_sent_twice(
    sandbox: Sandbox, client: IntemptClient, fault: Fault, error: type[AsyncClientsError]
) -> None:
    """A failed PUT of a stream raises, because a stream cannot be read twice."""
    sandbox.fail("storage", fault)
    with pytest.raises(error):
        await client.collections.upload_csv(bookings(sandbox), pieces(FILE), length=len(FILE))
    assert len(sandbox.requests("storage")) == 1


@pytest.mark.virtual_time
async def test_slow_upload_does_not_time_out(sandbox: Sandbox, client: IntemptClient) -> None:
    """`timeout` applies to each piece: an upload of 250 s in steps of 50 s succeeds."""
    parts = [FILE[n : n + 6] for n in range(0, len(FILE), 6)]
    receipt = await client.with_options(timeout=60).collections.upload_csv(
        bookings(sandbox), pieces(*parts, pause=50), length=len(FILE)
    )
    assert receipt.bytes_sent == len(FILE)
    with pytest.raises((AttemptTimeoutError, OutcomeUnknownError)):
        await client.with_options(timeout=60).collections.upload_csv(
            bookings(sandbox), pieces(FILE[:5], FILE[5:], pause=70), length=len(FILE)
        )
    assert len(stored(sandbox)) == 1


@pytest.mark.virtual_time
async def test_deadline_includes_both_steps(sandbox: Sandbox, client: IntemptClient) -> None:
    """The deadline includes the request for the link; the file has the time that is left."""
    loop = asyncio.get_running_loop()
    sandbox.fail("intempt", delay(3.0))
    sandbox.fail("storage", hang(), times=None)
    began = loop.time()
    with pytest.raises((DeadlineExceededError, AttemptTimeoutError)):
        await client.with_options(deadline=5.0).collections.upload_csv(bookings(sandbox), FILE)
    assert loop.time() - began == pytest.approx(5.0, abs=0.2)


@pytest.mark.parametrize(
    "answer", [status(200), status(201, "{}"), status(204), redirect("https://x.example/", 302)]
)
async def test_reply_without_link_is_an_error(
    sandbox: Sandbox, client: IntemptClient, answer: Fault
) -> None:
    """A 2xx or another redirect instead of the 307 is an error, and no file is sent."""
    sandbox.fail("intempt", answer)
    with pytest.raises((StatusError, UnexpectedRedirectError)):
        await client.collections.upload_csv(bookings(sandbox), FILE)
    assert sandbox.requests("storage") == ()


@pytest.mark.parametrize(
    "location",
    [
        f"http://bucket.example/b.csv?X-Amz-Signature={SIGNATURE}",
        f"https://user:{SIGNATURE}@bucket.example/b.csv",
        f"//bucket.example/b.csv?sig={SIGNATURE}",
        f"/uploads/b.csv?sig={SIGNATURE}",
        f"ftp://127.0.0.1/b.csv?sig={SIGNATURE}",
        "",
    ],
)
async def test_link_without_https_is_rejected(
    sandbox: Sandbox, client: IntemptClient, location: str
) -> None:
    """A link without https is an `UnexpectedRedirectError` with the host, not the signature."""
    sandbox.fail("intempt", redirect(location, 307))
    with pytest.raises(UnexpectedRedirectError) as caught:
        await client.collections.upload_csv(bookings(sandbox), FILE)
    assert caught.value.operation == "collections.upload_csv"
    assert leaks(caught.value, SIGNATURE, sandbox.environ["INTEMPT_API_KEY"]) == []


async def test_error_of_the_storage_is_quoted(sandbox: Sandbox, client: IntemptClient) -> None:
    """An expired link is a `ForbiddenError` with the text of the storage and advice."""
    sandbox.state("storage").lifetime = -1
    with pytest.raises(ForbiddenError) as caught:
        await client.collections.upload_csv(bookings(sandbox), FILE)
    assert "Request has expired" in str(caught.value)
    assert "upload_csv again" in str(caught.value)
    assert caught.value.method == "PUT"


async def test_echoed_key_is_redacted(sandbox: Sandbox, client: IntemptClient) -> None:
    """A key in a response of the storage is in no error."""
    key = sandbox.environ["INTEMPT_API_KEY"]
    sandbox.fail("storage", status(403, f"got ApiKey {key}"))
    with pytest.raises(ForbiddenError, match="got ApiKey") as caught:
        await client.collections.upload_csv(bookings(sandbox), FILE)
    assert leaks(caught.value, key) == []


async def test_redirect_of_the_storage_is_not_followed(
    sandbox: Sandbox, client: IntemptClient
) -> None:
    """The file is sent to the vendor's link only, not to a redirect of the storage."""
    sandbox.fail("storage", redirect("https://elsewhere.example/", 307))
    with pytest.raises(UnexpectedRedirectError):
        await client.collections.upload_csv(bookings(sandbox), FILE)
    assert stored(sandbox) == []


async def test_early_error_of_the_storage_ends_the_upload(pool: SessionPool) -> None:
    """If the storage responds to the headers alone, its message is in the error."""

    async def link(connection: Connection) -> None:
        await connection.request()
        there = f"{server.url}b.csv?X-Amz-Signature={SIGNATURE}"
        await connection.send(http(307, b"", {"Location": there}))

    async def refuse(connection: Connection) -> None:
        xml = f"<Error><Code>AccessDenied</Code><Sent>{SIGNATURE}</Sent></Error>".encode()
        await connection.send(http(403, xml, {"Content-Type": "application/xml"}))
        await asyncio.Event().wait()

    async with byte_server(link, refuse) as server:
        client = IntemptClient(pool, api_key=CANARY, org="o", base_url=server.url)
        with pytest.raises(ForbiddenError, match="AccessDenied") as caught:
            await client.collections.upload_csv("1", b"x" * 2**24)
    assert leaks(caught.value, SIGNATURE, CANARY) == []


@pytest.mark.virtual_time
async def test_early_error_of_the_storage_closes_the_stream(pool: SessionPool) -> None:
    """When an early error response raises, the stream of the caller is closed."""
    left = False

    async def slow() -> AsyncGenerator[bytes]:
        nonlocal left
        try:
            yield b"x"
            await asyncio.sleep(3600)
            yield b"y"
        finally:
            left = True

    async def link(connection: Connection) -> None:
        await connection.request()
        await connection.send(http(307, b"", {"Location": f"{server.url}b.csv?sign=1"}))

    async def refuse(connection: Connection) -> None:
        await asyncio.sleep(1.0)
        await connection.send(http(403, b"<Error/>", {"Content-Type": "application/xml"}))

    async with byte_server(link, refuse) as server:
        client = IntemptClient(pool, api_key=CANARY, org="o", base_url=server.url)
        with pytest.raises(ForbiddenError):
            await client.collections.upload_csv("1", slow(), length=2)
        assert left


@pytest.mark.virtual_time
async def test_failures_show_no_credential(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """No failure of an upload has the key or signature in its error, log or pickle."""
    caplog.set_level(logging.DEBUG)
    key, told = sandbox.environ["INTEMPT_API_KEY"], list[Any]()
    async with SessionPool(listeners=[told.append]) as pool:
        client = IntemptClient.from_env(pool, sandbox.environ)
        faults: list[Fault] = [
            drop(),
            hang(),
            cut(),
            status(403, "<Error>denied</Error>"),
            status(307, "", {"Location": "https://x.example/?a=b"}),
        ]
        for fault in faults:
            sandbox.fail("storage", fault, times=None)
            with pytest.raises(AsyncClientsError) as caught:
                await client.with_options(max_attempts=2, timeout=1).collections.upload_csv(
                    bookings(sandbox), pieces(FILE), length=len(FILE)
                )
            sandbox.heal("storage")
            signatures = [dict(a.query)["X-Amz-Signature"] for a in sandbox.requests("storage")]
            assert leaks(caught.value, key, *signatures) == []
        sandbox.fail("intempt", status(400, f'{{"message": "bad key {key}"}}'))
        with pytest.raises(BadRequestError, match="bad key") as caught_400:
            await client.collections.upload_csv(bookings(sandbox), FILE)
        assert leaks(caught_400.value, key) == []
    assert len(sandbox.requests("storage")) == len(faults)
    for signature in [dict(a.query)["X-Amz-Signature"] for a in sandbox.requests("storage")]:
        assert signature not in caplog.text + repr(told)
    assert key not in caplog.text + repr(told)
