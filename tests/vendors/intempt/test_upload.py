"""Uploads of a CSV file: sent to the link only, without credentials, and complete or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from asyncclients import (
    IntemptClient,
    Quota,
    SessionPool,
    UploadError,
)
from asyncclients.sandbox import Sandbox
from asyncclients.uploads import PIECE
from asyncclients.vendors.intempt import UploadReceipt
from tests.support.leaks import CANARY

from .conftest import FILE, bookings, pieces, stored


async def test_every_source_is_uploaded_whole(
    sandbox: Sandbox, client: IntemptClient, tmp_path: Path
) -> None:
    """A path, bytes and a stream with a length upload the same bytes, and each returns a receipt."""
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


async def test_upload_reports_its_progress(
    sandbox: Sandbox, client: IntemptClient, tmp_path: Path
) -> None:
    """Progress is reported for each of eight pieces, up to the length of the file."""
    path = tmp_path / "large.csv"
    path.write_bytes(b"id\n" + b"1234567\n" * (PIECE // 8 * 8))
    told: list[int] = []
    receipt = await client.collections.upload_csv(bookings(sandbox), path, progress=told.append)
    assert told == sorted(set(told))
    assert len(told) >= 8
    assert told[-1] == receipt.bytes_sent == path.stat().st_size
    assert stored(sandbox) == [path.read_bytes()]


async def test_upload_requests_match_the_manual(sandbox: Sandbox, client: IntemptClient) -> None:
    """The POST has the key, text/csv and no body; the PUT has a length and no credential."""
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


async def test_storage_gets_no_headers_of_a_borrowed_session(sandbox: Sandbox) -> None:
    """The storage gets no headers and no cookies of a borrowed session."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": CANARY}, cookies={"c": CANARY}) as session,
        SessionPool(session=session) as pool,
    ):
        client = IntemptClient.from_env(pool, sandbox.environ)
        await client.collections.upload_csv(bookings(sandbox), FILE)
    (put,) = sandbox.requests("storage")
    assert put.status == 200
    assert CANARY not in str(put)


@pytest.mark.virtual_time
async def test_uploads_take_no_quota_of_the_vendor(sandbox: Sandbox) -> None:
    """Ten uploads take ten permits of the vendor, for the links; the storage has no quota."""
    async with SessionPool() as pool:
        client = IntemptClient.from_env(pool, sandbox.environ)
        await asyncio.gather(
            *(client.collections.upload_csv(bookings(sandbox), FILE) for _ in range(10))
        )
        vendor, storage = pool.stats()
    assert (vendor.sent, vendor.quotas) == (10, (Quota(10, 1.0),))
    assert (storage.sent, storage.quotas) == (10, ())


async def test_empty_file_is_uploaded(sandbox: Sandbox, client: IntemptClient) -> None:
    """An empty file is uploaded with Content-Length 0: the vendor decides whether to accept it."""
    receipt = await client.collections.upload_csv(bookings(sandbox), b"")
    assert receipt.bytes_sent == 0
    assert stored(sandbox) == [b""]


# --- What goes wrong at the source ------------------------------------------------------


@pytest.mark.parametrize("length", [0, len(FILE) - 1, len(FILE) + 1])
async def test_wrong_length_is_an_error(
    sandbox: Sandbox, client: IntemptClient, length: int
) -> None:
    """A stream shorter or longer than its length is an `UploadError` that names the call; no file is stored."""
    with pytest.raises(UploadError) as caught:
        await client.collections.upload_csv(bookings(sandbox), pieces(FILE), length=length)
    assert caught.value.operation == "collections.upload_csv"
    assert caught.value.advice
    assert stored(sandbox) == []


async def test_stream_without_length_is_rejected(sandbox: Sandbox, client: IntemptClient) -> None:
    """A stream without a length, and a missing file, raise before a link is requested."""
    with pytest.raises(ValueError, match="length"):
        await client.collections.upload_csv(bookings(sandbox), pieces(FILE))
    with pytest.raises(FileNotFoundError):
        await client.collections.upload_csv(bookings(sandbox), "/nowhere/bookings.csv")
    assert sandbox.requests("intempt") == ()


async def test_exception_of_the_source_propagates(sandbox: Sandbox, client: IntemptClient) -> None:
    """An exception of the source is raised unchanged, and the next call works."""

    async def source() -> AsyncIterator[bytes]:
        yield FILE[:5]
        raise LookupError("the database went away")

    with pytest.raises(LookupError, match="the database went away"):
        await client.collections.upload_csv(bookings(sandbox), source(), length=len(FILE))
    assert stored(sandbox) == []
    await client.collections.upload_csv(bookings(sandbox), FILE)


async def test_key_is_sent_in_its_header_only(sandbox: Sandbox, pool: SessionPool) -> None:
    """The key is in no path, query, body or other header."""
    client = IntemptClient.from_env(pool, sandbox.environ)
    await client.collections.upload_csv(bookings(sandbox), FILE)
    key = sandbox.environ["INTEMPT_API_KEY"]
    for arrival in (*sandbox.requests("intempt"), *sandbox.requests("storage")):
        named = [name for name, value in arrival.headers.items() if key in value]
        assert named == (["Authorization"] if arrival.credential else [])
        assert key not in f"{arrival.path}{arrival.query}{arrival.body!r}"
