"""The resources of Intempt against the sandbox, and its constructor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from asyncclients import (
    BadRequestError,
    ConfigurationError,
    DecodeError,
    ForbiddenError,
    IntemptClient,
    NotFoundError,
    OutcomeUnknownError,
    Quota,
    SessionPool,
    UnauthorizedError,
)
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.faults import drop, html, status

from .conftest import bookings


async def test_row_life_cycle(sandbox: Sandbox, client: IntemptClient) -> None:
    """A row is inserted, listed, read, overwritten and deleted."""
    rows, collection = client.collections, bookings(sandbox)
    assert await rows.list_items(collection) == []
    assert await rows.insert(collection, {"id": 4, "guestId": 2, "unknown": True}) is None
    items = await rows.list_items(collection)
    assert [item.data for item in items] == [{"id": 4, "guestId": 2}]
    assert items[0].coll_id == collection
    assert int(items[0].id) > 2**53
    await rows.insert(collection, {"id": 4, "guestId": 3})
    assert (await rows.get_item(collection, items[0].id)).data == {"id": 4, "guestId": 3}
    await rows.delete_item(collection, items[0].id)
    assert await rows.list_items(collection) == []
    with pytest.raises(NotFoundError):
        await rows.delete_item(collection, items[0].id)


async def test_insert_fills_several_collections(sandbox: Sandbox, client: IntemptClient) -> None:
    """One call fills two collections; the vendor's message about a mistake is in the error."""
    source = str(sandbox.state("intempt").source_id)
    rooms = [{"id": n} for n in range(3)]
    await client.sources.insert(source, {"bookings": rooms, "profile": [{"visitorId": "v"}]})
    held = sandbox.state("intempt").collections
    assert (len(held["bookings"].items), len(held["profile"].items)) == (3, 1)
    with pytest.raises(BadRequestError, match="'rooms' is no collection"):
        await client.sources.insert(source, {"rooms": [{"id": 1}]})


async def test_error_body_is_a_decode_error(sandbox: Sandbox, client: IntemptClient) -> None:
    """A 200 that reports an error is a `DecodeError` of each insert and delete."""
    source, collection = str(sandbox.state("intempt").source_id), bookings(sandbox)
    calls: tuple[Callable[[], Awaitable[Any]], ...] = (
        lambda: client.collections.insert(collection, {"id": 2}),
        lambda: client.sources.insert(source, {"bookings": [{"id": 3}]}),
        lambda: client.collections.delete_item(collection, "1"),
        lambda: client.events.matches(profile_id="1"),
        client.info,
    )
    for call in calls:
        sandbox.fail("intempt", status(200, b'{"errors": ["disk full"]}'))
        with pytest.raises(DecodeError, match="disk full") as caught:
            await call()
        assert caught.value.is_error_body
        assert caught.value.vendor == "intempt"
        assert caught.value.operation
    sandbox.fail("intempt", status(201, b'{"id": 7, "data": {}, "errors": ["a warning"]}'))
    row = await client.collections.insert(collection, {"id": 2})
    assert row is not None
    assert row.id == "7"


async def test_login_page_is_a_decode_error(sandbox: Sandbox, client: IntemptClient) -> None:
    """A login page with status 200 is a `DecodeError` of each insert and delete."""
    source, collection = str(sandbox.state("intempt").source_id), bookings(sandbox)
    await client.collections.insert(collection, {"id": 1})
    (item,) = await client.collections.list_items(collection)
    calls: tuple[Callable[[], Awaitable[Any]], ...] = (
        lambda: client.collections.insert(collection, {"id": 2}),
        lambda: client.sources.insert(source, {"bookings": [{"id": 3}]}),
        lambda: client.collections.delete_item(collection, item.id),
    )
    for call in calls:
        sandbox.fail("intempt", html())
        with pytest.raises(DecodeError, match="markup"):
            await call()
    assert await client.collections.list_items(collection) == [item]


async def test_users_and_their_segments(sandbox: Sandbox, client: IntemptClient) -> None:
    """Each way to identify a user finds the same user, with the same ids."""
    profile = sandbox.state("intempt").profiles[0]
    master, (first, _) = str(profile.master_id), profile.profile_ids
    source = str(sandbox.state("intempt").source_id)
    by_profile = await client.events.matches(profile_id=str(first))
    by_master = await client.events.matches(master_id=master)
    assert by_profile == by_master
    assert by_master.profile_ids == [str(number) for number in profile.profile_ids]
    assert by_master.matched_events == ["newtestevent"]
    latest = client.segmentations.latest
    found = [
        await latest(profile_id=str(first)),
        await latest(master_id=master),
        await latest(source_id=source, profile={"visitorId": "194jso4nfja"}),
    ]
    assert [segmentation.master_id for one in found for segmentation in one] == [master] * 3
    assert await latest(source_id=source, profile={"visitorId": "nobody"}) == []


async def test_insert_whose_response_is_lost_is_not_retried(
    sandbox: Sandbox, client: IntemptClient
) -> None:
    """An insert is retried only with `retry_unsafe`, because a row may lack its primary key."""
    source, items = str(sandbox.state("intempt").source_id), {"bookings": [{"id": 2}]}
    sandbox.fail("intempt", drop(committed=True), times=2)
    with pytest.raises(OutcomeUnknownError):
        await client.collections.insert(bookings(sandbox), {"id": 1})
    with pytest.raises(OutcomeUnknownError):
        await client.sources.insert(source, items)
    assert [a.method for a in sandbox.requests("intempt")] == ["POST", "POST"]
    sandbox.fail("intempt", drop(committed=True))
    safe = client.with_options(retry_unsafe=True)
    await safe.collections.insert(bookings(sandbox), {"id": 1})
    assert len(sandbox.requests("intempt")) == 4
    assert len(sandbox.state("intempt").collections["bookings"].items) == 2


async def test_not_found_after_lost_delete_is_success(
    sandbox: Sandbox, client: IntemptClient
) -> None:
    """A 404 to the retry of a DELETE means that it is done."""
    collection = bookings(sandbox)
    await client.collections.insert(collection, {"id": 1})
    item = (await client.collections.list_items(collection))[0]
    sandbox.fail("intempt", drop(committed=True))
    assert await client.collections.delete_item(collection, item.id) is None
    assert sandbox.state("intempt").collections["bookings"].items == {}


async def test_errors_have_advice(
    sandbox: Sandbox, pool: SessionPool, client: IntemptClient
) -> None:
    """A wrong key, organization or collection, and too many rows, each have advice of their own."""
    wrong = {**sandbox.environ, "INTEMPT_API_KEY": "wrong-key-4711"}
    with pytest.raises(UnauthorizedError, match="INTEMPT_API_KEY") as caught:
        await IntemptClient.from_env(pool, wrong).collections.list_items("1")
    assert "wrong-key-4711" not in str(caught.value)
    foreign = {**sandbox.environ, "INTEMPT_ORG": "other/org"}
    with pytest.raises(ForbiddenError, match="INTEMPT_ORG"):
        await IntemptClient.from_env(pool, foreign).collections.list_items("1")
    assert "/v1/other%2Forg/" in sandbox.requests("intempt")[-1].path
    with pytest.raises(NotFoundError, match="INTEMPT_ORG and the id"):
        await client.collections.list_items("../admin")
    sandbox.fail("intempt", status(413))
    with pytest.raises(Exception, match="fewer rows") as caught_413:
        await client.sources.insert("1", {"bookings": []})
    assert getattr(caught_413.value, "status", None) == 413


@pytest.mark.parametrize(
    "arguments",
    [
        {"org": ""},
        {"org": ".."},
        {"org": "a\nb"},
        {"base_url": "http://api.intempt.com/"},
        {"base_url": "https://user:pass@api.intempt.com/"},
    ],
)
def test_invalid_configuration_is_rejected(arguments: dict[str, Any]) -> None:
    """An organization that is not a path segment, and a base_url without https, are rejected."""
    given: dict[str, Any] = {"api_key": "k", "org": "o"}
    with pytest.raises(ConfigurationError):
        IntemptClient(SessionPool(), **(given | arguments))


def test_missing_variables_are_named() -> None:
    """`from_env` names all missing variables."""
    with pytest.raises(ConfigurationError, match="INTEMPT_API_KEY and INTEMPT_ORG"):
        IntemptClient.from_env(SessionPool(), {})


def test_default_quota_is_ten_per_second() -> None:
    """The default is ten calls per second, as the vendor publishes no limit."""
    client = IntemptClient(SessionPool(), api_key="k", org="o")
    assert client.base_url == "https://api.intempt.com/"
    assert client.vendor.quotas == (Quota(10, 1.0),)
