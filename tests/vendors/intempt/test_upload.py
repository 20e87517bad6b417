"""A CSV file on its way: to the link alone, without our credentials, whole or not at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from asyncclients import (
    AsyncClientsError,
    AttemptTimeoutError,
    BadRequestError,
    DeadlineExceededError,
    ForbiddenError,
    IntemptClient,
    OutcomeUnknownError,
    Quota,
    ServerError,
    SessionPool,
    StatusError,
    UnexpectedRedirectError,
    UploadError,
)
from asyncclients.core.content import PIECE
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.faults import Fault, cut, delay, drop, hang, redirect, status
from asyncclients.vendors.intempt import UploadReceipt
from tests.fakes import CANARY, Connection, byte_server, http, leaks

FILE = b"id,guestId,roomId\n1,2,3\n4,5,6\n"
SIGNATURE = "canary-signature-5d1f0c1e"


@pytest.fixture
def client(sandbox: Sandbox, pool: SessionPool) -> IntemptClient:
    return IntemptClient.from_env(pool, sandbox.environ, quotas=[Quota(10_000, 1.0)])


def bookings(sandbox: Sandbox) -> str:
    """The id of the collection of bookings."""
    return str(sandbox.state("intempt").collections["bookings"].id)


def stored(sandbox: Sandbox) -> list[bytes]:
    """The files that the storage took."""
    return list(sandbox.state("storage").objects.values())


async def pieces(*parts: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    """*parts*, each after *pause* seconds."""
    for part in parts:
        await asyncio.sleep(pause)
        yield part


# --- What arrives --------------------------------------------------------------------


async def test_each_source_arrives_whole(
    sandbox: Sandbox, client: IntemptClient, tmp_path: Path
) -> None:
    """A path, bytes and a stream with its length: same bytes, same rows, a receipt each."""
    path = tmp_path / "bookings.csv"
    path.write_bytes(FILE)
    upload, collection = client.collections.upload_csv, bookings(sandbox)
    receipts = [
        await upload(collection, path),
        await upload(collection, str(path)),
        await upload(collection, FILE),
        await upload(collection, pieces(FILE[:7], b"", FILE[7:]), length=len(FILE)),
    ]
    assert receipts == [UploadReceipt(host="127.0.0.1", bytes_sent=len(FILE))] * 4
    assert stored(sandbox) == [FILE] * 4
    assert len(await client.collections.list_items(collection)) == 2


async def test_a_large_file_is_told_as_it_goes(
    sandbox: Sandbox, client: IntemptClient, tmp_path: Path
) -> None:
    """Eight pieces of a file: the callback hears each, up to the length; the bytes are the same."""
    path = tmp_path / "large.csv"
    path.write_bytes(b"id\n" + b"1234567\n" * (PIECE // 8 * 8))
    told: list[int] = []
    receipt = await client.collections.upload_csv(bookings(sandbox), path, progress=told.append)
    assert told == sorted(set(told))
    assert len(told) >= 8
    assert told[-1] == receipt.bytes_sent == path.stat().st_size
    assert stored(sandbox) == [path.read_bytes()]


async def test_the_two_requests_are_what_the_manual_wants(
    sandbox: Sandbox, client: IntemptClient
) -> None:
    """A POST of text/csv without a body, with the key; a PUT with a length, and nothing of ours."""
    noisy = client.with_options(headers={"X-Tenant": "t", "Cookie": "c=1"})
    await noisy.collections.upload_csv(bookings(sandbox), FILE)
    (link,), (put,) = sandbox.requests("intempt"), sandbox.requests("storage")
    assert (link.method, link.body, link.status) == ("POST", b"", 307)
    assert link.headers["Content-Type"] == "text/csv"
    assert link.headers["Content-Length"] == "0"
    assert (put.method, put.status) == ("PUT", 200)
    assert put.headers["Content-Length"] == str(len(FILE))
    ours = ("Authorization", "X-Tenant", "Cookie", "Content-Type", "Transfer-Encoding")
    assert not [name for name in ours if name in put.headers]
    key = sandbox.environ["INTEMPT_API_KEY"]
    assert key not in str(put)


async def test_a_borrowed_sessions_headers_stay_at_home(sandbox: Sandbox) -> None:
    """The storage sees neither headers nor cookies of a session that was lent to the pool."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": CANARY}, cookies={"c": CANARY}) as session,
        SessionPool(session=session) as pool,
    ):
        client = IntemptClient.from_env(pool, sandbox.environ)
        await client.collections.upload_csv(bookings(sandbox), FILE)
    (put,) = sandbox.requests("storage")
    assert put.status == 200
    assert CANARY not in str(put)


@pytest.mark.looptime
async def test_uploads_take_no_quota_of_the_vendor(sandbox: Sandbox) -> None:
    """Ten uploads: ten permits of the vendor's, for the links; the storage has no quota."""
    async with SessionPool() as pool:
        client = IntemptClient.from_env(pool, sandbox.environ)
        await asyncio.gather(
            *(client.collections.upload_csv(bookings(sandbox), FILE) for _ in range(10))
        )
        vendor, storage = pool.stats()
    assert (vendor.sent, vendor.quotas) == (10, (Quota(10, 1.0),))
    assert (storage.sent, storage.quotas) == (10, ())


async def test_an_empty_file_is_a_file(sandbox: Sandbox, client: IntemptClient) -> None:
    """Nothing in it is for the vendor to judge: it arrives, with Content-Length 0."""
    receipt = await client.collections.upload_csv(bookings(sandbox), b"")
    assert receipt.bytes_sent == 0
    assert stored(sandbox) == [b""]


# --- What goes wrong at the source ------------------------------------------------------


@pytest.mark.parametrize("length", [0, len(FILE) - 1, len(FILE) + 1])
async def test_a_wrong_length_is_an_error_and_stores_nothing(
    sandbox: Sandbox, client: IntemptClient, length: int
) -> None:
    """Shorter or longer than announced: UploadError names the call, the storage has no file."""
    with pytest.raises(UploadError) as caught:
        await client.collections.upload_csv(bookings(sandbox), pieces(FILE), length=length)
    assert caught.value.operation == "collections.upload_csv"
    assert caught.value.advice
    assert stored(sandbox) == []


async def test_a_stream_without_length_is_refused_before_anything_is_sent(
    sandbox: Sandbox, client: IntemptClient
) -> None:
    """ValueError; the vendor is not even asked for a link. The same for a file that is missing."""
    with pytest.raises(ValueError, match="length"):
        await client.collections.upload_csv(bookings(sandbox), pieces(FILE))
    with pytest.raises(FileNotFoundError):
        await client.collections.upload_csv(bookings(sandbox), "/nowhere/bookings.csv")
    assert sandbox.requests("intempt") == ()


async def test_what_the_source_raises_comes_out(sandbox: Sandbox, client: IntemptClient) -> None:
    """The user's own exception, once, and the next call works."""

    async def source() -> AsyncIterator[bytes]:
        yield FILE[:5]
        raise LookupError("the database went away")

    with pytest.raises(LookupError, match="the database went away"):
        await client.collections.upload_csv(bookings(sandbox), source(), length=len(FILE))
    assert stored(sandbox) == []
    await client.collections.upload_csv(bookings(sandbox), FILE)


# --- What goes wrong on the way -----------------------------------------------------------


@pytest.mark.looptime
@pytest.mark.parametrize("fault", [drop(), drop(committed=True), status(503), cut()], ids=repr)
async def test_a_file_is_sent_again_where_that_does_no_harm(
    sandbox: Sandbox, client: IntemptClient, fault: Fault
) -> None:
    """The link stands for one object, so bytes are put again after a lost answer or a 503."""
    sandbox.fail("storage", fault)
    receipt = await client.collections.upload_csv(bookings(sandbox), FILE)
    assert receipt.bytes_sent == len(FILE)
    assert stored(sandbox) == [FILE]
    assert len(sandbox.requests("storage")) == 2
    assert len(sandbox.requests("intempt")) == 1


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("fault", "error"),
    [(drop(), OutcomeUnknownError), (status(503), ServerError), (hang(), OutcomeUnknownError)],
    ids=repr,
)
async def test_a_stream_is_not_sent_twice(
    sandbox: Sandbox, client: IntemptClient, fault: Fault, error: type[AsyncClientsError]
) -> None:
    """What was read cannot be read again: an error says what is known, after one PUT."""
    sandbox.fail("storage", fault)
    with pytest.raises(error):
        await client.collections.upload_csv(bookings(sandbox), pieces(FILE), length=len(FILE))
    assert len(sandbox.requests("storage")) == 1


@pytest.mark.looptime
async def test_a_slow_upload_is_no_stalled_one(sandbox: Sandbox, client: IntemptClient) -> None:
    """`timeout` bounds the time without a piece, not the whole: 250 s in steps of 50 are fine."""
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


@pytest.mark.looptime
async def test_one_deadline_bounds_both_steps(sandbox: Sandbox, client: IntemptClient) -> None:
    """The link took its time: the file has only what is left of it."""
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
async def test_any_other_answer_than_a_link_is_an_error(
    sandbox: Sandbox, client: IntemptClient, answer: Fault
) -> None:
    """2xx or another redirect instead of 307: an error, and no file leaves."""
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
async def test_a_link_that_is_not_https_gets_no_file(
    sandbox: Sandbox, client: IntemptClient, location: str
) -> None:
    """UnexpectedRedirectError names the call and the host, not the signature."""
    sandbox.fail("intempt", redirect(location, 307))
    with pytest.raises(UnexpectedRedirectError) as caught:
        await client.collections.upload_csv(bookings(sandbox), FILE)
    assert caught.value.operation == "collections.upload_csv"
    assert leaks(caught.value, SIGNATURE, sandbox.environ["INTEMPT_API_KEY"]) == []


async def test_the_storages_words_are_told(sandbox: Sandbox, client: IntemptClient) -> None:
    """An expired link: ForbiddenError with the storage's own words and what to do next."""
    sandbox.state("storage").lifetime = -1
    with pytest.raises(ForbiddenError) as caught:
        await client.collections.upload_csv(bookings(sandbox), FILE)
    assert "Request has expired" in str(caught.value)
    assert "upload_csv again" in str(caught.value)
    assert caught.value.method == "PUT"


async def test_a_redirect_of_the_storage_is_not_followed(
    sandbox: Sandbox, client: IntemptClient
) -> None:
    """The file goes where the vendor's link leads and nowhere else."""
    sandbox.fail("storage", redirect("https://elsewhere.example/", 307))
    with pytest.raises(UnexpectedRedirectError):
        await client.collections.upload_csv(bookings(sandbox), FILE)
    assert stored(sandbox) == []


async def test_an_early_no_is_heard_while_the_file_is_still_going(pool: SessionPool) -> None:
    """The storage refuses on the headers alone: its words come out, not a broken connection."""

    async def link(connection: Connection) -> None:
        await connection.request()
        there = f"{server.url}b.csv?X-Amz-Signature={SIGNATURE}"
        await connection.send(http(307, b"", {"Location": there}))

    async def refuse(connection: Connection) -> None:
        xml = f"<Error><Code>AccessDenied</Code><Sent>{SIGNATURE}</Sent></Error>".encode()
        await connection.send(http(403, xml, {"Content-Type": "application/xml"}))
        await asyncio.sleep(0.2)

    async with byte_server(link, refuse) as server:
        client = IntemptClient(pool, api_key=CANARY, org="o", base_url=server.url)
        with pytest.raises(ForbiddenError, match="AccessDenied") as caught:
            await client.collections.upload_csv("1", b"x" * 2**24)
    assert leaks(caught.value, SIGNATURE, CANARY) == []


@pytest.mark.looptime
async def test_no_credential_shows_in_any_failure(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Through each failure of the upload neither key nor signature is told, logged or pickled."""
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


async def test_the_key_is_nowhere_but_in_its_header(sandbox: Sandbox, pool: SessionPool) -> None:
    """In path, query, body or any other header of what was sent, the key does not stand."""
    client = IntemptClient.from_env(pool, sandbox.environ)
    await client.collections.upload_csv(bookings(sandbox), FILE)
    key = sandbox.environ["INTEMPT_API_KEY"]
    for arrival in (*sandbox.requests("intempt"), *sandbox.requests("storage")):
        named = [name for name, value in arrival.headers.items() if key in value]
        assert named == (["Authorization"] if arrival.vendor == "intempt" else [])
        assert key not in f"{arrival.path}{arrival.query}{arrival.body!r}"
