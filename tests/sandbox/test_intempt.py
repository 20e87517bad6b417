"""The mock Intempt and its storage against the manual, over HTTP with plain aiohttp."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from asyncclients.sandbox import Sandbox

from .conftest import read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .conftest import Open

BOOKING = {"id": 4, "guestId": 2, "roomId": 10}
CSV = b"id,guestId,roomId\n1,2,10\n2,3,11\n"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox({"intempt": (1000, 1.0)}) as opened:
        yield opened


@pytest.fixture
async def intempt(connect: Open) -> aiohttp.ClientSession:
    return await connect("intempt")


def data_path(sandbox: Sandbox, name: str = "bookings") -> str:
    """The path of the data of a collection."""
    state = sandbox.state("intempt")
    return f"v1/{state.org}/collections/{state.collections[name].id}/data"


async def link(intempt: aiohttp.ClientSession, path: str) -> str:
    """A fresh upload link."""
    headers = {"Content-Type": "text/csv"}
    async with intempt.post(path, headers=headers, allow_redirects=False) as response:
        assert (response.status, await response.read()) == (307, b"")
        return response.headers["Location"]


async def put(url: str, data: Any, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and body of one upload, without any credential of ours."""
    target = URL(url, encoded=True)
    async with aiohttp.request("PUT", target, data=data, headers=headers) as response:
        return response.status, await response.text()


async def test_row_lifecycle(sandbox: Sandbox, intempt: aiohttp.ClientSession) -> None:
    """Insert with an empty 201, list, get, delete that returns the item, then 404."""
    path = data_path(sandbox)
    assert await read(intempt.post(path, json=BOOKING)) == (201, None)
    _, listed = await read(intempt.get(path))
    (item,) = listed["_embedded"]["dataItemList"]
    assert item.keys() == {"collId", "id", "data", "matches", "_links"}
    assert item["data"] == BOOKING
    assert min(item["id"], item["collId"]) > 2**53
    assert await read(intempt.get(f"{path}/{item['id']}")) == (200, item)
    assert await read(intempt.delete(f"{path}/{item['id']}")) == (200, item)
    assert (await read(intempt.get(f"{path}/{item['id']}")))[0] == 404


async def test_primary_key_identifies_a_row(
    sandbox: Sandbox, intempt: aiohttp.ClientSession
) -> None:
    """The same key overwrites and keeps the id; unknown fields are dropped."""
    path = data_path(sandbox)
    await read(intempt.post(path, json=BOOKING))
    before = dict(sandbox.state("intempt").collections["bookings"].items)
    await read(intempt.post(path, json={**BOOKING, "roomId": 11, "strange": 1}))
    items = sandbox.state("intempt").collections["bookings"].items
    assert [item["id"] for item in items.values()] == [item["id"] for item in before.values()]
    assert [item["data"] for item in items.values()] == [{**BOOKING, "roomId": 11}]


@pytest.mark.parametrize("row", [{"roomId": 12}, {"id": None, "roomId": 12}, {"id": ""}])
async def test_row_without_primary_key_is_stored_each_time(
    sandbox: Sandbox, intempt: aiohttp.ClientSession, row: dict[str, Any]
) -> None:
    """The manual does not mention a rejection, so a repeated insert is two items."""
    for _ in range(2):
        assert (await read(intempt.post(data_path(sandbox), json=row)))[0] == 201
    items = [*sandbox.state("intempt").collections["bookings"].items.values()]
    assert [item["data"] for item in items] == [row, row]
    assert items[0]["id"] != items[1]["id"]


async def test_samples_of_the_manual_are_accepted(
    sandbox: Sandbox, intempt: aiohttp.ClientSession
) -> None:
    """JSON sent as a form, as in the manual's curl samples, is inserted with 201."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    row = b'{"visitorId":"194jso4nfja-fanjs-1584","identifier":"yaroslav@intempt.com"}'
    path = data_path(sandbox, "profile")
    assert await read(intempt.post(path, data=row, headers=headers)) == (201, None)
    assert len(sandbox.state("intempt").collections["profile"].items) == 1


async def test_batch_inserts_all_rows_or_none(
    sandbox: Sandbox, intempt: aiohttp.ClientSession
) -> None:
    """All rows of a call are stored, or none if one is invalid."""
    state = sandbox.state("intempt")
    path = f"v1/{state.org}/sources/{state.source_id}/data"
    body = {"bookings": [BOOKING], "profile": [{"visitorId": "a"}, {"visitorId": "b"}]}
    worse: list[dict[str, Any]] = [
        {"unknown": []},
        {"profile": [5]},
        {"profile": {}},
    ]
    for bad in worse:
        assert (await read(intempt.post(path, json={"bookings": [BOOKING], **bad})))[0] == 400
    assert not state.collections["bookings"].items
    assert await read(intempt.post(path, json=body)) == (201, None)
    assert [len(state.collections[name].items) for name in ("bookings", "profile")] == [1, 2]
    assert (await read(intempt.post(f"v1/{state.org}/sources/1/data", json=body)))[0] == 404


async def test_empty_list_has_links_only(sandbox: Sandbox, intempt: aiohttp.ClientSession) -> None:
    """A HAL list without items has no `_embedded`."""
    assert (await read(intempt.get(data_path(sandbox))))[1].keys() == {"_links"}


async def test_uploaded_file_becomes_rows(sandbox: Sandbox, intempt: aiohttp.ClientSession) -> None:
    """307 to the storage; a PUT there, with its length, reaches the collection."""
    url = await link(intempt, data_path(sandbox))
    assert url.startswith(sandbox.url("storage"))
    assert await put(url, CSV) == (200, "")
    items = sandbox.state("intempt").collections["bookings"].items
    assert [item["data"] for item in items.values()] == [
        {"id": "1", "guestId": "2", "roomId": "10"},
        {"id": "2", "guestId": "3", "roomId": "11"},
    ]
    assert list(sandbox.state("storage").objects.values()) == [CSV]


async def test_upload_link_request_has_no_body(
    sandbox: Sandbox, intempt: aiohttp.ClientSession
) -> None:
    """CSV sent to the API itself is a 400; a media type besides JSON and CSV a 415."""
    path = data_path(sandbox)
    for media_type, status in (("text/csv", 400), ("text/plain", 415)):
        headers = {"Content-Type": media_type}
        found = await read(intempt.post(path, data=CSV, headers=headers, allow_redirects=False))
        assert found[0] == status


async def test_storage_rejects_a_second_login(
    sandbox: Sandbox, intempt: aiohttp.ClientSession
) -> None:
    """An Authorization header beside the presigned URL is a 400 in XML; nothing is stored."""
    url = await link(intempt, data_path(sandbox))
    status, body = await put(url, CSV, {"Authorization": "ApiKey x"})
    assert status == 400
    assert "<Code>InvalidArgument</Code>" in body
    assert not sandbox.state("storage").objects


async def test_storage_requires_a_length(sandbox: Sandbox, intempt: aiohttp.ClientSession) -> None:
    """A chunked body is a 501 in XML; nothing is stored."""
    url = await link(intempt, data_path(sandbox))

    async def chunks() -> AsyncIterator[bytes]:
        yield CSV

    status, body = await put(url, chunks())
    assert status == 501
    assert "<Code>NotImplemented</Code>" in body
    assert not sandbox.state("storage").objects


@pytest.mark.virtual_time
async def test_upload_link_expires(sandbox: Sandbox, intempt: aiohttp.ClientSession) -> None:
    """After its lifetime, or with another signature, the link is a 403."""
    url = await link(intempt, data_path(sandbox))
    assert (await put(f"{url}0", CSV))[0] == 403
    await asyncio.sleep(901)
    status, body = await put(url, CSV)
    assert status == 403
    assert "expired" in body


async def test_file_that_is_no_table_is_accepted(
    sandbox: Sandbox, intempt: aiohttp.ClientSession
) -> None:
    """The storage accepts any bytes; an unreadable file adds no rows."""
    for file in (b'id,guestId\n"1,2\n', b"\xff\xfe"):
        assert (await put(await link(intempt, data_path(sandbox)), file))[0] == 200
    assert not sandbox.state("intempt").collections["bookings"].items


async def test_users_are_found_by_each_id(sandbox: Sandbox, intempt: aiohttp.ClientSession) -> None:
    """Matches and segmentations by master or profile; numbers in one, text in the other."""
    state = sandbox.state("intempt")
    profile = state.profiles[0]
    base = f"v1/{state.org}"
    found: list[Any] = []
    for query in ({"profileId": str(profile.profile_ids[1])}, {"masterId": str(profile.master_id)}):
        found.append((await read(intempt.get(f"{base}/events/matches", params=query)))[1])
        _, latest = await read(intempt.get(f"{base}/segmentations/latest", params=query))
        (segmentation,) = latest["_embedded"]["segmentations"]
        assert segmentation["profileIds"] == [str(number) for number in profile.profile_ids]
        assert segmentation["masterId"] == str(profile.master_id)
    assert found[0] == found[1]
    assert found[0]["profileIds"] == profile.profile_ids
    assert found[0]["matchedEvents"] == ["newtestevent"]


async def test_users_are_found_by_profile(sandbox: Sandbox, intempt: aiohttp.ClientSession) -> None:
    """`sourceId` with `profile`, a JSON object, finds segmentations; no match is an empty list."""
    state = sandbox.state("intempt")
    path = f"v1/{state.org}/segmentations/latest"

    async def ask(profile: str) -> tuple[int, Any]:
        query = {"sourceId": str(state.source_id), "profile": profile}
        return await read(intempt.get(path, params=query))

    assert "_embedded" in (await ask('{"visitorId": "194jso4nfja"}'))[1]
    assert "_embedded" not in (await ask('{"visitorId": "other"}'))[1]
    assert (await ask("194jso4nfja"))[0] == 400


@pytest.mark.parametrize("query", [{}, {"profileId": "1", "masterId": "1"}])
async def test_exactly_one_id_is_required(
    sandbox: Sandbox, intempt: aiohttp.ClientSession, query: dict[str, str]
) -> None:
    """Neither or both of the ids are a 400."""
    org = sandbox.state("intempt").org
    assert (await read(intempt.get(f"v1/{org}/events/matches", params=query)))[0] == 400


async def test_root_describes_the_service(sandbox: Sandbox, connect: Open) -> None:
    """GET / needs no key; another organization's data is a 403 with one."""
    async with aiohttp.request("GET", sandbox.environ["INTEMPT_BASE_URL"]) as response:
        assert (await response.json())["service"] == "metadata"
    session = await connect("intempt")
    assert (await read(session.get("v1/other/collections/1/data")))[0] == 403
