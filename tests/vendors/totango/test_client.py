"""The client of Totango against the sandbox, over real sockets."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest

from asyncclients import (
    BadRequestError,
    ConfigurationError,
    ConflictError,
    NotFoundError,
    OutcomeUnknownError,
    SessionPool,
    StatusError,
    TotangoClient,
    UnauthorizedError,
)
from asyncclients.sandbox import Sandbox, drop, status
from asyncclients.vendors.totango import NewTouchpoint, TouchpointUpdate

NEW = NewTouchpoint(account_id="0000", content="called", touchpoint_tags=None)
JSON = {"Content-Type": "application/json"}
CREATE, EVENTS, UPDATE, DELETE = "POST", "GET", "PUT", "DELETE"

pytestmark = pytest.mark.virtual_time


def arrived(sandbox: Sandbox) -> list[str]:
    return [arrival.method for arrival in sandbox.requests("totango")]


async def test_touchpoint_is_created(sandbox: Sandbox, totango: TotangoClient) -> None:
    """The returned id is that of the stored touchpoint; fields arrive with their leading zeros."""
    state = sandbox.state("totango")
    tag = next(iter(state.touchpoint_tags))
    new = NewTouchpoint(account_id="0000", content="<b>called</b>", touchpoint_tags=[tag])
    touchpoint = await totango.touchpoints.create(new)
    assert touchpoint.note_id is not None
    stored = state.touchpoints[int(touchpoint.note_id)]
    assert stored["account_id"] == "0000"
    assert stored["content"] == "<b>called</b>"
    assert stored["touchpoint_tags"] == [tag]


async def test_touchpoints_are_the_notes_among_the_events(
    sandbox: Sandbox, totango: TotangoClient
) -> None:
    """`touchpoints.list` leaves out tasks and alerts, `events.list` does not."""
    sandbox.state("totango").other_events["0000"] = [
        {"id": "t", "type": "task", "timestamp": 1, "account": {"id": 0}},
        {"id": "a", "type": "alert", "alert_content": {"text": "!"}, "properties": []},
    ]
    created = await totango.touchpoints.create(NEW)
    (note,) = await totango.touchpoints.list("0000")
    assert note.note_content is not None
    assert note.note_content.note_id == created.note_id
    assert [event.type for event in await totango.events.list("0000")] == ["note", "task", "alert"]
    assert await totango.touchpoints.list("other") == []


@pytest.mark.parametrize("body", ['{"id": "event-7", "type": "note"}', "{}", ""])
async def test_create_without_note_id_succeeds(
    sandbox: Sandbox, totango: TotangoClient, body: str
) -> None:
    """A create whose response has no note id is carried out once, with `note_id=None`."""
    state = sandbox.state("totango")
    sandbox.fail("totango", status(200, body, JSON, committed=True))
    created = await totango.touchpoints.create(NEW)
    assert created.note_id is None
    assert created.event_id == ("event-7" if "event" in body else None)
    (number,) = state.touchpoints
    (note,) = await totango.touchpoints.list("0000")
    await totango.touchpoints.delete(number, note.id)
    assert state.touchpoints == {}


async def test_update_sends_exactly_the_given_fields(
    sandbox: Sandbox, totango: TotangoClient
) -> None:
    """`update` sends exactly the given fields, without a lookup; a given event id is sent."""
    created = await totango.touchpoints.create(NEW)
    assert created.note_id is not None
    stored = sandbox.state("totango").touchpoints[int(created.note_id)]
    update = TouchpointUpdate(account_id="0000", content="first")
    updated = await totango.touchpoints.update(created.note_id, update)
    assert (updated.note_id, updated.event_id) == (created.note_id, None)
    assert {**stored, "content": "first"} == stored
    again = TouchpointUpdate(event_id=str(stored["event_id"]), content="second")
    updated = await totango.touchpoints.update(int(created.note_id), again)
    assert (updated.note_id, updated.event_id) == (created.note_id, stored["event_id"])
    assert {**stored, "content": "second"} == stored
    assert arrived(sandbox) == [CREATE, UPDATE, UPDATE]
    first, second = (request.body for request in sandbox.requests("totango")[1:])
    assert first == b"note_id=%b&account_id=0000&content=first" % created.note_id.encode()
    assert second is not None
    assert b"account_id" not in second


@pytest.mark.parametrize("note_id", ["", ".", "..", "a\nb", None])
async def test_note_id_that_is_no_id_sends_nothing(
    sandbox: Sandbox, totango: TotangoClient, note_id: Any
) -> None:
    """An id that is empty, a dot segment, None or has control characters is a ValueError."""
    with pytest.raises(ValueError, match="note_id"):
        await totango.touchpoints.update(note_id, TouchpointUpdate(content="new"))
    with pytest.raises(ValueError, match="note_id"):
        await totango.touchpoints.delete(note_id, account_id="0000")
    assert arrived(sandbox) == []


async def test_delete_looks_up_its_event(sandbox: Sandbox, totango: TotangoClient) -> None:
    """`delete` with `account_id` needs one more call, with `event_id` none; both delete."""
    first, second = await totango.touchpoints.create(NEW), await totango.touchpoints.create(NEW)
    assert first.note_id is not None
    assert second.note_id is not None
    stored = sandbox.state("totango").touchpoints
    await totango.touchpoints.delete(first.note_id, account_id="0000")
    assert [*stored] == [int(second.note_id)]
    await totango.touchpoints.delete(
        second.note_id, event_id=str(stored[int(second.note_id)]["event_id"])
    )
    assert stored == {}
    assert arrived(sandbox) == [CREATE, CREATE, EVENTS, DELETE, DELETE]


async def test_delete_without_event_or_account_is_rejected(
    sandbox: Sandbox, totango: TotangoClient
) -> None:
    """`delete` with neither id, and a list without an account, are a `ValueError`."""
    with pytest.raises(ValueError, match="account_id"):
        await totango.touchpoints.delete("1")
    with pytest.raises(ValueError, match="account_id"):
        await totango.events.list("")
    assert arrived(sandbox) == []


async def test_touchpoint_of_another_account_is_not_found(
    sandbox: Sandbox, totango: TotangoClient
) -> None:
    """If the lookup finds nothing, `NotFoundError` names both ids, and nothing is deleted."""
    created = await totango.touchpoints.create(NEW)
    assert created.note_id is not None
    with pytest.raises(NotFoundError, match=rf"{created.note_id} .* account 7987") as caught:
        await totango.touchpoints.delete(created.note_id, account_id="7987")
    assert caught.value.operation == "touchpoints.delete"
    assert arrived(sandbox) == [CREATE, EVENTS]


async def test_lost_create_is_not_retried(sandbox: Sandbox, totango: TotangoClient) -> None:
    """A create whose response was lost is sent once, and raises `OutcomeUnknownError`."""
    sandbox.fail("totango", drop(committed=True))
    with pytest.raises(OutcomeUnknownError):
        await totango.touchpoints.create(NEW)
    assert len(sandbox.state("totango").touchpoints) == 1
    assert arrived(sandbox) == [CREATE]


async def test_lost_update_and_delete_are_retried(sandbox: Sandbox, totango: TotangoClient) -> None:
    """An update and a delete succeed after a lost response, the delete by the 404 to its retry."""
    created = await totango.touchpoints.create(NEW)
    assert created.note_id is not None
    stored = sandbox.state("totango").touchpoints
    event_id = str(stored[int(created.note_id)]["event_id"])
    sandbox.fail("totango", drop(committed=True))
    await totango.touchpoints.update(created.note_id, TouchpointUpdate(event_id=event_id))
    sandbox.fail("totango", drop(committed=True))
    await totango.touchpoints.delete(created.note_id, event_id)
    assert stored == {}
    assert arrived(sandbox) == [CREATE, UPDATE, UPDATE, DELETE, DELETE]


async def test_types_tags_and_flows_are_listed(sandbox: Sandbox, totango: TotangoClient) -> None:
    """Types, tags and flows are items with `id` and `display_name`, from an array or a map."""
    state = sandbox.state("totango")
    types = await totango.touchpoint_types.list()
    tags = await totango.touchpoint_tags.list()
    flows = await totango.activity_types.list()
    assert {item.id: item.display_name for item in types} == state.touchpoint_types
    assert {item.id: item.display_name for item in tags} == state.touchpoint_tags
    assert [item.id for item in flows] == [*state.activity_types]
    assert [item.id for item in flows if item.fields["disabled"]] == ["disabled_1576166402106"]


async def test_long_content_is_warned_of_and_sent_unchanged(
    sandbox: Sandbox, totango: TotangoClient
) -> None:
    """12,000 characters pass without a warning; one more is a `UserWarning`, and all are sent."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await totango.touchpoints.create(NewTouchpoint(account_id="1", content="x" * 12_000))
    long = NewTouchpoint(account_id="1", content="x" * 12_001)
    with pytest.warns(UserWarning, match="12,001") as warned, pytest.raises(BadRequestError):
        await totango.touchpoints.create(long)
    assert warned[0].filename == __file__
    assert sandbox.requests("totango")[-1].body == b"account_id=1&content=" + b"x" * 12_001


async def test_external_usage_is_respected() -> None:
    """If the headers leave five a minute of the hundred published, there is one 429 at most.

    Twelve calls still all succeed.
    """
    async with Sandbox(quotas={"totango": (5, 60.0)}) as sandbox, SessionPool() as pool:
        totango = TotangoClient.from_env(pool, sandbox.environ)
        await asyncio.gather(*(totango.events.list("1") for _ in range(12)))
        assert sandbox.summary("totango").by_status[200] == 12
        assert sandbox.rejected("totango") <= 1


async def test_rate_limited_create_is_retried(sandbox: Sandbox) -> None:
    """After a 429 with a text body, one retry creates exactly one touchpoint."""
    async with SessionPool() as pool:
        totango = TotangoClient.from_env(pool, sandbox.environ)
        spent = {"RateLimit-Limit": "100", "RateLimit-Remaining": "0", "RateLimit-Reset": "7"}
        sandbox.fail("totango", status(429, "Too many requests", JSON | spent))
        started = asyncio.get_running_loop().time()
        await totango.touchpoints.create(NEW)
        assert asyncio.get_running_loop().time() - started >= 7
    assert len(sandbox.state("totango").touchpoints) == 1
    assert arrived(sandbox) == [CREATE, CREATE]


ANSWERS = {
    "JSON": (status(400, '{"message":"Account not found"}', JSON), BadRequestError),
    "text that claims to be JSON": (status(409, "Not now", JSON), ConflictError),
    "markup": (status(404, "<html><body>Nothing here</body></html>"), NotFoundError),
    "nothing": (status(418), StatusError),
}


@pytest.mark.parametrize("body", ANSWERS)
async def test_any_error_body_becomes_the_right_error(
    sandbox: Sandbox, totango: TotangoClient, body: str
) -> None:
    """The status selects the error, the excerpt is the vendor's text, and the next call works."""
    answer, error = ANSWERS[body]
    sandbox.fail("totango", answer)
    with pytest.raises(error) as caught:
        await totango.touchpoint_types.list()
    assert type(caught.value) is error
    assert answer.reply is not None
    assert caught.value.status == answer.reply.status
    assert caught.value.excerpt == answer.reply.body.decode()
    assert len(await totango.touchpoint_types.list()) == 4


async def test_wrong_token_has_advice(sandbox: Sandbox) -> None:
    """The error of a wrong token names the variable and the region, without the token."""
    async with SessionPool() as pool:
        base_url = sandbox.environ["TOTANGO_BASE_URL"]
        totango = TotangoClient(pool, app_token="canary-token", base_url=base_url)
        with pytest.raises(UnauthorizedError) as caught:
            await totango.events.list("1")
    assert "TOTANGO_APP_TOKEN" in str(caught.value)
    assert "TOTANGO_REGION" in str(caught.value)
    assert "canary" not in repr(caught.value)


async def test_from_env_sets_token_and_region() -> None:
    """The region is optional and validated; a missing token is named."""
    async with SessionPool() as pool:
        token = {"TOTANGO_APP_TOKEN": "token"}
        assert TotangoClient.from_env(pool, token).base_url == "https://api.totango.com/"
        eu = TotangoClient.from_env(pool, {**token, "TOTANGO_REGION": "eu"})
        assert eu.base_url == "https://api-eu1.totango.com/"
        with pytest.raises(ConfigurationError, match="region must be one of us, eu, not 'asia'"):
            TotangoClient.from_env(pool, {**token, "TOTANGO_REGION": "asia"})
        with pytest.raises(ConfigurationError, match="TOTANGO_APP_TOKEN"):
            TotangoClient.from_env(pool, {})
